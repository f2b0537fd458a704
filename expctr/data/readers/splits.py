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
    for option in others:
        (first_path, first_found), (path, found) = tables[first], tables[option]
        if is_ready(found) != is_ready(first_found):
            here, there = ("ready", "plain") if is_ready(found) else ("plain", "ready")
            raise DataError(
                f"{option}: {path} has {here} rows, but {first} ({first_path}) has {there} rows. Fix: give all of "
                "data.splits columns of histories, or none of them"
            )
        wanted, got = _outcome(first_found), _outcome(found)
        if wanted == got:
            continue
        has, lacks = (first, option) if wanted else (option, first)
        role = wanted or got or ""
        other = f", but a {got} in its column {found[got]!r}" if wanted and got else ""
        raise DataError(
            f"{lacks}: {tables[lacks][0]} has no {role}{other}. In {has} ({tables[has][0]}) the {role} is the column "
            f"{tables[has][1][role]!r}. Fix: give {tables[lacks][0]} this column; or name one that all of data.splits "
            "have in data.columns.label or data.columns.rating"
        )


def _outcome(found: Mapping[str, str]) -> str | None:
    """What labels are made of."""
    return next((role for role in ("label", "rating") if role in found), None)
