# Functions for scripts that drive berth-oci through other people's programs, inside tests/lib/scope: each command is a step
# with an expectation, printed with its result; all run, whatever fails.
# shellcheck shell=bash
set -uo pipefail

steps=0 failures=()
oci=${OCI:-$BERTH_BIN/berth-oci}   # OCI: another runtime, to see what is its fault and what the caller's
need() {  # need command package-or-hint
  command -v "$1" > /dev/null || { echo "skipped: $1 is missing ($2)"; exit 77; }
}
fail() { echo "FAILED: $*" >&2; exit 1; }

matches() { grep -cE -- "$1" > /dev/null || [ -z "$1" ]; }
# step 'what' 'pattern of the output' code command ...: runs it with a limit of 60 s; code and output must be as said.
# The output stays in $out. A code of "any" accepts all.
step() {
  local what=$1 pattern=$2 want=$3 code=0
  shift 3
  out=$(timeout -k 5 60 "$@" 2>&1 < /dev/null) || code=$?
  steps=$((steps + 1))
  if { [ "$want" = any ] || [ "$want" = "$code" ]; } && printf '%s' "$out" | tr -d '\r' | matches "$pattern"; then
    printf 'ok      %-34s %s\n' "$what" "exit $code: $(printf '%s' "$out" | tr -d '\r' | grep -m1 -E -- "$pattern" | cut -c1-90)"
  else
    printf 'FAILED  %-34s exit %s, wanted %s and /%s/\n' "$what" "$code" "$want" "$pattern"
    printf '%s\n' "$out" | tail -n 12 | cut -c1-300 | sed 's/^/        | /'
    failures+=("$what")
  fi
}
# eventually 'what' 'pattern' command ...: repeats until the output has the pattern, 20 s at most
eventually() {
  local what=$1 pattern=$2 until=$(($(date +%s) + 20))
  shift 2
  steps=$((steps + 1))
  until out=$(timeout 20 "$@" 2>&1 < /dev/null) && printf '%s' "$out" | grep -qE -- "$pattern"; do
    if [ "$(date +%s)" -ge "$until" ]; then
      printf 'FAILED  %-34s never /%s/\n' "$what" "$pattern"
      printf '%s\n' "$out" | tail -n 12 | cut -c1-300 | sed 's/^/        | /'
      failures+=("$what")
      return
    fi
    sleep 0.1
  done
  printf 'ok      %-34s %s\n' "$what" "$(printf '%s' "$out" | grep -m1 -E -- "$pattern" | cut -c1-100)"
}
# cgroup_view v1|v2: in the mount namespace of the scope, /sys/fs/cgroup shows that version alone (tests/lib/cgroup_view).
. "$BERTH_REPO/tests/lib/cgroup_view.sh"

# finish 'caller': exit 0 when every step was as expected; the figure last
finish() {
  [ ${#failures[@]} = 0 ] || { printf '%s: %s of %s commands failed: %s\n' "$1" ${#failures[@]} $steps "${failures[*]}"; exit 1; }
  echo "$1: $steps commands, all as expected"
}
