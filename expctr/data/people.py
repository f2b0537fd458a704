"""New people and items, which no vocabulary knows: a CSV of titles for `predict`."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from expctr.data.batch import SampleText
from expctr.data.tables import DataError

_COLUMNS = ("liked_titles", "disliked_titles", "target_title")


class Person(NamedTuple):
    """One row of the CSV."""

    text: SampleText
    user: str = ""
    target: str = ""


def read_people(path: Path) -> list[Person]:
    """Reads a CSV with the columns `liked_titles`, `disliked_titles`, `target_title` and perhaps `user`, `target`.

    Titles in a list are separated by `|`, from the oldest to the newest; a list may be empty.

    Raises:
        DataError: no such file, not UTF-8, a missing column, a row with the wrong number of columns or no target.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        return list(_people(path))
    except (OSError, csv.Error) as error:
        raise DataError(
            f"cannot be read, {path}: {error}. Mend: close every quote, and double one inside a title"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"undecodable bytes, {path}: {error}. Mend: save the file as UTF-8") from error


def _people(path: Path) -> Iterator[Person]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)  # or an unclosed quote swallows the rows below it
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise DataError(
                f"missing column, {path}, row 1, column {missing[0]}. Mend: start with the header {','.join(_COLUMNS)}"
            )
        for row in rows:
            wrong = next((name for name, value in row.items() if name is None or value is None), "")
            if wrong != "":
                raise DataError(
                    f"{'too many' if wrong is None else 'too few'} columns, {path}, row {rows.line_num}, column "
                    f"{wrong or len(row)}. Mend: quote titles that contain a comma"
                )
            target = row["target_title"].strip()
            if not target:
                raise DataError(f"no title, {path}, row {rows.line_num}, column target_title. Mend: name the target")
            yield Person(
                SampleText(target, _titles(row["liked_titles"]), _titles(row["disliked_titles"])),
                row.get("user", ""),
                row.get("target", ""),
            )


def _titles(value: str) -> tuple[str, ...]:
    return tuple(title for part in value.split("|") if (title := part.strip()))
