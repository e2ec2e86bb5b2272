#!/usr/bin/env bash
# arc beside restic and borg: the same inputs, the same file system, one run.
# See README.md here, or --help.
set -u -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
usage() {
  cat <<'TEXT'
usage: benches/peers.sh --where DIR [options]

  --where DIR      where repositories, servers and restores lie (a tmpfs or a disk)
  --sync           sync DIR's file system at the end of each timing (for disks)
  --sets LIST      of a,b,c (default all): a source tree, a copy of /usr/lib, one large file
  --a DIR          take this tree as input a       --a-files N   make it of N files at least (20000)
  --b DIR          take this folder as input b, as it is
  --c FILE         take this file as input c       --c-bytes N   make it of N bytes (2147483648)
  --inputs DIR     keep made inputs here and find them again (default: in --where, removed)
  --tools LIST     of arc,restic,borg (default all; what is not there is skipped)
  --runs N         whole runs of each; the median is printed (default 1)
  --limit SECONDS  for any one command (default 3600)
  --out FILE       also write the table here
  ARC=PATH         the arc to measure (default target/release/arc)
TEXT
}

where='' sync='' sets=a,b,c tools=arc,restic,borg runs=1 limit=3600 out='' inputs=''
a='' b='' c='' a_files=20000 c_bytes=$((2 << 30))
while [ $# -gt 0 ]; do
  case $1 in
  --sync) sync=yes ;;
  --help | -h) usage && exit 0 ;;
  --where | --sets | --a | --b | --c | --a-files | --c-bytes | --inputs | --tools | --runs | --limit | --out)
    [ $# -ge 2 ] || { usage >&2 && exit 2; }
    name=${1#--}
    printf -v "${name//-/_}" %s "$2"
    shift
    ;;
  *) usage >&2 && exit 2 ;;
  esac
  shift
done
[ -n "$where" ] || { usage >&2 && exit 2; }
for number in "$runs" "$limit" "$a_files" "$c_bytes"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || { usage >&2 && exit 2; }
done
for set in ${sets//,/ }; do [[ $set == [abc] ]] || { usage >&2 && exit 2; }; done
for tool in ${tools//,/ }; do
  case $tool in arc | restic | borg) ;; *) usage >&2 && exit 2 ;; esac
done

ARC=$(realpath -m "${ARC:-$here/../target/release/arc}")
# shellcheck source=benches/fleet.sh
. "$here/fleet.sh"
command -v python3 >/dev/null || die "python3 is needed"
[ -z "$out" ] || out=$(realpath -m "$out")
mkdir -p "$where" && where=$(cd "$where" && pwd -P) || die "cannot use $where"
scratch=$(mktemp -d "$where/arc-peers.XXXXXX") || die "cannot write to $where"
clean_up_at_the_end
clear_environment
results=$scratch/results.jsonl log=$scratch/log
: >"$results"
keep_inputs=$inputs
inputs=${inputs:-$scratch/inputs}
mkdir -p "$inputs" && inputs=$(cd "$inputs" && pwd -P) || die "cannot use $inputs"

add() { py results.py add "$results" "$@"; }

# measure OP OPTION… -- COMMAND…: one timed command of $tool on $set; its left-overs are written first.
measure() {
  local op=$1
  shift
  sync -f "$scratch"
  interruptible python3 "$here/measure.py" --to "$results" --log "$log" --limit "$limit" ${sync:+--sync "$scratch"} \
    --label "set=$set" --label "tool=$tool" --label "op=$op" "$@"
}
bytes_of() { du -s -B1 -c "$@" | tail -n 1 | cut -f1; }

# ---------------------------------------------------------------- the tools

run_arc() {
  start_fleet "$work/fleet" || return 1
  local services=(--servers "$server_pids" --coordinator "$coordinator_pid")
  measure first "${services[@]}" -- "$ARC" push --quiet "$input" || return 1
  local packs with estimated=''
  packs=$("$ARC" status --json 2>>"$log" | grep -oE '"pack_bytes": ?[0-9]+' | grep -oE '[0-9]+' | head -n 1)
  with=$(bytes_of "$fleet"/server?-data)
  [ -n "$packs" ] || packs=$((with * 4 / 6)) estimated=yes
  add kind=size "set=$set" "tool=$tool" "with_parity_bytes=$with" \
    "before_parity_bytes=$packs" "estimated=$estimated" \
    "catalog_bytes=$(bytes_of "$fleet/coordinator-data")" || return 1
  measure unchanged "${services[@]}" -- "$ARC" push --quiet "$input" || return 1
  measure pull "${services[@]}" -- "$ARC" pull --quiet "latest:$input" --to "$work/out" || return 1
  stop_fleet
  same "$input" "$work/out"
}

run_restic() {
  export RESTIC_REPOSITORY=$work/repo RESTIC_PASSWORD=$ARC_PASSPHRASE RESTIC_CACHE_DIR=$work/cache
  restic init --quiet --repository-version 2 >>"$log" 2>&1 || return 1
  measure first -- restic backup --quiet "$input" || return 1
  add kind=size "set=$set" "tool=$tool" "before_parity_bytes=$(bytes_of "$work/repo")" || return 1
  measure unchanged -- restic backup --quiet "$input" || return 1
  measure pull -- restic restore --quiet latest --target "$work/out" || return 1
  same "$input" "$work/out$input"
}

run_borg() {
  export BORG_REPO=$work/repo BORG_PASSPHRASE=$ARC_PASSPHRASE BORG_BASE_DIR=$work/base
  borg init --encryption repokey-blake2 >>"$log" 2>&1 || return 1
  measure first -- borg create --compression lz4 ::first "$input" || return 1
  add kind=size "set=$set" "tool=$tool" "before_parity_bytes=$(bytes_of "$work/repo")" || return 1
  measure unchanged -- borg create --compression lz4 ::second "$input" || return 1
  mkdir "$work/out"
  measure pull --cwd "$work/out" -- borg extract ::second || return 1
  same "$input" "$work/out$input"
}

there() {
  if [ "$1" = arc ]; then [ -x "$ARC" ]; else command -v "$1" >/dev/null; fi
}

describe() {
  case $1 in
  arc) echo "$("$ARC" --version 2>/dev/null | head -n 1), six storage servers and a coordinator as processes on loopback, 4+2" ;;
  restic) echo "$(restic version | cut -d' ' -f1-2), a folder, repository version 2, its default compression (zstd)" ;;
  borg) echo "$(borg --version), a folder, encryption repokey-blake2, its default compression (lz4)" ;;
  esac
}

