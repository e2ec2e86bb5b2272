#!/usr/bin/env bash
# arc beside its peers: the same inputs, the same file system, one run.
# See README.md here, or --help.
set -u -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
usage() {
  cat <<'TEXT'
usage: benches/peers.sh --where DIR [options]

  --where DIR      where repositories, servers and restores lie (a tmpfs or a disk)
  --sync           sync DIR's file system at the end of each timing (for disks)
  --sets LIST      of packages,small (default both)
  --set DIR        take a copy of this folder as the set of packages, instead of making it
  --small DIR      take this folder of 100,000 files of 4 KiB, instead of making it
  --inputs DIR     keep the inputs here and find them again (default: in --where, removed)
  --tools LIST     of arc,rustic,rustic_http,restic,restic_http,borg,zfec,zfec_pieces,cp,walk
                   (default all; what is not on PATH is skipped)
  --runs N         runs of each, in turns; medians are printed (default 3)
  --rates FILE     what one core does at each stage of a push, from `cargo bench -p arc-benches
                   --bench blocks` (default: that is run first, where it is)
  --limit SECONDS  for any one command (default 3600)
  --to FILE        where what was measured goes, as JSON lines (default benches/measured/peers.jsonl)
  --note TEXT      something about this run that the table shall say
  ARC=PATH         the arc to measure (default target/release/arc)
TEXT
}

where='' sync='' sets=packages,small set='' small='' inputs='' runs=3 rates='' limit=3600 note=''
tools=walk,arc,rustic,rustic_http,restic,restic_http,borg,zfec,zfec_pieces,cp to=$here/measured/peers.jsonl
while [ $# -gt 0 ]; do
  case $1 in
  --sync) sync=yes ;;
  --help | -h) usage && exit 0 ;;
  --where | --sets | --set | --small | --inputs | --tools | --runs | --rates | --limit | --to | --note)
    [ $# -ge 2 ] || { usage >&2 && exit 2; }
    printf -v "${1#--}" %s "$2"
    shift
    ;;
  *) usage >&2 && exit 2 ;;
  esac
  shift
