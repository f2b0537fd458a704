"""MovieLens as GroupLens, Kaggle and RecBole publish it: ML-100K, ML-1M, ML-20M and latest, RecBole's atomic files.

All layouts give the same titles and genres for the same movie. GroupLens writes the year after the title; it becomes a
column of its own, as in RecBole's files. Otherwise titles stay as they are ("American President, The").
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from expctr.data.readers.base import RawTable, RawTables
from expctr.data.readers.delimited import read_delimited
from expctr.data.readers.files import Layout, find_layout
from expctr.data.readers.lines import Encoding
from expctr.data.readers.ratings import Scale, read_ratings
from expctr.data.readers.values import as_title

LAYOUTS = {
    "RecBole, split": Layout(("*.train.inter", "*.valid.inter|*.val.inter", "*.test.inter"), "*.item", "*.user"),
    "RecBole": Layout(("*.inter",), "*.item", "*.user"),
    "ML-100K": Layout(("u.data",), "u.item", "u.user"),
    "ML-1M": Layout(("ratings.dat",), "movies.dat", "users.dat"),
    "ML-20M or latest": Layout(("ratings.csv|rating.csv",), "movies.csv|movie.csv", "users.csv|user.csv"),
}
SCALE: Scale = (0.5, 5.0, "MovieLens")
GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The genre columns of `u.item`, in the order of the file."""

_ITEMS = {
    "item": ("itemid", "movieid"),
    "title": ("movietitle", "title"),
    "year": ("releaseyear",),
    "genres": ("class", "genres", "genre"),
}
_USERS = {"user": ("userid",), "age": ("age",), "gender": ("gender",), "occupation": ("occupation",)}
_NO_TITLE = ("unknown", "unkonwn", "")  # movie 267 of ML-100K, in GroupLens' and in RecBole's spelling
_NO_GENRE = ("unknown", "unkonwn", "(no genres listed)", "")
_YEAR = r"\s*\((\d{4})(?:[-–—]\s*(?:\d{4})?)?\)\s*(?:\(V\))?$"  # "(1995)", "(1995) (V)", "(2006-2007)", "(2006–)"


def read(folder: Path) -> RawTables:
    """Reads the layout that the folder holds.

    Items have `year` (int) and `genres` (list). Users, if there is a file about them, have `age` (int), `gender` and
    `occupation`.
    """
    files = find_layout(folder, LAYOUTS)
    layout = files.layout
    dat = layout in ("ML-100K", "ML-1M")
    encoding: Encoding = "latin-1" if dat else "utf-8"
    if layout == "ML-100K":
        items = _read_u_item(files.items)
    else:
        order = ("item", "title", "genres") if dat else ()
        items = read_delimited(files.items, _ITEMS, ("item", "title"), order, encoding)
    orders = {"ML-100K": ("user", "age", "gender", "occupation"), "ML-1M": ("user", "gender", "age", "occupation")}
    users = None
    if files.users:
        users = read_delimited(files.users, _USERS, ("user",), orders.get(layout, ()), encoding)
        users = replace(users, frame=users.frame.with_columns(pl.col("age").cast(pl.Int32, strict=False)))
    items = _typed_items(items, " " if layout.startswith("RecBole") else "|")
    return files.tables([read_interactions(path) for path in files.ratings], items, users)


def read_interactions(path: Path) -> RawTable:
    """Reads one ratings file in any of the layouts."""
    return read_ratings(path, SCALE)


def _read_u_item(path: Path) -> RawTable:
    """Reads `u.item`, whose columns 6 to 24 are 0 or 1 per genre. They become one string, as in other layouts."""
    order = ("item", "title", "date", "video", "url", *GENRES_100K)
    table = read_delimited(path, {}, order, order, "latin-1")
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES_100K]
    genres = pl.concat_str(flags, separator="|", ignore_nulls=True).alias("genres")
    return replace(table, frame=table.frame.with_columns(genres, year=pl.lit(None, pl.String)).drop(order[2:]))


def _typed_items(table: RawTable, separator: str) -> RawTable:
    title = pl.col("title").str.strip_chars()
    year = pl.coalesce(title.str.extract(_YEAR), pl.col("year")).cast(pl.Int32, strict=False)
    genres = pl.col("genres").str.split(separator).list.filter(~pl.element().is_in(_NO_GENRE))
    genres = pl.when(pl.col("genres").is_in(_NO_GENRE)).then(pl.lit([], pl.List(pl.String))).otherwise(genres)
    name = as_title(title.str.replace(_YEAR, ""), pl.String())
    title = pl.when(~name.is_in(_NO_TITLE)).then(name)
    return replace(table, frame=table.frame.with_columns(title=title, year=year, genres=genres))
