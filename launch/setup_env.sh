#!/usr/bin/env bash
# Makes an environment with kdiff_jax in it; quick when there is nothing to do.
#
#   bash launch/setup_env.sh [EXTRA ...]      (test, text, prepare: the extras of setup.py)
#
# Uses the virtual environment that is active, else makes .venv in the checkout.
# Installs for the CPU unless a GPU or a TPU is found.
#
#   KDIFF_EXTRA=cpu|cuda|cuda13|tpu   instead of looking for an accelerator
#   KDIFF_PYTHON=/path/to/python      the interpreter that makes .venv (3.11 or newer)
#
# Other scripts source this file and call `setup_env`, which leaves the environment
# active.

KDIFF_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "$*" >&2
  exit 2
}

# The version of interpreter $1 as "3.11.7"; nothing where it does not run.
python_version() {
  "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null </dev/null
}

is_new_enough() {
  local major minor
  IFS=. read -r major minor _ <<<"$1"
  ((major == 3 && minor >= 11))
}

# Prints the interpreter to use: $KDIFF_PYTHON, or the first one that is new enough.
find_python() {
  local candidate version seen=""
  for candidate in ${KDIFF_PYTHON:-python3 python3.12 python3.11 python3.13}; do
    version=$(python_version "$candidate") || continue
    if is_new_enough "$version"; then
      echo "$candidate"
      return
    fi
    seen+="${seen:+, }$candidate=$version"
  done
  fail "${seen:-python=${KDIFF_PYTHON:-none found}}: kdiff_jax needs Python 3.11 or" \
    "newer; install one and set KDIFF_PYTHON=/path/to/python3.11"
}

# Prints the extra of setup.py that serves this machine's accelerator.
accelerator() {
  case ${KDIFF_EXTRA:-} in
    cpu | cuda | cuda13 | tpu) echo "$KDIFF_EXTRA" ;;
    "")
      if [[ -e /dev/accel0 || -n ${TPU_ACCELERATOR_TYPE:-} ]]; then
        echo tpu
      elif nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
        echo cuda
      else
        echo cpu
      fi
      ;;
    *) fail "KDIFF_EXTRA=$KDIFF_EXTRA: must be cpu, cuda, cuda13 or tpu" ;;
  esac
}

# Activates the environment, and makes .venv first where there is none.
activate_env() {
  if [[ -n ${VIRTUAL_ENV:-} ]]; then
    return
  elif [[ -n ${CONDA_PREFIX:-} && ${CONDA_DEFAULT_ENV:-} != base ]]; then
    VIRTUAL_ENV=$CONDA_PREFIX
    return
  fi
  local python
  if [[ ! -x $KDIFF_ROOT/.venv/bin/python ]]; then
    python=$(find_python) || exit
    echo "making .venv with $python ($(python_version "$python"))"
    "$python" -m venv --clear "$KDIFF_ROOT/.venv" ||
      fail "$python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"
  fi
  # shellcheck disable=SC1091 # written by the line above
  source "$KDIFF_ROOT/.venv/bin/activate"
}

# setup_env [EXTRA ...]: activates the environment and installs what it lacks.
setup_env() {
  local extras=("$@") found version names stamp sum
  found=$(accelerator) || exit
  [[ $found == cpu ]] || extras+=("$found")
  activate_env
  version=$(python_version python) || fail "$VIRTUAL_ENV: has no python that runs"
  is_new_enough "$version" ||
    fail "$VIRTUAL_ENV: has Python $version, kdiff_jax needs 3.11 or newer;" \
      "deactivate it, or make it anew with a newer Python"

  names=$(IFS=, && echo "${extras[*]:-}")
  stamp=$VIRTUAL_ENV/.kdiff_jax${names:+.$names}
  # The checkout's path is part of it: the installation points there.
  sum=$({
    echo "$KDIFF_ROOT" "$version"
    cat "$KDIFF_ROOT/setup.py" "$KDIFF_ROOT/launch/constraints.txt"
  } | cksum)
  if [[ -f $stamp && $(<"$stamp") == "$sum" ]]; then
    return
  fi
  echo "installing kdiff_jax${names:+[$names]} into $VIRTUAL_ENV"
  python -m pip install --quiet --disable-pip-version-check --use-pep517 \
    --constraint "$KDIFF_ROOT/launch/constraints.txt" \
    --editable "$KDIFF_ROOT${names:+[$names]}" ||
    fail "pip could not install kdiff_jax${names:+[$names]}: see its lines above"
  echo "$sum" >"$stamp"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  case ${1:-} in
    --help | -h) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" ;;
    -*) fail "$1: no such option; see --help" ;;
    *) setup_env "$@" ;;
  esac
fi
