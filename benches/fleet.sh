# Sourced by the other scripts here: messages, space, inputs, and a coordinator
# with storage servers as processes of their own. Needs $here, $ARC, $scratch.
# shellcheck shell=bash disable=SC2154

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}
py() { python3 "$here/$1" "${@:2}"; }

# What the caller's environment says to the tools must not change what is measured.
clear_environment() {
  local name
  for name in $(compgen -e); do
    case $name in ARC) ;; ARC_* | BORG_* | RESTIC_* | RUSTIC_* | RCLONE_*) unset "$name" ;; esac
  done
  export XDG_CONFIG_HOME=$scratch/config XDG_CACHE_HOME=$scratch/cache
  export XDG_STATE_HOME=$scratch/state XDG_DATA_HOME=$scratch/data
  export ARC_PASSPHRASE='for measuring only' LC_ALL=C.UTF-8
}

remove() {
  [ -e "$1" ] || return 0
  chmod -R u+rwX "$1" 2>/dev/null
  rm -rf "$1"
}

# need_space FOLDER BYTES INODES: on tmpfs the memory must be there as well.
need_space() {
  local free inodes
  free=$(df -B1 --output=avail "$1" | tail -n 1)
  if [ "$(stat -f -c %T "$1")" = tmpfs ]; then
    local memory
    memory=$(($(awk '/^MemAvailable/ {print $2}' /proc/meminfo) * 1024))
    [ "$memory" -lt "$free" ] && free=$memory
  fi
  [ "$free" -ge "$2" ] || die "$1 has $((free >> 20)) MiB free, $(($2 >> 20)) MiB are needed"
  inodes=$(df --output=iavail "$1" | tail -n 1 | tr -dc 0-9)
  # Some file systems count none.
  [ "${inodes:-0}" -eq 0 ] || [ "$inodes" -ge "$3" ] || die "$1 has $inodes inodes free, $3 are needed"
}

# make_input FOLDER NAME COMMAND…: the command fills $input.part, which is renamed when whole.
make_input() {
  input=$1/$2
  [ -d "$input" ] && say "taking input $2 as it is in $1" && return 0
  remove "$input.part"
  mkdir -p "$input.part"
  say "making input $2"
  "${@:3}" || return 1
  mv "$input.part" "$input"
}

# In the background, so that a signal to this script is heard at once.
interruptible() {
  "$@" &
  running=$!
  wait "$running"
  local code=$?
  running=''
  return "$code"
}
running=''

clean_up() {
  trap - EXIT
  [ -z "$running" ] || { kill -TERM "$running" && wait "$running"; } 2>/dev/null
  stop_services
  cd / && remove "$scratch"
}

clean_up_at_the_end() {
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

warm() { find "$1" -type f -print0 | xargs -0 -r cat >/dev/null; }

# same SOURCE RESULT: names, types, contents, links, modes, owners and mtimes of files.
same() {
  local differences
  if command -v rsync >/dev/null; then
    differences=$(rsync -aHOn --checksum --delete --itemize-changes "$1/" "$2/" | head -n 5)
    [ -z "$differences" ] && return 0
  else
    differences=$(diff -rq --no-dereference "$1" "$2" | head -n 5) && return 0
  fi
  say "error: the restore differs:" "$differences"
  return 1
}

# start_service NAME COMMAND…: sets service_pid and, once it is printed, service_address.
start_service() {
  local log=$services_folder/$1
  : >"$log.out" && : >"$log.err" || return 1
  "${@:2}" >"$log.out" 2>"$log.err" </dev/null &
  service_pid=$!
  service_pids+=("$service_pid")
  local try
  for ((try = 0; try < 300; try++)); do
    service_address=$(cat "$log.out" "$log.err" | grep -oEm1 '127\.0\.0\.1:[1-9][0-9]*' | head -n 1)
    [ -n "$service_address" ] && return 0
    kill -0 "$service_pid" 2>/dev/null || break
    sleep 0.1
  done
  say "error: $1 printed no address:" "$(tail -n 3 "$log.err")"
  return 1
}

# start_server NUMBER: on its folder, and where it listened before if it did; with what
# server_options[NUMBER] has besides.
start_server() {
  # shellcheck disable=SC2086
  start_service "server$1" "$ARC" serve storage --data "$fleet/server$1-data" --name "s$1" --zone "z$1" \
    --listen "${server_address[$1]:-127.0.0.1:0}" --coordinator "$url" \
    --join-token-file "$fleet/coordinator-data/join.token" ${server_options[$1]:-} || return 1
  server_pid[$1]=$service_pid server_address[$1]=$service_address
}

kill_server() {
  kill -KILL "${server_pid[$1]}"
  wait "${server_pid[$1]}" 2>/dev/null
  unset "server_pid[$1]"
}

# start_fleet FOLDER [SERVERS [CODE]]: a vault on servers of its own, selected by ARC_VAULT.
start_fleet() {
  fleet=$1 services_folder=$1 server_pid=() server_address=()
  servers_wanted=${2:-6}
  mkdir -p "$fleet"
  start_service coordinator "$ARC" serve coordinator --data "$fleet/coordinator-data" \
    --listen 127.0.0.1:0 || return 1
  coordinator_pid=$service_pid url=http://$service_address
  local number
  for ((number = 1; number <= servers_wanted; number++)); do start_server "$number" || return 1; done
  env -u ARC_VAULT "$ARC" init "$url" --token-file "$fleet/coordinator-data/owner.token" \
    --code "${3:-4+2}" >>"$log" 2>&1 || return 1
  export ARC_VAULT=$url
  wait_for_servers
}

# What measure.py is to watch, now: sets the array services.
watch_fleet() {
  local IFS=,
  # shellcheck disable=SC2034
  services=(--servers "${server_pid[*]}" --coordinator "$coordinator_pid")
}

wait_for_servers() {
  local try
  for ((try = 0; try < 60; try++)); do
    [ "$("$ARC" servers --json 2>>"$log" | grep -oE '"state": ?"up"' | wc -l)" -eq "$servers_wanted" ] && return 0
    sleep 0.5
  done
  say "error: $servers_wanted servers were not up within 30 s"
  return 1
}

stop_services() {
  [ "${#service_pids[@]}" -gt 0 ] || return 0
  local try
  kill -TERM "${service_pids[@]}" 2>/dev/null
  for ((try = 0; try < 100; try++)); do
    kill -0 "${service_pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "${service_pids[@]}" 2>/dev/null
  wait "${service_pids[@]}" 2>/dev/null
  service_pids=()
  unset ARC_VAULT
}
service_pids=() server_options=()
