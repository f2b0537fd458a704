"""Which column of a table of one's own is the user, which the item, which the label: as named, or by usual names."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import polars as pl

from expctr.data.readers.delimited import plain_header
from expctr.errors import DataError, listed


@dataclass(frozen=True)
class TableColumns:
    """Names of columns. Those that are not given are found by usual names, such as `user_id` or `clicked`."""

    user: str | None = None
    """Who: an id, in the interactions and in the table of users."""
    item: str | None = None
    """What was shown: an id, in the interactions and in the table of items; of ready rows, the target."""
    label: str | None = None
    """The outcome: 1 or 0, true or false. With neither a label nor a rating, each row is a positive."""
    rating: str | None = None
    """In place of a label, a number on any scale, which `samples.threshold` makes a label of."""
    timestamp: str | None = None
    """When: seconds to nanoseconds since 1970, ISO 8601 text, or dates and times of parquet."""
    title: str | None = None
    """The item's title, in the table of items or in the interactions; of ready rows, the target's."""
    split: str | None = None
    """train, val or test, for each row. Also valid, validation, dev."""
    review: str | None = None
    """The user's own words about the item."""
    liked: str | None = None
    """Ready rows: the titles or ids that the user liked before, oldest first, as a list or separated by `|`."""
    disliked: str | None = None
    """Ready rows: likewise, what the user did not like."""
    history: str | None = None
    """Ready rows, in place of `liked` and `disliked`: both in one list, oldest first."""
    history_labels: str | None = None
    """Ready rows: the label of each entry of `history`."""


USUAL: dict[str, tuple[str, ...]] = {
    "liked": ("likedtitles", "likeditems", "liked", "userpreference"),
    "disliked": ("dislikedtitles", "dislikeditems", "disliked", "userunpreference"),
    "history": ("history",),
    "history_labels": ("historylabels", "historyliked"),
    "user": ("userid", "user", "uid", "customerid", "customer", "memberid", "visitorid", "reviewerid"),
    "item": (
        *("itemid", "item", "sku", "productid", "product", "articleid", "movieid", "bookid", "newsid", "videoid"),
        *("contentid", "adid", "parentasin", "asin", "isbn", "targetid", "targetitem", "target"),
    ),
    "label": ("label", "clicked", "click", "isclicked", "isclick", "liked", "like", "purchased"),
    "rating": ("rating", "stars", "score", "overall", "bookrating"),
    "timestamp": (
        *("timestamp", "ts", "time", "datetime", "eventtime", "eventtimestamp", "unixreviewtime", "createdat"),
        *("clicktime", "date"),
    ),
    "title": ("title", "name", "itemtitle", "itemname", "productname", "movietitle", "booktitle", "targettitle"),
    "split": ("split",),
    "review": ("review", "reviewtext"),
}
"""What a column is -> the usual names, in lower case and without punctuation; the first that is there counts."""

_SNAPSHOT = ("snapshot", "snapshotdate", "snapshottime", "asof", "updatedat", "lastupdated", "modifiedat", "validfrom")
_READY = (("liked", "disliked"), ("history", "history_labels"))
LISTS = tuple(role for pair in _READY for role in pair)


def find_columns(columns: TableColumns, roles: Sequence[str], schema: Mapping[str, pl.DataType]) -> dict[str, str]:
    """The columns of a table that have one of these roles, as named or by usual names: role -> name in the file.

    `liked` and `disliked` are taken together or not at all, as are `history` and `history_labels`; and a usual name for
    a rating counts only where there is no label. A column `name` is a title only in a table of items.

    Raises:
        DataError: two columns have one usual name, or the type of a column cannot be what it is named as.
    """
    names = [name for name in schema if "user" not in roles or plain_header(name) != "name"]
    found: dict[str, str] = {}
    for role in USUAL:
        if role in roles and (name := _find(role, columns, schema, names, found.values())):
            found[role] = name
        if role == "history_labels":  # the last of the columns of ready rows
            for pair in _READY:
                if not set(pair) <= found.keys() and not any(getattr(columns, one) for one in pair):
                    found = {one: name for one, name in found.items() if one not in pair}
    if "label" in found and "rating" in found:
        found.pop("label" if columns.rating and not columns.label else "rating")
    for role, name in found.items():
        if not _fits(role, schema[name]):
            wanted = "seconds since 1970 or dates" if role == "timestamp" else "texts or numbers"
            wanted = "lists of texts, or texts separated by |" if role in LISTS else wanted
            raise DataError(
                f"data.columns.{role}: column {name} is of type {str(schema[name])[:120]}, which cannot be the {role}. "
                f"Fix: write {wanted}; or name another column"
            )
    return found


