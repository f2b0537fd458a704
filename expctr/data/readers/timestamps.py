"""Times as numbers since 1970 in several units, as dates, and as texts of either.

The datasets' files need one answer per value, and get seconds (`seconds`). Tables of one's own have a form per column,
which is found in all its values (`find_times`), and get microseconds.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from expctr.data.readers.lost_digits import digits_of_times, lost_times
from expctr.data.readers.values import is_missing
from expctr.errors import DataError


class _Unit(NamedTuple):
    name: str
    per_second: int
    below: int
    """The first number that is too large for the unit: in seconds 10^11 would be the year 5138."""


_UNITS = (
    _Unit("seconds", 1, 10**11),
    _Unit("milliseconds", 10**3, 10**14),
    _Unit("microseconds", 10**6, 10**17),
    _Unit("nanoseconds", 10**9, 2**63),
)
_POSSIBLE = (-86_400 * 10**6, 4_102_444_800 * 10**6)  # microseconds: 1970, in any time zone, and the year 2100
_LIKELY = (315_532_800 * 10**6, _POSSIBLE[1])  # from 1980 on; most data are younger, and counters are not
_EARLY = (0, 31_536_000 * 10**6)  # 1970
_NAME_COLUMN = "or name another column in data.columns.timestamp"
_NAME_TIMES = "name the column of times in data.columns.timestamp, or "
_LARGE = r"(^|[^\w.])[1-9]([.,]\d+)?[eE]\+?(09|9|1\d)($|\W)"  # a number with an exponent, from 1e9 on
_USUAL = "%Y-%m-%d %H:%M:%S%.f"
_BASIC = r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)"  # 20050402T235347
_DATE = r"(?i)^(\d{4}[-/]\d\d?[-/]\d\d?)(?:[T ](\d\d?:\d\d)(:\d\d(?:\.\d+)?)? ?(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?)?$"


class Times(NamedTuple):
    """How the times of one column are written."""

    form: str
    """The unit or the form, and where most times are likely also the first and the last day, for people."""
    micros: pl.Expr
    """Microseconds since 1970, int64; null for a time that is missing or unlike most others."""
    are_likely: bool
    """Whether most are from 1980 to 2100."""
    are_early: bool
    """Whether most are within 1970, as counters and durations are."""
    is_rounded: pl.Expr
    """Whether a time may have lost its last digits, as float32 or as a text such as 1.7E+12; see `lost_times`."""
    mixed: str = ""
    """Where many are from 1980 to 2100, but not most: how many, and the first and the last day of all, for people."""


def seconds(text: pl.Series) -> pl.Series:
    """Seconds since 1970 (int64) of texts, each of which may be a number in any unit or a date; null for anything else.

    For numbers see `find_times`, for dates `micros_of_dates`; whether numbers lost digits only all of them show, see
    `lost_seconds`.
    """
    time = text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)  # NaN and infinity become null
    if (time.abs() >= _UNITS[0].below).any():
        size = pl.lit(time).abs()
        *smaller, largest = _UNITS
        divisor = pl.coalesce(*(pl.when(size < unit.below).then(unit.per_second) for unit in smaller))
        time = pl.select(pl.lit(time) // divisor.fill_null(largest.per_second)).to_series()
    others = (time.is_null() & text.is_not_null()).arg_true()
    if others.len():
        time = time.scatter(others, micros_of_dates(text.gather(others)) // 10**6)
    return time.alias(text.name)


def lost_seconds(frame: pl.LazyFrame) -> pl.Expr | None:
    """Whether a time may have lost its last digits, see `lost_times`; None if no line has a number with an exponent.

    Args:
        frame: all ratings: `line`, `time_text`, and `timestamp` as `seconds` reads it.
    """
    if not frame.select(pl.col("line").str.contains(_LARGE).any()).collect(engine="streaming").item():
        return None  # without splitting the lines
    text = pl.col("time_text")
    about = digits_of_times(text, pl.String())
    found = frame.select(minutes=(pl.col("timestamp") % 60 == 0).all(), **about).collect(engine="streaming")
    return lost_times(text, pl.String(), found.row(0, named=True), found["minutes"].item())


def find_times(
    frame: pl.LazyFrame, value: pl.Expr, dtype: pl.DataType, where: str = "", fix: str = _NAME_COLUMN
) -> Times:
    """Finds the form that most values of a column have. One number does not say its unit, but all of them do.

    Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970. For texts of dates see `micros_of_dates`.
    Where most times are from 1980 to 2100, another one is a mistake, such as 0, 9999 or days of a spreadsheet.

    Raises:
        DataError: no time has one of these forms, or most are before 1970 or after the year 2100; it names `where` they
            are, and ends with a `fix`.
    """
    forms = _forms(value, dtype)
    likely = {name: pl.when(v.is_between(*_LIKELY)).then(v) for name, v in forms.items()}
    first = value.filter(~is_missing(value, dtype)).first()
    about = [
        expr.alias(f"{name} {what}")
        for name, v in forms.items()
        for what, expr in {
            "count": v.count(),
            "min": v.min(),
            "max": v.max(),
            "far": (~v.is_between(*_POSSIBLE)).sum(),
            "likely": likely[name].count(),
            "early": v.is_between(*_EARLY).sum(),
            "first": likely[name].min(),
            "last": likely[name].max(),
            "minutes": (v % 60_000_000 == 0).all(),
        }.items()
    ]
    found = (
        frame.select(*about, first=first, **digits_of_times(value, dtype))
        .collect(engine="streaming")
        .row(0, named=True)
    )
    if found["first"] is not None and not any(found[f"{name} count"] for name in forms):
        raise DataError(
            f"{where}: no time has a form that can be read, such as {repr(found['first'])[:120]}. Fix: write dates "
            f"as 2024-04-30 13:05:00 or as seconds since 1970, {fix}"
        )
    form = max(forms, key=lambda name: found[f"{name} count"])
    if found[f"{form} far"] > found[f"{form} count"] / 2:
        raise DataError(
            f"{where}: most times are before 1970 or after the year 2100, if these are {form}: "
            f"{_day(found[f'{form} min'])} to {_day(found[f'{form} max'])}. "
            f"Fix: write seconds since 1970 or dates, {fix}"
        )
    is_rounded = lost_times(value, dtype, found, found[f"{form} minutes"])
    if found[f"{form} likely"] > found[f"{form} count"] / 2:
        days = f"{_day(found[f'{form} first'])} to {_day(found[f'{form} last'])}"
        return Times(f"{form}, {days}", likely[form], True, False, is_rounded)
    share, mixed = found[f"{form} likely"] / max(1, found[f"{form} count"]), ""
    if share > 0.05:
        days = f"{_day(found[f'{form} min'])} to {_day(found[f'{form} max'])}"
        mixed = f"only {share:.0%} of the times, which are {days}, are from 1980 to 2100"
    are_early = found[f"{form} early"] > found[f"{form} count"] / 2
    return Times(form, forms[form], False, are_early, is_rounded, mixed)


def doubtful_times(times: Times, frame: pl.LazyFrame, user: pl.Expr, where: str, fix: str = _NAME_TIMES) -> list[str]:
    """What looks wrong if many times are no likely ones, or most are within 1970: a counter of events is no mistake."""
    if times.mixed:
        return [f"{where}: {times.mixed}. Fix: {fix}write all times in one form, and leave out rows without a time"]
    if not times.are_early or _is_counter(frame, times.micros, user):
        return []
    return [
        f"{where}: most times are within 1970: is it a duration, or a date as one number? Fix: {fix}write dates as "
        "2024-04-30"
    ]


def _is_counter(frame: pl.LazyFrame, micros: pl.Expr, user: pl.Expr) -> bool:
    """Whether times count events: each user's rise, in the order of the rows, or all are different."""
    times = frame.select(user=user, time=micros).drop_nulls()
    falls = (pl.col("time").diff().over("user") < 0).any()
    return bool(times.select(~falls | pl.col("time").is_unique().all()).collect(engine="streaming").item())


