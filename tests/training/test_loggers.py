"""What an earlier command has logged is kept."""

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger

from expctr.training.loggers import leave_out_csv, rename_metrics


def logged(folder: Path, version: str | None, loss: float, before: str) -> L.Trainer:
    """A command that logs one value; `before` is what is done before it begins."""
    logger = CSVLogger(str(folder), name="", version=version)
    trainer = L.Trainer(accelerator="cpu", logger=logger, default_root_dir=folder)
    {"fit": rename_metrics, "test": leave_out_csv}[before](trainer)
    for kept in trainer.loggers:
        kept.log_metrics({"loss": loss}, step=0)
        kept.save()
    return trainer


def value(file: Path) -> float:
    return float(file.read_text().split()[1].split(",")[0])


def test_a_fit_that_goes_on_keeps_the_metrics_of_all_its_starts(tmp_path: Path) -> None:
    """Lightning deletes the file of a logger with a fixed version."""
    for start in range(3):
        logged(tmp_path, "seed-3", start, "fit")
    found = {path.name: value(path) for path in (tmp_path / "seed-3").glob("*.csv")}
    assert found == {"metrics-1.csv": 0, "metrics-2.csv": 1, "metrics.csv": 2}


def test_a_test_leaves_the_file_of_a_fit_that_may_still_be_going_on(tmp_path: Path) -> None:
    logged(tmp_path, "", 1, "fit")
    assert not logged(tmp_path, "", 2, "test").loggers
    assert value(tmp_path / "metrics.csv") == 1
    assert logged(tmp_path, None, 2, "test").loggers  # has a folder of its own
