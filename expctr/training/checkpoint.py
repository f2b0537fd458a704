"""Checkpoints of megabytes: adapter, critic, CTR models, optimizers, explanations; never base weights."""

import re
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

_NAME = re.compile(r"epoch=(\d+)-batch=(\d+)\.ckpt")


class RunCheckpoint(Checkpoint):
    """Saves every few batches and after every epoch, and keeps the newest.

    Lightning's own callback counts optimizer steps, of which a PPO batch makes many and which manual optimization
    makes it miss. A checkpoint is written aside and then renamed, so a run killed while saving has the last good one.

    Args:
        every_n_batches: how often within an epoch; 0 for epochs' ends only.
        keep: how many of the newest to keep.
    """

    def __init__(self, every_n_batches: int = 25, keep: int = 2) -> None:
        if every_n_batches < 0 or keep < 1:
            raise ValueError("checkpoint.every_n_batches cannot be negative, and checkpoint.keep must be at least 1")
        self.every_n_batches, self.keep = every_n_batches, keep

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save in mid-epoch."""
        done = batch_idx + 1
        if self.every_n_batches and done % self.every_n_batches == 0 and done < trainer.num_training_batches:
            self._save(trainer, trainer.current_epoch, done)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after the epoch's validation."""
        self._save(trainer, trainer.current_epoch + 1, 0)

    def _save(self, trainer: L.Trainer, epoch: int, batch: int) -> None:
        folder = checkpoint_folder(trainer)
        path = folder / f"epoch={epoch:04d}-batch={batch:06d}.ckpt"
        aside = folder / f".{path.name}.tmp"
        for logger in trainer.loggers:
            logger.save()  # or a run killed and resumed from here would have a hole in its curves
        if trainer.is_global_zero:
            remove(aside)  # what is left of a save under way at a kill
        trainer.strategy.barrier()
        trainer.save_checkpoint(aside, weights_only=False)
        if trainer.is_global_zero:
            remove(path)
            aside.rename(path)
            for old in checkpoints(folder)[: -self.keep]:
                remove(old)
        trainer.strategy.barrier()


def checkpoint_folder(trainer: L.Trainer) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(trainer.default_root_dir) / "checkpoints"


def checkpoints(folder: Path) -> list[Path]:
    """A run's finished checkpoints, oldest first."""
    found = [(int(m[1]), int(m[2]), path) for path in folder.glob("*.ckpt") if (m := _NAME.fullmatch(path.name))]
    return [path for _, _, path in sorted(found)]


def remove(path: Path) -> None:
    """Delete a checkpoint, file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
