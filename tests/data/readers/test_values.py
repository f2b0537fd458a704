"""Lists as people write them."""

import json

import polars as pl
import pytest

from expctr.data.readers.values import as_list

TEXTS = ["Café", 'a "q"', "b,c", "d\\e", "line\nbreak", "[REC]", "|", "it's"]


def lists(*values: object, dtype: pl.DataType = pl.String()) -> list[list[str]]:
    frame = pl.DataFrame({"x": pl.Series([*values], dtype=dtype)})
    return [row or [] for row in frame.select(as_list(pl.col("x"), dtype)).to_series().to_list()]


@pytest.mark.parametrize("write", [json.dumps, lambda texts: json.dumps(texts, ensure_ascii=False), repr])
def test_a_list_in_json_or_python_is_read_as_those_read_it(write: object) -> None:
    assert lists(write(TEXTS)) == [TEXTS]  # type: ignore[operator]


def test_other_values_of_a_list_become_text_and_nothing_is_dropped() -> None:
    assert lists("[1, 2.5, true, null]", " [ ] ", None) == [["1", "2.5", "true"], [], []]


@pytest.mark.parametrize("text", ["[REC]", "[1 of 2", "['71]", "[not a list"])
def test_a_title_in_brackets_is_a_title(text: str) -> None:
    assert lists(text, f"{text}|Heat") == [[text], [text, "Heat"]]


def test_lists_of_numbers_are_texts() -> None:
    assert lists([1, 2], [], dtype=pl.List(pl.Int64())) == [["1", "2"], []]
