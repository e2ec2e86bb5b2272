#!/usr/bin/env bash
# Push, pull and verify where one storage server has a tenth of its speed.
# See README.md here, or --help.
set -u -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
usage() {
  cat <<'TEXT'
usage: benches/slow.sh --where DIR --set DIR [options]

  --where DIR      where servers and restores lie
  --set DIR        what is pushed and pulled: some hundred MiB of files
  --servers LIST   how many there are, at 4+2 (default 7,6: with a spare, and without)
  --slower N       how many times slower one of them is (default 10)
  --limit SECONDS  for any one command (default 600)
  --out FILE       also write the table here
  ARC=PATH         the arc to measure (default target/release/arc)
TEXT
}

where='' set='' servers=7,6 slower=10 limit=600 out=''
while [ $# -gt 0 ]; do
  case $1 in
  --help | -h) usage && exit 0 ;;
  --where | --set | --servers | --slower | --limit | --out)
    [ $# -ge 2 ] || { usage >&2 && exit 2; }
    printf -v "${1#--}" %s "$2"
    shift
    ;;
  *) usage >&2 && exit 2 ;;
  esac
  shift
done
[ -n "$where" ] && [ -d "$set" ] || { usage >&2 && exit 2; }
for number in "$limit" "$slower" ${servers//,/ }; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || { usage >&2 && exit 2; }
done

ARC=$(realpath -m "${ARC:-$here/../target/release/arc}")
# shellcheck source=benches/fleet.sh
. "$here/fleet.sh"
command -v python3 >/dev/null || die "python3 is needed"
[ -x "$ARC" ] || die "no program at $ARC: nothing was measured; build it, or say ARC=PATH"
[ -z "$out" ] || out=$(realpath -m "$out")
input=$(cd "$set" && pwd -P)
mkdir -p "$where" && where=$(cd "$where" && pwd -P) || die "cannot use $where"
scratch=$(mktemp -d "$where/arc-slow.XXXXXX") || die "cannot write to $where"
clean_up_at_the_end
clear_environment
log=$scratch/log table=$scratch/table
: >"$log"

# The last server of each fleet lies behind `way`, healthy or not, so that both pay for it.
with_fleet() {
  local work=$scratch/work
  mkdir -p "$work/way" && services_folder=$work/way
  printf 0 >"$work/way/rate"
  way=$work/way last=$1
  start_service way python3 "$here/slow-way.py" "$way" "$work/fleet/server$1.out" || die "no way to a server"
  server_options=([last]="--advertise http://$service_address")
  start_fleet "$work/fleet" "$1" || die "no vault on $1 servers: $(tail -n 3 "$log")"
  "${@:2}"
  stop_services
  remove "$work"
}

set_rate() {
  printf %s "$1" >"$way/rate.part" && mv "$way/rate.part" "$way/rate"
  sleep 0.2
}

# What the command is limited by is what it says most often when it is asked.
ask() {
  sleep 1
  while kill -USR1 "$1" 2>/dev/null; do sleep 0.2; done
}

# measure OP WHEN COMMAND…: sets seconds and passed, and adds a line to the table.
measure() {
  local began ended before asking
  sync -f "$scratch"
  before=$(cat "$way/passed") began=$(date +%s%N)
  timeout --foreground "$limit" "${@:3}" >"$scratch/said" 2>&1 </dev/null &
  running=$!
  # `timeout` runs it as a child, which is there at once.
  sleep 0.1
  ask "$(cat "/proc/$running/task/$running/children")" &
  asking=$!
  wait "$running" || { cat "$scratch/said" >&2 && die "$1 failed"; }
  running='' ended=$(date +%s%N)
  wait "$asking"
  sleep 0.2
  cat "$scratch/said" >>"$log"
  local ms=$(((ended - began) / 1000000)) limited
  passed=$(($(cat "$way/passed") - before))
  limited=$(grep -ohE 'limited by .*' "$scratch/said" | cut -c 12- | sed 's/, [0-9]* warnings\?$//' |
    sort | uniq -c | sort -rn | head -n 1 | sed 's/^ *[0-9]* //')
  [ "$2" = healthy ] && { healthy_ms[$1]=$ms && rate[$1]=$((passed * 1000 / ms / slower)); }
  local held
  held=$(find "$fleet/server$last-data/shards" -type f | wc -l)
  printf '| %s | %s | %s | %d.%02d | %s | %d.%d | %s | %s |\n' "$last" "$1" "$2" \
    $((ms / 1000)) $((ms % 1000 / 10)) \
    "$(awk "BEGIN { printf \"%.2f\", $ms / ${healthy_ms[$1]} }")" \
    $((passed >> 20)) $(((passed & 1048575) * 10 >> 20)) \
    "$held of $(find "$fleet"/server*-data/shards -type f -printf '%f\n' | sed 's/\..*//' | sort -u | wc -l)" \
    "${limited:--}" | tee -a "$table" >&2
}

push() { measure push "$1" "$ARC" push "$input"; }
pull() {
  measure pull "$1" "$ARC" pull "latest:$input" --to "$scratch/restored"
  same "$input" "$scratch/restored" || die "the restore differs"
  remove "$scratch/restored"
}
verify() { measure verify "$1" "$ARC" verify --level data; }

healthy_and_read_slowly() {
  push healthy
  pull healthy
  verify healthy
  set_rate "${rate[pull]}"
  pull slow
  set_rate "${rate[verify]}"
  verify slow
}
push_slowly() {
  set_rate "${rate[push]}"
  push slow
}

declare -A rate=() healthy_ms=()
read -r files bytes < <(py make-set.py count "$input")
need_space "$scratch" $((bytes * 3 + (256 << 20))) $((files * 3 + 10000))
warm "$input"
cat >"$table" <<'TEXT'
| servers | command | one server | s | ratio | MiB it moved | stripes it holds | limited by |
|---|---|---|---|---|---|---|---|
TEXT
for count in ${servers//,/ }; do
  with_fleet "$count" healthy_and_read_slowly
  with_fleet "$count" push_slowly
done
cat "$table"
[ -z "$out" ] || cp "$table" "$out"
