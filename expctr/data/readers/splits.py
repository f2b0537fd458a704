"""Tables of train, val and test must be of one kind: all with a label, or a rating, or neither; all ready, or none."""

from collections.abc import Mapping

from expctr.data.readers.ready import is_ready
from expctr.errors import DataError


def check_alike(tables: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
    """Raises DataError if a table is of another kind than the first one.

    A row without a label is a positive, so a table without the column would silently be all positives.

    Args:
        tables: path and columns (role -> name) of each, by option, such as `data.splits.val`.
    """
    first, *others = tables
    named = {option: option if path == option else f"{option} ({path})" for option, (path, _) in tables.items()}
    for option in others:
        expected, found = tables[first][1], tables[option][1]
        if is_ready(found) != is_ready(expected):
            here, there = ("ready", "plain") if is_ready(found) else ("plain", "ready")
            raise DataError(
                f"{named[option]} has {here} rows, but {named[first]} has {there} rows. Fix: give all of data.splits "
                "columns of histories, or none of them"
            )
        wanted, got = _outcome(expected), _outcome(found)
        if wanted == got:
            continue
        has, lacks = (first, option) if wanted else (option, first)
        role = wanted or got or ""
        other = f"; its column {found[got]!r} is a {got}" if wanted and got else ""
        raise DataError(
            f"{named[lacks]} has no column {tables[has][1][role]!r}, which is the {role} of {named[has]}{other}. Fix: "
            "give it this column; or name one that all of data.splits have in data.columns.label or data.columns.rating"
        )


def _outcome(found: Mapping[str, str]) -> str | None:
    """What labels are made of."""
    return next((role for role in ("label", "rating") if role in found), None)
