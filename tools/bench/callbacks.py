"""Callbacks that let a benchmark control `expctr fit`."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch

from tools.bench.turns import peak_gb, rest

say: Callable[[Any], None] = print
"""How `Turns` answers; `fit_worker.py` sets it."""


class Turns(L.Callback):
    """Answers with the time since the last `go`, then waits for the next one."""

    _began: float | None = None

    def wait(self, answer_other: Callable[[str], Any]) -> bool:
        """Return whether to go on.

        Args:
            answer_other: returns the answer to a line other than `go`.
        """
        answer = "ready" if self._began is None else time.perf_counter() - self._began
        rest()
        say(answer)
        for line in sys.stdin:
            if line.strip() == "go":
                self._began = time.perf_counter()
                return True
            say(answer_other(line.strip()))
        return False


class EpochTurns(Turns):
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


class BatchTurns(Turns):
    """Takes turns by rollout batch with its whole update."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Wait, and end the process if nothing more comes."""

        def memory(command: str) -> float:
            trainer.logger.experiment.flush()  # type: ignore[union-attr]
            return peak_gb()

        if not self.wait(memory):
            raise SystemExit


class StopAfterFirstStep(L.Callback):
    """Ends the process without an error after the first batch, before a checkpoint is saved."""

    def on_train_batch_end(self, *args: Any) -> None:
        """End the process."""
        os._exit(0)
