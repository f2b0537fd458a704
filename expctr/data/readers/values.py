"""Labels, times, ids and lists of tables of one's own, which people write in many ways."""

from typing import NamedTuple

import polars as pl

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts in place of a number that is missing."""

TRUTHS = dict.fromkeys(("1", "1.0", "true", "t", "yes", "y", "yes."), 1.0) | dict.fromkeys(
    ("0", "0.0", "false", "f", "no", "n", "no."), 0.0
)
_UNITS = {"seconds": 10**11, "milliseconds": 10**14, "microseconds": 10**17, "nanoseconds": 2**63}
"""Unit -> the first number that is too large for it: in seconds 10^11 would be the year 5138."""

_ISO = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d", "%Y%m%dT%H%M%S")
_ISO_ZONED = ("%+", "%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%dT%H:%M%z")


def as_id(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """An id as text. Whole numbers that a missing value turned into floats (28.0) lose their point."""
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        value = pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.fill_nan(None).cast(pl.String))
    value = value.cast(pl.String)
    return value.str.strip_chars() if dtype == pl.String else value


def as_label(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """1 or 0 as float32, null for what is neither."""
    if dtype == pl.String:
        text = value.str.strip_chars().str.to_lowercase()
        return text.replace_strict(TRUTHS, default=None, return_dtype=pl.Float32)
    number = value.cast(pl.Float32, strict=False)
    return pl.when(number.is_in([0.0, 1.0])).then(number)


def as_number(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A number as float64, null for what is none; of dates and times, seconds."""
    if dtype == pl.String:
        value = value.str.strip_chars()
    elif dtype.is_temporal():
        value = value.cast(pl.Datetime("us")) if isinstance(dtype, pl.Date | pl.Datetime) else value
        return value.cast(pl.Int64).cast(pl.Float64) / 10**6
    number = value.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def is_missing(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether there is no number, or a text that says so."""
    if dtype == pl.String:
        return value.is_null() | value.str.strip_chars().is_in(MISSING)
    return value.is_null() | value.is_nan() if dtype.is_float() else value.is_null()


def as_list(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A list of texts, of a list, of JSON text, or of text separated by `|`. A missing list is empty."""
    if isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    if dtype == pl.String:
        text = value.str.strip_chars()
        quoted = text.str.extract_all(r'"(?:[^"\\]|\\.)*"|[^\s,\[\]"]+')  # strings, or numbers without quotes
        quoted = quoted.list.eval(pl.element().str.strip_chars('"').str.replace_all(r"\\(.)", "$1"))
        parts = text.str.split("|").list.eval(pl.element().str.strip_chars())
        value = pl.when(is_json_list(text)).then(quoted).otherwise(parts)
    texts = value.cast(pl.List(pl.String)).list.drop_nulls()
    return texts.list.filter(pl.element() != "").fill_null(pl.lit([], pl.List(pl.String)))


def is_json_list(text: pl.Expr) -> pl.Expr:
    """Whether a text looks like a list of JSON."""
    return text.str.contains(r'^\[\s*(["\d\]-]|true|false|null)') & text.str.ends_with("]")  # "[REC]" is a title


class Times(NamedTuple):
    """How the times of one column are written."""

    form: str
    """The unit or the form, with the first and the last day, for people."""
    micros: pl.Expr
    """Microseconds since 1970, int64; null for a time that is missing or unlike most others."""


def find_times(frame: pl.LazyFrame, value: pl.Expr, dtype: pl.DataType) -> Times:
    """Finds the form that most values of a column have. One number does not say its unit, but all of them do."""
    forms = _forms(value, dtype)
    about = [
        [v.count().alias(f"{n} count"), v.min().alias(f"{n} min"), v.max().alias(f"{n} max")] for n, v in forms.items()
    ]
    found = frame.select(*(expr for three in about for expr in three)).collect(engine="streaming").row(0, named=True)
    form = max(forms, key=lambda name: found[f"{name} count"])
    days = [_day(found[f"{form} {end}"]) for end in ("min", "max")]
    return Times(f"{form}, {' to '.join(days)}" if all(days) else form, forms[form])


def _day(micros: int | None) -> str:
    """A day since 1980, the first of which data are likely."""
    if micros is None or micros < 315_532_800_000_000:
        return ""
    return str(pl.Series([micros // 86_400_000_000], dtype=pl.Int32).cast(pl.Date)[0])


def _forms(value: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
    """Form -> microseconds of the values that have this form, null for all others."""
    if isinstance(dtype, pl.Datetime | pl.Date):
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            value = value.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return {"dates and times": value.cast(pl.Datetime("us")).cast(pl.Int64)}
    if dtype == pl.String:
        value = value.str.strip_chars()
    whole, number = value.cast(pl.Int64, strict=False), value.cast(pl.Float64, strict=False)
    forms: dict[str, pl.Expr] = {}
    low = 0
    for unit, high in _UNITS.items():
        inside = (number.abs() >= low) & (number.abs() < high)
        scale = {"seconds": 10**6, "milliseconds": 10**3, "microseconds": 1}.get(unit)
        exact = whole * scale if scale else whole // 1000
        rounded = (number * scale if scale else number / 1000).cast(pl.Int64, strict=False)
        # a fraction counts only where the number is not whole
        forms[unit] = pl.when(inside).then(pl.when(whole == number).then(exact).otherwise(rounded))
        low = high
    if dtype == pl.String:
        text = pl.when(number.is_null()).then(
            value.str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T").str.replace(r"\s*(Z|UTC|GMT)$", "+00:00")
        )
        zoned = [text.str.to_datetime(f, time_unit="us", time_zone="UTC", strict=False) for f in _ISO_ZONED]
        plain = [text.str.to_datetime(f, time_unit="us", time_zone=None, strict=False) for f in _ISO]
        utc = [one.dt.replace_time_zone(None) for one in zoned]
        forms["ISO 8601"] = pl.coalesce(*utc, *plain).cast(pl.Int64)
    return forms
