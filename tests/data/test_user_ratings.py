"""Ratings that are kept in memory are those of the files, whatever the options."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny import make_tables

from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.data.readers.base import RawTables
from expctr.data.user_ratings import SCHEMA, KeptRatings, read_ratings, with_titles

USERS = ["7", "2", "10", "nobody", "2", "11"]
OPTIONS = SampleOptions(threshold=3, min_ratings=5)


def many() -> RawTables:
    """Users 0 to 29, some with one rating, with repeats and equal times; nothing is called 5, and user 11 rates that
    alone.
    """
    draw = np.random.default_rng(0)
    rows = [(str(u), str(i), float(r), int(t)) for u, i, r, t in draw.integers([0, 0, 1, 0], [30, 9, 6, 40], (400, 4))]
    rows = [(user, "5" if user == "11" else item, rating, time) for user, item, rating, time in rows]
    tables = make_tables(rows)
    items = tables.items.frame.filter(pl.col("item") != "5")
    return replace(tables, items=replace(tables.items, frame=items))


@pytest.mark.parametrize(
    "options", [OPTIONS, replace(OPTIONS, order="shuffle"), replace(OPTIONS, repeats="keep"), SampleOptions(None)]
)
def test_kept_ratings_are_those_of_the_files(options: SampleOptions) -> None:
    tables = many()
    items = tables.items.frame.select("item", "title").collect()
    kept = KeptRatings(read_ratings(tables, items, options))
    for users in ([], ["nobody"], *([user] for user in USERS), USERS):
        read, found = (
            with_titles(rated, items).sort("user", maintain_order=True)
            for rated in (read_ratings(tables, items, options, users=users), kept.of(users))
        )
        assert found.equals(read)
        assert dict(found.schema) == SCHEMA
        assert set(found["user"]) == {*users} - {"nobody", "11"}


def test_the_latest_rating_counts_and_the_oldest_comes_first() -> None:
    rows = [("a", "1", 5.0, 3), ("a", "2", 1.0, 2), ("b", "1", 5.0, 1), ("a", "1", 1.0, 1), ("a", "3", 5.0, 9)]
    tables = make_tables(rows)
    items = tables.items.frame.select("item", "title").collect()
    kept = KeptRatings(read_ratings(tables, items, SampleOptions(threshold=3)))
    found = with_titles(kept.of(["a"]), items)
    assert found.rows() == [
        ("a", "2", "Title 2", False),
        ("a", "1", "Title 1", True),
        ("a", "3", "Title 3", True),
    ]


def test_kept_ratings_need_no_file_and_are_cached(tmp_path: Path) -> None:
    ratings, movies = tmp_path / "ratings.csv", tmp_path / "movies.csv"
    rows = [f"{user},{item},{1 + (user + item) % 5},{item}" for user in range(20) for item in range(8)]
    ratings.write_text("\n".join(["userId,movieId,rating,timestamp", *rows]))
    movies.write_text("\n".join(["movieId,title,genres", *(f"{item},T{item} (1990),Drama" for item in range(8))]))

    def data() -> MovieLensDataModule:
        module = MovieLensDataModule(str(tmp_path), cache_dir=str(tmp_path / "cache"))
        module.setup()
        return module

    expected = data().ratings_of(["3", "12"])
    assert expected.height == 16
    first = data()
    first.keep_ratings()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    again = data()
    again.keep_ratings()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == before
    assert len(first.catalogue.items) == len(again.catalogue.items) == 8
    ratings.unlink()
    for module in (first, again):
        assert (
            module.ratings_of(["3", "12"])
            .sort("user", maintain_order=True)
            .equals(expected.sort("user", maintain_order=True))
        )
