r"""BookCrossing: the original files (`BX-*.csv`: latin-1, `;`, backslash-escaped quotes) and those of Kaggle.

There are no timestamps. In some copies about half of the ratings are of books without a title.
"""

from pathlib import Path

import polars as pl

from expctr.data.readers.base import RawTable, RawTables
from expctr.data.readers.delimited import read_delimited
from expctr.data.readers.files import find_layout
from expctr.data.readers.ratings import read_ratings

LAYOUTS = {
    "original": ("BX[-_]Book-Ratings.csv", "BX[-_]Books.csv", "BX[-_]Users.csv?"),
    "Kaggle": ("Ratings.csv", "Books.csv", "Users.csv?"),
}
_ITEMS = {
    "item": ("isbn",),
    "title": ("booktitle", "title"),
    "author": ("bookauthor", "author"),
    "year": ("yearofpublication", "year"),
    "publisher": ("publisher",),
}
_USERS = {"user": ("userid",), "location": ("location",), "age": ("age",)}
_REPAIRS = {
    "&amp;": "&",  # the `;` would split an unquoted value
    r'\\";([^";\s][^"]*")': '";"$1',  # three rows escape the quote that should end the title
}
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "\\": ""}


def read(folder: Path) -> RawTables:
    """Reads the layout that the folder holds.

    Items have `author`, `year` (int) and `publisher`. Users, if there is a file about them, have `age` (int) and
    `country`.
    """
    _, files = find_layout(folder, LAYOUTS)
    items = read_delimited(files[1], _ITEMS, ("item", "title"), encoding="latin-1", replace=_REPAIRS)
    text = pl.col("title", "author", "publisher").str.replace_many(_ENTITIES).str.strip_chars().replace("", None)
    year = pl.col("year").cast(pl.Int32, strict=False)  # 0 means unknown, and some years are in the future
    year = pl.when(year.is_between(1400, 2030)).then(year)
    frame = items.frame.with_columns(pl.col("item").str.to_uppercase(), text, year.alias("year"))
    users = _read_users(files[2]) if len(files) > 2 else None
    return RawTables(read_interactions(files[0]), RawTable(frame, files[1]), users)


def read_interactions(path: Path) -> RawTable:
    """Reads one ratings file. ISBNs become upper case, because the files differ in the check digit `x`."""
    table = read_ratings(path, low=0, high=10, encoding="latin-1")
    return RawTable(table.frame.with_columns(pl.col("item").str.to_uppercase()), path)


def _read_users(path: Path) -> RawTable:
    table = read_delimited(path, _USERS, ("user",), encoding="latin-1")
    age = pl.col("age").cast(pl.Float64, strict=False).cast(pl.Int32, strict=False)  # some copies write 34.0
    country = pl.col("location").str.split(",").list.last().str.strip_chars(' \\"').str.to_lowercase()
    age = pl.when(age.is_between(5, 100)).then(age)
    country = pl.when(~country.is_in(["", "n/a", "null"])).then(country)
    return RawTable(table.frame.with_columns(age.alias("age"), country.alias("country")).drop("location"), path)
