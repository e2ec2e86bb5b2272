#!/usr/bin/env bash
# What people build from tar, zstd and zfec: six folders of shares, any two of which may be lost.
#   zfec-pipe.sh push SOURCE STORE   the archive in pieces, each coded while the next is made
#   zfec-pipe.sh pull STORE TARGET   from the first four folders of STORE that are there
#   PIECE=64M                        bytes of a piece; without it the archive is one
set -eu -o pipefail

code_piece() {
  zfec -q -k 4 -m 6 -d "$store" -p "$1" "$store/$1"
  local share
  for share in 0 1 2 3 4 5; do mv "$store/$1.${share}_6.fec" "$store/$share/"; done
  rm "$store/$1"
}

push() {
  local piece coding=''
  store=$2
  mkdir -p "$store"/{0,1,2,3,4,5}
  tar -C "$1" -cf - . | zstd -3 -T2 -q | for ((piece = 10000; ; piece++)); do
    head -c "${PIECE:-1T}" >"$store/$piece"
    [ -z "$coding" ] || wait "$coding"
    [ -s "$store/$piece" ] || { rm "$store/$piece" && break; }
    code_piece "$piece" &
    coding=$!
  done
}

# zunfec wants a file that it can truncate: each piece is decoded while the one before is read.
pull() {
  local folders=("$1"/[0-5]) first decoding=''
  mkdir -p "$2"
  for first in "${folders[0]}"/* ''; do
    [ -z "$decoding" ] || wait "$decoding"
    local whole=${piece:+$1/$piece} piece=''
    if [ -n "$first" ]; then
      piece=$(basename "${first%.*_6.fec}")
      zunfec -o "$1/$piece" "${folders[0]}/$piece".* "${folders[1]}/$piece".* \
        "${folders[2]}/$piece".* "${folders[3]}/$piece".* &
      decoding=$!
    fi
    [ -z "$whole" ] || { cat "$whole" && rm "$whole"; }
  done | zstd -d -q | tar -C "$2" -xpf -
}

"$@"
