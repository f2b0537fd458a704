"""Times as text: numbers since 1970 in several units, and dates."""

import polars as pl

_UNITS = {10**17: 10**9, 10**14: 10**6, 10**11: 10**3}
"""A larger number than the first is in nano-, micro- or milliseconds; in seconds 10**11 would be the year 5138."""
_USUAL = "%Y-%m-%d %H:%M:%S%.f"
_DATE = r"^(\d{4}[-/]\d\d?[-/]\d\d?)(?:[T ](\d\d?:\d\d)(:\d\d(?:\.\d+)?)?)? ?(Z|UTC|[+-]\d\d:?\d\d)?$"


def seconds(text: pl.Series) -> pl.Series:
    """Seconds since 1970 (int64) of numbers and dates; null for anything else.

    Numbers may be seconds, milliseconds, microseconds or nanoseconds. Dates are ISO 8601, with or without a time and an
    offset: 2005-04-02, 2005-04-02 23:53:47, 2005-04-02T23:53:47.5+02:00. A time without an offset is UTC.
    """
    time = text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)  # NaN and infinity become null
    if (time.abs() > min(_UNITS)).any():
        size = pl.lit(time).abs()
        divisor = pl.coalesce(*(pl.when(size > least).then(unit) for least, unit in _UNITS.items()), 1)
        time = pl.select(pl.lit(time) // divisor).to_series()
    others = (time.is_null() & text.is_not_null()).arg_true()
    if others.len():
        time = time.scatter(others, _seconds_of_dates(text.gather(others)))
    return time.alias(text.name)


def _seconds_of_dates(text: pl.Series) -> pl.Series:
    dates = text.str.to_datetime(_USUAL, time_unit="us", strict=False)
    if dates.null_count():
        part = pl.lit(text).str.strip_chars().str.extract_groups(_DATE).struct
        whole = pl.concat_str(
            part[0].str.replace_all("/", "-", literal=True),
            pl.lit(" "),
            part[1].fill_null("00:00"),
            part[2].fill_null(":00"),
            part[3].str.replace("UTC", "Z", literal=True).fill_null("Z"),
        )
        parsed = whole.str.to_datetime(f"{_USUAL}%#z", time_unit="us", time_zone="UTC", strict=False)
        dates = pl.select(parsed).to_series()
    return dates.dt.epoch("s")
