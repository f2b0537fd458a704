"""The catalogue of a dataset's items, which finds them by id or by a typed title."""

from difflib import get_close_matches
from functools import cached_property
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import polars as pl

from expctr.data.readers.values import MAX_TITLE

BY_ID = "id:"
"""Prefix of an id, because a title may look like an id."""

_GRAM = 3  # letters
_RUNS = 40  # runs of so many letters that are looked for; a long text would take minutes among millions of titles
_CANDIDATES = 200  # names that are compared in full
_COUNT = 3  # names that are suggested


class Item(NamedTuple):
    """An item that someone named."""

    id: str
    """As in the raw files; empty for an item that is not in them."""
    title: str


class Catalogue:
    """Finds items by id or title, among millions.

    Args:
        items: `item`, `title` (never null) and side features. If there is a `year`, a title may be typed with it.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        self.items = items
        self._item_ids, self._titles = items["item"], items["title"]

    def matches(self, typed: str, ids: bool = False) -> list[Item]:
        """Finds the items that match: none for a new item, several for a title that several items have.

        Typed is a title, with or without its year, or an id after `id:` (if `ids`, also without). Case and white space
        matter only if two titles differ in nothing else.
        """
        if typed.startswith(BY_ID):
            found = self._ids.rows(typed.removeprefix(BY_ID).strip())
        else:
            named = self._rows(typed)
            exact = [row for row in named if typed in (self._titles[row], self._dated[row])]
            found = (exact or named) + (self._ids.rows(typed.strip()) if ids else [])
        return [Item(self._item_ids[row], self._titles[row]) for row in dict.fromkeys(found)]

    def is_called(self, item: str, typed: str) -> bool:
        """Whether a typed title is that of an item, but for its year, case and white space; or its id after `id:`."""
        rows = self._ids.rows(typed.removeprefix(BY_ID).strip()) if typed.startswith(BY_ID) else self._rows(typed)
        return any(self._item_ids[row] == item for row in rows)

    def nearest(self, typed: str) -> list[str]:
        """Titles similar to a typed one, with or without its year; they are returned with their years."""
        found = nearest(typed, self._all_names.unique(maintain_order=True))
        shown = (self._dated[row] for name in found for row in self._rows(name))
        return [*dict.fromkeys(shown)][:_COUNT]

    def described(self, item: Item) -> str:
        return f"{item.id} ({self._dated[self._ids.rows(item.id)[0]]!r})"

    def side_features(self, item: Item) -> dict[str, Any]:
        """The side features of an item, named as in samples; a new item has none."""
        row = next((self.items.row(row, named=True) for row in self._ids.rows(item.id)), {})
        return {f"target_{name}": value for name, value in row.items() if name not in ("item", "title")}

    def _rows(self, typed: str) -> list[int]:
        """The rows whose title, with or without its year, is the typed one but for case and white space."""
        return sorted({row % self.items.height for row in self._names.rows(plain_title(typed))})

    @cached_property
    def _dated(self) -> pl.Series:
        """Per item its title with its year, if it has one."""
        if "year" not in self.items.columns:
            return self.items["title"]
        year = pl.col("year").cast(pl.Int64, strict=False)  # of a table of one's own, it may be a float
        return self.items.select(pl.coalesce(pl.format("{} ({})", "title", year), "title")).to_series()

    @cached_property
    def _all_names(self) -> pl.Series:
        titles = self.items["title"]
        return pl.concat([titles, self._dated.rename("title")]) if "year" in self.items.columns else titles

    @cached_property
    def _names(self) -> "_Index":
        return _Index(_plain_names(self._all_names))

    @cached_property
    def _ids(self) -> "_Index":
        return _Index(self.items["item"])


class _Index:
    """The rows of a text, by binary search among hashes, which take a tenth of the memory of a dictionary."""

    def __init__(self, texts: pl.Series) -> None:
        hashes = np.fromiter(map(hash, texts), np.int64, texts.len())  # Python's: polars takes long to hash one text
        self._texts, self._order = texts, pl.Series(hashes).arg_sort().to_numpy()
        self._hashes = hashes[self._order]

    def rows(self, text: str) -> list[int]:
        first, end = (int(self._hashes.searchsorted(hash(text), side)) for side in ("left", "right"))
        return sorted(row for row in self._order[first:end].tolist() if self._texts[row] == text)


def nearest(typed: str, names: pl.Series, count: int = _COUNT) -> list[str]:
    """The names most similar to a typed one (difflib), the nearest first; perhaps none.

    Only the names that share the most runs of three letters are compared in full, because there may be millions.
    """
    typed = plain_title(typed)
    runs = {typed[i : i + _GRAM] for i in range(max(1, len(typed) - _GRAM + 1))[:_RUNS]}
    plain = names.str.to_lowercase()
    shared = pl.sum_horizontal(pl.lit(plain).str.contains(run, literal=True).cast(pl.Int32) for run in runs)
    likely = pl.DataFrame({"name": names}).with_columns(shared=shared).top_k(_CANDIDATES, by="shared")["name"]
    by_plain = {plain_title(name): name for name in likely}
    return [by_plain[found] for found in get_close_matches(typed, list(by_plain), count)]


def plain_title(title: str) -> str:
    """What two spellings of a title have in common: not case, white space, nor how accents are encoded."""
    return " ".join(normalize("NFC", title[:MAX_TITLE].casefold()).split())


def _plain_names(names: pl.Series) -> pl.Series:
    """`plain_title` of each name; polars does most of them, which are printable ASCII."""
    plain = names.str.to_lowercase().str.replace_all("  +", " ").str.strip_chars(" ")
    others = names.str.contains(r"[^ -~]").arg_true()
    return plain.scatter(others, [plain_title(name) for name in names.gather(others)])
