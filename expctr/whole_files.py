"""Files that are whole or not there: written under another name, and renamed when they are complete."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from polars.exceptions import ComputeError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. What is written there becomes `path` at the end, and is deleted after an error.

    Raises:
        OSError: it cannot be written, with `path` as the file's name. Polars has another error for a full disk.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except ComputeError as error:
        raise OSError(errno.ENOSPC, f"cannot be written ({' '.join(str(error).split())})", str(path)) from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())  # polars gives its errors a message alone
        raise type(error)(error.errno or errno.EIO, reason, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a table that is whole or not there."""
    with replacing(path) as part:
        frame.write_parquet(part)
