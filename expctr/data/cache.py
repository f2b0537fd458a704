"""A cache of tables that are made from the raw files, in a folder: the finished samples, the items with a title,
and users' ratings.

A table is written to a temporary file, which is renamed when it is complete. So an interrupted process leaves no part
of a table behind.
"""

import hashlib
import inspect
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

import polars as pl
from lightning.pytorch.utilities import rank_zero_warn

from expctr.data.options import SampleOptions
from expctr.data.readers.bad_rows import OnBadRow
from expctr.data.summary import DataSummary
from expctr.errors import DataError
from expctr.untrusted import printable
from expctr.whole_files import replacing

_ABANDONED = 24 * 3600  # seconds after which a temporary file is deleted; its process was killed
_PART = re.compile(r"[0-9a-f]{16}\.(parquet|json)\.[0-9a-f]{16}\.part")  # what `replacing` calls a file of this cache
_THIS_PROCESS = uuid.uuid4().hex

Stats = Sequence[tuple[str, int, int, int]]


def cached_samples(
    files: Sequence[Path],
    options: SampleOptions,
    make: Callable[[], tuple[pl.DataFrame, DataSummary]],
    folder: str | None = None,
    reader_key: object = None,
) -> tuple[pl.DataFrame, DataSummary]:
    """Loads the samples that were made from the same files with the same options, or makes and saves them.

    They are made again if the path, size or a time of a raw file changes, or if their checksum shows damage. If they
    cannot be saved, a warning says so.

    Args:
        files: the raw files.
        options: how samples are made.
        make: makes them.
        folder: of the cache; by default `cache_folder`.
        reader_key: whatever else decides what is read, as plain values.

    Raises:
        DataError: a file changed while it was read.
    """

    def make_table() -> tuple[pl.DataFrame, dict[str, Any]]:
        samples, summary = make()
        return samples, asdict(summary)

    key = [asdict(options), reader_key]
    return _cached(files, key, make_table, folder, lambda about: DataSummary(**about))


def cached_items(
    files: Sequence[Path],
    on_bad_row: OnBadRow,
    make: Callable[[], tuple[pl.DataFrame, dict[str, Any]]],
    folder: str | None = None,
    reader_key: object = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Loads or makes the items that have a title, and what was counted, as plain values.

    As `cached_samples`. Items that do not come from files are made each time.
    """
    if not all(path.exists() for path in files):
        return make()
    return _cached(files, ["items", on_bad_row, reader_key], make, folder, dict)


def cached_table(
    kind: str,
    files: Sequence[Path],
    options: SampleOptions,
    make: Callable[[], pl.DataFrame],
    folder: str | None = None,
    reader_key: object = None,
) -> pl.DataFrame:
    """Loads or makes another table of these files, such as all users' ratings, as `cached_samples`."""
    key = [kind, asdict(options), reader_key]
    return _cached(files, key, lambda: (make(), None), folder, lambda _: None)[0]


def cache_folder() -> Path | None:
    """The folder of caches if an option names no other: `$XDG_CACHE_HOME/expctr` or `~/.cache/expctr`.

    None in a container whose user has neither a name nor `HOME`.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expctr"
    except RuntimeError:
        return None


def class_key(reader: type) -> list[str]:
    """What identifies the code of a class that reads raw files: its name, its `version`, and a user's source file.

    A user's class without a source file, as in a notebook, is known in its own process only.
    """
    own = [c for c in reader.__mro__ if c.__module__.split(".")[0] not in ("expctr", "lightning", "torch", "builtins")]
    return [f"{reader.__module__}.{reader.__qualname__}", str(getattr(reader, "version", 0)), *map(_source, own)]


@cache
def hash_of_code(folder: Path) -> str:
    """A hash of code, such as that of this package: another version of it may make other samples."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _source(cls: type) -> str:
    try:
        return hashlib.sha256(Path(inspect.getsourcefile(cls) or "").read_bytes()).hexdigest()
    except (OSError, TypeError):
        return _THIS_PROCESS


def _cached(
    files: Sequence[Path],
    key: object,
    make: Callable[[], tuple[pl.DataFrame, Any]],
    folder: str | None,
    read: Callable[[Any], Any],
) -> tuple[pl.DataFrame, Any]:
    """A table, and what is known about it, as JSON."""
    stats, code = file_stats(files), hash_of_code(Path(__file__).parent)
    name = hashlib.sha256(json.dumps([code, stats, key], default=repr).encode()).hexdigest()[:16]
    base = Path(os.path.expanduser(folder)) if folder else cache_folder()
    if base is None:
        rank_zero_warn("this user has no home folder: what is read is not cached. Fix: set data.cache_dir to a folder")
        table, found = make()
        return table, read(found)
    rows, about = (base / f"{name}.{kind}" for kind in ("parquet", "json"))
    there = rows.is_file() and about.is_file()  # a pipe would be waited for
    try:
        saved = json.loads(about.read_text() if there else "null")
        if saved["sha256"] == sha256_of(rows):
            return pl.read_parquet(rows, glob=False), read(saved["about"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, pl.exceptions.PolarsError):
        pass  # missing or damaged
    table, found = make()
    for before, after in zip(stats, file_stats(files), strict=True):
        if before != after:
            raise DataError(f"{before[0]} changed while it was read. Fix: wait until it is complete, and start again")
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        _write(rows, table.write_parquet)
        saved = {"sha256": sha256_of(rows), "about": found}
        _write(about, lambda path: path.write_text(json.dumps(saved)))
    except OSError as error:
        where = printable(f"{rows.parent}: {error}")
        rank_zero_warn(
            f"cannot save what was read in {where}. The next start reads the raw files again. Fix: set data.cache_dir "
            "to a folder that is writable and has free space"
        )
    return table, read(found)


def file_stats(files: Sequence[Path]) -> Stats:
    """Path, size and times of each file: they change when its content does.

    Raises:
        DataError: a file is not there.
    """
    try:
        # the time of the last change cannot be set, as that of the content can (cp -p, rsync, zip)
        stats = [(str(path.resolve()), path.stat()) for path in files]
        return [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]
    except OSError as error:
        raise DataError(f"cannot read a raw file: {error}. Fix: put the file back, and start again") from error


def sha256_of(path: Path) -> str:
    """A digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a temporary file and renames it, because another process may read it or this one may be killed."""
    for left in path.parent.glob("*.part"):
        with suppress(FileNotFoundError):  # another process may do the same
            is_own = _PART.fullmatch(left.name) and S_ISREG(left.lstat().st_mode)  # the folder may hold others' files
            if is_own and time.time() - left.lstat().st_mtime > _ABANDONED:
                left.unlink()
    with replacing(path) as part:
        write(part)
