#!/usr/bin/env bash
# How arc scales: push and pull against cores and servers, and memory against the size of the input.
# See README.md here, or --help; plots.py draws what comes out.
set -u -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
usage() {
  cat <<'TEXT'
usage: benches/scaling.sh --where DIR --set DIR [options]

  --where DIR      where servers and restores lie
  --set DIR        what is pushed and pulled, as made by `make-set.py packages`
  --figures LIST   of cores,servers,memory (default all)
  --codes LIST     the codes of the figure by servers (default 2+1,4+2,6+3,8+4)
  --sizes LIST     MiB through standard input (default 64,256,1024,4096,20480)
  --runs N         runs of each, in turns (default 3)
  --limit SECONDS  for any one command (default 3600)
  --to FILE        where what was measured goes, as JSON lines (default benches/measured/scaling.jsonl)
  --note TEXT      something about this run that the plots shall say
  ARC=PATH         the arc to measure (default target/release/arc)
TEXT
}

where='' set='' figures=cores,servers,memory codes=2+1,4+2,6+3,8+4 sizes=64,256,1024,4096,20480
runs=3 limit=3600 to=$here/measured/scaling.jsonl note=''
while [ $# -gt 0 ]; do
  case $1 in
  --help | -h) usage && exit 0 ;;
  --where | --set | --figures | --codes | --sizes | --runs | --limit | --to | --note)
    [ $# -ge 2 ] || { usage >&2 && exit 2; }
    printf -v "${1#--}" %s "$2"
    shift
    ;;
  *) usage >&2 && exit 2 ;;
  esac
  shift
done
[ -n "$where" ] && [ -d "$set" ] || { usage >&2 && exit 2; }
for number in "$runs" "$limit" ${sizes//,/ }; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || { usage >&2 && exit 2; }
done

ARC=$(realpath -m "${ARC:-$here/../target/release/arc}")
# shellcheck source=benches/fleet.sh
. "$here/fleet.sh"
for name in python3 taskset; do command -v "$name" >/dev/null || die "$name is needed"; done
[ -x "$ARC" ] || die "no program at $ARC: nothing was measured; build it, or say ARC=PATH"
to=$(realpath -m "$to") input=$(cd "$set" && pwd -P)
mkdir -p "$where" && where=$(cd "$where" && pwd -P) || die "cannot use $where"
scratch=$(mktemp -d "$where/arc-scaling.XXXXXX") || die "cannot write to $where"
clean_up_at_the_end
clear_environment
results=$scratch/results.jsonl log=$scratch/log
: >"$results" && : >"$log"

add() { py results.py add "$results" "$@"; }

# measure OP LABEL… -- COMMAND…
measure() {
  local labels=(--label "op=$1" --label "run=$run" --label "figure=$figure")
  shift
  while [ "$1" != -- ]; do labels+=(--label "$1") && shift; done
  sync -f "$scratch"
  watch_fleet
  interruptible python3 "$here/measure.py" --to "$results" --log "$log" --limit "$limit" \
    "${labels[@]}" "${services[@]}" "$@" || die "$figure: $(tail -n 3 "$log")"
}

# with_fleet SERVERS CODE COMMAND…
with_fleet() {
  local work=$scratch/work
  say "$figure, run $run of $runs: ${*:3}"
  mkdir "$work" && start_fleet "$work/fleet" "$1" "$2" || die "no vault of $2: $(tail -n 3 "$log")"
  "${@:3}"
  stop_services
  remove "$work"
}

push_and_pull() {
  measure push "$@" -- "$ARC" push --quiet "$input"
  measure pull "$@" -- "$ARC" pull --quiet "latest:$input" --to "$work/out"
}

# The generator and sha256sum need less memory than arc, so the peak is arc's.
push_and_pull_stream() {
  # shellcheck disable=SC2016
  measure push "$@" -- bash -c '
    set -o pipefail
    python3 "$0/make-set.py" mixed - --bytes "$1" 2>"$3" | "$2" push --quiet --as stream -' \
    "$here" "${1#bytes=}" "$ARC" "$work/pushed"
  # shellcheck disable=SC2016
  measure pull "$@" -- bash -c 'set -o pipefail; "$0" pull --quiet latest:stream --to - | sha256sum >"$1"' \
    "$ARC" "$work/pulled"
  [ "$(cut -c -64 "$work/pulled")" = "$(cat "$work/pushed")" ] || die "what was pulled is not what was pushed"
}

run_cores() {
  local count all
  all=$(taskset -cp $$ | sed 's/.*: //')
  for ((count = 1; count <= cores; count *= 2)); do
    # All that is started from here is bound to these.
    taskset -cp "0-$((count - 1))" $$ >>"$log" || die "cannot be bound to $count cores"
    with_fleet 6 4+2 push_and_pull "cores=$count"
  done
  taskset -cp "$all" $$ >>"$log"
}

run_servers() {
  local code
  for code in ${codes//,/ }; do with_fleet $((${code%+*} + ${code#*+})) "$code" push_and_pull "code=$code"; done
}

run_memory() {
  local size
  for size in ${sizes//,/ }; do with_fleet 6 4+2 push_and_pull_stream "bytes=$((size << 20))"; done
}

read -r files bytes < <(py make-set.py count "$input")
cores=$(nproc)
add kind=machine "cores=$cores" "memory_mib=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) >> 10))" \
  "processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
  "where=$(df --output=fstype "$scratch" | tail -n 1)" "runs=$runs" "date=$(date -u +%Y-%m-%d)" "note=$note" \
  "arc=$("$ARC" --version | head -n 1)"
add kind=input set=packages "files=$files" "bytes=$bytes"
need_space "$scratch" $((bytes * 3 + files * 8192 + (256 << 20))) $((files * 3 + 10000))
warm "$input"
for ((run = 1; run <= runs; run++)); do
  for figure in ${figures//,/ }; do "run_$figure"; done
done
mkdir -p "$(dirname "$to")" && cp "$results" "$to"
