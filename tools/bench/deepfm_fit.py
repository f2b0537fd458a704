"""Our side of tools/bench/deepfm.py: `expctr fit` itself, with a callback that waits for its turn between epochs.

Usage (deepfm.py makes it): python deepfm_fit.py FOLDER ARGUMENTS-OF-FIT..., with commands on standard input.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from turns import channel

from expctr.cli.app import run

say: Callable[[Any], None] = print


class Turns(L.Callback):
    """An epoch each time standard input says so; its time is all that fit does from one to the next."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The first epoch is under way already, its loader made: it is not counted."""
        self._began: float | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell the time and wait. The checkpoint of this epoch is saved after this, and counts to the next."""
        say("ready" if self._began is None else time.perf_counter() - self._began)
        for line in sys.stdin:
            if line.strip() == "go":
                self._began = time.perf_counter()
                return
            self._score(line.strip(), trainer, pl_module)
            say("scored")
        trainer.should_stop = True

    @torch.no_grad()
    def _score(self, path: str, trainer: L.Trainer, pl_module: Any) -> None:
        test = trainer.datamodule.table("test")  # type: ignore[attr-defined]
        whole = test.batch(torch.arange(len(test)), with_text=False)
        np.savez(path, score=pl_module.score(whole).numpy(), label=whole.label.numpy())


if __name__ == "__main__":
    import deepfm_fit  # the callback is made from this module's name, not from __main__

    deepfm_fit.say = channel()
    run(["fit", *sys.argv[1:], "--trainer.callbacks+=deepfm_fit.Turns"])
