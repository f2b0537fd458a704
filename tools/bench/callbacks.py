"""Callbacks that let a benchmark control `expctr fit`. As a program, `expctr fit` as a worker of `turns.Worker`.

python -m tools.bench.callbacks CALLBACK ARGUMENTS-OF-FIT...
"""

import os
import sys
from typing import Any

import lightning as L
import numpy as np
import torch

from tools.bench.turns import Turn, channel, memory_gb


class EpochTurns(Turn, L.Callback):
    """Takes turns by epoch; the time of one is all that fit does until the next."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait. The checkpoint of this epoch is saved afterwards and counts for the next one."""
        trainer.should_stop = not self.wait(lambda path: self._score(path, trainer, pl_module))

    @torch.no_grad()
    def _score(self, path: str, trainer: L.Trainer, pl_module: Any) -> str:
        test = trainer.datamodule.table("test")  # type: ignore[attr-defined]
        whole = test.batch(torch.arange(len(test)), with_text=False)
        np.savez(path, score=pl_module.score(whole).numpy(), label=whole.label.numpy())
        return "scored"


class BatchTurns(Turn, L.Callback):
    """Takes turns by rollout batch with its whole update, and ends the process if nothing more comes."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        def memory(command: str) -> float:
            trainer.logger.experiment.flush()  # type: ignore[union-attr]
            return memory_gb()

        if not self.wait(memory):
            raise SystemExit


class StopAfterFirstStep(L.Callback):
    """Ends the process without an error after the first batch, before a checkpoint is saved."""

    def on_train_batch_end(self, *args: Any) -> None:
        os._exit(0)


if __name__ == "__main__":
    channel()
    from expctr.cli.app import run

    run(["fit", *sys.argv[2:], f"--trainer.callbacks+=tools.bench.callbacks.{sys.argv[1]}"])
