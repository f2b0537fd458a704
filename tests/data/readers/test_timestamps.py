"""Times since 1970 in several units, and dates, are seconds; anything else is null."""

import polars as pl

from expctr.data.readers.timestamps import seconds

NOON = 1112486027  # 2005-04-02 23:53:47 UTC


def test_numbers_and_dates() -> None:
    times = {
        "1112486027": NOON,
        "1112486027.9": NOON,
        "1.112486027e9": NOON,
        "1112486027123": NOON,
        "1112486027123456": NOON,
        "1112486027123456789": NOON,
        "-1": -1,
        "2005-04-02 23:53:47": NOON,
        "2005-04-02T23:53:47Z": NOON,
        "2005-04-02T23:53:47.999": NOON,
        "2005-04-03 01:53:47+02:00": NOON,
        "2005-04-02 18:53:47 -0500": NOON,
        "2005-04-02 23:53:47 UTC": NOON,
        "2005/4/2 23:53:47": NOON,
        "2005-04-02 23:53": NOON - 47,
        "2005-04-02": 1112400000,
        "2005-13-02": None,
        "2.4.2005": None,
        "yesterday": None,
        "nan": None,
        "inf": None,
        "": None,
    }
    assert seconds(pl.Series("t", [*times])).to_list() == [*times.values()]
    assert seconds(pl.Series("t", ["1", None])).to_list() == [1, None]
