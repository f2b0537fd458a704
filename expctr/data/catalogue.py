"""The items of a dataset, by id and by title: what people type becomes an item."""

from difflib import get_close_matches
from typing import Any, NamedTuple

import polars as pl

BY_ID = "id:"
"""What is typed before an id, where a title may read like one."""

_GRAM, _CANDIDATES, _COUNT = 3, 200, 3


class Item(NamedTuple):
    """An item that someone named."""

    id: str
    """As in the raw files; empty for one that they do not have."""
    title: str
    """The catalogue's, or what was typed."""


class Catalogue:
    """Looks items up.

    Args:
        items: `item`, `title` (never null) and side features; where there is a `year`, a title may be typed with it.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        self._items = items
        year = pl.format("{} ({})", "title", "year") if "year" in items.columns else pl.col("title")
        names = items.select("item", "title", pl.coalesce(year, "title").alias("dated"))
        self._names = {item: (title, dated) for item, title, dated in names.iter_rows()}
        self._ids: dict[str, list[str]] = {}
        for item, both in self._names.items():
            for name in {_plain(name) for name in both}:
                self._ids.setdefault(name, []).append(item)

    def matches(self, typed: str, ids: bool = False) -> list[Item]:
        """The items that someone may mean: none for a new one, several for a title that several have.

        Args:
            typed: a title, with or without its year; case and runs of white space do not matter, unless they alone tell
                two titles apart. Or an id, behind `id:`.
            ids: an id alone will do, too.
        """
        if typed.startswith(BY_ID):
            found = [typed.removeprefix(BY_ID).strip()]
        else:
            named = self._ids.get(_plain(typed), [])
            exact = [item for item in named if typed in self._names[item]]
            found = (exact or named) + ([typed.strip()] if ids else [])
        return [Item(item, self._names[item][0]) for item in dict.fromkeys(found) if item in self._names]

    def nearest(self, typed: str) -> list[str]:
        """Titles that read like what was typed, with or without its year; shown with their years."""
        names = dict.fromkeys(name for both in self._names.values() for name in both)
        found = nearest(typed, pl.Series([*names], dtype=pl.String))
        shown = (self._names[item][1] for name in found for item in self._ids[_plain(name)])
        return [*dict.fromkeys(shown)][:_COUNT]

    def described(self, item: Item) -> str:
        """Title, year and id, for a message."""
        return f"{item.id} ({self._names[item.id][1]!r})"

    def side_features(self, item: Item) -> dict[str, Any]:
        """An item's side features as samples name them; a new one has none."""
        row = next(self._items.filter(item=item.id).iter_rows(named=True), {})
        return {f"target_{name}": value for name, value in row.items() if name not in ("item", "title")}


def nearest(typed: str, names: pl.Series, count: int = _COUNT) -> list[str]:
    """The names that read most like what was typed, the nearest first (difflib); perhaps none.

    Only those that share the most runs of three letters are compared, for there may be millions.
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
