"""What no input may do: raise anything but an error for people, take longer than a limit, or much memory."""

import io
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from expctr.errors import UserError

SECONDS = 10.0
"""Processor time that one input may take."""
MEGABYTES = 1024.0
"""How much one input may add to the most memory that the process has held."""
LETTERS = 3000
"""Length of a message that people can still read."""


class FaultError(AssertionError):
    """An input was not treated as it should be."""


@contextmanager
def answered() -> Iterator[None]:
    """Accept success and a readable UserError, within the limits; hide what is printed.

    Raises:
        FaultError: anything else happened.
    """
    start, before = time.process_time(), _peak()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    except UserError as error:
        check_message(str(error))
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # polars' panics are no Exception
        raise FaultError(_described(error)) from error
    if (taken := time.process_time() - start) > SECONDS:
        raise FaultError(f"took {taken:.1f} s of processor time")
    if (grown := _peak() - before) > MEGABYTES:
        raise FaultError(f"took {grown:.0f} MB")


def check_message(message: str) -> None:
    """Check what a user would read.

    Raises:
        FaultError: it is empty, holds a traceback, or is too long.
    """
    if not message.strip() or "Traceback" in message or len(message) > LETTERS:
        raise FaultError(f"a message of {len(message):,} characters: {message[:300]!r}")


def _described(error: BaseException) -> str:
    """The error's type, the last place in this package, and its first line."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "/expctr/" in frame.filename]
    where = f"{places[-1].filename.rpartition('/expctr/')[2]}:{places[-1].lineno}" if places else "?"
    return f"{type(error).__name__} at {where}: {(str(error).splitlines() or [''])[0][:200]}"


def _peak() -> float:
    """The most memory that the process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
