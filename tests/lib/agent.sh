# Functions for test scripts that run inside tests/lib/scope: start and stop an agent, a registry, and say what holds.
# shellcheck shell=bash
set -euo pipefail

root=$BERTH_SCOPE/lib
run=$BERTH_SCOPE/run
sock=$run/berth.sock
agent_log=$BERTH_SCOPE/berthd.log
agent_pid=
export CONTAINER_RUNTIME_ENDPOINT=unix://$sock IMAGE_SERVICE_ENDPOINT=unix://$sock BERTH_SOCKET=$sock

fail() { echo "FAILED: $*" >&2; [ ! -f "$agent_log" ] || tail -n 30 "$agent_log" >&2; exit 1; }
say() { echo "== $*" >&2; }
need() {  # need command package-or-hint
  command -v "$1" > /dev/null || { echo "skipped: $1 is missing ($2)"; exit 77; }
}
wait_until() {  # wait_until seconds description command ...
  local until=$(($(date +%s) + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    [ "$(date +%s)" -lt "$until" ] || fail "waited too long for $what"
    sleep 0.05
  done
}

# start_agent [key=value ...]: starts berthd in the background, waits until it answers.
start_agent() {
  mkdir -p "$root" "$run"
  local set=() kv
  for kv in "root=$root" "run=$run" "server.socket=$sock" "runtime.cgroup_root=$BERTH_CGROUP" \
    "metrics.address=127.0.0.1:9464" "cni.config_dir=$BERTH_SCOPE/net.d" "images.registries.\"127.0.0.1:5000\".plain_http=true" "$@"; do
    set+=(--set "$kv")
  done
  env ${BERTH_FAILPOINT:+BERTH_FAILPOINT=$BERTH_FAILPOINT} "$BERTH_BIN/berthd" --config "$BERTH_SCOPE/empty.toml" "${set[@]}" \
    >> "$agent_log" 2>&1 &
  agent_pid=$!
  local until=$(($(date +%s) + ${AGENT_WAIT:-30}))
  until crictl version > /dev/null 2>&1; do
    kill -0 "$agent_pid" 2> /dev/null || { wait "$agent_pid" || return 1; }
    [ "$(date +%s)" -lt "$until" ] || fail "berthd does not answer"
    sleep 0.02
  done
}
: > "$BERTH_SCOPE/empty.toml"
printf "runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\ntimeout: 30\n" "$sock" "$sock" > "$BERTH_SCOPE/crictl.yaml"
export CRI_CONFIG_FILE=$BERTH_SCOPE/crictl.yaml
stop_agent() { kill "$agent_pid"; wait "$agent_pid" || true; }
kill_agent() { kill -9 "$agent_pid"; wait "$agent_pid" 2> /dev/null || true; }

# pod_json name [extra jq filter]: a pod sandbox configuration on stdout
pod_json() {
  jq -n --arg n "$1" --arg log "$BERTH_SCOPE/logs/$1" \
    '{metadata:{name:$n,namespace:"default",uid:("uid-"+$n),attempt:0},log_directory:$log,linux:{}} | '"${2:-.}"
}
# container_json name image 'command json' [extra jq filter]
container_json() {
  jq -n --arg n "$1" --arg i "$2" --argjson c "$3" \
    '{metadata:{name:$n,attempt:0},image:{image:$i},command:$c,log_path:($n+".log"),linux:{}} | '"${4:-.}"
}
