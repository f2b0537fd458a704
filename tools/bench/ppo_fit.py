"""Our side of tools/bench/ppo.py: `expctr fit` itself, with a callback that waits for its turn between batches.

Usage (ppo.py makes it): python ppo_fit.py ARGUMENTS-OF-FIT..., with commands on standard input.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from turns import channel, peak_gb, rest

from expctr.cli.app import run

say: Callable[[Any], None] = print


class Turns(L.Callback):
    """A rollout batch with its whole update each time standard input says so."""

    _began: float | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell the time of the last one and wait."""
        answer = "ready" if self._began is None else time.perf_counter() - self._began
        rest()
        say(answer)
        for line in sys.stdin:
            if line.strip() == "go":
                self._began = time.perf_counter()
                return
            trainer.logger.experiment.flush()  # type: ignore[union-attr]
            say(peak_gb())
        raise SystemExit


if __name__ == "__main__":
    import ppo_fit  # the callback is made from this module's name, not from __main__

    ppo_fit.say = channel()
    run(["fit", *sys.argv[1:], "--trainer.callbacks+=ppo_fit.Turns"])
