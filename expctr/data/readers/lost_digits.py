"""Numbers that lost their last digits: floats that are too large, and texts with an exponent, such as 1.23E+12.

Spreadsheets write the latter. So do programs, with all digits: they write fewer only where the last ones are 0.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

_EXPONENT = r"\d[eE]"
_WHOLE_SECONDS = 9
"""Digits after the point of a time as 1.700688139E9."""
_SINCE_1973 = 10**8  # seconds, or more in other units


def is_rounded(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether an id may have lost its last digits: as a text such as 1.23E+12 of a spreadsheet, or as a float so large
    that floats are farther apart than whole numbers, also as text.
    """
    if dtype == pl.String:
        text = r"^\s*(\d([.,]\d+)?[eE]\+\d+|\d[.,]\d+[eE]\d+|\d{16,}\.0*)\s*$"
        return value.str.contains(text).fill_null(False)
    return value.abs() >= (2**24 if dtype == pl.Float32 else 2**53) if dtype.is_float() else pl.lit(False)


def digits_of_times(value: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
    """What shows whether times lost digits, for `lost_times`: the `longest` number of digits after a point among times
    with an exponent, null without any; and whether there are `plain` numbers beside them.
    """
    if dtype != pl.String:
        return {"longest": pl.lit(None, pl.UInt32), "plain": pl.lit(False)}
    with_exponent = value.str.contains(_EXPONENT)
    number = value.cast(pl.Float64, strict=False)
    return {
        "longest": _digits(value.filter(with_exponent))[0].max(),
        "plain": (~with_exponent & (number >= _SINCE_1973)).any(),
    }


def lost_times(value: pl.Expr, dtype: pl.DataType, found: Mapping[str, Any], in_minutes: bool) -> pl.Expr:
    """Whether a time since 1970 may have lost its last digits: as float32, of which 1.7e9 is a multiple of 128, or as a
    text such as 1.7E+12, where all times are so short.

    Args:
        value: the times.
        dtype: their type.
        found: the values of `digits_of_times` in the column.
        in_minutes: all times are whole minutes, hours or days, which need fewer digits.
    """
    if dtype == pl.Float32 and not in_minutes:
        return (value.abs() >= 2**24).fill_null(False)
    if found["longest"] is None or found["longest"] >= _WHOLE_SECONDS or found["plain"] or in_minutes:
        return pl.lit(False)
    digits, exponent = _digits(value)
    return (digits < exponent).fill_null(False)


def _digits(value: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Of a number as text with an exponent: the digits after its point, and its exponent; null for other texts."""
    pattern = r"^\s*\d(?:[.,](\d+))?[eE]\+?(\d+)\s*$"
    exponent = value.str.extract(pattern, 2).cast(pl.UInt32, strict=False)
    digits = value.str.extract(pattern, 1).str.len_chars().fill_null(0)
    return pl.when(exponent.is_not_null()).then(digits), exponent
