"""Lightning callbacks that break a run on purpose, and the options that add them to `expctr fit`."""

import contextlib
import os
import random
import resource
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from expctr.llm import logprobs
from expctr.modules.expctr import ExpCTRModule


def kill(epoch: int, batch: int = 0, where: str = "train", number: int = signal.SIGKILL) -> list[str]:
    """Options that kill a fit; see `Sabotage`."""
    return add("Sabotage", epoch=epoch, batch=batch, where=where, signal=int(number))


def poison(epoch: int, batch: int, what: str) -> list[str]:
    """Options that corrupt one batch; see `Poison`."""
    return add("Poison", epoch=epoch, batch=batch, what=what)


def add(callback: str, **arguments: object) -> list[str]:
    """Options that add a callback of this file to a fit."""
    options = [f"--trainer.callbacks.init_args.{name}={value}" for name, value in arguments.items()]
    return [f"--trainer.callbacks+=faults.callbacks.{callback}", *options]


class Sabotage(Callback):
    """Sends a signal to its own process, as a power failure or a user would.

    Args:
        epoch: of the signal; 0 where there is no fit.
        batch: the signal comes before this batch.
        where: the batch's kind, `train`, `validation`, `test` or `predict`; or, before any batch, `setup` or `start`.
        signal: 9 ends the process immediately; 0 raises an error and sends no signal.
        rank: of the process that receives it; None: all.
    """

    def __init__(
        self, epoch: int, batch: int = 0, where: str = "train", signal: int = 9, rank: int | None = None
    ) -> None:
        self.place, self.signal, self.rank = (where, epoch, batch), signal, rank

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._act_at("train", trainer, batch_idx)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._act_at("validation", trainer, batch_idx)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._act_at("test", trainer, batch_idx)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._act_at("predict", trainer, batch_idx)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._act_at("setup", trainer, 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._act_at("start", trainer, 0)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._act_at("start", trainer, 0)

    def _act_at(self, where: str, trainer: L.Trainer, batch: int) -> None:
        epoch = trainer.current_epoch if trainer.state.fn == "fit" else 0
        if (where, epoch, batch) == self.place and self.rank in (None, trainer.global_rank):
            if not self.signal:
                raise RuntimeError("this rank's own error")
            os.kill(os.getpid(), self.signal)


class Mortal(Callback):
    """Stops its own run some time after training began, whatever the process is doing then.

    Args:
        seconds: since the first training batch.
        way: one of the methods below.
        saving: also wait for the next checkpoint to be written, and some milliseconds more.
        rank: of the process that is stopped; None: all.
    """

    def __init__(self, seconds: float, way: str = "kill", saving: bool = False, rank: int | None = None) -> None:
        self.seconds, self.way, self.saving, self.rank, self.began = seconds, way, saving, rank, 0.0
        self.time_is_up = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = time.monotonic()
        if not self.saving:
            self._stop_after(self.seconds, trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.saving and time.monotonic() - self.began >= self.seconds:
            self._stop_after(self.seconds % 0.02, trainer)

    def _stop_after(self, seconds: float, trainer: L.Trainer) -> None:
        if self.rank in (None, trainer.global_rank):
            timer = threading.Timer(seconds, getattr(self, self.way), (trainer,))
            timer.daemon = True
            timer.start()

    def kill(self, trainer: L.Trainer) -> None:
        """As a power failure would."""
        os.kill(os.getpid(), signal.SIGKILL)

    def terminate(self, trainer: L.Trainer) -> None:
        """As a cluster would."""
        os.kill(os.getpid(), signal.SIGTERM)

    def end_time(self, trainer: L.Trainer) -> None:
        """As `trainer.max_time` would, which looks at the clock after each batch."""
        self.time_is_up = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop |= self.time_is_up

    def fill_disk(self, trainer: L.Trainer) -> None:
        """As another program would: the file `ballast`, beside the run's folder, takes what room is left."""
        ballast = Path(trainer.default_root_dir).parent / "ballast"
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def move_clock(self, trainer: L.Trainer) -> None:
        """By eleven days, forwards or back: files that were written before are from another time. Then kill."""
        days = random.Random(self.seconds).choice((-11, 11))
        now, jump = time.time, days * 24 * 3600
        time.time = lambda: now() + jump
        for path in Path(trainer.default_root_dir).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a checkpoint may be replaced meanwhile
                os.utime(path, (now() - jump, now() - jump))
        time.sleep(self.seconds / 2)
        self.kill(trainer)


class Slow(Callback):
    """Never begins its first training batch."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        time.sleep(3600)


class TrainedMeanwhile(Callback):
    """Leaves a checkpoint in a run while the command is being made, as another fit does that then ends.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: str) -> None:
        path = Path(run) / "checkpoints" / "epoch=0001-batch=000000.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()


class TimeUp(Callback):
    """Asks for a stop at the end of one training batch, as `trainer.max_time` does.

    Args:
        epoch: of that batch.
        batch: its number.
    """

    def __init__(self, epoch: int, batch: int) -> None:
        self.place = (epoch, batch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop |= (trainer.current_epoch, batch_idx) == self.place


class FullDisk(Callback):
    """Allows no file above a size from some training batch on.

    Args:
        epoch: of that batch.
        batch: its number.
        room: the size in bytes; None: no room at all for what `torch.save` writes to a path.
    """

    def __init__(self, epoch: int, batch: int, room: int | None = 60_000) -> None:
        self.place, self.room = (epoch, batch), room

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) != self.place:
            return
        if self.room is None:
            real = torch.save
            torch.save = lambda value, file: real(value, "/dev/full" if isinstance(file, Path) else file)
        else:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing then fails with an error, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, self.room))


