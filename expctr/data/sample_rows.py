"""Rows for people who are not in the ratings: typed titles as rows of the table of `make_samples`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from expctr.data.catalogue import Catalogue, Item


class HistoryEntry(NamedTuple):
    """An item of a history."""

    item: Item
    liked: bool


def split_titles(typed: str) -> tuple[str, ...]:
    """Titles separated by `|`."""
    return tuple(title for part in typed.split("|") if (title := part.strip()))


def find_history(titles: Sequence[str], liked: bool, catalogue: Catalogue) -> list[HistoryEntry]:
    """Finds the items of typed titles. A title that is not the title of exactly one item becomes a new item.

    Args:
        titles: oldest first.
        liked: whether the person liked them.
        catalogue: the items of the dataset.
    """
    found = [(title, catalogue.matches(title)) for title in titles]
    return [HistoryEntry(items[0] if len(items) == 1 else Item("", title), liked) for title, items in found]


def target_columns(target: Item, catalogue: Catalogue) -> dict[str, Any]:
    """The columns of a sample that describe its target."""
    return {"target": target.id, "target_title": target.title, **catalogue.side_features(target)}


def with_history(row: Mapping[str, Any], history: Sequence[HistoryEntry]) -> dict[str, Any]:
    """The row of a sample with another history, oldest first."""
    lists: dict[str, Any] = {
        "history": [entry.item.id for entry in history],
        "history_liked": [entry.liked for entry in history],
    }
    for name, liked in (("liked", True), ("disliked", False)):
        items = [entry.item for entry in history if entry.liked is liked]
        lists |= {name: [item.id for item in items], f"{name}_titles": [item.title for item in items]}
    return {**row, **lists}


def as_samples(rows: Sequence[Mapping[str, Any]], like: pl.DataFrame) -> pl.DataFrame:
    """Rows as a table with the columns of `like`. `sample` counts from 0, and a column that a row lacks is null."""
    empty = dict.fromkeys(like.columns)
    return pl.DataFrame([{**empty, **row, "sample": i} for i, row in enumerate(rows)], schema=like.schema)
