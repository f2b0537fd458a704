"""DeepFM over MovieLens-100K, seconds per epoch: ours against RecBole, FuxiCTR, deepctr-torch and torch-rechub.

    python -m tools.bench.deepfm [--epochs N] [--threads N]

All have the same rows (80,000, 10,000 and 10,000 random ratings, without the few of a film without a title), fields,
sizes, Adam, dropout, batch size, loss and threads, but their own loader and training loop, each in its own process.
They take turns by epoch. Ours is `expctr fit --config configs/baseline.yaml --model.backbone DeepFM` with its curves
and checkpoints. Nobody validates. The last line is JSON: `vs_fastest_peer` is the fastest peer's median epoch divided
by ours; `auc` and `peer_auc` (of the same peer) are on the test rows, after all epochs.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from expctr.data.datamodules import MovieLensDataModule, SampleOptions
from expctr.data.ratings_module import SplitFiles
from expctr.data.readers import movielens
from expctr.metrics import ctr_metrics
from tools.bench.turns import ROOT, Worker, fit_worker
from tools.get_movielens import get_movielens
from tools.runs import markdown_table, script

RATINGS, FOLDER, PEERS = ROOT / ".data/ml-100k", ROOT / "runs/bench-deepfm", ROOT / ".cache/deepfm-peers"
FIELDS = ["user", "target", "target_year", "target_genres", "user_age", "user_gender", "user_occupation"]
OURS, HISTORIES = "expctr fit", "expctr fit, and histories"
NAMES = ["recbole", "fuxictr", "deepctr-torch", "torch-rechub"]
SPLITS = ("train", "val", "test")


def auc(worker: Worker) -> float:
    path = FOLDER / f"{worker.name}.npz"
    worker.query(str(path))
    score, label = (torch.from_numpy(np.load(path)[name]).float() for name in ("score", "label"))
    return ctr_metrics(score, label)["auc"]


def prepare() -> None:
    """Write the split as three ratings files for expctr, and as index arrays for the peers."""
    get_movielens(RATINGS)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    ratings = movielens.read(RATINGS).interactions.frame.select("user", "item", "rating", "timestamp").collect()
    ratings = ratings.sort("user", "item").sample(fraction=1, shuffle=True, seed=0)
    ratings = ratings.rename({"user": "userId", "item": "movieId"})
    for split, start, count in zip(SPLITS, (0, 80_000, 90_000), (80_000, 10_000, 10_000), strict=True):
        ratings[start : start + count].write_csv(FOLDER / f"{split}.csv")
    files = SplitFiles(*(str(FOLDER / f"{split}.csv") for split in SPLITS))
    options = SampleOptions(min_history=0, min_ratings=1)
    data = MovieLensDataModule(str(RATINGS), options, splits=files, fields=FIELDS, cache_dir=str(FOLDER / "cache"))
    data.setup()
    (FOLDER / "sizes.json").write_text(json.dumps(data.features.sizes))
    for split in SPLITS:
        table = data.table(split)
        print(f"{split}: {len(table)} rows")
        arrays = {name: values.numpy() for name, values in table.features.items()}
        np.savez(FOLDER / split, **arrays, label=table.label.numpy())


def fit_command(fields: list[str] | None) -> list[object]:
    """Return the command of `expctr fit` on the split, with these fields or all."""
    options: dict[str, Any] = {
        "config": ROOT / "configs/baseline.yaml",
        "model.backbone": "DeepFM",
        "data.path": RATINGS,
        "data.cache_dir": FOLDER / "cache",
        "data.samples.min_history": 0,
        "data.samples.min_ratings": 1,
        "data.fields": json.dumps(fields),
        "trainer.max_epochs": 1_000_000,  # it ends when the benchmark does
        "trainer.limit_val_batches": 0,
        "trainer.enable_progress_bar": "false",  # the peers have none
        "trainer.default_root_dir": FOLDER / ("fit" if fields else "fit-histories"),
    }
    options |= {f"data.splits.{split}": FOLDER / f"{split}.csv" for split in SPLITS}
    return fit_worker("EpochTurns", options)


def install_peers() -> Path:
    """Return the interpreter of the peers' environment, which is made if it is missing or outdated."""
    pins, stamp = Path(__file__).with_name("deepfm_peers.txt"), PEERS / ".installed"
    python = PEERS / "bin/python"
    if not stamp.exists() or stamp.read_text() != pins.read_text():
        subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--requirement", pins], check=True)
        shutil.copy(pins, stamp)
    return python


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--epochs", type=int, default=15, help="timed epochs per system")
    parser.add_argument("--threads", type=int, default=1, help="threads of each system; only one works at a time")
    options = parser.parse_args()
    prepare()
    commands: dict[str, list[object]] = {OURS: fit_command(FIELDS), HISTORIES: fit_command(None)}
    absent: dict[str, str] = {}
    try:
        peers = install_peers()
        commands |= {name: [peers, "-m", "tools.bench.deepfm_peers", name, FOLDER] for name in NAMES}
    except (OSError, subprocess.CalledProcessError) as error:
        absent = dict.fromkeys(NAMES, f"cannot be installed: {error}")

    workers: dict[str, Worker] = {}
    for name, command in commands.items():
        try:
            workers[name] = Worker(name, command, FOLDER, options.threads)
        except RuntimeError as error:
            absent[name] = str(error)
    for number in range(options.epochs):
        print(f"\repoch {number + 1} of {options.epochs}", end="", file=sys.stderr, flush=True)
        for worker in workers.values():
            worker.turn()
    print(file=sys.stderr)
    aucs = {name: auc(worker) for name, worker in workers.items()}
    for worker in workers.values():
        worker.end()
    report(workers, aucs, absent, options.epochs + 1)


def report(workers: dict[str, Worker], aucs: dict[str, float], absent: dict[str, str], epochs: int) -> None:
    epoch = {name: median(worker.seconds) for name, worker in workers.items()}
    rows = {}
    for name in sorted(epoch, key=epoch.__getitem__):
        times = [f"{value:.3f}" for value in (epoch[name], min(workers[name].seconds), max(workers[name].seconds))]
        rows[name] = [*times, f"{epoch[name] / epoch[OURS]:.2f}", f"{aucs[name]:.4f}"]
    print(f"\nFields: {', '.join(FIELDS)}. Test AUC after {epochs} epochs.\n")
    print(*markdown_table(["", "epoch, s (median)", "fastest", "slowest", "over ours", "AUC"], rows), sep="\n")
    print(*(f"{name} did not run: {why}" for name, why in absent.items()), sep="\n")
    found: dict[str, Any] = {"epochs": epochs, "seconds": epoch, "aucs": aucs, "absent": absent, "auc": aucs[OURS]}
    if ran := [name for name in NAMES if name in workers]:
        fastest = min(ran, key=lambda name: epoch[name])
        found |= {
            "vs_fastest_peer": epoch[fastest] / epoch[OURS],
            "fastest_peer": fastest,
            "peer_auc": aucs[fastest],
            "best_peer_auc": max(aucs[name] for name in ran),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
