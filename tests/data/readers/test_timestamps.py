"""Times since 1970 in several units, and dates, are seconds in the datasets and microseconds in tables of one's own."""

import re

import polars as pl
import pytest

from expctr.data.readers.timestamps import find_times, lost_seconds, seconds
from expctr.data.readers.values import is_missing
from expctr.errors import DataError

NOON = 1112486027  # 2005-04-02 23:53:47 UTC
TIMES = {
    "1112486027": NOON,
    "1112486027.9": NOON + 0.9,
    "1.112486027e9": NOON,
    "1112486027125": NOON + 0.125,
    "1112486027125250": NOON + 0.12525,
    "1112486027125250999": NOON + 0.12525,
    "-1": -1,
    "2005-04-02 23:53:47": NOON,
    " 2005-04-02 23:53:47 ": NOON,
    "2005-04-02T23:53:47Z": NOON,
    "2005-04-02t23:53:47z": NOON,
    "2005-04-02T23:53:47.999": NOON + 0.999,
    "2005-04-03 01:53:47+02:00": NOON,
    "2005-04-03 01:53:47.5+02": NOON + 0.5,
    "2005-04-02 18:53:47 -0500": NOON,
    "2005-04-02 23:53:47 UTC": NOON,
    "2005-04-02 23:53:47 GMT": NOON,
    "2005-04-02T23:53+00:00": NOON - 47,
    "2005/4/2 23:53:47": NOON,
    "2005-04-02 23:53": NOON - 47,
    "2005-04-02": 1112400000,
    "20050402T235347": NOON,
    "20050402T235347.5Z": NOON + 0.5,
    "2005-13-02": None,
    "2005-04-02-05": None,
    "2.4.2005": None,
    "2005092T235347": None,
    "yesterday": None,
    "nan": None,
    "inf": None,
    "": None,
    None: None,
}


def test_seconds_of_each_value() -> None:
    whole = [time if time is None else int(time) for time in TIMES.values()]
    assert seconds(pl.Series("t", [*TIMES])).to_list() == whole


@pytest.mark.parametrize(
    ("texts", "are_lost"),
    [
        (["1.70069E+12", "1.7E12", "1.70069E+09", ""], True),  # as a spreadsheet saves milliseconds
        (["1.7E+09"], True),
        (["1.6969824E9", "1.696896E9"], False),  # days: a program writes as many digits as there are
        (["1.7006881E9", "1.700688137E9", "1700688138"], False),
        (["1700688138", "1e9e"], None),
    ],
)
def test_times_of_ratings_have_lost_digits_if_all_show_it(texts: list[str], are_lost: bool | None) -> None:
    text = pl.Series("time_text", texts)
    ratings = pl.LazyFrame([text, seconds(text).alias("timestamp")]).with_columns(line="1," + pl.col("time_text"))
    lost = lost_seconds(ratings)
    assert (None if lost is None else ratings.select(lost.any()).collect().item()) == are_lost


@pytest.mark.parametrize("text", TIMES)
def test_a_column_of_the_same_text_is_read_alike(text: str | None) -> None:
    """Or, where it is neither missing nor a time, refused."""
    frame = pl.LazyFrame({"t": [text]}, schema={"t": pl.String})
    expected = TIMES[text]
    if expected is None and not frame.select(is_missing(pl.col("t"), pl.String())).collect().item():
        with pytest.raises(DataError, match=f"no time has a form that can be read, such as {re.escape(repr(text))}"):
            find_times(frame, pl.col("t"), pl.String())
        return
    found = frame.select(find_times(frame, pl.col("t"), pl.String()).micros).collect().item()
    assert found == (None if expected is None else round(expected * 10**6))


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([NOON * 40, NOON * 50, NOON]),
        pl.Series(["1912-04-14", "1912-04-15", "2012-04-14"]),
        pl.Series([-(10**8)]),
    ],
)
def test_times_that_are_mostly_in_another_century_are_refused(times: pl.Series) -> None:
    with pytest.raises(DataError, match=r"log.csv, column t: most times are before 1970 or after the year 2100.* to "):
        find_times(pl.LazyFrame({"t": times}), pl.col("t"), times.dtype, "log.csv, column t")


ODD = {
    "seconds": (NOON, [0, -1, 45_000, 315_532_799, 4_102_444_801], [315_532_800, 4_102_444_800]),
    "milliseconds": (NOON * 10**3, [0, -1, NOON, 315_532_799_999], [315_532_800_000]),
    "microseconds": (NOON * 10**6, [0, NOON, 315_532_799_999_999], [315_532_800_000_000]),
    "nanoseconds": (NOON * 10**9, [NOON, 315_532_799_999_999_999], [315_532_800_000_000_000]),
}
"""A usual time, odd ones, and the first and the last that are not odd."""


@pytest.mark.parametrize("dtype", [pl.Int64(), pl.Float64(), pl.String()])
@pytest.mark.parametrize("unit", ODD)
def test_a_time_before_1980_or_after_2100_among_others_is_a_mistake(unit: str, dtype: pl.DataType) -> None:
    usual, odd, ends = ODD[unit]
    times = pl.Series([usual] * (len(odd) + 1) + ends + odd).cast(dtype)
    found = find_times(pl.LazyFrame({"t": times}), pl.col("t"), dtype)
    assert found.form == f"{unit}, 1980-01-01 to {'2100-01-01' if unit == 'seconds' else '2005-04-02'}"
    micros = pl.LazyFrame({"t": times}).select(found.micros).collect().to_series()
    good = times.len() - len(odd)
    if not (unit == "nanoseconds" and dtype.is_float()):  # which holds no such number exactly
        assert micros[good:].null_count() == len(odd)
    assert micros[:good].null_count() == 0


@pytest.mark.parametrize("dtype", [pl.String(), pl.Date(), pl.Datetime("ns"), pl.Datetime("ms")])
def test_so_is_such_a_date(dtype: pl.DataType) -> None:
    dates = ["2024-01-01", "2024-01-02", "1980-01-01", "2100-01-01", "1979-12-31", "1900-01-01", "2262-01-01"]
    times = pl.Series(dates) if dtype == pl.String else pl.Series(dates).str.to_date().cast(dtype)
    found = find_times(pl.LazyFrame({"t": times}), pl.col("t"), dtype)
    kept = pl.LazyFrame({"t": times}).select(found.micros.is_not_null()).collect().to_series()
    assert kept.to_list() == [True] * 4 + [False] * 3


def test_counters_are_times_as_before() -> None:
    """One in two is no majority."""
    for times in ([1, 2, 3, NOON], [0, 1, NOON, NOON]):
        found = find_times(pl.LazyFrame({"t": times}), pl.col("t"), pl.Int64())
        assert found.form == "seconds"
        assert pl.LazyFrame({"t": times}).select(found.micros).collect()["t"].to_list() == [t * 10**6 for t in times]


def test_dates_in_no_known_form_are_shown() -> None:
    frame = pl.LazyFrame({"t": ["NULL", "4/30/2024 1:05 PM", "5/1/2024 9:00 AM"]})
    with pytest.raises(DataError, match=r"clicks.csv, column t: no time has a form .* such as '4/30/2024 1:05 PM'"):
        find_times(frame, pl.col("t"), pl.String(), "clicks.csv, column t")
    find_times(pl.LazyFrame({"t": ["NULL", ""]}), pl.col("t"), pl.String())  # rows without a time
