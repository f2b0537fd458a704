"""Progress in a log file: lines where no terminal shows a bar."""

import sys
import time
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from expctr.errors import check_range
from expctr.modules.staged import StagedModule


class ProgressLog(Callback):
    """Prints lines on the progress of a fit: now and then a batch, and each epoch.

    In a terminal there is a progress bar, and no line.

    Args:
        every_seconds: time between two lines on batches, at least; epochs have theirs at their end.
    """

    def __init__(self, every_seconds: float = 30) -> None:
        self.every_seconds = every_seconds
        check_range("progress", self, every_seconds=(0, inf))
        self._times = StageTimes()
        self._printed = self._began = 0.0
        self._batches = self._rows = self._last = 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the epoch."""
        self._began = self._printed = time.monotonic()
        self._batches = self._rows = self._last = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line, if it is time."""
        now = time.monotonic()
        self._batches, self._rows = self._batches + 1, self._rows + len(batch) * trainer.world_size
        self._last = batch_idx + 1
        if _in_log(trainer) and now - self._printed >= self.every_seconds:
            self._printed = now
            seconds = now - self._began
            left = int(trainer.num_training_batches) - batch_idx - 1
            rate, rest = f"{self._rows / seconds:.3g} samples/s", left * seconds / self._batches
            _print(
                f"{_place(trainer, pl_module)}, batch {batch_idx + 1}/{trainer.num_training_batches}",
                _metrics(trainer),
                rate,
                self._times.left(pl_module, trainer, rest),
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print what the epoch came to, validation included; nothing where a limit ended it early."""
        if 0 < self._last < trainer.num_training_batches:
            return
        seconds = time.monotonic() - self._began
        self._times.add(_kind(pl_module), seconds)
        if _in_log(trainer):
            done = f"{_place(trainer, pl_module)} done in {duration(seconds)}"
            _print(done, _metrics(trainer), self._times.left(pl_module, trainer))


class StageTimes:
    """Seconds per epoch of each kind of stage, and what they mean for the rest of a plan."""

    def __init__(self) -> None:
        self._epochs: dict[str, float] = {}

    def add(self, kind: str, seconds: float) -> None:
        """An epoch took so long."""
        self._epochs[kind] = seconds

    def left(self, module: L.LightningModule, trainer: L.Trainer, this_epoch: float = 0.0) -> str:
        """The time left, in words."""
        if not isinstance(module, StagedModule):
            return ""
        return self.forecast([entry.stage for entry in list(module.plan)[trainer.current_epoch + 1 :]], this_epoch)

    def forecast(self, kinds: Iterable[str], this_epoch: float) -> str:
        """The time left, in words, with epochs of these kinds to come.

        LC and IC epochs do the same work. CTR epochs may be fewer, as their stage stops early.
        """
        policy = self._epochs.get("lc", self._epochs.get("ic"))
        known = {"lc": policy, "ic": policy, **self._epochs}
        kinds = list(kinds)
        seconds = this_epoch + sum(known.get(kind) or 0.0 for kind in kinds)
        unknown = sorted({kind for kind in kinds if known.get(kind) is None})
        return f"{'at most ' if 'ctr' in kinds else ''}{duration(seconds)} left" + (
            f", without the {' and '.join(unknown)} stage, whose time is not known yet" if unknown else ""
        )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`, or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _in_log(trainer: L.Trainer) -> bool:
    return trainer.is_global_zero and not (trainer.progress_bar_callback and sys.stdout.isatty())


def _kind(module: L.LightningModule) -> str:
    return module.entry.stage if isinstance(module, StagedModule) else ""


def _place(trainer: L.Trainer, module: L.LightningModule) -> str:
    if isinstance(module, StagedModule):
        entry = module.entry
        return (
            f"{entry.name} epoch {entry.stage_epoch + 1} ({trainer.current_epoch + 1}/{len(module.plan)} of the plan)"
        )
    return f"epoch {trainer.current_epoch + 1}"


def _metrics(trainer: L.Trainer) -> str:
    shown: Mapping[str, Any] = trainer.progress_bar_metrics
    return ", ".join(f"{name} {float(value):.4g}" for name, value in shown.items())


def _print(*parts: str) -> None:
    print("; ".join(part for part in parts if part), flush=True)
