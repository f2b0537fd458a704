"""The finished samples and their report, kept in a cache folder."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from expctr.data.readers.tables import DataError
from expctr.data.samples import SampleOptions
from expctr.data.summary import PrepareReport

_FORMAT = 4  # raise it when a reader or make_samples changes what it returns


def cached_samples(
    files: Sequence[Path],
    options: SampleOptions,
    make: Callable[[], tuple[pl.DataFrame, PrepareReport]],
    folder: str | None = None,
) -> tuple[pl.DataFrame, PrepareReport]:
    """Loads the samples that were made before from the same files with the same options, or makes and keeps them.

    What is kept has a checksum: samples that are damaged are made anew.

    Args:
        files: all raw files; a change of path, size or time of one makes the samples anew.
        options: how they are drawn.
        make: reads the files and makes them.
        folder: the cache folder; default `$XDG_CACHE_HOME/expctr` or `~/.cache/expctr`.

    Raises:
        DataError: a file changed while it was read, or the samples cannot be kept.
    """
    stats = _stats(files)
    key = hashlib.sha256(json.dumps([_FORMAT, stats, asdict(options)]).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expctr"
    rows, report = (Path(folder or base) / f"{key}.{kind}" for kind in ("parquet", "json"))
    try:
        kept = json.loads(report.read_text())
        if kept["sha256"] == _sha256(rows):
            return pl.read_parquet(rows), PrepareReport(**kept["report"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not there, or damaged
    samples, made = make()
    for before, after in zip(stats, _stats(files), strict=True):
        if before != after:
            raise DataError(f"{before[0]} changed while it was read. Mend: start again when it is written to its end")
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        _write(rows, samples.write_parquet)
        kept = {"sha256": _sha256(rows), "report": asdict(made)}
        _write(report, lambda path: path.write_text(json.dumps(kept)))
    except OSError as error:
        raise DataError(
            f"the samples cannot be kept in {rows.parent}: {error}. Mend: set data.cache_dir to a folder with "
            "room that may be written"
        ) from error
    return samples, made


def _stats(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    try:
        return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    except OSError as error:
        raise DataError(f"cannot be read: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Written aside and renamed: another process may look meanwhile, and this one may be killed."""
    aside = path.with_suffix(f".{os.getpid()}")
    write(aside)
    aside.replace(path)
