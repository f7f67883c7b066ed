#!/usr/bin/env bash
# Installs kdiff_jax with its docs extra and builds the documentation site. Any warning,
# such as a link that leads nowhere, is an error.
#
#   bash launch/docs.sh [FOLDER]       (runs/site)
#
# Open FOLDER/index.html. While writing: mkdocs serve.

set -euo pipefail
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup_env.sh
# The pages are made from the source; nothing of it is run.
KDIFF_EXTRA=${KDIFF_EXTRA:-cpu} setup_env docs
export NO_MKDOCS_2_WARNING=1
exec python -m mkdocs build --strict --site-dir "${1:-runs/site}"
