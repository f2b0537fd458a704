"""Standard streams that a command can do without: on a full disk, or where nobody reads them any more."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO


class _Spare:
    """A stream that raises no error: what cannot be written is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._say(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._say(error)

    def _say(self, error: OSError) -> None:
        first, self.failed = not self.failed, True
        if first and sys.stderr is not self:
            print(f"standard output: {error.strerror}; the command goes on without it", file=sys.stderr)


@contextmanager
def spared(name: Literal["stdout", "stderr"]) -> Iterator[None]:
    """Meanwhile no error of this stream ends the command; the first one of standard output is said on stderr."""
    stream: TextIO | None = getattr(sys, name)
    if stream is None:  # it was closed before the start
        yield
        return
    spare = _Spare(stream)
    setattr(sys, name, spare)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        if spare.failed:
            _drop_rest(stream)


def _drop_rest(stream: TextIO) -> None:
    """Drop what is still to be written, if it cannot be: Python would try again at its exit, and end with code 120."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
