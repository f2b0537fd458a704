"""Progress of reading a large file: a bar in a terminal, a line every few seconds in a log, nothing for small files."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from expctr.untrusted import printable

PATIENCE = 3.0
"""Seconds before anything is shown."""
INTERVAL = 10.0
"""Seconds between two lines of a log."""


class ReadingProgress:
    """Says how many rows of a file are read, how many per second, and how long the rest takes, by the bytes read.

    Args:
        path: the file.
        raw: the same file, open; its position counts, also if it is compressed.
        console: where to print; by default stderr.
    """

    def __init__(self, path: Path, raw: BinaryIO, console: Console | None = None) -> None:
        self._name, self._raw = printable(path.name), raw
        self._size = os.fstat(raw.fileno()).st_size
        self._console = console or Console(stderr=True)
        self._began = self._shown = time.monotonic()
        self._bar: Progress | None = None

    def rows(self, count: int) -> None:
        """Shows that so many rows were read in all."""
        now = time.monotonic()
        seconds, done = now - self._began, self._raw.tell() / max(self._size, 1)
        if seconds < PATIENCE:
            return
        if self._console.is_terminal:
            self._draw(count, seconds, done)
        elif now - self._shown >= (INTERVAL if self._shown > self._began else PATIENCE):
            self._shown = now
            left = seconds / max(done, 1e-9) - seconds
            line = f"reading {self._about(count, seconds)}, {done:.0%}, {left:.0f} s left"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _about(self, count: int, seconds: float) -> str:
        return f"{self._name} ({decimal(self._size)}): {count:,} rows, {count / seconds:,.0f} per second"

    def _draw(self, count: int, seconds: float, done: float) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("", total=1.0)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], description=self._about(count, seconds), completed=done)


@contextmanager
def reading_progress(path: Path, raw: BinaryIO) -> Iterator[ReadingProgress]:
    """The progress of reading a file, which is closed in the end."""
    progress = ReadingProgress(path, raw)
    try:
        yield progress
    finally:
        progress.close()
