#!/usr/bin/env bash
# From a fresh clone to a trained model and its result table; needs a package index and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
run=runs/quickstart
for ((i = 1; i <= $#; i++)); do
    case ${!i} in
        --trainer.default_root_dir=*) run=${!i#*=} ;;
        --trainer.default_root_dir) next=$((i + 1)) && run=${!next} ;;
    esac
done
bash tools/setup.sh
.venv/bin/python -m tools.get_movielens .data/ml-100k
.venv/bin/expctr fit --config configs/quickstart.yaml --ckpt_path last "$@"
.venv/bin/expctr test --config configs/quickstart.yaml --results.examples 3 "$@"
echo "Raw rewards:"
.venv/bin/python -m tools.reward_curves "$run"
.venv/bin/expctr report "$run"
echo "The whole script took $((SECONDS / 60)):$(printf %02d $((SECONDS % 60))) minutes."
cat <<DONE

Where to look next:
  $run/report.html                         everything on one page
  .venv/bin/tensorboard --logdir $run      reward curves by stage, and explanations
  $run/rewards.png                         the rewards, stage by stage
  $run/table.md                            the table above
  $run/explanations/*.parquet              all explanations with scores and rewards
  .venv/bin/expctr explain $run --user 42 --target Heat      one explanation
  .venv/bin/expctr predict $run      explanations and scores of all test rows
DONE
