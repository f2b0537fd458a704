#!/usr/bin/env bash
# Known vulnerabilities in the pinned versions (pip-audit, from a new environment), and the licence of each dependency.
#   bash tools/audit.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -m tools.licences
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit
"$folder/bin/pip-audit" --strict --no-deps --disable-pip --requirement tools/constraints.txt
