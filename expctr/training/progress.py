"""Progress of a fit and a test: the plan and a bar in a terminal, lines in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.progress import ProgressColumn, Task, TaskID, track
from rich.text import Text

from expctr.errors import check_range
from expctr.modules.staged import StagedModule
from expctr.stages.plan import Plan, PlanEntry

_T = TypeVar("_T")


class Pace:
    """How fast a fit is, and what this means for the rest of its plan."""

    def __init__(self) -> None:
        self._epochs: dict[str, float] = {}  # seconds of the last epoch of each kind of stage
        self.start()

    def start(self) -> None:
        """Start the clock of an epoch, or of the rest of a resumed one."""
        self._began = time.monotonic()
        self._batches = self._rows = self._done = 0

    @property
    def seconds(self) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self._began

    def was_cut_short(self, trainer: L.Trainer) -> bool:
        """Whether a limit of the trainer has ended the epoch before its last batch."""
        return 0 < self._done < trainer.num_training_batches

    def add_batch(self, rows: int, batch_idx: int) -> None:
        """Count a batch of so many rows over all ranks."""
        self._batches, self._rows, self._done = self._batches + 1, self._rows + rows, batch_idx + 1

    def add_epoch(self, kind: str, seconds: float, prepares: bool = False) -> None:
        """Remember how long an epoch took, unless it also prepares the others: those will be much faster.

        Of one that was resumed in its middle, `seconds` are those of its rest.
        """
        if not prepares:
            self._epochs[kind] = seconds * self._done / self._batches if self._batches else seconds

    def now(self, trainer: L.Trainer, module: L.LightningModule) -> list[str]:
        """Samples per second and the time left, after a batch."""
        left = int(trainer.num_training_batches) - self._done
        rest = left * self.seconds / self._batches
        return [f"{self._rows / self.seconds:.3g} samples/s", self.left(trainer, module, rest)]

    def left(self, trainer: L.Trainer, module: L.LightningModule, this_epoch: float = 0.0) -> str:
        """The time left, in words."""
        if not isinstance(module, StagedModule):
            return ""
        patience = max((model.options.patience for model in module.models.click_models), default=0)
        coming = list(module.plan)[trainer.current_epoch + 1 :]
        return self.forecast(coming, this_epoch, module.entry.name, patience + 1)

    def forecast(self, coming: Iterable[PlanEntry], this_epoch: float, stage: str = "", fewest: int = 1) -> str:
        """The time left, in words: a range where a CTR stage is to come, which may stop early.

        LC and IC epochs do the same work.

        Args:
            coming: the epochs after this one.
            this_epoch: seconds that are left of this one.
            stage: the name of its stage, which may stop after it.
            fewest: the number of epochs after which another CTR stage may stop.
        """
        policy = self._epochs.get("lc", self._epochs.get("ic"))
        known = {"lc": policy, "ic": policy, **self._epochs}
        least = most = this_epoch
        unknown = set()
        for entry in coming:
            seconds = known.get(entry.stage)
            if seconds is None:
                unknown.add(entry.stage)
            most += seconds or 0.0
            if entry.stage != "ctr" or (entry.name != stage and entry.stage_epoch < fewest):
                least += seconds or 0.0
        time_left = dict.fromkeys([duration(least), duration(most)])
        return f"{' to '.join(time_left)} left" + (
            f", without the {', '.join(sorted(unknown))} epochs to come, whose time is not known yet" if unknown else ""
        )


class ProgressLog(Callback):
    """Prints lines on the progress of a fit or a test: one per epoch, some on batches. A terminal has a bar instead.

    Args:
        every_seconds: least time between two lines on batches; each epoch also has a line at its end.
    """

    def __init__(self, every_seconds: float = 30) -> None:
        self.every_seconds = every_seconds
        check_range("progress", self, every_seconds=(0, inf))
        self._pace = Pace()
        self._printed = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, also of an epoch that is resumed in its middle, which has no start."""
        self._pace.start()
        self._printed = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the epoch, and drop the metrics of the one before."""
        self.on_train_start(trainer, pl_module)
        trainer.progress_bar_metrics.clear()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line, if it is time."""
        self._pace.add_batch(len(batch) * trainer.world_size, batch_idx)
        if _in_log(trainer) and self._pace.seconds - self._printed >= self.every_seconds:
            self._printed = self._pace.seconds
            place = f"{_place(trainer, pl_module)}, batch {batch_idx + 1}/{trainer.num_training_batches}"
            _print(place, _metrics(trainer), *self._pace.now(trainer, pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch's metrics, those of validation included; nothing if a limit ended it early."""
        if self._pace.was_cut_short(trainer):
            return
        seconds = self._pace.seconds
        self._pace.add_epoch(_kind(pl_module), seconds, _prepares(pl_module))
        if _in_log(trainer):
            done = f"{_place(trainer, pl_module)} done in {duration(seconds)}"
            _print(done, _metrics(trainer), self._pace.left(trainer, pl_module))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.on_train_start(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line, if it is time."""
        if _in_log(trainer) and self._pace.seconds - self._printed >= self.every_seconds:
            self._printed = self._pace.seconds
            count = int(trainer.num_test_batches[0])
            rest = self._pace.seconds / (batch_idx + 1) * (count - batch_idx - 1)
            _print(f"test, batch {batch_idx + 1}/{count}; {duration(rest)} left")


def tracked(values: Sequence[_T], work: str, every_seconds: float = 30) -> Iterator[_T]:
    """The values, with a progress bar in a terminal, or else a line on how many are done."""
    if sys.stdout.isatty():
        yield from track(values, work)
        return
    began = printed = time.monotonic()
    for done, value in enumerate(values):
        now = time.monotonic()
        if done and now - printed >= every_seconds:
            printed = now
            _print(f"{work}: {done}/{len(values)}; {duration((now - began) / done * (len(values) - done))} left")
        yield value


class StageProgressBar(RichProgressBar):
    """The plan of a fit in a terminal: a row per stage with its metrics, the epoch's batches, and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = Pace()
        self._stages: dict[str, TaskID] = {}
        self._seconds: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Draw nothing where there is no terminal."""
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """Description, bar and count, as Lightning has them; then our notes."""
        description, bar, count = super().configure_columns(trainer)[:3]
        bar.bar_width = 16
        return [description, bar, count, _Note()]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the plan, with the stages that a resumed run has finished."""
        super().on_train_start(trainer, pl_module)
        self._pace.start()
        if isinstance(pl_module, StagedModule) and self.progress is not None:
            done = [entry.name for entry in pl_module.plan][: trainer.current_epoch]
            self._stages = {}
            for name, epochs in stage_lengths(pl_module.plan).items():
                task = self.progress.add_task(name, total=epochs, completed=done.count(name), note="")
                self._stages[name] = task

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the epoch."""
        super().on_train_epoch_start(trainer, pl_module)
        self._pace.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the pace beside the batches."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._pace.add_batch(len(batch) * trainer.world_size, batch_idx)
        if self.progress is not None and self.train_progress_bar_id is not None:
            now = ", ".join(self._pace.now(trainer, pl_module))
            self.progress.update(self.train_progress_bar_id, note=now)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the stage on; one that stops early is shorter than planned."""
        if self._pace.was_cut_short(trainer):
            return
        self._pace.add_epoch(_kind(pl_module), self._pace.seconds, _prepares(pl_module))
        if isinstance(pl_module, StagedModule):
            entry = pl_module.entry
            self._seconds[entry.name] = self._seconds.get(entry.name, 0.0) + self._pace.seconds
            if self.progress is not None:
                epochs = stage_lengths(pl_module.plan)[entry.name]
                self.progress.update(self._stages[entry.name], total=epochs, completed=entry.stage_epoch + 1)
        super().on_train_epoch_end(trainer, pl_module)

    def _update_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the metrics beside their stage; Lightning's own column has them beside the batches."""
        if isinstance(pl_module, StagedModule) and self.progress is not None and self._stages:
            name = pl_module.entry.name
            spent = [duration(self._seconds[name])] if name in self._seconds else []
            early = ["stopped early"] if name in pl_module.plan.stopped else []
            note = ", ".join([*spent, *early, _metrics(trainer, pl_module.entry.stage)])
            self.progress.update(self._stages[name], note=note)

    def _get_train_description(self, current_epoch: int) -> str:
        module = self.trainer.lightning_module
        if not isinstance(module, StagedModule):
            return super()._get_train_description(current_epoch)
        return "batches"


class _Note(ProgressColumn):
    """What is noted beside a row; of rows without a note, the time."""

    def render(self, task: Task) -> Text:
        note = task.fields.get("note")
        return Text(duration(task.elapsed or 0) if note is None else note)


def stage_lengths(plan: Plan) -> dict[str, int]:
    """Epochs of each stage of a plan, by the stage's name, in order."""
    names = [entry.name for entry in plan]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`, or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _in_log(trainer: L.Trainer) -> bool:
    return trainer.is_global_zero and not (trainer.progress_bar_callback and sys.stdout.isatty())


def _kind(module: L.LightningModule) -> str:
    return module.entry.stage if isinstance(module, StagedModule) else ""


def _prepares(module: L.LightningModule) -> bool:
    """Whether this is the first epoch of a CTR stage, in which the sentences of all rows are written."""
    return isinstance(module, StagedModule) and module.entry.stage == "ctr" and module.entry.stage_epoch == 0


def _place(trainer: L.Trainer, module: L.LightningModule) -> str:
    if isinstance(module, StagedModule):
        entry = module.entry
        return (
            f"{entry.name} epoch {entry.stage_epoch + 1} ({trainer.current_epoch + 1}/{len(module.plan)} of the plan)"
        )
    return f"epoch {trainer.current_epoch + 1}"


def _metrics(trainer: L.Trainer, stage: str = "") -> str:
    """The metrics of this epoch, without the name of their stage, if given."""
    shown: Mapping[str, Any] = trainer.progress_bar_metrics
    return ", ".join(f"{name.removeprefix(f'{stage}/')} {float(value):.4g}" for name, value in shown.items())


def _print(*parts: str) -> None:
    print("; ".join(part for part in parts if part), flush=True)