def micros_of_dates(text: pl.Series) -> pl.Series:
    """Microseconds since 1970 (int64) of dates; null for anything else.

    Dates are those of ISO 8601, with or without a time and an offset, and looser ones: 2005-04-02, 2005/4/2 23:53,
    2005-04-02T23:53:47.5+02:00, 2005-04-02 23:53:47 GMT, 20050402T235347Z. A time without an offset is UTC.
    """
    dates = text.str.to_datetime(_USUAL, time_unit="us", strict=False)
    if dates.null_count() > text.null_count():  # slower, so only if some date is written in another way
        dashed = pl.lit(text).str.strip_chars().str.replace(_BASIC, "${1}-${2}-${3}T${4}:${5}:${6}")
        part = dashed.str.extract_groups(_DATE).struct
        whole = pl.concat_str(
            part[0].str.replace_all("/", "-", literal=True),
            pl.lit(" "),
            part[1].fill_null("00:00"),
            part[2].fill_null(":00"),
            part[3].str.replace("(?i)^[A-Z]+$", "Z").fill_null("Z"),
        )
        parsed = whole.str.to_datetime(f"{_USUAL}%#z", time_unit="us", time_zone="UTC", strict=False)
        dates = pl.select(parsed).to_series()
    return dates.dt.epoch("us")


def _forms(value: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
    """Form -> microseconds of the values that have this form, null for all others."""
    if isinstance(dtype, pl.Datetime | pl.Date):
        return {"dates and times": value.cast(pl.Datetime("us")).cast(pl.Int64)}
    if dtype == pl.String:
        value = value.str.strip_chars()
    whole, number = value.cast(pl.Int64, strict=False), value.cast(pl.Float64, strict=False)
    forms: dict[str, pl.Expr] = {}
    low = 0
    for unit, per_second, below in _UNITS:
        inside = (number.abs() >= low) & (number.abs() < below)
        exact = whole * (10**6 // per_second) if per_second <= 10**6 else whole // (per_second // 10**6)
        rounded = (number * (10**6 / per_second)).cast(pl.Int64, strict=False)
        # a fraction counts only where the number is not whole
        forms[unit] = pl.when(inside).then(pl.when(whole == number).then(exact).otherwise(rounded))
        low = below
    if dtype == pl.String:
        text = pl.when(number.is_null()).then(value)
        forms["dates and times"] = text.map_batches(micros_of_dates, pl.Int64, is_elementwise=True)
    return forms


def _day(micros: int) -> str:
    return str(np.datetime64(micros, "us").astype("datetime64[D]"))
