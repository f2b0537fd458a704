"""The finished samples and their report, kept in a cache folder."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from expctr.data.report import PrepareReport
from expctr.data.samples import SampleOptions

_FORMAT = 2  # raise it when a reader or make_samples changes what it returns


def cached_samples(
    files: Sequence[Path],
    options: SampleOptions,
    make: Callable[[], tuple[pl.DataFrame, PrepareReport]],
    folder: str | None = None,
) -> tuple[pl.DataFrame, PrepareReport]:
    """Loads the samples that were made before from the same files with the same options, or makes and keeps them.

    Args:
        files: all raw files; a change of path, size or time of one makes the samples anew.
        options: how they are drawn.
        make: makes them.
        folder: the cache folder; default `$XDG_CACHE_HOME/expctr` or `~/.cache/expctr`.
    """
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(json.dumps([_FORMAT, stats, asdict(options)]).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expctr"
    rows, report = (Path(folder or base) / f"{key}.{kind}" for kind in ("parquet", "json"))
    if rows.exists() and report.exists():
        return pl.read_parquet(rows), PrepareReport(**json.loads(report.read_text()))
    samples, made = make()
    rows.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: another process may look meanwhile, and this one may be killed.
    for path, write in ((rows, samples.write_parquet), (report, lambda p: p.write_text(json.dumps(asdict(made))))):
        aside = path.with_suffix(f".{os.getpid()}")
        write(aside)
        aside.replace(path)
    return samples, made
