"""Checkpoints of megabytes: adapter, critic, CTR models, optimizers, explanations; never base weights."""

import pickle
import re
import shutil
import signal
import zipfile
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.checkpoint.api import CheckpointException

from expctr.errors import BadRunError, UserError, first_line
from expctr.run_folder import checkpoints
from expctr.training.lock import Lock
from expctr.training.ranks import check_ranks_agree, check_weights_agree
from expctr.training.sharded_loading import torn
from expctr.training.signals import STOPPING, Signals, Stopped
from expctr.untrusted import printable


class RunCheckpoint(Checkpoint):
    """Saves every few batches, after every epoch and when a signal asks for it, and keeps the newest.

    Lightning's own callback counts optimizer steps, of which a PPO batch makes many and which manual optimization
    makes it miss. A checkpoint is written aside and then renamed, so a run killed while saving has the last good one.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP save after the batch under way and end the run; SIGUSR1 and SIGUSR2 save and go
    on. What comes while the epoch's last batch or its validation is under way waits for the validation's end: an epoch
    half validated is no place to resume from.

    Args:
        every_n_batches: how often within an epoch; 0 for epochs' ends only.
        keep: how many of the newest to keep.
    """

    def __init__(self, every_n_batches: int = 25, keep: int = 2) -> None:
        if every_n_batches < 0 or keep < 1:
            raise ValueError("checkpoint.every_n_batches cannot be negative, and checkpoint.keep must be at least 1")
        self.every_n_batches, self.keep = every_n_batches, keep
        self._signals = Signals()
        self.lock: Lock | None = None
        """Of the run's folder, on rank 0 of the command, see `lock.hold`."""
        self._done, self._cut_short = 0, False
        self._limit_val_batches: int | float = 1.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare where the ranks begin and their data, before a checkpoint is restored."""
        check_ranks_agree(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the ranks once more, now that the weights are there, and listen to signals."""
        check_weights_agree(pl_module)
        self._check_place(trainer, "nothing is trained")
        self._signals.listen()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        self._done, self._cut_short = done, False
        if done == trainer.num_training_batches:
            return
        limit, stopping = trainer.max_steps, trainer.should_stop and trainer.fit_loop._can_stop_early
        if stopping or (limit >= 0 and trainer.global_step >= limit):  # by max_time, or by max_steps
            self.save(trainer, trainer.current_epoch, done)
            self._cut_short, self._limit_val_batches = True, trainer.limit_val_batches
            trainer.limit_val_batches = 0  # or Lightning would validate, and log, in the middle of an epoch
            trainer.print(f"stopped after {done} batches of epoch {trainer.current_epoch + 1}, and saved")
            return
        signalled = self._signals.look(pl_module.device)
        if signalled or (self.every_n_batches and done % self.every_n_batches == 0):
            self.save(trainer, trainer.current_epoch, done)
            self._answer(signalled)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after the epoch's validation, unless the trainer ends the epoch before its last batch."""
        if self._cut_short:
            trainer.limit_val_batches = self._limit_val_batches
            return
        if 0 < self._done < trainer.num_training_batches:  # what asked for the stop did so after our own hook
            self.save(trainer, trainer.current_epoch, self._done)
            return
        signalled = self._signals.look(pl_module.device)
        self.save(trainer, trainer.current_epoch + 1, 0)
        self._answer(signalled)

    def _answer(self, signalled: signal.Signals | None) -> None:
        """Stop if the signal asks for it, now that all is saved."""
        self._signals.done()
        if signalled in STOPPING:
            raise Stopped(signalled)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save where there was nothing to train: a test asks for a checkpoint all the same."""
        if not checkpoints(checkpoint_folder(trainer)):
            self.save(trainer, 0, 0)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say how to resume, where one can."""
        found = checkpoints(checkpoint_folder(trainer))
        if trainer.state.fn != "fit" or not found:
            return
        resume = f"expctr fit {trainer.default_root_dir}"
        if isinstance(exception, BadRunError):  # the same options would end the same way
            older = f", or from {found[0].name} if that ends the same way," if found[1:] else ""
            exception.add_note(
                f"{found[-1].name} was saved before the failure. Fix: resume from it{older} with other options: "
                f"--ckpt_path {found[-1]} and another --trainer.default_root_dir"
            )
        elif isinstance(exception, UserError) and isinstance(exception.__cause__, (OSError, CheckpointException)):
            exception.add_note(f"{found[-1].stem} is intact. Fix the error above, then resume with {resume}")
        elif not isinstance(exception, UserError):
            exception.add_note(f"saved as {found[-1].stem}; resume with {resume}")

    def save(self, trainer: L.Trainer, epoch: int, batch: int) -> None:
        """Write the checkpoint of so many finished epochs, and batches of the next; for all ranks together.

        A trial by `fast_dev_run` leaves none.
        """
        if vars(trainer)["fast_dev_run"]:
            return
        folder = checkpoint_folder(trainer)
        path = folder / f"epoch={epoch:04d}-batch={batch:06d}.ckpt"
        self._check_place(trainer, f"{path.stem} is not saved")
        aside, old = folder / f".{path.name}.tmp", folder / f".{path.name}.old"
        for logger in trainer.loggers:
            logger.save()  # or a run killed and resumed from here would have a hole in its curves
        if trainer.is_global_zero:
            remove(aside)  # what is left of a save under way at a kill
        trainer.strategy.barrier()
        try:
            trainer.save_checkpoint(aside, weights_only=False)
        except (OSError, CheckpointException) as error:  # a sharded one's error is that of all ranks
            if trainer.is_global_zero:
                remove(aside)
            where = f"in {folder}, or in {gettempdir()} (TMPDIR), where it may be written first"
            raise UserError(f"{path.name} cannot be saved: {_cause(error)} ({where})") from error
        if trainer.is_global_zero:
            remove(old)
            if path.is_dir():  # which nothing can be renamed over
                path.rename(old)
            aside.replace(path)
            found = checkpoints(folder)
            here = found.index(path) + 1
            if later := found[here:]:
                names = ", ".join(other.stem for other in later)
                trainer.print(f"this run went on from an older checkpoint: {names} removed")
            for other in later:
                remove(other)
            for other in (old, *found[:here][: -self.keep]):
                try:
                    remove(other)
                except OSError as error:  # on NFS, another command may still read it
                    rank_zero_warn(f"an older checkpoint stays, as it cannot be removed: {printable(str(error))}")
        trainer.strategy.barrier()

    def _check_place(self, trainer: L.Trainer, outcome: str) -> None:
        """Refuse to write over the checkpoints of another run, whose folder is where this one's was."""
        run = Path(trainer.default_root_dir)
        if self.lock and not self.lock.holds(run):
            raise UserError(
                f"{run} is no longer the folder that this fit began in: that was moved or removed, a link changed, or "
                f"its .lock was removed and another process trains there. So {outcome}. Fix: resume the fit in its "
                "folder"
            )


