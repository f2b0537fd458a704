"""What shared rows cost in AUC: DeepFM on MovieLens-100K with fewer and fewer rows per field (`max_rows`).

    python -m tools.get_movielens .data/ml-100k # once
    python -m tools.bench.hashing               # three seeds, in runs/hashing

943 users and 1,682 films share the rows by a hash. `zoo.py` measures what sharing saves in seconds and memory with ten
million values. All runs are tested on the same rows; a seed draws other first weights and batches. The last line is
JSON.
"""

import json
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools.runs import ROOT, arguments, auc, fit_and_test, in_parallel, mean_and_spread, start

CONFIG = ROOT / "configs" / "baseline.yaml"


def folder(out: Path, rows: int | None, seed: int) -> Path:
    """Return the folder of a run."""
    return out / f"{rows or 'all'}-{seed}"


def play(out: Path, ratings: Path, targets: int, rows: int | None, seed: int) -> None:
    """Train and test DeepFM with a maximum of rows per field."""
    fit_and_test(
        folder(out, rows, seed),
        f"--config={CONFIG}",
        "--model.backbone=DeepFM",
        f"--seed_everything={seed}",
        *([] if rows is None else [f"--model.backbone.init_args.max_rows={rows}"]),
        f"--data.path={ratings}",
        f"--data.cache_dir={out / 'cache'}",
        f"--data.samples.targets_per_user={targets}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    )


def main() -> None:
    """Run what is missing, print the table and the line of JSON."""
    parser = arguments(__doc__, "runs/hashing")
    parser.add_argument("--ratings", type=Path, default=Path(".data/ml-100k"))
    parser.add_argument("--targets", type=int, default=40, help="maximum of targets per user")
    parser.add_argument("--max_rows", nargs="+", type=int, default=[800, 400, 200, 100])
    asked = parser.parse_args()
    out, sizes = asked.out.resolve(), [None, *asked.max_rows]
    pairs = list(product(sizes, asked.seeds))
    run = partial(play, out, asked.ratings.resolve(), asked.targets)
    in_parallel({f"{rows}-{seed}": partial(run, rows, seed) for rows, seed in pairs}, asked.jobs, "runs")

    found = {rows: [auc(folder(out, rows, seed), "DeepFM") for seed in asked.seeds] for rows in sizes}
    table = Table("max_rows", "test AUC", *(f"seed {seed}" for seed in asked.seeds))
    for rows, values in found.items():
        table.add_row("null" if rows is None else f"{rows}", mean_and_spread(values), *(f"{v:.4f}" for v in values))
    Console().print(table)
    print(json.dumps({"null" if rows is None else f"{rows}": values for rows, values in found.items()}))


if __name__ == "__main__":
    start(main)
