#!/usr/bin/env bash
# Lint, types and tests, but for those that need minutes each; makes the environment if need be. Arguments go to pytest:
# bash tools/test.sh -m slow    runs the others
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# one thread a worker: more of them than cores make small tensors slower, not faster
# and a file stays on one worker, whose runs of the command line its tests share
OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