def time_columns(columns: TableColumns, found: Mapping[str, str], schema: Mapping[str, pl.DataType]) -> list[str]:
    """The column that was found as the times, and those that might be as well, by their usual names."""
    if columns.timestamp or "timestamp" not in found:
        return []
    taken = {*found.values(), *(getattr(columns, role) for role in USUAL)} - {found["timestamp"]}
    free = [name for name, dtype in schema.items() if name not in taken and _fits("timestamp", dtype)]
    return [name for usual in USUAL["timestamp"] for name in free if plain_header(name) == usual]


def snapshot_columns(columns: TableColumns, schema: Mapping[str, pl.DataType]) -> list[str]:
    """The columns of a table of items or users that may say when a row was true, the likeliest first."""
    named = match_name(columns.timestamp, [*schema]) if columns.timestamp else None
    free = [name for name, dtype in schema.items() if _fits("timestamp", dtype)]
    usual = [name for usual in (*_SNAPSHOT, *USUAL["timestamp"]) for name in free if plain_header(name) == usual]
    return [*([named] if named in free else []), *usual]


def check_named(columns: TableColumns, role: str, option: str, tables: Mapping[str, Sequence[str]]) -> None:
    """Raises DataError if the column named for a role is in none of the tables."""
    name = getattr(columns, role)
    if name is not None and not any(match_name(name, names) for names in tables.values()):
        one = "; all tables need one name for it, so rename the column where it has another"
        raise missing_column(name, option, tables, f"name one of these{one if role in ('user', 'item') else ''}")


def missing_column(
    name: str, option: str, tables: Mapping[str, Sequence[str]], fix: str = "name one of these"
) -> DataError:
    """The error for a column that no table has: it shows the nearest names, and others."""
    near = dict.fromkeys(found for names in tables.values() for found in get_close_matches(name, names, 3))
    there = "; ".join(f"{path} has {listed(names)}" for path, names in tables.items())
    nearest = f" The nearest: {', '.join(near)}." if near else ""
    return DataError(f"{option}: there is no column {name!r}.{nearest} {there}. Fix: {fix}")


def match_name(name: str, names: Sequence[str]) -> str | None:
    """A column by its name; without case and punctuation, where only one column is meant."""
    if name in names:
        return name
    alike = [other for other in names if plain_header(other) == plain_header(name)]
    return alike[0] if len(alike) == 1 else None


def named_columns(wanted: Sequence[str], names: Sequence[str], place: str) -> dict[str, str]:
    """The columns of fixed names that a table has, by these names: ` Liked_Titles` is liked_titles.

    Raises:
        DataError: two could be meant; it names `place`.
    """
    found = {}
    for name in wanted:
        alike = [other for other in names if plain_header(other) == plain_header(name)]
        if name not in names and len(alike) > 1:
            raise DataError(f"{place}: columns {listed(alike)} could all be {name}. Fix: rename the one that is {name}")
        if alike:
            found[name] = name if name in names else alike[0]
    return found


def _may_list(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.List | pl.Array | pl.String | pl.Null)


def _fits(role: str, dtype: pl.DataType) -> bool:
    if role in LISTS:
        inner = getattr(dtype, "inner", None)
        return _may_list(dtype) and not (isinstance(inner, pl.DataType) and inner.is_nested())
    is_single = not dtype.is_nested() and dtype != pl.Object and not isinstance(dtype, pl.BaseExtension)
    return is_single and not (role == "timestamp" and dtype == pl.Time)


def _find(
    role: str,
    columns: TableColumns,
    schema: Mapping[str, pl.DataType],
    names: Sequence[str],
    taken: Collection[str],
) -> str | None:
    if named := getattr(columns, role):
        return match_name(named, [*schema])
    # a label may be called `liked`, and a time of day `time`
    names = [name for name in names if (_may_list(schema[name]) if role in LISTS else schema[name] != pl.Time)]
    meant = {getattr(columns, other) for other in USUAL}
    for usual in USUAL[role]:
        alike = [name for name in names if plain_header(name) == usual and name not in taken and name not in meant]
        if len(alike) > 1:
            raise DataError(
                f"{role}: columns {' and '.join(alike)} have one usual name. Fix: name it in data.columns.{role}"
            )
        if alike:
            return alike[0]
    return None
