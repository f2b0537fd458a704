"""Signals to a running fit, by which a user or a cluster asks it to save, or to save and stop."""

import signal
import sys
import threading
from types import FrameType

import torch

from expctr.distributed import all_sum

LISTENED = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)
"""Save and go on; save and stop; the same. The later outranks the earlier."""


class Stopped(KeyboardInterrupt):
    """A fit that was asked to stop by a signal, and has saved."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number


class Signals:
    """Keeps the signals that came until all ranks together look at them.

    Only one rank need get one: a cluster signals the first process of a job, a terminal all.
    """

    def __init__(self) -> None:
        self._came, self._seen = [0] * len(LISTENED), [0] * len(LISTENED)

    def listen(self) -> None:
        """Keep what comes from now on; Lightning puts the former handlers back when the fit ends."""
        self._came, self._seen = [0] * len(LISTENED), [0] * len(LISTENED)
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in LISTENED:
                signal.signal(number, self._keep)

    def look(self, device: torch.device) -> signal.Signals | None:
        """The strongest signal that any rank got; all ranks call it together, with a device where they can add up."""
        self._seen = list(self._came)
        came = all_sum(torch.tensor(self._seen, device=device)).tolist()
        return next((number for number, times in zip(LISTENED[::-1], came[::-1], strict=True) if times), None)

    def done(self) -> None:
        """What the last look found was seen to; what has come since waits for the next."""
        self._came = [came - seen for came, seen in zip(self._came, self._seen, strict=True)]
        self._seen = [0] * len(LISTENED)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        place = LISTENED.index(signal.Signals(number))
        if number == signal.SIGINT and self._came[place]:
            signal.default_int_handler(number, frame)
        self._came[place] += 1
        if number == signal.SIGINT:
            print("\nsaving after this batch, then stopping; Ctrl-C again stops at once", file=sys.stderr)
