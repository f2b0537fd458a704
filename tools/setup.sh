#!/usr/bin/env bash
# Makes .venv with the pinned versions of tools/constraints.txt, unless it exists and is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.installed
if ! [ -f "$stamp" ] || ! cat pyproject.toml tools/constraints.txt | cmp -s - "$stamp"; then
  python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "expctr needs Python 3.11 or newer; $python is $("$python" --version). Fix: set PYTHON" >&2; exit 1; }
  [ -d .venv ] || "$python" -m venv .venv
  # torch first and by exact version, so that pip takes a CPU build if its index has one
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' tools/constraints.txt)" \
    --constraint tools/constraints.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint tools/constraints.txt \
    --editable '.[test,tools]'
  cat pyproject.toml tools/constraints.txt > "$stamp"
fi
