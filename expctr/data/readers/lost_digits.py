"""Numbers that lost their last digits: floats that are too large, and texts with an exponent, such as 1.23E+12.

Spreadsheets write the latter, with at most 5 digits after the point. So do programs, with all digits: they write fewer
only where the last ones are 0. R writes a number with an exponent only where that is shorter.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

_EXPONENT = r"\d[eE]"
_WHOLE_SECONDS, _WHOLE_DAYS = 9, 7
"""Digits after the point of most times, as in 1.700688139E9, and of most days, as in 1.7006112E9."""
_SHORTER = 6
"""Zeros that a number ends with at least, if it is shorter with an exponent, as 1.700688e+12 is; most have no more."""
_RARE = 1 / 50
"""At most so many numbers are shorter with an exponent, if they have nothing in common."""
_MORE_USUAL = 3
"""Times as many rows one time may have as others have on average: 1.7e+09 is shorter, too, and may be the only one."""
_STEPS = (60, 3600, 86400)  # in a larger unit such times are multiples of these, too
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
    """What shows whether times lost digits, for `lost_times`: of those with an exponent the `longest` number of digits
    after a point, the fewest last `zeros`, null without any, and whether they are `one` time, which is a whole minute,
    hour or day if all plain ones are; how many `short` and `plain` ones there are; and roughly how many `different`
    plain ones.
    """
    if dtype != pl.String:
        names = ("longest", "zeros", "one", "short", "plain", "different")
        return {name: pl.lit(None, pl.Int64) for name in names}
    with_exponent = value.str.contains(_EXPONENT)
    digits, exponent = _digits(value.filter(with_exponent))
    number = value.cast(pl.Float64, strict=False)
    short, plain = number.filter(with_exponent), number.filter(~with_exponent & (number >= _SINCE_1973))
    return {
        "longest": digits.max(),
        "zeros": (exponent - digits).min(),
        "one": pl.all_horizontal(
            short.min() == short.max(), *((plain % step != 0).any() | (short % step == 0).all() for step in _STEPS)
        ),
        "short": short.count(),
        "plain": plain.count(),
        "different": plain.approx_n_unique(),
    }


def lost_times(value: pl.Expr, dtype: pl.DataType, found: Mapping[str, Any], in_minutes: bool) -> pl.Expr:
    """Whether a time since 1970 may have lost its last digits: as float32, of which 1.7e9 is a multiple of 128, or as a
    text such as 1.7E+12, where all times with an exponent are so short, and no program would write so many of them.

    Args:
        value: the times.
        dtype: their type.
        found: the values of `digits_of_times` in the column.
        in_minutes: all times are whole minutes, hours or days, which need fewer digits.
    """
    if dtype == pl.Float32 and not in_minutes:
        return (value.abs() >= 2**24).fill_null(False)
    longest, zeros, short, plain = (found[name] for name in ("longest", "zeros", "short", "plain"))
    if longest is None or longest >= (_WHOLE_DAYS if in_minutes else _WHOLE_SECONDS):
        return pl.lit(False)
    is_rare = in_minutes or short <= _RARE * plain
    is_usual = plain and found["one"] and short <= _MORE_USUAL * plain / found["different"]
    if plain and ((zeros == _SHORTER and is_rare) or is_usual):
        return pl.lit(False)
    digits, exponent = _digits(value)
    return (digits < exponent).fill_null(False)


def _digits(value: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Of a number as text with an exponent: the digits after its point, and its exponent; null for other texts."""
    pattern = r"^\s*\d(?:[.,](\d+))?[eE]\+?(\d+)\s*$"
    exponent = value.str.extract(pattern, 2).cast(pl.Int64, strict=False)
    digits = value.str.extract(pattern, 1).str.len_chars().cast(pl.Int64).fill_null(0)
    return pl.when(exponent.is_not_null()).then(digits), exponent
