"""New users, who are not in the ratings: from a CSV of titles to rows for `expctr predict`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from expctr.data.batches import SampleText
from expctr.data.catalogue import BY_ID, Catalogue, Item
from expctr.data.readers.bad_rows import BAD_LIST, FIXES
from expctr.data.readers.columns import named_columns
from expctr.data.readers.csv_rows import read_rows
from expctr.data.readers.files import check_file
from expctr.data.readers.values import as_key, as_title, as_titles, is_bad_list
from expctr.data.sample_rows import as_samples, contradiction, find_history, target_columns, with_history
from expctr.errors import DataError

_LISTS = ("liked_titles", "disliked_titles")
_NEEDED = (*_LISTS, "target_title")
_COLUMNS = (*_NEEDED, "user", "target")


class NewUser(NamedTuple):
    """One row of the CSV."""

    text: SampleText
    user: str = ""
    """A name for the table of predictions. The CTR models treat everyone as a new user."""
    target: str = ""
    """The id of the target, because several items may have its title."""
    row: int = 0
    """The line of the file."""


def read_new_users(path: Path) -> list[NewUser]:
    """Reads a CSV with the columns `liked_titles`, `disliked_titles`, `target_title` and perhaps `user`, `target`.

    Titles are read as those of pairs are (`pairs.read_columns`), from the oldest to the newest. A list may be empty.

    Raises:
        DataError: no such file, a column that is missing or could be two, no rows, a row with a list that cannot be
            read, or without a target; and as `read_rows`.
    """
    check_file(path)
    rows = _rows(path)
    texts = {name: [row.get(name, "") for _, row in rows] for name in _COLUMNS}
    table = pl.DataFrame(texts, schema=dict.fromkeys(texts, pl.String))
    reads = dict.fromkeys(_LISTS, as_titles) | {"target_title": as_title}
    keys = [reads.get(name, as_key)(pl.col(name), pl.String()).alias(name) for name in texts]
    bad = [is_bad_list(pl.col(name), pl.String()).alias(f"bad_{name}") for name in _LISTS]
    found = table.select(*keys, *bad).iter_rows(named=True)
    return [_new_user(row, f"{path}, row {line}, column", line) for row, (line, _) in zip(found, rows, strict=True)]


def new_user_samples(
    users: Sequence[NewUser], catalogue: Catalogue, like: pl.DataFrame, path: Path | str = "people"
) -> pl.DataFrame:
    """Turns new users into rows of the table of `make_samples`, with the columns of `like`.

    A title that is not in the catalogue is a new item. Disliked titles count as later than liked ones. The target
    itself is left out of its history.

    Raises:
        DataError: no item has the id of a target, or it has another title, or a title is both liked and disliked; it
            names `path` and the row.
    """
    rows = []
    for text, _, target_id, row in users:
        named = catalogue.matches(BY_ID + target_id) if target_id else []
        if target_id and not named:
            raise DataError(
                f"no item with a title has the id {target_id}, {path}, row {row}, column target. Fix: correct the id, "
                "or leave it empty"
            )
        if named and not catalogue.is_called(named[0].id, text.target):
            raise DataError(
                f"item {named[0].id} is called {named[0].title!r}, not {text.target!r}, {path}, row {row}, column "
                "target_title. Fix: correct the title or the id in the column target, or leave the id empty"
            )
        found = named or catalogue.matches(text.target)
        target = found[0] if len(found) == 1 else Item("", text.target)
        history = [*dict.fromkeys(find_history(text.liked, text.disliked, catalogue))]  # each once, as in `explain`
        history = [entry for entry in history if entry.item != target]
        if both := contradiction(history):
            raise DataError(
                f"{both!r} is in both lists, {path}, row {row}, column disliked_titles. Fix: remove it from one of them"
            )
        rows.append(with_history(target_columns(target, catalogue), history))
    return as_samples(rows, like)


def _new_user(row: Mapping[str, Any], place: str, line: int) -> NewUser:
    for name in _LISTS:
        if row[f"bad_{name}"]:
            raise DataError(f"list cannot be read, {place} {name}. Fix: {FIXES[BAD_LIST]}")
    if not row["target_title"]:
        raise DataError(f"no title, {place} target_title. Fix: write the title of the target")
    text = SampleText(row["target_title"], *(tuple(row[name]) for name in _LISTS))
    return NewUser(text, row["user"] or "", row["target"] or "", line)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Lines, and the row that ends at each."""
    (_, header), *rows = [*read_rows(path)] or [(1, [])]
    names = named_columns(_COLUMNS, header, str(path))
    if missing := [name for name in _NEEDED if name not in names]:
        raise DataError(
            f"missing column, {path}, row 1, column {missing[0]}. Fix: start with the header {','.join(_NEEDED)}"
        )
    if not rows:
        raise DataError(f"no rows in {path}. Fix: write one row for each person and target below the header")
    places = {name: header.index(column) for name, column in names.items()}
    return [(line, {name: row[place] for name, place in places.items()}) for line, row in rows]
