"""Hashing of rows and its cost in AUC: DeepFM on MovieLens-100K with fewer and fewer rows per field (`max_rows`).

    python -m tools.get_movielens .data/ml-100k # once
    python -m tools.bench.hashing               # three seeds, in runs/hashing

943 users and 1,682 films share the rows by a hash. `vocabulary.py` measures what sharing saves in seconds and memory
with ten million values. All runs are tested on the same rows; a seed draws other first weights and batches. The last
line is JSON.
"""

import json
from functools import partial
from pathlib import Path

from tools.runs import ROOT, arguments, auc, fit_and_test, in_parallel, print_seeds, start

CONFIG = ROOT / "configs" / "baseline.yaml"


def main() -> None:
    parser = arguments(__doc__, "runs/hashing")
    parser.add_argument("--ratings", type=Path, default=Path(".data/ml-100k"))
    parser.add_argument("--targets", type=int, default=40, help="maximum of targets per user")
    parser.add_argument("--max_rows", nargs="+", type=int, default=[800, 400, 200, 100])
    asked = parser.parse_args()
    out = asked.out.resolve()
    jobs = {}
    for rows in ("all", *asked.max_rows):
        for seed in asked.seeds:
            jobs[f"{rows}-{seed}"] = partial(
                fit_and_test,
                out / f"{rows}-{seed}",
                f"--config={CONFIG}",
                "--model.backbone=DeepFM",
                f"--seed_everything={seed}",
                *([] if rows == "all" else [f"--model.backbone.init_args.max_rows={rows}"]),
                f"--data.path={asked.ratings.resolve()}",
                f"--data.cache_dir={out / 'cache'}",
                f"--data.samples.targets_per_user={asked.targets}",
                "--trainer.accelerator=cpu",
                "--trainer.enable_progress_bar=false",
            )
    in_parallel(jobs, asked.jobs, "runs")
    found = {"null": [auc(out / f"all-{seed}", "DeepFM") for seed in asked.seeds]}
    found |= {str(rows): [auc(out / f"{rows}-{seed}", "DeepFM") for seed in asked.seeds] for rows in asked.max_rows}
    print_seeds("test AUC by max_rows", found, asked.seeds, digits=4)
    print(json.dumps(found))


if __name__ == "__main__":
    start(main)
