# Sourced by peers.sh: what each tool does with the set at $input, in a folder of its own at $work.
# A function run_TOOL does all of its work in turn; each timed step is one `measure STEP`.
# shellcheck shell=bash disable=SC2154

# measure STEP [OPTION…] -- COMMAND…: what was written before it is synced first.
measure() {
  sync -f "$scratch"
  interruptible python3 "$here/measure.py" --to "$results" --log "$log" --limit "$limit" ${sync:+--sync "$scratch"} \
    --label "set=$set" --label "tool=$tool" --label "op=$1" --label "run=$run" "${@:2}"
}
# The last of the numbers that the log has under this name.
logged() { grep -oE "\"$1\": ?[0-9]+" "$log" | tail -n 1 | grep -oE '[0-9]+$'; }
bytes_of() { du -s -B1 -c "$@" | tail -n 1 | cut -f1; }
stored() { add kind=stored "set=$set" "tool=$tool" "bytes=$1" "${@:2}"; }

changes() { [ "$set" = packages ]; }
change() { py change-set.py changed "$input.other" || die "the changes could not be made"; }
# A restore is compared once: in the first run.
restored() {
  [ "$run" -gt 1 ] || same "$input" "$1" || return 1
  remove "$work/out"
}

# ---------------------------------------------------------------- arc

run_arc() {
  start_fleet "$work/fleet" && watch_fleet || return 1
  measure first "${services[@]}" -- "$ARC" push --json "$input" || return 1
  add kind=push "set=$set" "run=$run" "bytes=$(logged bytes)" "bytes_new=$(logged bytes_new)" \
    "bytes_stored=$(logged bytes_stored)" "bytes_on_servers=$(logged bytes_on_servers)" || return 1
  "$ARC" status --json >>"$log" 2>&1 || return 1
  stored "$(logged pack_bytes)" "with_parity=$(bytes_of "$fleet"/server?-data)" \
    "catalog=$(bytes_of "$fleet/coordinator-data")" || return 1
  if ! changes; then
    arc_pull pull
    return
  fi
  "$ARC" key export >"$work/key" 2>>"$log" || return 1
  measure unchanged "${services[@]}" -- "$ARC" push --json "$input" || return 1
  ARC_RECOVERY_KEY_FILE=$work/key measure unchanged-key "${services[@]}" -- "$ARC" push --json "$input" || return 1
  change
  measure changed "${services[@]}" -- "$ARC" push --json "$input" || return 1
  arc_pull pull || return 1
  measure verify "${services[@]}" -- "$ARC" verify --json || return 1
  measure verify-data "${services[@]}" -- "$ARC" verify --json --level data || return 1
  kill_server 2 && kill_server 5 && watch_fleet || return 1
  arc_pull pull-two-dead || return 1
  start_server 2 && start_server 5 && wait_for_servers || return 1
  arc_rebuild
}

arc_pull() {
  measure "$1" "${services[@]}" -- "$ARC" pull --json "latest:$input" --to "$work/out" || return 1
  restored "$work/out"
}

# A server is killed and its folder wiped; an empty one takes its name, then the clock starts. It
# had more than the set's shards: they are made again in the time that a second rebuild would begin.
arc_rebuild() {
  local try
  head -c 2G /dev/urandom | "$ARC" push --quiet --as more - >>"$log" 2>&1 || return 1
  "$ARC" repair pause >>"$log" 2>&1 || return 1
  kill_server 3 && remove "$fleet/server3-data"
  # Until the coordinator has missed it, it is not given up.
  for ((try = 0; try < 120; try++)); do
    "$ARC" servers replace s3 >>"$log" 2>&1 && break
    sleep 0.5
  done
  start_server 3 && wait_for_servers && watch_fleet || return 1
  ARC_RECOVERY_KEY_FILE=$work/key measure rebuild "${services[@]}" -- python3 "$here/wait-rebuild.py" "$ARC" "$fleet"/server?-data || return 1
  add kind=rebuild "run=$run" "rebuilt=$(logged rebuilt)" "over_network=$(logged over_network)" \
    "took_ms=$(logged rebuild_ms)" || return 1
  "$ARC" verify >>"$log" 2>&1
}

# ---------------------------------------------------------------- restic, rustic, borg

# serve_http: what rclone answers to restic and rustic, from $work/repo; sets repository.
serve_http() {
  services_folder=$work
  start_service http rclone serve restic --addr 127.0.0.1:0 "$work/repo" || return 1
  services=(--servers "$service_pid") repository=rest:http://$service_address/
}

