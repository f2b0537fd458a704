"""The ratings of some users, for questions about them: read from the raw files, or kept in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from expctr.data.interactions import is_liked, load_interactions, time_checks
from expctr.data.options import SampleOptions
from expctr.data.readers.bad_rows import has_row, mark
from expctr.data.readers.base import RawTable, RawTables
from expctr.data.summary import DataSummary

SCHEMA = {"user": pl.String, "item": pl.String, "title": pl.String, "liked": pl.Boolean}
"""Columns of users' ratings."""


def read_ratings(
    tables: RawTables,
    items: pl.DataFrame,
    options: SampleOptions,
    splits: Mapping[str, RawTable] | None = None,
    users: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Each user's latest rating of each item that has a title, as in `make_samples` but without minimum counts.

    Of `splits` only train is read, because histories hold training rows only.

    Args:
        tables: the raw tables.
        items: the items that have a title.
        options: how samples are made.
        splits: ratings tables in place of `tables.interactions`.
        users: ids; null for all.

    Returns:
        `user` and `item` (categorical) and `liked`; a user's rows are neighbours, the oldest first.

    Raises:
        DataError: a bad row of these users.
    """
    name, table = ("train", splits["train"]) if splits else ("", tables.interactions)
    table = replace(table, frame=table.frame.drop(table.own_texts))  # only targets have them
    if users is not None:
        if table.has_single_times and options.order == "time":  # a few rows do not say what most times are
            if options.on_bad_row == "skip":
                checks = time_checks(table, table.frame.filter(has_row()), [])
                table = replace(table, frame=mark(table.frame, *checks))
            table = replace(table, has_single_times=False)  # else the samples could not be made
        usable = pl.col("item").is_in(items["item"].implode()) | pl.col("problem").is_not_null()
        own = table.frame.filter(pl.col("user").is_in([*users])).collect(engine="streaming").filter(usable)
        if own.is_empty():
            return pl.DataFrame(schema={"user": pl.Categorical, "item": pl.Categorical, "liked": pl.Boolean})
        table = replace(table, frame=own.lazy())
    events = load_interactions({name: table}, items["item"], replace(options, min_ratings=1), DataSummary())
    rated = events.select("user", "item", liked=is_liked(options))
    return rated.unique(["user", "item"], keep="last", maintain_order=True)


def with_titles(rated: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Ratings as from `read_ratings`, few of them, with the `SCHEMA`."""
    rated = rated.with_columns(pl.col("user", "item").cast(pl.String))
    titles = items.select("item", "title").filter(pl.col("item").is_in(rated["item"].implode()))
    return rated.join(titles, on="item", how="left", maintain_order="left").select(*SCHEMA)


class KeptRatings:
    """All users' ratings in memory, found without a search through all of them.

    Args:
        rated: as from `read_ratings`.
    """

    def __init__(self, rated: pl.DataFrame) -> None:
        self._rated = rated
        counts = rated.group_by("user", maintain_order=True).len()
        starts = counts.select(pl.col("user").cast(pl.String), "len", start=pl.col("len").cum_sum() - pl.col("len"))
        self._places = starts.sort("user")

    def of(self, users: Sequence[str]) -> pl.DataFrame:
        """The rows of some users; none of one who is unknown."""
        names = self._places["user"]
        parts = [self._rated.clear()]
        for user in dict.fromkeys(users):
            place = names.search_sorted(user)
            if place < len(names) and names[place] == user:
                _, count, start = self._places.row(place)
                parts.append(self._rated[start : start + count])
        return pl.concat(parts)