# ---------------------------------------------------------------- the inputs

copy_of_lib() {
  need_space "$inputs" "$(du -s -B1 /usr/lib | cut -f1)" 1
  # What this user may not read is left out, which is counted below.
  cp -a /usr/lib/. "$input.part" 2>>"$log" || say "note: parts of /usr/lib could not be copied"
}
large_file() {
  if [ -n "$c" ]; then
    cp --reflink=auto "$c" "$input.part/large"
    echo "a given file" >"$inputs/$set.txt"
  else
    need_space "$inputs" "$c_bytes" 1
    py make-set.py mixed --bytes "$c_bytes" "$input.part/large" >"$inputs/$set.txt"
  fi || return 1
  # borg never remembers the newest file of a run; so the large one is not the newest.
  sleep 0.1
  echo "the newest file" >"$input.part/newest"
}

make_set() {
  local what
  case $set in
  a)
    what='real files: Rust crates, rustlib, headers, /usr/share'
    if [ -n "$a" ]; then
      input=$(cd "$a" && pwd -P) && what='a given folder'
    else
      [ -d "$inputs/a" ] || need_space "$inputs" $((3 << 30)) $((2 * a_files))
      make_input "$inputs" a py make-set.py tree --files "$a_files" "$inputs/a.part"
    fi
    ;;
  b)
    what='a copy of /usr/lib'
    if [ -n "$b" ]; then
      input=$(cd "$b" && pwd -P) && what='a given folder'
    else
      make_input "$inputs" b copy_of_lib
    fi
    ;;
  c) make_input "$inputs" c large_file && what="one large file and a tiny one; $(cat "$inputs/c.txt")" ;;
  esac || die "cannot make input $set"
  local files bytes
  read -r files bytes < <(py make-set.py count "$input")
  [ "${files:-0}" -gt 0 ] || die "input $set has no files"
  add kind=input "set=$set" "files=$files" "bytes=$bytes" "text=$what"
  # A repository with parity, a restore, and one again for rounding to blocks and temporary files.
  need_space "$scratch" $((bytes * 3 + files * 8192 + (256 << 20))) $((files * 2 + 10000))
}

# ---------------------------------------------------------------- the run

add kind=note "text=repositories and restores on $(df --output=fstype "$scratch" | tail -n 1)${sync:+, synced inside the timing}; \
$(nproc) processors, $(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) >> 10)) MiB; runs: $runs"
present=''
for tool in ${tools//,/ }; do
  if there "$tool"; then
    present+=" $tool"
    add kind=note "text=$tool: $(describe "$tool")"
  else
    [ "$tool" != arc ] || say "arc: no program at $ARC"
    say "$tool is skipped"
    add kind=note "text=$tool: not there, skipped"
  fi
done
[ -n "$present" ] || die "none of the tools is there"

failed=0
for set in ${sets//,/ }; do
  make_set
  for ((run = 1; run <= runs; run++)); do
    for tool in $present; do
      say "$set, run $run of $runs: $tool"
      work=$scratch/work
      mkdir "$work"
      add kind=start "set=$set" "tool=$tool"
      : >"$log"
      warm "$input"
      if ! "run_$tool"; then
        failed=1
        say "error: $tool failed on input $set:" "$(tail -n 5 "$log")"
        add kind=note "text=$tool FAILED on input $set, run $run"
      fi
      stop_fleet
      remove "$work"
    done
  done
  [ -n "$keep_inputs" ] || remove "$inputs/$set"
done

table=$(py results.py peers "$results") || exit 1
printf '%s\n' "$table"
[ -z "$out" ] || printf '%s\n' "$table" >"$out"
exit "$failed"
