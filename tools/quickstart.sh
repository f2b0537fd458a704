#!/usr/bin/env bash
# From a fresh clone to a trained model and its result table; needs a package index and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
.venv/bin/python -m tools.get_movielens .data/ml-100k
.venv/bin/expctr fit --config configs/quickstart.yaml --ckpt_path last "$@"
.venv/bin/expctr test --config configs/quickstart.yaml --results.examples 3 "$@"
echo "Raw rewards:"
.venv/bin/python -m tools.reward_curves runs/quickstart
.venv/bin/expctr report runs/quickstart
echo "The whole script took $((SECONDS / 60)):$(printf %02d $((SECONDS % 60))) minutes."
cat <<'DONE'

Where to look next:
  runs/quickstart/report.html                         everything on one page
  .venv/bin/tensorboard --logdir runs/quickstart      reward curves by stage, and explanations
  runs/quickstart/rewards.png                         the rewards, stage by stage
  runs/quickstart/table.md                            the table above
  runs/quickstart/explanations/*.parquet              all explanations with scores and rewards
  .venv/bin/expctr explain runs/quickstart --user 42 --target Heat      one explanation
  .venv/bin/expctr predict runs/quickstart      explanations and scores of all test rows
DONE
