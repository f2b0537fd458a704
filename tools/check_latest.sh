#!/usr/bin/env bash
# Installs the newest versions that pyproject.toml allows into a new environment, and runs the quick tests there. Run it
# every week: it finds a new release that breaks expctr before a user does.
#   bash tools/check_latest.sh                       # all quick tests
#   bash tools/check_latest.sh tests/rl tests/ctr    # arguments go to pytest
#
# To try a version that pyproject.toml excludes, widen its bound there first.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder"
python=$folder/bin/python
"$python" -m pip install --quiet --disable-pip-version-check --editable '.[test,tools]'
echo "Not as in tools/constraints.txt (<: there, >: here):"
diff <(grep -v '^#' tools/constraints.txt | tr A-Z_ a-z- | sort) \
  <("$python" -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+.*//' | tr A-Z_ a-z- | sort) | grep '^[<>]' || true
OMP_NUM_THREADS=1 "$python" -m pytest -q -m "not cli and not slow" "$@"