done
[ -n "$where" ] || { usage >&2 && exit 2; }
for number in "$runs" "$limit"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || { usage >&2 && exit 2; }
done
for name in ${sets//,/ }; do [[ $name == packages || $name == small ]] || { usage >&2 && exit 2; }; done

ARC=$(realpath -m "${ARC:-$here/../target/release/arc}")
# shellcheck source=benches/fleet.sh
. "$here/fleet.sh"
# shellcheck source=benches/tools.sh
. "$here/tools.sh"
for name in ${tools//,/ }; do declare -F "run_$name" >/dev/null || { usage >&2 && exit 2; }; done
command -v python3 >/dev/null || die "python3 is needed"
to=$(realpath -m "$to")
[ -z "$rates" ] || rates=$(realpath "$rates") || exit 1
given_packages=$set given_small=$small
for name in "$given_packages" "$given_small"; do [ -z "$name" ] || [ -d "$name" ] || die "no folder $name"; done

mkdir -p "$where" && where=$(cd "$where" && pwd -P) || die "cannot use $where"
scratch=$(mktemp -d "$where/arc-peers.XXXXXX") || die "cannot write to $where"
clean_up_at_the_end
clear_environment
results=$scratch/results.jsonl log=$scratch/log
: >"$results" && : >"$log"
inputs=${inputs:-$scratch/inputs}
mkdir -p "$inputs" && inputs=$(cd "$inputs" && pwd -P) || die "cannot use $inputs"

add() { py results.py add "$results" "$@"; }

# ---------------------------------------------------------------- the inputs

make_packages() {
  if [ -n "$given_packages" ]; then
    cp -a "$given_packages/." "$input.part"
  else
    py make-set.py packages "$input.part" >>"$log" 2>&1
  fi
}

# Sets input, and what it is as a line of the results.
make_set() {
  local files bytes
  if [ "$set" = small ] && [ -n "$given_small" ]; then
    input=$(cd "$given_small" && pwd -P)
  elif [ "$set" = small ]; then
    [ -d "$inputs/small" ] || need_space "$inputs" $((500 << 20)) 110000
    make_input "$inputs" small py make-set.py small --files 100000 --size 4096 "$inputs/small.part"
  else
    [ -d "$inputs/packages" ] || need_space "$inputs" $((5 << 30)) 200000
    make_input "$inputs" packages make_packages || die "cannot make the set:" "$(tail -n 3 "$log")"
    # An interrupted run may have left half of it.
    [ -f "$input.other/swaps.json" ] || remove "$input.other"
    [ -d "$input.other" ] || py change-set.py make "$input" "$input.other" || die "cannot make the changes"
    py change-set.py plain "$input.other" || exit 1
  fi || die "cannot make the set $set"
  read -r files bytes < <(py make-set.py count "$input")
  [ "${files:-0}" -gt 0 ] || die "the set $set has no files"
  add kind=input "set=$set" "files=$files" "bytes=$bytes"
  # A repository with parity, a restore, and half of one for what is temporary; 2 GiB with parity.
  need_space "$scratch" $((bytes * 5 / 2 + files * 8192 + (3328 << 20))) $((files * 3 + 10000))
}

# What one core does at each stage of a push, with these files and this file system.
measure_stages() {
  if [ -z "$rates" ]; then
    say "measuring what one core does at each stage"
    rates=$scratch/rates.jsonl
    BENCH_SET=$input BENCH_WHERE=$scratch interruptible cargo bench --locked -q -p arc-benches --bench blocks \
      --manifest-path "$here/Cargo.toml" -- --json "$rates" >>"$log" 2>&1 ||
      say "note: no ceiling, for cargo bench failed:" "$(tail -n 3 "$log")"
  fi
  [ ! -f "$rates" ] || cat "$rates" >>"$results"
}

# cp and walk have one kind of work each.
does() {
  case $1 in
  zfec* | walk) changes ;;
  cp) ! changes ;;
  esac
}

# ---------------------------------------------------------------- the run

add kind=machine "cores=$(nproc)" "memory_mib=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) >> 10))" \
  "processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
  "where=$(df --output=fstype "$scratch" | tail -n 1)" "synced=${sync:-no}" "runs=$runs" \
  "date=$(date -u +%Y-%m-%d)" "note=$note"
present=''
for tool in ${tools//,/ }; do
  if there "$tool"; then
    present+=" $tool"
    add kind=tool "tool=$tool" "text=$(describe "$tool")"
  else
    say "$tool is skipped: it is not there"
  fi
done
[ -n "$present" ] || die "none of the tools is there"
failed=0
for set in ${sets//,/ }; do
  make_set
  ! changes || measure_stages
  # A virtual machine's first round pays for memory that the host has to find: it counts for none.
  kept=$results results=$scratch/first-round.jsonl
  for ((run = 0; run <= runs; run++)); do
    [ "$run" -ne 1 ] || results=$kept
    for tool in $present; do
      does "$tool" || continue
      [ "$run" -gt 0 ] || [ "$tool" = arc ] || continue
      say "$set, run $run of $runs: $tool"
      work=$scratch/work
      mkdir "$work"
      : >"$log"
      warm "$input"
      ! changes || warm "$input.other"
      if ! "run_$tool"; then
        failed=1
        say "error: $tool failed:" "$(tail -n 5 "$log")"
        add kind=failed "set=$set" "tool=$tool" "run=$run"
      fi
      stop_services
      remove "$work"
      ! changes || py change-set.py plain "$input.other" || exit 1
    done
  done
done

mkdir -p "$(dirname "$to")" && cp "$results" "$to" || exit 1
py acceptance.py "$to" || exit 1
exit "$failed"