run_restic() {
  local services=() repository=$work/repo
  [ "$tool" = restic ] || serve_http || return 1
  export RESTIC_REPOSITORY=$repository RESTIC_PASSWORD=$ARC_PASSPHRASE RESTIC_CACHE_DIR=$work/cache
  restic init --quiet --repository-version 2 >>"$log" 2>&1 || return 1
  measure first "${services[@]}" -- restic backup --quiet "$input" || return 1
  stored "$(bytes_of "$work/repo")" || return 1
  if changes; then
    measure unchanged "${services[@]}" -- restic backup --quiet "$input" || return 1
    change
    measure changed "${services[@]}" -- restic backup --quiet "$input" || return 1
    measure verify-data "${services[@]}" -- restic check --quiet --read-data || return 1
  fi
  measure pull "${services[@]}" -- restic restore --quiet latest --target "$work/out" || return 1
  restored "$work/out$input"
}
run_restic_http() { run_restic; }

run_rustic() {
  local services=() repository=$work/repo
  [ "$tool" = rustic ] || serve_http || return 1
  export RUSTIC_REPOSITORY=$repository RUSTIC_PASSWORD=$ARC_PASSPHRASE RUSTIC_CACHE_DIR=$work/cache
  export RUSTIC_NO_PROGRESS=true
  rustic init >>"$log" 2>&1 || return 1
  measure first "${services[@]}" -- rustic backup "$input" || return 1
  stored "$(bytes_of "$work/repo")" || return 1
  if changes; then
    measure unchanged "${services[@]}" -- rustic backup "$input" || return 1
    change
    measure changed "${services[@]}" -- rustic backup "$input" || return 1
    measure verify-data "${services[@]}" -- rustic check --read-data || return 1
  fi
  measure pull "${services[@]}" -- rustic restore "latest:$input" "$work/out" || return 1
  restored "$work/out"
}
run_rustic_http() { run_rustic; }

run_borg() {
  export BORG_REPO=$work/repo BORG_PASSPHRASE=$ARC_PASSPHRASE BORG_BASE_DIR=$work/base
  borg init --encryption repokey-blake2 >>"$log" 2>&1 || return 1
  measure first -- borg create ::first "$input" || return 1
  stored "$(bytes_of "$work/repo")" || return 1
  if changes; then
    measure unchanged -- borg create ::second "$input" || return 1
    change
    measure changed -- borg create ::third "$input" || return 1
    measure verify-data -- borg check --verify-data || return 1
  fi
  mkdir "$work/out"
  measure pull --cwd "$work/out" -- borg extract "::$(changes && echo third || echo first)" || return 1
  restored "$work/out$input"
}

# ---------------------------------------------------------------- without increments

run_zfec() {
  measure first -- "$here/zfec-pipe.sh" push "$input" "$work/store" || return 1
  stored "$(bytes_of "$work"/store/[0-3])" "with_parity=$(bytes_of "$work/store")" || return 1
  measure pull -- "$here/zfec-pipe.sh" pull "$work/store" "$work/out" || return 1
  restored "$work/out" || return 1
  remove "$work/store/1" && remove "$work/store/4"
  measure pull-two-dead -- "$here/zfec-pipe.sh" pull "$work/store" "$work/out" || return 1
  restored "$work/out"
}

run_zfec_pieces() {
  local -x PIECE=64M
  run_zfec
}

# Both ways it is a copy, so it is measured once.
run_cp() {
  # shellcheck disable=SC2016
  measure pull -- bash -c 'cp -a "$0/." "$1" && sync -f "$1"' "$input" "$work/out" || return 1
  restored "$work/out"
}

# Every inode is looked at, as in any push of what was not changed.
run_walk() { measure unchanged -- find "$input" -newermt 9999-01-01; }

# ---------------------------------------------------------------- which there are

there() {
  local program programs=$1
  case $1 in
  arc) programs=$ARC ;;
  *_http) programs="rclone ${1%_http}" ;;
  zfec*) programs='zfec zunfec zstd' ;;
  walk) programs=find ;;
  esac
  for program in $programs; do command -v "$program" >/dev/null || return 1; done
}

describe() {
  case $1 in
  arc) echo "$("$ARC" --version | head -n 1), a coordinator and six servers as processes on loopback, 4+2" ;;
  *_http) echo "the same, over HTTP from $(rclone version | head -n 1) on the same machine" ;;
  restic) echo "$(restic version | cut -d' ' -f1-2), a folder, repository version 2, its default compression (zstd)" ;;
  rustic) echo "$(rustic --version), a folder, its defaults (zstd)" ;;
  borg) echo "$(borg --version), a folder, encryption repokey-blake2, its default compression (lz4)" ;;
  zfec) echo "tar | zstd -3 -T2, then zfec 4+2 into six folders, no encryption, no fsync" ;;
  zfec_pieces) echo "the same in pieces of 64 MiB, each coded while the next is made" ;;
  cp) echo "cp -a and sync" ;;
  walk) echo "find, which looks at every inode" ;;
  esac
}
