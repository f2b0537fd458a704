"""Files that are whole or not there: written under another name, and renamed when they are complete."""

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from polars.exceptions import ComputeError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. What is written there becomes `path` at the end, and is deleted after an error.

    The path is that of an empty file with a random name. Another user who may write to the folder could put a link
    under a name that can be guessed, and the link's file would be overwritten.

    Raises:
        OSError: it cannot be written, with `path` as the file's name. Polars has another error for a full disk.
    """
    part = _part_of(path)
    try:
        with _naming(path):
            _create(part)
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_together(files: Mapping[Path, str | Callable[[Path], object]]) -> None:
    """Write several files, as `replacing` does. The first is renamed when all are written, and the last comes last.

    Args:
        files: by path, its text, or what writes it, given a path to write to.

    Raises:
        OSError: as of `replacing`. If one cannot be written, none is replaced; if one cannot be renamed, such as onto a
            folder, those before it are.
    """
    parts = {path: _part_of(path) for path in files}
    try:
        for path, content in files.items():
            with _naming(path):
                _create(parts[path])
                if isinstance(content, str):
                    parts[path].write_text(content, encoding="utf-8")
                else:
                    content(parts[path])
        for path, part in parts.items():
            with _naming(path):
                part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")


def _create(part: Path) -> None:
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of writing name the file that was to be written."""
    try:
        yield
    except ComputeError as error:
        raise OSError(errno.ENOSPC, f"cannot be written ({' '.join(str(error).split())})", str(path)) from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())  # polars gives its errors a message alone
        raise type(error)(error.errno or errno.EIO, reason, str(path)) from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """As `replacing`, for a file that a user names.

    A device or a pipe, such as /dev/null, is written to itself. A link stays; the file that it leads to is replaced.
    """
    in_place = path.parent == Path("/dev") or not (path.is_file() or path.is_dir())  # /dev/stdout may lead to a file
    if path.exists() and in_place:
        yield path
        return
    with replacing(Path(os.path.realpath(path))) as part:
        yield part


def write_parquet(frame: pl.DataFrame, path: Path, **metadata: str) -> None:
    """Write a table, with `metadata` in its footer, that is whole or not there."""
    with replacing(path) as part:
        frame.write_parquet(part, metadata=metadata or None)
