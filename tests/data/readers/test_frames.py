"""Frames and files with columns of any type are read as those of few types, or refused in a sentence."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from readers.test_table import CLICKS, ITEMS, PandasFrame, collected, reader

from expctr.errors import DataError

TEXTS = ITEMS.with_columns(new=pl.Series(["yes", "no", None]), price=pl.Series(["1.5", None, "3"]))
KINDS: Any = {"new": "boolean", "price": "number", "tags": "list"}


def test_categories_are_texts_in_every_role() -> None:
    clicks = CLICKS.with_columns(pl.col("clicked", "ts").cast(pl.String), pl.col("user_id", "sku"))
    kinds = pl.Enum(["1", "0"]), pl.Categorical()
    typed = clicks.with_columns(pl.col("clicked").cast(kinds[0]), pl.col("ts", "user_id", "sku").cast(kinds[1]))
    items = TEXTS.with_columns(pl.col("new", "price").cast(pl.Categorical), pl.col("tags").cast(pl.List(kinds[1])))
    expected = collected(reader(CLICKS, TEXTS, features=KINDS).tables)
    assert collected(reader(typed, items, features=KINDS).tables) == expected
    assert expected[1][0]["price"] == 1.5
    assert expected[1][0]["new"] is True


@pytest.mark.parametrize(("column", "role"), [("ts", "timestamp"), ("sku", "item"), ("clicked", "label")])
@pytest.mark.parametrize("dtype", ["list", "struct", "object"])
def test_a_type_that_cannot_be_the_role_is_refused(column: str, role: str, dtype: str) -> None:
    values = {
        "list": CLICKS[column].reshape((-1, 1)),
        "struct": CLICKS.select(pl.struct(column).alias(column)).to_series(),
        "object": pl.Series(column, [object()] * 4, dtype=pl.Object),
    }
    frame = CLICKS.with_columns(values[dtype])
    with pytest.raises(DataError, match=rf"data.columns.{role}: column {column} is of type .* cannot be the {role}"):
        reader(frame).tables  # noqa: B018


def test_bytes_are_text() -> None:
    ids = CLICKS.with_columns(pl.col("user_id").cast(pl.Binary))
    assert collected(reader(ids).tables) == collected(reader(CLICKS).tables)


@pytest.mark.parametrize(
    ("column", "values", "held"),
    [
        ("ts", pl.lit(date(2024, 5, 6)), "numbers in .* and dates or times in"),
        ("sku", pl.concat_list("sku"), "texts in .* and lists in"),
    ],
)
def test_files_of_one_table_agree_on_what_a_column_holds(
    tmp_path: Path, column: str, values: pl.Expr, held: str
) -> None:
    CLICKS.write_parquet(tmp_path / "a.parquet")
    CLICKS.with_columns(values.alias(column)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=f"column {column} holds {held}"):
        reader(str(tmp_path)).tables  # noqa: B018


def test_a_damaged_page_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "clicks.parquet"
    CLICKS.write_parquet(path, compression="uncompressed")
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 300 + content[304:])
    with pytest.raises(DataError, match=r"^cannot read .*clicks\.parquet: [^\n]*$"):
        collected(reader(str(path)).tables)


def test_a_pandas_frame_with_two_columns_of_one_name_or_with_strange_values_is_refused() -> None:
    columns = CLICKS.to_dict(as_series=False)
    twice = PandasFrame(**columns)
    twice.columns.append("sku")
    with pytest.raises(DataError, match="2 columns are called 'sku'"):
        reader(twice).tables  # noqa: B018
    with pytest.raises(DataError, match=r"data.columns.label: column clicked is of type Object"):
        reader(PandasFrame(**columns | {"clicked": [1j, 2j, 3j, 4j]})).tables  # noqa: B018


def test_lists_of_numpy_in_a_pandas_frame_are_lists() -> None:
    columns = ITEMS.to_dict(as_series=False)
    arrays = PandasFrame(**columns | {"tags": [np.array(tags) for tags in columns["tags"]]})
    assert collected(reader(CLICKS, arrays).tables) == collected(reader(CLICKS, ITEMS).tables)
