"""Ends the Python sources of polars when the user interrupts.

Polars runs a source in a thread of its own, which goes on after a KeyboardInterrupt. A process that ends meanwhile is
aborted, or waits for the whole file.
"""

import threading
import time
from collections.abc import Iterator
from typing import TypeVar

_T = TypeVar("_T")
_PATIENCE = 10.0  # seconds; a part takes less than one
_running: set[object] = set()
_interrupted = threading.Event()


def until_interrupted(parts: Iterator[_T]) -> Iterator[_T]:
    """The parts of a source, up to the one in work when `end_sources` is called."""
    source = object()
    _running.add(source)
    try:
        for part in parts:
            if _interrupted.is_set():
                return
            yield part
    finally:
        _running.discard(source)


def end_sources() -> None:
    """Ends all sources, and waits until they have ended; not forever, because polars may have abandoned one."""
    _interrupted.set()
    limit = time.monotonic() + _PATIENCE
    while _running and time.monotonic() < limit:
        time.sleep(0.01)
    _running.clear()
    _interrupted.clear()
