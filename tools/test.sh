#!/usr/bin/env bash
# Lint, types and the tests of the first two tiers, with coverage; makes the environment first if necessary.
# Arguments go to pytest: bash tools/test.sh -m slow    runs the tests that need minutes each
#
# Coverage slows each process of Python 3.11 by half, so there it is of the tests' own processes alone. COVERAGE=all
# also measures the runs of the command line, as newer Pythons always do: they measure at little cost.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
if [ "${COVERAGE:-}" = all ] || .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
  export COVERAGE_OF=multiprocessing
fi
export COVERAGE_CORE=sysmon
# one thread per worker: with more threads than cores, small tensors get slower
# a file stays on one worker, so that its tests share their runs of the command line
OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --durations 10 --cov "$@"