def checkpoint_folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint (a file, or a sharded one's folder); None where all is well."""
    plain = path / "meta.pt" if path.is_dir() else path
    parts = [*path.iterdir()] if path.is_dir() else [path]
    if odd := next((part for part in parts if part.exists() and not part.is_file()), None):
        return f"{odd.name} is not a file"  # a pipe would be waited for
    try:
        with zipfile.ZipFile(plain) as archive:
            if archive.testzip() is not None:  # a checksum that is wrong
                return "it is damaged"
        state = torch.load(plain, map_location="cpu", weights_only=True, mmap=True)
        if path.is_dir() and (files := torn(path)):
            return f"{files[0]} is cut short or missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (zipfile.BadZipFile, EOFError):
        return "it is cut short, or no checkpoint at all"
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:asks for|[Uu]nsupported (?:global|GLOBAL)):? (?:GLOBAL )?(\w\S*)", str(error))
        return f"it asks to run {asked[1]}" if asked else f"it is damaged ({first_line(error)})"
    except OSError as error:
        return str(error)
    if not isinstance(state, dict) or not {"features", "loops"} <= set(state):
        return "it is not of expctr"
    return None


def _cause(error: BaseException) -> str:
    """An error of saving in a few words; a sharded one's first failure."""
    if isinstance(error, CheckpointException):
        error = next((wrapped[0] for wrapped in error.failures.values()), error)
    return first_line(error)


def remove(path: Path) -> None:
    """Delete a checkpoint, file or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
