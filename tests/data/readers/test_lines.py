"""Line breaks inside quotes are part of a value, and a stray quote damages its own row only."""

import csv
import io
import re
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from tiny import rows, write

from expctr.data.readers import lines as reading
from expctr.data.readers import movielens
from expctr.data.readers.delimited import _split_line, read_delimited
from expctr.data.readers.movielens import read_interactions
from expctr.errors import DataError

RATINGS = "userId,movieId,rating,timestamp\n1,2,5,9\n"


def titles(tmp_path: Path, movies: str, rows_of: str = "error") -> dict[int, object]:
    folder = write(tmp_path, {"ratings.csv": RATINGS, "movies.csv": movies})
    frame = movielens.read(folder).items.frame.filter(pl.col("problem").is_null()).collect()
    return dict(frame.select("row", "title").iter_rows())


def test_rows_keep_the_line_where_they_start(tmp_path: Path) -> None:
    movies = (
        "movieId,overview,title,genres\n"
        '1,"First line.\r\n\n  Second ""line"", with comma.",Heat,Crime\n'
        "\n"
        '2,"One line",Casper,Comedy\n'
        '3,plain,"Usual\nSuspects, The",Crime\n'
        '4,"two","lines\n","here\n'
        '"\n'
        "5,bad\n"
    )
    assert titles(tmp_path, movies) == {2: "Heat", 6: "Casper", 7: "Usual Suspects, The", 9: "lines"}
    with pytest.raises(DataError, match=r"too few columns, .*movies.csv, row 12, column title: '5,bad'.*1 of 5 rows"):
        rows(movielens.read(tmp_path).items)


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        ('2,"Casper,Comedy\n3,Seven,Crime\n4,Fargo",Crime\n', {2, 4, 6}),  # would be one row of three columns
        ('2,"Casper,Comedy\n4,Fargo",Crime\n', {2, 5}),
        ('2,"Casper,Comedy\n3,Seven,Crime\n', {2, 4, 5}),
        ('2,Casper",Comedy\n3,"Seven\n(1995)",Crime\n', {2, 4, 6}),
    ],
)
def test_stray_quotes_damage_their_own_rows(tmp_path: Path, bad: str, kept: set[int]) -> None:
    found = titles(tmp_path, f"movieId,title,genres\n1,Heat,Crime\n{bad}9,Kids,Drama\n")
    assert found.keys() == kept


def test_any_csv_is_read_as_by_a_parser_of_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(0)
    pieces = ["a", "b c", ",", '"', "\n", "\n\n", "é", "", "\\", "'"]
    table = [[str(i), *("".join(random.choices(pieces, k=4)) for _ in range(3)), "end"] for i in range(120)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["item", "x", "y", "z", "title"], *table])
    (tmp_path / "x.csv").write_text(text.getvalue(), "utf-8")
    names = ("item", "x", "y", "z", "title")
    expected = [{n: " ".join(v.split("\n")).split() for n, v in zip(names, row, strict=True)} for row in table]

    def read() -> list[dict[str, list[str]]]:
        found = rows(read_delimited(tmp_path / "x.csv", {name: (name,) for name in names}, names))
        return [{name: str(value).split() for name, value in row.items()} for row in found]

    assert read() == expected
    whole = pl.LazyFrame.collect_batches
    monkeypatch.setattr(pl.LazyFrame, "collect_batches", lambda self, **_: whole(self, chunk_size=7))
    assert read() == expected  # records lie in several batches


def test_the_end_of_a_record_is_not_looked_for_in_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    movies = 'movieId,title\n1,"Heat\n' + "and\n" * 5 + 'more"\n2,Kids\n'
    assert len(titles(tmp_path, movies)) == 2
    monkeypatch.setattr(reading, "_LONGEST", 5)
    assert titles(tmp_path, movies) == {9: "Kids"}


def test_names_may_have_brackets(tmp_path: Path) -> None:
    (tmp_path / "train[1].csv").write_text(RATINGS)
    assert len(rows(read_interactions(tmp_path / "train[1].csv"))) == 1


def test_backslashes_mean_what_they_meant_in_bookcrossing_files() -> None:
    escape = re.compile(r'\\+(?!["\\])')  # the plain form, which takes quadratic time
    for letters in product('\\";a', repeat=6):
        line = '"' + "".join(letters) + '";b'
        plain = escape.sub(lambda found: 2 * found[0], line)
        has_halves = re.sub(r"\\.", "", plain).count('"') % 2
        expected = [] if has_halves else _values(plain, escapechar="\\")
        assert _split_line(line, ";") == (expected or ([] if line.count('"') % 2 else _values(line))), line


def _values(line: str, **options: Any) -> list[str]:
    try:
        return next(csv.reader((line,), delimiter=";", strict=True, **options))
    except csv.Error:
        return []


def test_a_quoted_value_may_end_in_a_backslash(tmp_path: Path) -> None:
    lines = [
        '"id";"folder";"title"',
        r'"1";"D:\films\";"Heat"',
        r'"2";"say \"hi\"";"Up"',
        r'"3";"a;b";"The \"',
        '"4";"";""',
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    table = read_delimited(tmp_path / "a.csv", {"id": ("id",), "folder": ("folder",), "title": ("title",)}, ["id"])
    assert [tuple(row.values()) for row in rows(table)] == [
        ("1", "D:\\films\\", "Heat"),
        ("2", 'say "hi"', "Up"),
        ("3", "a;b", "The \\"),
        ("4", "", ""),
    ]


def test_rows_that_have_names_without_a_column_are_named(tmp_path: Path) -> None:
    """As R writes them; a delimiter at the end of each row is something else."""
    path = tmp_path / "ratings.csv"
    path.write_text('"userId","movieId","rating","timestamp"\n' + "".join(f'"{i}",1,{i},5,9\n' for i in range(3)))
    with pytest.raises(
        DataError, match=r"^names of rows without a column, .*ratings.csv, row 1: .* 4 names.*row\.names"
    ):
        read_interactions(path)
    path.write_text("userId,movieId,rating,timestamp\n" + "".join(f"1,{i},5,9,\n" for i in range(3)))
    with pytest.raises(DataError, match=r"^too many columns, .*ratings.csv, row 2"):
        rows(read_interactions(path))
