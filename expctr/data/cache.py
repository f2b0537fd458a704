"""A cache of the finished samples and their summary, in a folder."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from expctr.data.options import SampleOptions
from expctr.data.summary import DataSummary
from expctr.errors import DataError

_FORMAT = 6  # increase it when a reader or make_samples returns something else


def cached_samples(
    files: Sequence[Path],
    options: SampleOptions,
    make: Callable[[], tuple[pl.DataFrame, DataSummary]],
    folder: str | None = None,
) -> tuple[pl.DataFrame, DataSummary]:
    """Loads the samples that were made from the same files with the same options, or makes and saves them.

    They are made again if the path, size or time of a raw file changes, or if their checksum shows damage. The default
    folder is `$XDG_CACHE_HOME/expctr` or `~/.cache/expctr`.

    Raises:
        DataError: a file changed while it was read, or the samples cannot be saved.
    """
    stats = _stats(files)
    key = hashlib.sha256(json.dumps([_FORMAT, stats, asdict(options)]).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expctr"
    rows, about = (Path(folder or base) / f"{key}.{kind}" for kind in ("parquet", "json"))
    try:
        saved = json.loads(about.read_text())
        if saved["sha256"] == _sha256(rows):
            return pl.read_parquet(rows), DataSummary(**saved["summary"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # missing or damaged
    samples, summary = make()
    for before, after in zip(stats, _stats(files), strict=True):
        if before != after:
            raise DataError(f"{before[0]} changed while it was read. Fix: wait until it is complete, and start again")
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        _write(rows, samples.write_parquet)
        saved = {"sha256": _sha256(rows), "summary": asdict(summary)}
        _write(about, lambda path: path.write_text(json.dumps(saved)))
    except OSError as error:
        raise DataError(
            f"cannot save the samples in {rows.parent}: {error}. Fix: set data.cache_dir to a folder that is writable "
            "and has free space"
        ) from error
    return samples, summary


def _stats(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    try:
        return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    except OSError as error:
        raise DataError(f"cannot read a raw file: {error}. Fix: put the file back, and start again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a temporary file and renames it, because another process may read it or this one may be killed."""
    temporary = path.with_suffix(f".{os.getpid()}")
    write(temporary)
    temporary.replace(path)