class NoRoom(Callback):
    """Allows no file above a size in any command, from its set-up on.

    Args:
        room: the size in bytes.
    """

    def __init__(self, room: int) -> None:
        self.room = room

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, self.room))


class Poison(Callback):
    """Corrupts one training batch, as bad numbers or a bad base model would.

    Args:
        epoch: of the batch.
        batch: its number.
        what: `adapter`, `critic` or `ctr`: a weight of that model becomes NaN; `score`: the first row's score becomes
            NaN; `equal`: all scores become equal; `texts`: all texts but one become empty; `all texts`: all of them.
    """

    def __init__(self, epoch: int, batch: int, what: str) -> None:
        self.place, self.what = (epoch, batch), what

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ExpCTRModule)
        explainer, here = pl_module.explainer, (trainer.current_epoch, batch_idx) == self.place
        if here and self.what in ("adapter", "critic", "ctr"):
            weights = {
                "adapter": [p for name, p in explainer.named_parameters() if "lora_B" in name],
                "critic": list(explainer.value_head.parameters()),
                "ctr": list(pl_module.ctr.parameters()),
            }[self.what]
            weights[0].data.fill_(float("nan"))
        elif self.what in ("score", "equal"):
            scorer = explainer.lc_scorer
            score = scorer.scores = partial(type(scorer).scores, scorer)  # type: ignore[method-assign]
            if here:
                scorer.scores = lambda *args: _spoilt(score(*args), self.what)  # type: ignore[method-assign]
        elif self.what in ("texts", "all texts"):
            explain = explainer.explain = partial(type(explainer).explain, explainer)  # type: ignore[method-assign]
            if here:

                def blank(*args: Any, **options: Any) -> Any:
                    rollout, texts = explain(*args, **options)
                    return rollout, [" "] * (len(texts) - 1) + (texts[-1:] if self.what == "texts" else [""])

                explainer.explain = blank  # type: ignore[method-assign]


def _spoilt(scores: Tensor, what: str) -> Tensor:
    if what == "equal":
        return torch.full_like(scores, 0.5)
    scores[0] = float("nan")
    return scores


class SmallLogits(Callback):
    """Computes logits in parts of one token, as a large vocabulary needs it."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        *others, _ = logprobs.token_logprobs.__defaults__ or ()
        logprobs.token_logprobs.__defaults__ = (*others, 1)
