"""What `startup.py` adds to a training."""

import os
from typing import Any

from lightning.pytorch.callbacks import Callback


class StopAfterFirstStep(Callback):
    """Ends the process, without an error, once the first batch has trained: no checkpoint has been saved yet."""

    def on_train_batch_end(self, *args: Any) -> None:
        """At the first batch."""
        os._exit(0)
