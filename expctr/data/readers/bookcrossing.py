r"""BookCrossing: the original files (`BX-*.csv`: latin-1, `;`, backslash-escaped quotes) and those of Kaggle.

Kaggle's `Preprocessed_data.csv` joins ratings, books and users in one table. There are no timestamps. In some copies
about half of the ratings are of books without a title.
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from expctr.data.readers.base import RawTable, RawTables
from expctr.data.readers.delimited import read_delimited
from expctr.data.readers.files import Layout, find_layout
from expctr.data.readers.ratings import Scale, read_ratings
from expctr.data.readers.values import as_title

LAYOUTS = {
    "original": Layout(("BX[-_]Book[-_]Ratings.csv",), "BX[-_]Books.csv", "BX[-_]Users.csv"),
    "Kaggle": Layout(("Ratings.csv",), "Books.csv", "Users.csv"),
    "Kaggle, joined": Layout(("Preprocessed_data.csv",), "Preprocessed_data.csv", "Preprocessed_data.csv"),
}
SCALE: Scale = (0, 10, "BookCrossing")
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
    files = find_layout(folder, LAYOUTS)
    items, users = _read_items(files.items), _read_users(files.users) if files.users else None
    (ratings,) = files.ratings
    if files.items == ratings:
        items, users = _first_per_key(items, "item"), users and _first_per_key(users, "user")
    return files.tables([read_interactions(ratings)], items, users)


def read_interactions(path: Path) -> RawTable:
    """Reads one ratings file. ISBNs become upper case, because the files differ in the check digit `x`.

    What raters wrote in place of an ISBN, such as 9,78292E+12, is an item without a title.
    """
    table = read_ratings(path, SCALE, encoding="latin-1", any_item=True)
    return replace(table, frame=table.frame.with_columns(pl.col("item").str.to_uppercase()))


def _read_items(path: Path) -> RawTable:
    table = read_delimited(path, _ITEMS, ("item", "title"), encoding="latin-1", replace=_REPAIRS)
    text = pl.col("author", "publisher").str.replace_many(_ENTITIES).str.strip_chars().replace("", None)
    title = as_title(pl.col("title").str.replace_many(_ENTITIES), pl.String()).alias("title")
    year = _whole("year")  # 0 means unknown, and some years are in the future
    year = pl.when(year.is_between(1400, 2030)).then(year)
    columns = [pl.col("item").str.to_uppercase(), text, title, year.alias("year")]
    return replace(table, frame=table.frame.with_columns(columns))


def _read_users(path: Path) -> RawTable:
    table = read_delimited(path, _USERS, ("user",), encoding="latin-1")
    age = _whole("age")
    country = pl.col("location").str.split(",").list.last().str.strip_chars(' \\"').str.to_lowercase()
    age = pl.when(age.is_between(5, 100)).then(age)
    country = pl.when(~country.is_in(["", "n/a", "null"])).then(country)
    frame = table.frame.with_columns(age.alias("age"), country.alias("country")).drop("location")
    return replace(table, frame=frame)


def _whole(name: str) -> pl.Expr:
    """Whole numbers; some copies write 34.0, and put the mean in place of a missing age."""
    number = pl.col(name).cast(pl.Float64, strict=False)
    return pl.when(number == number.floor()).then(number).cast(pl.Int32, strict=False)


def _first_per_key(table: RawTable, key: str) -> RawTable:
    """The items or users of a joined file. Its bad rows are counted with the ratings."""
    good = table.frame.filter(pl.col("problem").is_null() & (pl.col(key) != ""))
    return replace(table, frame=good.unique(key, keep="first", maintain_order=True))
