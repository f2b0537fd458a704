"""Lists as people write them."""

import json
import re
from collections.abc import Callable
from decimal import Decimal

import polars as pl
import pytest

from expctr.data.readers.values import as_key, as_list, as_title, is_bad_list, is_missing

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


@pytest.mark.parametrize("name", ["A\ud83d", "\udc00A", "A\ud83d\ud83d"])
@pytest.mark.parametrize("write", [json.dumps, repr, lambda texts: json.dumps(texts).replace('\\ud83d"', '\0"')])
def test_half_of_a_character_is_replaced_in_a_list(name: str, write: Callable[[list[str]], str]) -> None:
    assert lists(write([name, "\U0001f600"])) == [[re.sub("[\ud800-\udfff]", "\ufffd", name), "\U0001f600"]]


@pytest.mark.parametrize("text", ["[1," + "[" * 3000, "[" * 100_000 + "]", "['a', {(1, 2): 3}"])
def test_what_is_no_list_of_values_stays_a_text(text: str) -> None:
    assert lists(text + "]", "[1]") == [[f"{text}]"], ["1"]]


@pytest.mark.parametrize("depth", [100, 500, 900, 1500, 5000, 20_000])
def test_a_list_nested_to_any_depth_is_a_text(depth: int) -> None:
    [found] = lists(f"[1, {'[' * depth}{']' * depth}]")
    assert "".join(found).count("[") >= depth


READ = ["['Up', nan]", '["Up", NaN, null]', "[nan, 'Up']", "[None, 'Up']"]


@pytest.mark.parametrize("text", READ)
def test_what_is_missing_is_left_out_of_a_list(text: str) -> None:
    assert lists(text) == [["Up"]]
    assert lists("['nan', \"null and void\", nan]") == [["nan", "null and void"]]


@pytest.mark.parametrize(
    ("texts", "bad"),
    [
        (["['x' ... 'y']", "['x', 'y', ...]", "[1 2 ... 9]", "array(['x'], dtype=object)"], True),  # numpy, shortened
        (["('x', 'y')", '("x",)', "{'x', 'y'}", '{x,"y z"}', "{x,y}", "(x, y)", "[x, y]"], True),
        (['["x", "yy', "['x' 'y\n 'z", "[12, 45, 7", '[["x"], ["y"]]', '[{"title": "x"}]'], True),  # cut off; nested
        (
            [
                'c("x", "y")',
                "WrappedArray(x, y)",
                "list(['x'])",
                "Index(['x'], dtype='object')",
                "<StringArray>\n['x']",
            ],
            True,
        ),
        (["c (2011)", "List", "Vector (2007)", "<Enter> Array", "Set It Up (2018)"], False),
        (["(500) Days of Summer", "{Proof}", "[REC]", "[REC], Part 2", "[2 Guns]", "(Un)Lucky, (Really)"], False),
        (["[REC]|Up, (Un)Lucky", "", None, "[]", "['x' 'y']", "[1 2]", "['x', nan]", "x, y"], False),
    ],
)
def test_text_that_is_meant_as_a_list_but_is_none_is_bad(texts: list[str | None], bad: bool) -> None:
    frame = pl.DataFrame({"x": texts}, schema={"x": pl.String})
    found = frame.with_columns(bad=is_bad_list(pl.col("x"), pl.String()))
    assert found.filter(pl.col("bad") != bad)["x"].to_list() == []


def test_lists_of_numbers_are_texts() -> None:
    assert lists([1, 2], [], dtype=pl.List(pl.Int64())) == [["1", "2"], []]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("['a b' \"it's\"\n 'c']", ["a b", "it's", "c"]),
        ("['a\\\\' \"b' 'c\" ]", ["a\\", "b' 'c"]),
        ("['a' 'b', 'c']", ["ab", "c"]),  # no numpy, which writes no comma
        ("['x\\' \\'y', 'z']", ["x' 'y", "z"]),
        ("[ 7 12]", ["7", "12"]),
        ("[0.5 2. ]", ["0.5", "2"]),
        ("[3.0, 4.5]", ["3", "4.5"]),
    ],
)
def test_lists_of_numpy_have_no_commas(text: str, parts: list[str]) -> None:
    assert lists(text) == [parts]


def test_entries_of_any_type_are_texts_without_white_space_or_points() -> None:
    assert lists([4.0, None, 2.5], dtype=pl.List(pl.Float64())) == [["4", "2.5"]]
    assert lists([" Up", "", "  "], dtype=pl.List(pl.String())) == [["Up"]]


def test_an_infinite_number_and_the_text_of_one_are_missing() -> None:
    for values, dtype in (("-Infinity", "3", "x"), pl.String()), ((float("-inf"), 3.0, 1e300), pl.Float64()):
        frame = pl.DataFrame({"x": pl.Series([*values], dtype=dtype)})
        assert frame.select(is_missing(pl.col("x"), dtype)).to_series().to_list() == [True, False, False]


def test_decimals_are_written_as_floats_are() -> None:
    values = [Decimal("70.000"), Decimal("-0.250"), None]
    for dtype in (pl.Decimal(38, 3), pl.Decimal(12, 9)):
        frame = pl.DataFrame({"x": pl.Series(values, dtype=dtype)})
        assert frame.select(as_key(pl.col("x"), dtype)).to_series().to_list() == ["70", "-0.25", None]
        assert lists(values, dtype=pl.List(dtype)) == [["70", "-0.25"]]
    whole = pl.DataFrame({"x": pl.Series([Decimal(700)], dtype=pl.Decimal(38, 0))})
    assert whole.select(as_key(pl.col("x"), whole.schema["x"])).item() == "700"


def test_texts_in_place_of_an_id_are_nobody() -> None:
    frame = pl.DataFrame({"x": ["None", " NaN", "Nan Goldin", "0"]})
    assert frame.select(as_key(pl.col("x"), pl.String())).to_series().to_list() == [None, None, "Nan Goldin", "0"]


def test_titles_that_say_nothing_are_none_and_numbers_have_no_point() -> None:
    """Spelled exactly so: a film may be called Na."""
    said = ["None", "null", " NA ", "n/a", "-", "undefined", "(null)", "Na", "NULLS", "The - of x", "1984.0"]
    texts = pl.DataFrame({"x": said}).select(as_title(pl.col("x"), pl.String())).to_series().to_list()
    assert texts == [None] * 7 + said[7:]
    for dtype in (pl.Float64(), pl.Float32()):
        numbers = pl.DataFrame({"x": pl.Series([1984.0, None, 2.5, float("nan")], dtype=dtype)})
        assert numbers.select(as_title(pl.col("x"), dtype)).to_series().to_list() == ["1984", None, "2.5", None]
