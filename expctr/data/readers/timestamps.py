"""Times as text: numbers since 1970 in several units, and dates."""

import polars as pl

_UNITS = {10**17: 10**9, 10**14: 10**6, 10**11: 10**3}
"""A larger number than the first is in nano-, micro- or milliseconds; in seconds 10**11 would be the year 5138."""
_DATE = r"^(\d{4}[-/]\d\d?[-/]\d\d?)(?:[T ](\d\d?:\d\d)(:\d\d(?:\.\d+)?)?)? ?(Z|UTC|[+-]\d\d:?\d\d)?$"


def seconds(text: pl.Series) -> pl.Series:
    """Seconds since 1970 (int64) of numbers and dates; null for anything else.

    Numbers may be seconds, milliseconds, microseconds or nanoseconds. Dates are ISO 8601, with or without a time and an
    offset: 2005-04-02, 2005-04-02 23:53:47, 2005-04-02T23:53:47.5+02:00. A time without an offset is UTC.
    """
    time = text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)  # NaN and infinity become null
    size = pl.lit(time).abs()
    divisor = pl.coalesce(*(pl.when(size > least).then(unit) for least, unit in _UNITS.items()), 1)
    time = pl.select(pl.lit(time) // divisor).to_series()
    if time.null_count() == text.null_count():
        return time.alias(text.name)
    part = pl.lit(text).str.strip_chars().str.extract_groups(_DATE).struct
    date = pl.concat_str(
        part[0].str.replace_all("/", "-", literal=True),
        pl.lit(" "),
        part[1].fill_null("00:00"),
        part[2].fill_null(":00"),
        part[3].str.replace("UTC", "Z", literal=True).fill_null("Z"),
    )
    parsed = date.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%#z", time_unit="us", time_zone="UTC", strict=False)
    return pl.select(pl.coalesce(pl.lit(time), parsed.dt.epoch("s")).alias(text.name)).to_series()
