"""A logger of Lightning's would delete what an earlier command has logged: how that is kept."""

from itertools import count
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


def earlier_metrics(trainer: L.Trainer) -> dict[CSVLogger, Path]:
    """The `metrics.csv` that each `CSVLogger` would delete when it begins, as one with a fixed version does."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    files = {logger: Path(logger.log_dir) / ExperimentWriter.NAME_METRICS_FILE for logger in loggers}
    return {logger: file for logger, file in files.items() if file.is_file()}


def rename_metrics(trainer: L.Trainer) -> None:
    """Before a fit goes on: an earlier `metrics.csv` becomes `metrics-1.csv`, or the next number that is free."""
    for file in earlier_metrics(trainer).values():
        names = (file.with_name(f"{file.stem}-{number}{file.suffix}") for number in count(1))
        file.rename(next(name for name in names if not name.exists()))


def leave_out_csv(trainer: L.Trainer) -> None:
    """For a test, whose results are in its table: the run's fit may still be writing its `metrics.csv`."""
    held = earlier_metrics(trainer)
    trainer.loggers = [logger for logger in trainer.loggers if logger not in held]
