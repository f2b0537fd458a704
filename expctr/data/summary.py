"""Summary of what became of the raw rows: counts, base rates, history lengths. `expctr prepare` prints it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Group
from rich.table import Table
from rich.text import Text

from expctr.data.options import SPLITS
from expctr.untrusted import printable

COPIES = "same review (user, text, time) under another item"
"""The reason why a row is dropped of which another row holds the same."""
REPEATED = "copy of another row (user, item, time and rating)"
"""The reason why a row is dropped that was delivered twice."""
SUPERSEDED = "earlier rating of the same item by the same user"
"""The reason why a row is dropped whose user rated the item again later."""
BEYOND_MAX_SAMPLES, BEYOND_TARGETS = "beyond max_samples", "beyond targets_per_user"
"""The reason why a target is not used that the limit of samples leaves out."""


@dataclass
class DataSummary:
    """What became of the raw rows. It has plain values only, because it is stored as JSON.

    Attributes:
        rule: the labelling rule in words.
        files: rows of each file that was read, by path.
        notes: how the files were understood, and which files and columns are not used, in words.
        doubts: what looks wrong in how the files were understood, and how to fix it.
        own_splits: the splits are those of the files.
        unmatched: ids of one file that another one does not have, most of them or in another spelling, in words.
        counts: what else was counted, in words, such as the users whom the table of users does not have.
        no_titles: nothing says what the items are called, so their ids stand for titles.
        rows: rating rows read; the sum of `interactions` and of those `dropped`, by reason.
        side_dropped: rows of the item and user files not used, by reason.
        busiest: the user with the most rows, and `busiest_share`, the share of all rows.
        overruled: share of the liked pairs of user and item whose latest row, the one that counts, is not liked.
        interactions: rows left, of so many `users` and `items`.
        untitled: share of the rated items that have no title.
        tied: share of the interactions at the same time as another one of their user.
        samples_dropped: targets not used, by reason.
        withheld: history entries left out because they are targets of a later split.
        same_time: share of the samples whose user has another interaction at the target's own time, and whether these
            are left out of histories (`same_time_option`).
        splits: by split, `samples`, `base_rate`, `entropy` (nats; the LogLoss of the best constant), `users`,
            `warm_users` (share of the samples whose user has training samples).
        history: quantiles of the history length over all samples.
    """

    rule: str = ""
    files: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    own_splits: bool = False
    unmatched: list[str] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)
    no_titles: bool = False
    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    side_dropped: dict[str, int] = field(default_factory=dict)
    busiest: str = ""
    busiest_share: float = 0.0
    overruled: float = 0.0
    interactions: int = 0
    users: int = 0
    items: int = 0
    untitled: float = 0.0
    tied: float = 0.0
    samples_dropped: dict[str, int] = field(default_factory=dict)
    withheld: int = 0
    same_time: float = 0.0
    same_time_option: str = "keep"
    splits: dict[str, dict[str, float]] = field(default_factory=dict)
    history: dict[str, float] = field(default_factory=dict)

    def count_samples(self, samples: pl.DataFrame) -> None:
        """Fills in `splits` and `history` from the finished samples."""
        trained = samples.filter(split="train")["user"].unique().implode()
        for name in SPLITS:
            rows = samples.filter(split=name)
            rate = float(rows["label"].mean() or 0.0)  # type: ignore[arg-type]
            p = np.array([rate, 1 - rate])
            self.splits[name] = {
                "samples": rows.height,
                "base_rate": rate,
                "entropy": abs(float((p * np.log(np.maximum(p, 1e-300))).sum())),
                "users": rows["user"].n_unique(),
                "warm_users": float(rows["user"].is_in(trained).mean() or 0.0),  # type: ignore[arg-type]
            }
        length = samples["history"].list.len()
        names = {"min": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "max": 1.0}
        self.history = {name: float(length.quantile(q) or 0.0) for name, q in names.items()}


def summary_tables(summary: DataSummary, findings: Sequence[str] = ()) -> Group:
    """The summary as two tables for a rich console, raw rows and samples by split, and below them what looks wrong.

    A reason holds the name of a file, which can be anything: it is printed without markup and escape sequences.
    """
    rows = Table(title="Rows", title_justify="left", show_header=False)
    names = [Path(path).name for path in summary.files]
    for path, count in summary.files.items():
        name = Path(path).name
        rows.add_row(Text(printable(f"read: {name if names.count(name) == 1 else path}")), f"{count:,}")
    rows.add_row("ratings", f"{summary.rows:,}")
    for reason, count in summary.dropped.items():
        rows.add_row(Text(printable(f"dropped: {reason}")), f"{count:,}", f"{count / max(summary.rows, 1):.2%}")
    rows.add_row("kept", f"{summary.interactions:,}", f"{summary.interactions / max(summary.rows, 1):.2%}")
    for reason, count in summary.side_dropped.items():
        rows.add_row(Text(printable(f"not used: {reason}")), f"{count:,}")
    rows.add_row("users, items", f"{summary.users:,}, {summary.items:,}")
    rows.add_row("rated items without a title", f"{summary.untitled:.2%}")

    splits = Table(title=f"Samples, {summary.rule}", title_justify="left")
    for name in ("split", "samples", "base rate", "label entropy", "users", "warm users"):
        splits.add_column(name, justify="left" if name == "split" else "right")
    for name, s in summary.splits.items():
        numbers = (f"{s['samples']:,}", f"{s['base_rate']:.1%}", f"{s['entropy']:.4f}", f"{s['users']:,}")
        splits.add_row(name, *numbers, f"{s['warm_users']:.1%}")
    notes = [f"history length: {', '.join(f'{name} {value:g}' for name, value in summary.history.items())}"]
    notes += [f"not used: {count:,} ({reason})" for reason, count in summary.samples_dropped.items()]
    if summary.withheld:
        notes.append(f"history entries withheld: {summary.withheld:,} (targets of a later split)")
    if summary.same_time:
        entries = "are kept in" if summary.same_time_option == "keep" else "stay out of"
        notes.append(
            f"samples with other interactions at the target's own time: {summary.same_time:.1%} (these {entries} the "
            "history; data.samples.same_time)"
        )
    splits.caption, splits.caption_justify = "\n".join(notes), "left"
    wrong = [Text(printable(f"- {finding}")) for finding in findings]
    about = [Text(printable(note)) for note in (*summary.notes, *summary.counts)]
    return Group(rows, *about, splits, *([Text("What looks wrong", style="bold")] if wrong else []), *wrong)
