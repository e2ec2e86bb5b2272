#!/usr/bin/env bash
# Peak memory of every process of arc, against its bounds.
# See README.md here, or --help.
set -u -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
usage() {
  cat <<'TEXT'
usage: benches/memory.sh --where DIR [options]

  --where DIR      where inputs, servers and restores lie
  --sets LIST      of c,small (default both): one large file, very many small files
  --modes LIST     of servers,embedded (default both): six servers and a coordinator as
                   processes, a vault inside the command
  --c-bytes N      bytes of the large file (2147483648)
  --files N        how many small files (1000000)
  --inputs DIR     keep made inputs here and find them again (default: in --where, removed)
  --limit SECONDS  for any one command (default 7200)
  --out FILE       also write the table here
  ARC=PATH         the arc to measure (default target/release/arc)
Exit 1 when a bound is exceeded: client 256 MiB, server 64, coordinator 128, embedded vault 512.
TEXT
}

where='' sets=c,small modes=servers,embedded c_bytes=$((2 << 30)) files=1000000
inputs='' limit=7200 out=''
while [ $# -gt 0 ]; do
  case $1 in
  --help | -h) usage && exit 0 ;;
  --where | --sets | --modes | --c-bytes | --files | --inputs | --limit | --out)
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
for number in "$limit" "$files" "$c_bytes"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || { usage >&2 && exit 2; }
done
for set in ${sets//,/ }; do
  case $set in c | small) ;; *) usage >&2 && exit 2 ;; esac
done
for mode in ${modes//,/ }; do
  case $mode in servers | embedded) ;; *) usage >&2 && exit 2 ;; esac
done

ARC=$(realpath -m "${ARC:-$here/../target/release/arc}")
# shellcheck source=benches/fleet.sh
. "$here/fleet.sh"
command -v python3 >/dev/null || die "python3 is needed"
[ -x "$ARC" ] || die "no program at $ARC: nothing was measured; build it, or say ARC=PATH"
[ -z "$out" ] || out=$(realpath -m "$out")
mkdir -p "$where" && where=$(cd "$where" && pwd -P) || die "cannot use $where"
scratch=$(mktemp -d "$where/arc-memory.XXXXXX") || die "cannot write to $where"
clean_up_at_the_end
clear_environment
results=$scratch/results.jsonl log=$scratch/log
: >"$results"
keep_inputs=$inputs
inputs=${inputs:-$scratch/inputs}
mkdir -p "$inputs" && inputs=$(cd "$inputs" && pwd -P) || die "cannot use $inputs"

add() { py results.py add "$results" "$@"; }
measure() {
  interruptible python3 "$here/measure.py" --to "$results" --log "$log" --limit "$limit" --label "set=$set" --label "mode=$mode" \
    --label "op=$1" "${@:2}"
}

large_file() { py make-set.py mixed --bytes "$c_bytes" "$input.part/large" 2>"$inputs/large.txt"; }
small_files() { py make-set.py small --files "$files" "$input.part"; }

make_set() {
  local what count bytes wanted_bytes=$c_bytes wanted_files=2
  [ "$set" = c ] || wanted_files=$files wanted_bytes=$((files * 4096))
  # The input, the restore and the shards; a small file takes a block of its own.
  need_space "$scratch" $((wanted_bytes * 4 + (256 << 20))) $((wanted_files * 2 + 20000))
  if [ "$set" = c ]; then
    make_input "$inputs" large large_file || die "cannot make input c"
    what="one file; SHA-256 $(cut -c -16 "$inputs/large.txt")"
  else
    make_input "$inputs" small small_files || die "cannot make input small"
    what='folders of 1,000 files of 20 to 200 bytes'
  fi
  read -r count bytes < <(py make-set.py count "$input")
  add kind=input "set=$set" "files=$count" "bytes=$bytes" "text=$what"
}

push_and_pull() {
  measure push "$@" -- "$ARC" push --quiet "$input" || return 1
  measure pull "$@" -- "$ARC" pull --quiet "latest:$input" --to "$work/out" || return 1
}

run_servers() {
  start_fleet "$work/fleet" || return 1
  watch_fleet
  push_and_pull "${services[@]}" || return 1
  stop_services
}

run_embedded() {
  "$ARC" init "$work/vault" --code 4+2 >>"$log" 2>&1 || return 1
  export ARC_VAULT=$work/vault
  push_and_pull
}

failed=0
for set in ${sets//,/ }; do
  make_set
  for mode in ${modes//,/ }; do
    say "$set: $mode"
    work=$scratch/work
    mkdir "$work"
    : >"$log"
    if ! { "run_$mode" && same "$input" "$work/out"; }; then
      failed=1
      say "error: $mode failed on input $set:" "$(tail -n 5 "$log")"
    fi
    stop_services
    unset ARC_VAULT
    remove "$work"
  done
  [ -n "$keep_inputs" ] || remove "$input"
done

table=$(py results.py memory "$results") || failed=1
printf '%s\n' "$table"
[ -z "$out" ] || printf '%s\n' "$table" >"$out"
exit "$failed"
