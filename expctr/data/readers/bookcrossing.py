r"""BookCrossing: the original dump (`BX-*.csv`: latin-1, `;`, backslash-escaped quotes) and Kaggle's `Ratings.csv` etc.

There are no timestamps, and about half of the ratings of some copies are of books without a title.
"""

from pathlib import Path

import polars as pl

from expctr.data.readers.tables import Table, Tables, find_files, read_delimited, read_ratings

LAYOUTS = {
    "original dump": ("BX[-_]Book-Ratings.csv", "BX[-_]Books.csv", "BX[-_]Users.csv?"),
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
    "&amp;": "&",  # its `;` would split an unquoted value
    r'\\";([^";\s][^"]*")': '";"$1',  # three rows of the dump escape the quote that should end the title
}
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "\\": ""}


def read(folder: Path) -> Tables:
    """Reads the layout that the folder holds.

    Items have `author`, `year` (int), `publisher`; users, where there are any, `age` (int) and `country`.

    Raises:
        DataError: no known layout, or a file that is not what its name says.
    """
    _, files = find_files(folder, LAYOUTS)
    items = read_delimited(files[1], _ITEMS, ("item", "title"), encoding="latin-1", replace=_REPAIRS)
    text = [
        pl.col(c).str.replace_many(_ENTITIES).str.strip_chars().replace("", None)
        for c in ("title", "author", "publisher")
    ]
    year = pl.col("year").cast(pl.Int32, strict=False)  # 0 stands for unknown, and some lie in the future
    items_frame = items.frame.with_columns(
        pl.col("item").str.to_uppercase(), *text, pl.when(year.is_between(1400, 2030)).then(year).alias("year")
    )
    return Tables(
        read_interactions(files[0]),
        Table(items_frame, files[1]),
        _read_users(files[2]) if len(files) > 2 else None,
    )


def read_interactions(path: Path) -> Table:
    """Reads one ratings file. ISBNs are compared in upper case, since the files differ in the check digit `x`.

    Raises:
        DataError: as `tables.read_delimited`.
    """
    table = read_ratings(path, low=0, high=10, encoding="latin-1")
    return Table(table.frame.with_columns(pl.col("item").str.to_uppercase()), path)


def _read_users(path: Path) -> Table:
    table = read_delimited(path, _USERS, ("user",), encoding="latin-1")
    age = pl.col("age").cast(pl.Float64, strict=False).cast(pl.Int32, strict=False)  # some copies write 34.0
    country = pl.col("location").str.split(",").list.last().str.strip_chars(' \\"').str.to_lowercase()
    return Table(
        table.frame.with_columns(
            pl.when(age.is_between(5, 100)).then(age).alias("age"),
            pl.when(~country.is_in(["", "n/a", "null"])).then(country).alias("country"),
        ).drop("location"),
        path,
    )
