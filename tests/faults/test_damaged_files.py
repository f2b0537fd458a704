"""A damaged file is a clear error or counted skips, never a traceback, and healthy rows come through."""

import gzip
import io
import os
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from expctr.data.new_users import read_new_users
from expctr.data.readers import amazon, movielens
from expctr.data.summary import DataSummary, summary_tables
from expctr.errors import DataError

GOOD = b'{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 1}\n'
DEEP = b"[" * 100_000
BAD_JSON = {
    "nan": GOOD.replace(b"5.0", b"NaN"),
    "infinite time": GOOD.replace(b"1}", b"1e999}"),
    "nested": GOOD.replace(b'"A"', DEEP + b"]" * len(DEEP)),
    "unclosed": DEEP + b"\n",
    "set": b"{'reviewerID': {1, 2}, 'asin': 'B', 'overall': 5}\n",
    "bytes": b"{'reviewerID': b'x', 'asin': 'B', 'overall': 5}\n",
    "half": GOOD[:30] + b"\n",
    "nul": GOOD.replace(b'"A"', b'"A\0"'),
    "undecodable": GOOD.replace(b'"A"', b'"\xff"'),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_bad_line_of_json_is_named_or_counted(tmp_path: Path, name: str) -> None:
    path = tmp_path / "Books.json"
    path.write_bytes(GOOD + BAD_JSON[name] + GOOD)
    table = amazon.read_interactions(path)
    with pytest.raises(DataError, match=r"Books.json, row 2, column "):
        table.collect(["user"], "error", Counter())
    dropped = Counter[str]()
    rows = table.collect(["row", "user", "item", "rating", "timestamp"], "skip", dropped).rows()
    assert rows == [(1, "A", "B", 5.0, 1), (3, "A", "B", 5.0, 1)]
    assert dropped.total() == 1


def test_a_byte_order_mark_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "Books.json"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + GOOD)
    assert amazon.read_interactions(path).collect(["user"], "error", Counter()).height == 2


@pytest.mark.parametrize("cut", [-1, -9, 12, 40])
@pytest.mark.parametrize("mode", ["error", "skip"])
def test_a_gzip_file_cut_short_is_refused(tmp_path: Path, cut: int, mode: str) -> None:
    path = tmp_path / "Books.json.gz"
    path.write_bytes(gzip.compress(GOOD * 100)[:cut])
    with pytest.raises(DataError, match=r"cannot read .*Books.json.gz after row"):
        amazon.read_interactions(path).collect(["user"], mode, Counter())  # type: ignore[arg-type]


def test_other_bytes_in_a_gzip_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "Books.json.gz"
    for content in (b"\x1e" + gzip.compress(GOOD)[1:], gzip.compress(GOOD) + b"garbage"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot read .*Books.json.gz"):
            amazon.read_interactions(path).collect(["user"], "skip", Counter())


def test_a_plain_file_called_gzip_is_read_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "Books.json.gz"
    path.write_bytes(GOOD)
    assert amazon.read_interactions(path).collect(["user"], "error", Counter()).height


@pytest.mark.parametrize("time", ["inf", "nan", "1e999", "1e300", "-1e300"])
def test_an_impossible_timestamp(tmp_path: Path, time: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(f"userId,movieId,rating,timestamp\n1,2,3,4\n1,3,3,{time}\n")
    table = movielens.read_interactions(path)
    with pytest.raises(DataError, match=r"ratings.csv, row 3, column timestamp"):
        table.collect(["user"], "error", Counter())
    assert table.collect(["item"], "skip", Counter())["item"].to_list() == ["2"]


@pytest.mark.parametrize("cell", ['"Heat', '"Heat"x'])
def test_an_unclosed_quote_in_the_csv_of_new_users(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "new.csv"
    path.write_text(f"liked_titles,disliked_titles,target_title\nAlien,,{cell}\nFargo,,Kids\n")
    with pytest.raises(DataError, match=r"not a row of CSV, .*new.csv, row 2: .*Fix: close each quote"):
        read_new_users(path)


def test_a_file_name_is_shown_without_markup_and_escape_sequences() -> None:
    said = io.StringIO()
    summary = DataSummary(dropped={"[/]x\x1b]8;;u\x07.csv: too few columns": 1}, side_dropped={"[bold]y\x9b.csv": 1})
    Console(file=said, width=200).print(summary_tables(summary))
    assert "[/]x" in said.getvalue()
    assert "[bold]y" in said.getvalue()
    assert not set("\x1b\x07\x9b") & set(said.getvalue())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "Books.json"
    path.write_bytes(GOOD)
    path.chmod(0)
    with pytest.raises(DataError, match="cannot read"):
        amazon.read_interactions(path).collect(["user"], "skip", Counter())


def test_a_bad_line_changes_nothing_of_the_lines_beside_it(tmp_path: Path) -> None:
    item = '{"asin": "B", "title": "Café \\"T\\"", "category": ["Bücher", "A \\"B\\" & C"], "brand": "Zoë"}\n'
    columns, path = ["item", "title", "brand", "categories"], tmp_path / "meta_Books.json"
    path.write_text(item)
    alone = amazon._read_meta(path).collect(columns, "error", Counter()).rows()
    path.write_text(item + "{half\n")
    assert amazon._read_meta(path).collect(columns, "skip", Counter()).rows() == alone
