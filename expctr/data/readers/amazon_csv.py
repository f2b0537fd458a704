"""Amazon ratings as CSV: the ratings-only files of 2014, 2018 and 2023, and the pair of book files on Kaggle."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from expctr.data.readers.base import RawTable, RawTables
from expctr.data.readers.delimited import read_delimited
from expctr.data.readers.files import FoundFiles, Layout
from expctr.data.readers.ratings import Scale, described, read_ratings, typed_ratings
from expctr.data.readers.values import MAX_TITLE, as_key, as_title
from expctr.errors import DataError

SCALE: Scale = (1, 5, "Amazon")
KAGGLE = Layout(("Books_rating.csv",), "books_data.csv")

OF_2014 = ("user", "item", "rating", "timestamp")
OF_2018 = ("item", "user", "rating", "timestamp")
"""The columns of ratings-only files."""
_ASIN = r"[0-9B][0-9A-Z]{9}"
_NO_TITLE = "(no title)"
_RATINGS = {
    "user": ("userid",),
    "item": ("title",),
    "rating": ("reviewscore",),
    "timestamp": ("reviewtime",),
    "review": ("reviewtext",),
}
_BOOKS = {"item": ("title",), "brand": ("authors",), "categories": ("categories",)}
_NAMES = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""  # in a list of Python


def read_ratings_csv(path: Path) -> RawTable:
    """Reads a CSV of ratings with a header (2023), or without one in the order of 2014 or 2018.

    Raises:
        DataError: the file has no header, and its first lines do not show which column holds the items.
    """
    return read_ratings(path, SCALE, order=lambda head: _order(path, head))


def read_kaggle(files: FoundFiles) -> RawTables:
    """Reads the pair of Kaggle. Its files share only the title, so books of one title are one item.

    Some ratings have no title, and a sixth have no user: each of these gets a user of its own, who then has too few
    ratings.
    """
    table = read_delimited(files.ratings[0], _RATINGS, ("user", "item", "rating"))
    no_user, no_title = as_key(pl.col("user"), pl.String()).is_null(), as_title(pl.col("item"), pl.String()).is_null()
    item = pl.when(no_title).then(pl.lit(_NO_TITLE)).otherwise(pl.col("item").str.slice(0, MAX_TITLE))
    user = pl.when(no_user).then(pl.format("anonymous {}", "row")).otherwise("user")
    frame = table.frame.with_columns(user.alias("user"), item.alias("item"))
    typed = typed_ratings(frame, *SCALE[:2], any_item=True)
    ratings = replace(table, frame=typed, scale=described(SCALE), has_single_times=True, has_variants=True)
    table = read_delimited(files.items, _BOOKS, ("item",))
    names = pl.col("brand", "categories").str.extract_all(_NAMES).list.eval(pl.element().str.slice(1).str.head(-1))
    frame = table.frame.with_columns(names).with_columns(
        item.alias("item"),
        title=pl.when(~no_title).then(item),
        brand=pl.col("brand").list.join(", ").replace("", None),
    )
    return files.tables([ratings], replace(table, frame=frame), None)


def _order(path: Path, head: Sequence[str]) -> Sequence[str]:
    """The columns of a file without a header, by the shape of its ids; none if it has one."""
    rows = [[value.strip(' "') for value in line.split(",")] for line in head]
    if len(rows[0]) < 3 or not rows[0][2].replace(".", "", 1).isdigit():
        return ()
    items = [sum(bool(re.fullmatch(_ASIN, row[place])) for row in rows if len(row) > 1) for place in (0, 1)]
    if max(items) <= len(rows) / 2 or items[0] == items[1]:
        raise DataError(
            f"no header, and users and items look alike, {path}, row 1: {head[0][:120]!r}. Fix: add the names of the "
            f"columns as the first line, {','.join(OF_2014)} or {','.join(OF_2018)}"
        )
    return OF_2018 if items[0] > items[1] else OF_2014
