#!/usr/bin/env bash
# From nothing to a one-step generator: installs kdiff_jax, trains a teacher on the
# embedded digits, distils it, and shows both side by side.
#
#   bash launch/quickstart.sh [--config.section.key=value ...]
#
# Further arguments go to `python -m kdiff_jax.main`. The same command again resumes,
# and is a quick no-op when all is done. For the set-up, see launch/setup_env.sh --help.

set -euo pipefail
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup_env.sh
setup_env

# Ends with the table and the paths of the sample grid and of the report.
exec python -m kdiff_jax.main --config=configs/digits_student.py \
  --workdir=runs/digits_student "$@"
