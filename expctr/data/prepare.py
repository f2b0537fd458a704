"""The finished samples and their report, kept in a cache folder and shown on the terminal."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl
from rich.console import Group
from rich.table import Table as RichTable

from expctr.data.samples import PrepareReport, SampleOptions

_FORMAT = 1  # raise it when a reader or make_samples changes what it returns


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


def show(report: PrepareReport) -> Group:
    """The report as two tables for a rich console."""
    rows = RichTable(title="Rows", title_justify="left", show_header=False)
    rows.add_row("read", f"{report.rows:,}")
    for reason, count in report.dropped.items():
        rows.add_row(f"dropped: {reason}", f"{count:,}", f"{count / max(report.rows, 1):.2%}")
    rows.add_row("kept", f"{report.interactions:,}", f"{report.interactions / max(report.rows, 1):.2%}")
    for reason, count in report.side_dropped.items():
        rows.add_row(f"not used: {reason}", f"{count:,}")
    rows.add_row("users, items", f"{report.users:,}, {report.items:,}")
    rows.add_row("rated items without a title", f"{report.untitled:.2%}")

    splits = RichTable(title=f"Samples, {report.rule}", title_justify="left")
    for name in ("split", "samples", "base rate", "label entropy", "users", "of trained users"):
        splits.add_column(name, justify="left" if name == "split" else "right")
    for name, s in report.splits.items():
        numbers = (f"{s['samples']:,}", f"{s['base_rate']:.1%}", f"{s['entropy']:.4f}", f"{s['users']:,}")
        splits.add_row(name, *numbers, f"{s['warm_users']:.1%}")
    notes = [f"history length {', '.join(f'{name} {value:g}' for name, value in report.history.items())}"]
    notes += [f"not used: {count:,} ({reason})" for reason, count in report.samples_dropped.items()]
    if report.withheld:
        notes.append(f"{report.withheld:,} history entries withheld: they are targets of a later split")
    splits.caption, splits.caption_justify = "\n".join(notes), "left"
    return Group(rows, splits)
