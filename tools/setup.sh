#!/usr/bin/env bash
# Makes .venv with the pinned versions of tools/constraints.txt, unless it is there and current.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.installed
if ! [ -f "$stamp" ] || ! cat pyproject.toml tools/constraints.txt | cmp -s - "$stamp"; then
  python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "expctr needs Python 3.11 or newer; $python is $("$python" --version). Set PYTHON to one." >&2; exit 1; }
  [ -d .venv ] || "$python" -m venv .venv
  # torch first and by exact version, so that a CPU build that pip was pointed to is taken
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' tools/constraints.txt)" \
    --constraint tools/constraints.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint tools/constraints.txt \
    --editable '.[test,tools]'
  cat pyproject.toml tools/constraints.txt > "$stamp"
fi
