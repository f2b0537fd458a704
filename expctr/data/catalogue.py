"""The catalogue of a dataset's items, which finds them by id or by a typed title."""

from difflib import get_close_matches
from typing import Any, NamedTuple

import polars as pl

BY_ID = "id:"
"""Prefix of an id, because a title may look like an id."""

_GRAM = 3  # letters
_CANDIDATES = 200  # names that are compared in full
_COUNT = 3  # names that are suggested


class Item(NamedTuple):
    """An item that someone named."""

    id: str
    """As in the raw files; empty for an item that is not in them."""
    title: str


class Catalogue:
    """Finds items by id or title.

    Args:
        items: `item`, `title` (never null) and side features. If there is a `year`, a title may be typed with it.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        self.items = items
        year = pl.format("{} ({})", "title", "year") if "year" in items.columns else pl.col("title")
        names = items.select("item", "title", pl.coalesce(year, "title").alias("dated"))
        self._names = {item: (title, dated) for item, title, dated in names.iter_rows()}
        self._ids: dict[str, list[str]] = {}
        for item, both in self._names.items():
            for name in {_plain(name) for name in both}:
                self._ids.setdefault(name, []).append(item)

    def matches(self, typed: str, ids: bool = False) -> list[Item]:
        """Finds the items that match: none for a new item, several for a title that several items have.

        Typed is a title, with or without its year, or an id after `id:` (if `ids`, also without). Case and white space
        matter only if two titles differ in nothing else.
        """
        if typed.startswith(BY_ID):
            found = [typed.removeprefix(BY_ID).strip()]
        else:
            named = self._ids.get(_plain(typed), [])
            exact = [item for item in named if typed in self._names[item]]
            found = (exact or named) + ([typed.strip()] if ids else [])
        return [Item(item, self._names[item][0]) for item in dict.fromkeys(found) if item in self._names]

    def nearest(self, typed: str) -> list[str]:
        """Titles similar to a typed one, with or without its year; they are returned with their years."""
        names = dict.fromkeys(name for both in self._names.values() for name in both)
        found = nearest(typed, pl.Series([*names], dtype=pl.String))
        shown = (self._names[item][1] for name in found for item in self._ids[_plain(name)])
        return [*dict.fromkeys(shown)][:_COUNT]

    def described(self, item: Item) -> str:
        return f"{item.id} ({self._names[item.id][1]!r})"

    def side_features(self, item: Item) -> dict[str, Any]:
        """The side features of an item, named as in samples; a new item has none."""
        row = next(self.items.filter(item=item.id).iter_rows(named=True), {})
        return {f"target_{name}": value for name, value in row.items() if name not in ("item", "title")}


def nearest(typed: str, names: pl.Series, count: int = _COUNT) -> list[str]:
    """The names most similar to a typed one (difflib), the nearest first; perhaps none.

    Only the names that share the most runs of three letters are compared in full, because there may be millions.
    """
    typed = _plain(typed)
    runs = {typed[i : i + _GRAM] for i in range(max(1, len(typed) - _GRAM + 1))}
    plain = names.str.to_lowercase()
    shared = pl.sum_horizontal(pl.lit(plain).str.contains(run, literal=True).cast(pl.Int32) for run in runs)
    likely = pl.DataFrame({"name": names}).with_columns(shared=shared).top_k(_CANDIDATES, by="shared")["name"]
    by_plain = {_plain(name): name for name in likely}
    return [by_plain[found] for found in get_close_matches(typed, list(by_plain), count)]


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())
