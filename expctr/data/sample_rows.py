"""Parts of sample rows: histories and targets, of ratings or of typed titles, as in the table of `make_samples`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from expctr.data.catalogue import Catalogue, Item, plain_title
from expctr.data.readers.bad_rows import BAD_LIST, FIXES
from expctr.data.readers.values import as_titles, is_bad_list
from expctr.errors import UserError


class HistoryEntry(NamedTuple):
    """An item of a history."""

    item: Item
    liked: bool


def read_titles(typed: Sequence[object] | str | None) -> tuple[str, ...]:
    """Titles as files of people hold them: a list, or text that is a JSON list or has `|` between titles.

    Texts such as `NULL` are no titles.

    Raises:
        UserError: the text is meant as a list, and cannot be read.
    """
    dtype = pl.String() if isinstance(typed, str) else pl.List(pl.String)
    text = as_text(typed) if isinstance(typed, str) else [as_text(title) for title in (() if typed is None else typed)]
    value = pl.lit(pl.Series([text], dtype=dtype))
    titles, is_bad = pl.select(titles=as_titles(value, dtype), is_bad=is_bad_list(value, dtype)).row(0)
    if is_bad:
        raise UserError(f"list cannot be read: {str(text)[:120]!r}. Fix: {FIXES[BAD_LIST]}")
    return tuple(titles)


def as_text(title: object) -> str:
    """A title as text that can be encoded: a film may be called 1984, and half a character comes from cut bytes.

    A column of numbers in which one is missing has floats, so 1984.0 is 1984.
    """
    if isinstance(title, float | np.floating) and title.is_integer():
        title = int(title)
    return str(title).encode("utf-8", "replace").decode("utf-8")


def find_history(liked: Sequence[str], disliked: Sequence[str], catalogue: Catalogue) -> list[HistoryEntry]:
    """Finds the items of typed titles. A title that is not the title of exactly one item becomes a new item."""
    found = [(title, i < len(liked), catalogue.matches(title)) for i, title in enumerate([*liked, *disliked])]
    return [HistoryEntry(items[0] if len(items) == 1 else Item("", title), mark) for title, mark, items in found]


def contradiction(history: Sequence[HistoryEntry]) -> str:
    """The title of an item that is both liked and disliked, in whatever spellings; empty if there is none."""
    liked = {_identity(entry.item) for entry in history if entry.liked}
    return next((entry.item.title for entry in history if not entry.liked and _identity(entry.item) in liked), "")


def _identity(item: Item) -> tuple[str, str]:
    return item.id, "" if item.id else plain_title(item.title)


class NewTitles(NamedTuple):
    """How many titles in sample rows are of no item, or of several: their ids are empty."""

    entries: int = 0
    targets: int = 0
    example: str = ""

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "NewTitles":
        """Counts those of rows like the samples."""
        entries = int(rows.select(pl.col("history").list.count_matches("").sum()).item())
        targets = rows.filter(target="")
        if entries:
            row = rows.filter(pl.col("history").list.contains("")).row(0, named=True)
            example = next(entry.item.title for entry in history_of(row) if not entry.item.id)
        else:
            example = targets["target_title"][0] if targets.height else ""
        return cls(entries, targets.height, example[:120])

    @classmethod
    def total(cls, parts: Sequence["NewTitles"]) -> "NewTitles":
        """Of all parts, with the first one's example."""
        example = next((part.example for part in parts if part.example), "")
        return cls(sum(part.entries for part in parts), sum(part.targets for part in parts), example)

    def __str__(self) -> str:
        """For people; empty if there is none."""
        if not self.example:
            return ""
        counts = {"title{} of histories": self.entries, "target{}": self.targets}
        named = (f"{count:,} {what.format('s' * (count > 1))}" for what, count in counts.items() if count)
        return f"of no item, or of several: {' and '.join(named)}, such as {self.example!r}"


def history_of(row: Mapping[str, Any]) -> list[HistoryEntry]:
    """The history of a sample in its order, with titles."""
    titles = {True: iter(row["liked_titles"]), False: iter(row["disliked_titles"])}
    entries = zip(row["history"], row["history_liked"], strict=True)
    return [HistoryEntry(Item(item, next(titles[liked])), liked) for item, liked in entries]


def without_each(history: list[HistoryEntry]) -> list[list[HistoryEntry]]:
    """The history, then the history without each of its entries."""
    return [history, *([*history[:i], *history[i + 1 :]] for i in range(len(history)))]


def target_columns(target: Item, catalogue: Catalogue) -> dict[str, Any]:
    """The columns of a sample that describe its target."""
    return {"target": target.id, "target_title": target.title, **catalogue.side_features(target)}


def with_history(row: Mapping[str, Any], history: Sequence[HistoryEntry]) -> dict[str, Any]:
    """The row of a sample with another history, oldest first."""
    changed = dict(row, history=[item.id for item, _ in history], history_liked=[liked for _, liked in history])
    for name, kind in (("liked", True), ("disliked", False)):
        items = [item for item, liked in history if liked is kind]
        changed |= {name: [item.id for item in items], f"{name}_titles": [item.title for item in items]}
    return changed


def history_lists(liked: pl.Expr) -> list[pl.Expr]:
    """The columns of a sample's history, aggregated from its entries (`item` and `title`, oldest first).

    Args:
        liked: whether an entry was liked.
    """
    item, title = pl.col("item"), pl.col("title")
    return [
        item.filter(liked).alias("liked"),
        title.filter(liked).alias("liked_titles"),
        item.filter(~liked).alias("disliked"),
        title.filter(~liked).alias("disliked_titles"),
        item.alias("history"),
        liked.alias("history_liked"),
    ]


def target_features(items: pl.DataFrame) -> pl.DataFrame:
    """Items as targets of samples: `target`, and their other columns as `target_*`."""
    return items.rename(lambda name: "target" if name == "item" else f"target_{name}")


def as_samples(rows: Sequence[Mapping[str, Any]], like: pl.DataFrame) -> pl.DataFrame:
    """Rows as a table with the columns of `like`. `sample` counts from 0, and a column that a row lacks is null."""
    empty = dict.fromkeys(like.columns)
    return pl.DataFrame([{**empty, **row, "sample": i} for i, row in enumerate(rows)], schema=like.schema)
