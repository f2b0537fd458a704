"""Kinds of side features: how the values of a column are read, and the numbers and bins that training rows give."""

from collections.abc import Mapping
from math import fsum, sqrt
from typing import Literal

import numpy as np
import polars as pl
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from expctr.data.random_draws import Ints
from expctr.untrusted import printable

FeatureKind = Literal["number", "quantiles", "category", "list", "boolean"]
"""What the models learn of a side feature. `number`: one vector, times the value; `quantiles`: a vector per bin of
values, with about as many rows in each; `category`: a vector per value; `list`: the same, averaged over a row's values;
`boolean`: a vector for true and one for false."""

MOST_BINS = 20
"""Bins of `quantiles`, at most."""

FARTHEST = 5.0
"""A `number` farther from the mean than so many standard deviations counts as this far: an outlier does no harm."""

_STEP = 5  # width for integers without a kind (year, age): "1995" stands for 1995 to 1999


def kind_of(dtype: pl.DataType) -> FeatureKind | None:
    """The kind of a side feature by its type, if the user names none; None for a type that no kind can read."""
    if isinstance(dtype, pl.List | pl.Array):
        return "list" if kind_of(_inner(dtype)) not in (None, "list") else None
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_numeric() or dtype.is_temporal():
        return "quantiles"
    return "category" if isinstance(dtype, pl.String | pl.Categorical | pl.Enum) else None


def kinds_of(columns: pl.DataFrame, chosen: Mapping[str, FeatureKind]) -> dict[str, FeatureKind | None]:
    """The kind of each side feature: the chosen one, or else by the type of its column.

    Whole numbers, strings and lists of strings have none by type: they are read as the years, authors and genres of
    the three datasets (`as_kind`). A column that no kind can read is left out, with a warning.

    Args:
        columns: the side features of all rows, named as in samples (`target_price`, `user_age`).
        chosen: kinds by column.
    """
    kinds: dict[str, FeatureKind | None] = {}
    for name, dtype in columns.schema.items():
        if name in chosen:
            kinds[name] = chosen[name]
        elif dtype.is_integer() or dtype in (pl.String, pl.List(pl.String), pl.Null):
            kinds[name] = None
        elif kind := kind_of(dtype):
            kinds[name] = kind
        else:
            found = printable(f"{name} of type {dtype}")
            rank_zero_warn(f"no kind of feature can read {found}, so the CTR models do not see it")
    return kinds


def as_kind(values: pl.Series, kind: FeatureKind | None) -> pl.Series:
    """The values as floats (`number`, `quantiles`), lists of strings, or strings.

    NaN of numbers, and an empty string, become null.
    """
    if kind is None:
        return (values // _STEP * _STEP).cast(pl.String) if values.dtype.is_integer() else values
    if kind == "list":
        lists = values.arr.to_list() if isinstance(values.dtype, pl.Array) else values
        lists = lists.list.eval(pl.element().fill_nan(None)) if _inner(lists.dtype).is_float() else lists
        return lists.cast(pl.List(pl.String)).list.drop_nulls()
    if kind in ("number", "quantiles"):
        return values.cast(pl.Float64).fill_nan(None)
    return values.cast(pl.String).replace("", None)


def has_no_value(values: pl.Series) -> pl.Series:
    """Whether a row of `as_kind` is null, or a list without values; bool `[rows]`."""
    return values.list.len().fill_null(0) == 0 if values.dtype == pl.List(pl.String) else values.is_null()


def vocabulary_of(values: pl.Series, kind: FeatureKind | None = None) -> list[str]:
    """The different values of a column of `as_kind`, sorted; the lower bounds of `quantiles`; nothing of a `number`."""
    if kind == "number":
        return []
    if kind == "quantiles":
        return [repr(bound) for bound in lower_bounds(_finite(values))]
    values = values.explode() if values.dtype == pl.List(pl.String) else values
    distinct = values.to_frame().lazy().select(pl.first().drop_nulls().unique().sort())
    return distinct.collect(engine="streaming").to_series().to_list()  # Series.unique takes minutes for 8M strings


def mean_and_deviation(values: pl.Series) -> list[float]:
    """The mean and the standard deviation of a `number`, exactly the same in any order of rows; `[]` without numbers.

    Equal numbers have a deviation of 0.
    """
    numbers = _finite(values)
    if not numbers.size:
        return []
    mean = fsum(numbers) / numbers.size
    deviation = sqrt(fsum((numbers - mean) ** 2) / numbers.size)
    return [mean, deviation if numbers.min() < numbers.max() else 0.0]


def standardised(numbers: pl.Series, mean: float, deviation: float) -> NDArray[np.float32]:
    """Distances from the mean in standard deviations, from -`FARTHEST` to `FARTHEST`; NaN where a number is missing.

    A deviation of 0 makes all of them 0: what another number means was not in the training rows.
    """
    centred = numbers.fill_null(np.nan).to_numpy() - mean
    scaled = centred / deviation if deviation else np.where(np.isnan(centred), np.nan, 0.0)
    return np.clip(scaled, -FARTHEST, FARTHEST).astype(np.float32)


def lower_bounds(numbers: NDArray[np.float64]) -> list[float]:
    """The lowest number of each bin, rising. Up to `MOST_BINS` different numbers have a bin each.

    More are divided from the lowest on: each bin takes an equal share of the rows that are left, as nearly as whole
    numbers allow. So one number of many rows (the zeros of a count) fills a bin, and the others still have the rest.
    """
    distinct, counts = np.unique(numbers, return_counts=True)
    if distinct.size <= MOST_BINS:
        return [float(number) for number in distinct]
    through = np.cumsum(counts)  # rows up to each number and with it
    bounds, start = list[float](), 0
    for bins_left in range(MOST_BINS, 0, -1):
        if start < distinct.size:
            bounds.append(float(distinct[start]))
            before = through[start] - counts[start]
            share = (numbers.size - before) / bins_left
            start += 1 + int(np.abs(through[start:] - before - share).argmin())
    return bounds


def bin_of(numbers: pl.Series, bounds: list[str]) -> Ints:
    """The bin of each number, from 0: the last one that starts at the number or below, or else the first.

    `bounds` are as in `vocabulary_of`. A missing number has any bin.
    """
    place = np.searchsorted(np.array(bounds, dtype=np.float64), numbers.fill_null(0).to_numpy(), side="right")
    return np.maximum(place - 1, 0).astype(np.int64)


def _finite(numbers: pl.Series) -> NDArray[np.float64]:
    """The numbers that are neither missing nor too large for float32, in which the models compute."""
    found: NDArray[np.float64] = numbers.filter(numbers.abs() < np.finfo(np.float32).max).to_numpy()
    return found


def _inner(dtype: pl.DataType) -> pl.DataType:
    """The type of a list's values, or of the values themselves."""
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return inner if isinstance(inner, pl.DataType) else inner()
