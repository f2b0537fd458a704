#!/usr/bin/env bash
# Writes tools/constraints.txt anew: the newest version that pyproject.toml allows of every package that expctr, its
# tests and its tools need. Installs nothing. Results in the docs belong to the pins with which they were made: measure
# them again, or keep the old pins.
#   bash tools/pin.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --report - '.[test,tools]' |
  "$python" -c '
import json, re, sys

# torch names the exact versions of its GPU libraries itself, and a CPU build needs none
gpu = re.compile(r"nvidia-|cuda-|triton$")
found = {part["metadata"]["name"]: part["metadata"]["version"].split("+")[0] for part in json.load(sys.stdin)["install"]}
print("# Every package that tools/setup.sh installs, by version. Made by: bash tools/pin.sh")
pins = [f"{name}=={version}" for name, version in found.items() if name != "expctr" and not gpu.match(name)]
print(*sorted(pins, key=str.lower), sep="\n")
' > tools/constraints.new
mv tools/constraints.new tools/constraints.txt
