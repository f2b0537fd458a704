"""New users, who are not in the ratings: from a CSV of titles to rows for `expctr predict`."""

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from expctr.data.batches import SampleText
from expctr.data.catalogue import BY_ID, Catalogue, Item
from expctr.data.readers.files import check_file
from expctr.data.readers.lines import decompress
from expctr.data.sample_rows import as_samples, find_history, split_titles, target_columns, with_history
from expctr.errors import DataError

_COLUMNS = ("liked_titles", "disliked_titles", "target_title")


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

    Titles in a list are separated by `|`, from the oldest to the newest. A list may be empty.

    Raises:
        DataError: no such file, not UTF-8, a column that is missing or there twice, a row with the wrong number of
            columns, with NUL bytes, or without a target.
    """
    check_file(path)
    try:
        return list(_rows(path))
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(
            f"cannot read {path}: {error}. Fix: close every quote, and double a quote inside a title"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"undecodable bytes, {path}: {error}. Fix: save the file as UTF-8") from error


def new_user_samples(
    users: Sequence[NewUser], catalogue: Catalogue, like: pl.DataFrame, path: Path | str = "people"
) -> pl.DataFrame:
    """Turns new users into rows of the table of `make_samples`, with the columns of `like`.

    A title that is not in the catalogue is a new item. Disliked titles count as later than liked ones. The target
    itself is left out of its history.

    Raises:
        DataError: the item of a target's id has another title; it names `path` and the row.
    """
    rows = []
    for text, _, target_id, row in users:
        named = catalogue.matches(BY_ID + target_id) if target_id else []
        if named and not catalogue.is_called(named[0].id, text.target):
            raise DataError(
                f"item {named[0].id} is called {named[0].title!r}, not {text.target!r}, {path}, row {row}, column "
                "target_title. Fix: correct the title or the id in the column target, or leave the id empty"
            )
        found = named or catalogue.matches(text.target)
        target = found[0] if len(found) == 1 else Item("", text.target)
        history = [entry for entry in find_history(text.liked, text.disliked, catalogue) if entry.item != target]
        rows.append(with_history(target_columns(target, catalogue), history))
    return as_samples(rows, like)


def _rows(path: Path) -> Iterator[NewUser]:
    with io.StringIO(decompress(path).decode("utf-8-sig"), newline="") as file:
        rows = csv.DictReader(file, strict=True)  # otherwise an unclosed quote swallows the rows below it
        header = rows.fieldnames or []
        if missing := [name for name in _COLUMNS if name not in header]:
            raise DataError(
                f"missing column, {path}, row 1, column {missing[0]}. Fix: start with the header {','.join(_COLUMNS)}"
            )
        if twice := [name for name in header if header.count(name) > 1]:
            raise DataError(
                f"two columns of one name, {path}, row 1, column {twice[0]}. Fix: delete or rename one of them"
            )
        for row in rows:
            place = f"{path}, row {rows.line_num}, column"
            if None in row:
                raise DataError(f"too many columns, {place} {len(row)}. Fix: put quotes around titles with a comma")
            for name, value in row.items():
                if value is None:
                    column = name or len(row)  # the header may be empty
                    raise DataError(f"too few columns, {place} {column}. Fix: give the row all its columns")
                if "\0" in value:
                    raise DataError(f"NUL byte, {place} {name}. Fix: delete it")
            target = row["target_title"].strip()
            if not target:
                raise DataError(f"no title, {place} target_title. Fix: write the title of the target")
            text = SampleText(target, split_titles(row["liked_titles"]), split_titles(row["disliked_titles"]))
            yield NewUser(text, row.get("user", ""), row.get("target", ""), rows.line_num)
