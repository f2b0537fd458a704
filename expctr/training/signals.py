"""Signals by which a user or a cluster asks a fit to save, or to save and stop, and any other command to stop."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from expctr.distributed import all_sum

SAVING = (signal.SIGUSR1, signal.SIGUSR2)
"""Save and go on."""
STOPPING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
"""Save and stop."""
LISTENED = (*SAVING, *STOPPING)
"""The later outranks the earlier."""


class Stopped(KeyboardInterrupt):
    """A command that was asked to stop by a signal; a fit has saved before."""

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
            for number in _heard(LISTENED):
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


@contextmanager
def stopping() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP stop this process as Ctrl-C does, except in a fit that listens to them itself."""
    with _handled((signal.SIGHUP, signal.SIGTERM), _stop):
        yield


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Meanwhile signals end this process at once: it waits outside Python, where no handler of Python's runs."""
    with _handled(STOPPING, signal.SIG_DFL):
        yield


class OurSignals(_SignalConnector):
    """Keeps Lightning from setting handlers, and puts ours back when a command ends.

    Lightning's own for SIGTERM broadcasts it, in the middle of whatever the ranks compute together: they wait for ever.
    """

    def register_signal_handlers(self) -> None:
        """Note the handlers that are set."""
        self.received_sigterm = False
        self._original_handlers = self._get_current_signal_handlers()


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number))


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    before = {number: signal.signal(number, handler) for number in _heard(numbers)}
    try:
        yield
    finally:
        for number, former in before.items():
            if former is not None:  # set by code that is not Python's
                signal.signal(number, former)


def _heard(numbers: tuple[signal.Signals, ...]) -> list[signal.Signals]:
    """All but a SIGHUP that is ignored, as under nohup: the run outlives its terminal."""
    return [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
