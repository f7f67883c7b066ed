#!/usr/bin/env bash
# Installs kdiff_jax with its test extra; then format, lint, types and tests.
#
#   bash launch/test.sh [--all] [pytest arguments]
#
#   --all                  the tests marked slow too
#   KDIFF_TEST_WORKERS=2   processes that share the tests; 0 runs them in this one
#
# Runs on the CPU, whatever the machine has.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
marks="not slow"
case ${1:-} in
  --help)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit
    ;;
  --all)
    marks=""
    shift
    ;;
esac
# Without compiled bytecode each worker, and each command that a test starts, compiles
# all that it imports; pip would compile four times as much as that is.
unset PYTHONDONTWRITEBYTECODE
export PIP_COMPILE=0
source launch/setup_env.sh
# An accelerator's packages are gigabytes, and these tests would not use them.
KDIFF_EXTRA=${KDIFF_EXTRA:-cpu} setup_env test

# timed COMMAND...: runs it and says how long it took.
timed() {
  local start=$SECONDS status=0
  echo "== $*"
  "$@" || status=$?
  echo "== $((SECONDS - start)) s"
  return "$status" # of the command: behind `||` no failure ends this function
}

timed ruff format --check .
timed ruff check .
# Types are checked beside the tests: half a minute of one core. Their answer comes last.
types=$(mktemp)
trap 'rm -f "$types"' EXIT
timed pyright kdiff_jax >"$types" 2>&1 &
checked=$!
code=0
timed python -m pytest tests -m "$marks" -q \
  -n "${KDIFF_TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$@" || code=$?
wait "$checked" || code=$?
cat "$types"
exit "$code"
