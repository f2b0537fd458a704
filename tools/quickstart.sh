#!/usr/bin/env bash
# From a fresh clone to a trained model and its table, with nothing but a package index.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
.venv/bin/python tools/get_movielens.py .data/ml-100k
.venv/bin/expctr fit --config configs/quickstart.yaml --ckpt_path last "$@"
.venv/bin/expctr test --config configs/quickstart.yaml --results.examples 3 "$@"
echo "Raw rewards:"
.venv/bin/python tools/rewards.py runs/quickstart
.venv/bin/expctr report runs/quickstart
echo "The whole script took $((SECONDS / 60)):$(printf %02d $((SECONDS % 60))) minutes."
cat <<'DONE'

Where to look next:
  runs/quickstart/report.html                         all of it on one page
  .venv/bin/tensorboard --logdir runs/quickstart      reward curves by stage, explanations as they change
  runs/quickstart/rewards.png                         the rewards, stage by stage
  runs/quickstart/table.md                            the table above
  runs/quickstart/explanations/*.parquet              every explanation with its scores and rewards
  .venv/bin/expctr explain --config configs/quickstart.yaml --user 42 --target Heat      one choice
  .venv/bin/expctr predict --config configs/quickstart.yaml      explanation and scores of each test row
DONE
