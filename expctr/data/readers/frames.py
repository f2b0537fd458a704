"""Data frames as those of polars, and columns of all types as those of few types."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import polars as pl

from expctr.data.readers.base import POLARS_ERRORS, readable
from expctr.errors import DataError

_UNREADABLE = (ImportError, NotImplementedError, OverflowError, TypeError, ValueError, *POLARS_ERRORS)


def as_frame(source: Any, option: str) -> pl.DataFrame:
    """A data frame as one of polars. pandas is not imported.

    Raises:
        DataError: it is no data frame, two columns have one name, or a column holds values that polars cannot.
    """
    if isinstance(source, pl.LazyFrame):
        with readable(option):
            return source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    if not hasattr(source, "columns") or not hasattr(source, "iloc"):
        raise DataError(
            f"{option} is of type {type(source).__name__}. Fix: name a file, a folder or a glob, or give a data frame "
            "of polars or pandas"
        )
    name, count = max(Counter(map(str, source.columns)).items(), key=lambda pair: pair[1], default=("", 0))
    if count > 1:
        raise DataError(f"{option}: {count} columns are called {name!r}. Fix: delete or rename all but one of them")
    try:
        return pl.DataFrame(source)
    except _UNREADABLE:  # polars needs pyarrow for most columns of pandas, and reads them without a copy
        return pl.DataFrame([_series(source[name], str(name), option) for name in source.columns])


def plain_types(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Categories as texts, also in lists: what a category is called counts, not its number.

    Times are in UTC, without a zone, and in one unit.
    """
    plain: dict[str, pl.DataType] = {}
    for name, dtype in frame.collect_schema().items():
        if isinstance(dtype, pl.Datetime):
            plain[name] = pl.Datetime("us")
        inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
        if isinstance(inner, pl.Categorical | pl.Enum):
            plain[name] = pl.String() if inner is dtype else pl.List(pl.String())
    return frame.with_columns(pl.col(name).cast(dtype) for name, dtype in plain.items())


def check_types(frames: Mapping[str, pl.LazyFrame]) -> None:
    """Raises DataError if a column holds lists, numbers or times in one file, and something else in another.

    polars would make day numbers of dates, and texts of lists.

    Args:
        frames: by file.
    """
    first: dict[str, dict[str, str]] = {}
    for path, frame in frames.items():
        for name, dtype in frame.collect_schema().items():
            if dtype != pl.Null:
                first.setdefault(name, {}).setdefault(_group(dtype), path)
    for name, found in first.items():
        if len(found.keys() - {"texts"}) > 1 or (len(found) > 1 and "lists" in found):
            held = " and ".join(f"{group} in {path}" for group, path in found.items())
            raise DataError(f"column {name.partition('.')[2]} holds {held}. Fix: give it the same type in all files")


def _group(dtype: pl.DataType) -> str:
    if dtype.is_nested():
        return "lists"
    if dtype.is_temporal():
        return "dates or times"
    return "numbers" if dtype.is_numeric() or dtype == pl.Boolean else "texts"


def _series(values: Any, name: str, option: str) -> pl.Series:
    """A column of pandas as its Python values."""
    filled = values.astype(object).where(values.notna(), None).tolist()
    plain = [value.tolist() if hasattr(value, "tolist") else value for value in filled]  # of numpy
    try:
        return pl.Series(name, plain, strict=False)
    except _UNREADABLE as error:
        raise DataError(
            f"{option}: column {name} holds values of a type that cannot be read. Fix: make them texts or numbers "
            f"(pandas: .astype(str)), or leave the column out"
        ) from error
