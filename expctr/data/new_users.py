"""People who are not in the ratings, and rows of samples made by hand: a CSV of titles for `predict`."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from expctr.data.batches import SampleText
from expctr.data.catalogue import BY_ID, Catalogue, Item
from expctr.data.readers.tables import DataError, check_file

_COLUMNS = ("liked_titles", "disliked_titles", "target_title")
_NONE = object()  # a column's name may be empty, or lacking


class Person(NamedTuple):
    """One row of the CSV."""

    text: SampleText
    user: str = ""
    """What to call them in the predictions; to the CTR models all are new."""
    target: str = ""
    """The item's id, where its title may not tell."""


class Rated(NamedTuple):
    """An entry of a history."""

    item: Item
    liked: bool


def read_people(path: Path) -> list[Person]:
    """Reads a CSV with the columns `liked_titles`, `disliked_titles`, `target_title` and perhaps `user`, `target`.

    Titles in a list are separated by `|`, from the oldest to the newest; a list may be empty.

    Raises:
        DataError: no such file, not UTF-8, a column that is missing or there twice, a row with the wrong number of
            columns, NUL bytes or no target.
    """
    check_file(path)
    try:
        return list(_people(path))
    except (OSError, csv.Error) as error:
        raise DataError(
            f"cannot be read, {path}: {error}. Mend: close every quote, and double one inside a title"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"undecodable bytes, {path}: {error}. Mend: save the file as UTF-8") from error


def read_titles(titles: Sequence[str], liked: bool, catalogue: Catalogue) -> list[Rated]:
    """A history of titles. One that the catalogue has once has its id; others are new to the CTR models.

    Args:
        titles: oldest first.
        liked: or disliked.
        catalogue: of the dataset.
    """
    found = [(title, catalogue.matches(title)) for title in titles]
    return [Rated(items[0] if len(items) == 1 else Item("", title), liked) for title, items in found]


def new_rows(people: Sequence[Person], catalogue: Catalogue, like: pl.DataFrame) -> pl.DataFrame:
    """People as rows of `samples.make_samples`: the user is new, and so is each title that the catalogue lacks.

    Args:
        people: what was typed. What was disliked counts as later than what was liked.
        catalogue: of the dataset.
        like: rows of `samples.make_samples`, for their columns.
    """
    rows = []
    for text, _, named in people:
        found = (catalogue.matches(BY_ID + named) if named else []) or catalogue.matches(text.target)
        target = found[0] if len(found) == 1 else Item("", text.target)
        history = read_titles(text.liked, True, catalogue) + read_titles(text.disliked, False, catalogue)
        rows.append(with_history(about(target, catalogue), history))
    return as_samples(rows, like)


def about(target: Item, catalogue: Catalogue) -> dict[str, Any]:
    """The columns of a sample that tell its target."""
    return {"target": target.id, "target_title": target.title, **catalogue.side_features(target)}


def with_history(row: Mapping[str, Any], history: Sequence[Rated]) -> dict[str, Any]:
    """A row of samples with another history, oldest first."""
    lists: dict[str, Any] = {
        "history": [entry.item.id for entry in history],
        "history_liked": [entry.liked for entry in history],
    }
    for name, liked in (("liked", True), ("disliked", False)):
        items = [entry.item for entry in history if entry.liked is liked]
        lists |= {name: [item.id for item in items], f"{name}_titles": [item.title for item in items]}
    return {**row, **lists}


def as_samples(rows: Sequence[Mapping[str, Any]], like: pl.DataFrame) -> pl.DataFrame:
    """Rows with the columns of others, and `sample` from 0; what a row lacks is null."""
    lacking = dict.fromkeys(like.columns)
    return pl.DataFrame([{**lacking, **row, "sample": i} for i, row in enumerate(rows)], schema=like.schema)


def _people(path: Path) -> Iterator[Person]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)  # or an unclosed quote swallows the rows below it
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise DataError(
                f"missing column, {path}, row 1, column {missing[0]}. Mend: start with the header {','.join(_COLUMNS)}"
            )
        twice = next((name for name, count in Counter(rows.fieldnames).items() if count > 1), None)
        if twice is not None:
            raise DataError(f"two columns of one name, {path}, row 1, column {twice}. Mend: delete or rename one")
        for row in rows:
            wrong = next((name for name, value in row.items() if name is None or value is None), _NONE)
            if wrong is not _NONE:
                raise DataError(
                    f"{'too many' if wrong is None else 'too few'} columns, {path}, row {rows.line_num}, column "
                    f"{wrong or len(row)}. Mend: quote titles that contain a comma"
                )
            nul = next((name for name, value in row.items() if "\0" in value), None)
            if nul is not None:
                raise DataError(f"NUL byte, {path}, row {rows.line_num}, column {nul}. Mend: delete it")
            target = row["target_title"].strip()
            if not target:
                raise DataError(f"no title, {path}, row {rows.line_num}, column target_title. Mend: name the target")
            yield Person(
                SampleText(target, split_titles(row["liked_titles"]), split_titles(row["disliked_titles"])),
                row.get("user", ""),
                row.get("target", ""),
            )


def split_titles(value: str) -> tuple[str, ...]:
    """Titles separated by `|`."""
    return tuple(title for part in value.split("|") if (title := part.strip()))
