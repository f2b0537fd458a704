"""Ratings files: their columns under all accepted headers, their types, and the rows that are not ratings."""

from pathlib import Path
from typing import Literal

import polars as pl

from expctr.data.readers.bad_rows import BAD_TIME, NOT_A_NUMBER, OUT_OF_RANGE, bad_ids, mark
from expctr.data.readers.base import RawTable
from expctr.data.readers.delimited import plain_header, read_delimited
from expctr.data.readers.files import check_file

HEADERS: dict[str, tuple[str, ...]] = {
    "user": ("user", "userid", "reviewerid"),
    "item": ("item", "itemid", "movieid", "isbn", "asin", "parentasin"),
    "rating": ("rating", "bookrating", "overall"),
    "timestamp": ("timestamp", "unixreviewtime"),
}
"""Column -> the headers that are accepted for it, without case and punctuation."""

_MILLISECONDS = 10**11  # a larger timestamp is in milliseconds (Amazon 2023); in seconds it would be the year 5138


def read_ratings(path: Path, low: float, high: float, encoding: Literal["utf-8", "latin-1"] = "utf-8") -> RawTable:
    """Reads a delimited file with the columns user, item, rating and perhaps timestamp, with or without a header.

    Ratings go from `low` to `high`. For `encoding` and errors see `read_delimited`.
    """
    check_file(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    no_header = plain_header(first).isdigit() or (path.suffix in (".data", ".dat") and "user" not in first.lower())
    order = tuple(HEADERS) if no_header else ()
    table = read_delimited(path, HEADERS, ("user", "item", "rating"), order, encoding)
    return RawTable(typed_ratings(table.frame, low, high), path)


def typed_ratings(frame: pl.LazyFrame, low: float, high: float) -> pl.LazyFrame:
    """Converts the string columns `rating` and `timestamp`, and marks the rows that are not ratings."""
    rating = pl.col("rating").cast(pl.Float32, strict=False)
    time = pl.col("timestamp").cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)  # infinity becomes null
    time = pl.when(time > _MILLISECONDS).then(time // 1000).otherwise(time)
    frame = mark(
        frame,
        *bad_ids("user", "item"),
        (rating.is_null() | rating.is_nan(), NOT_A_NUMBER, "rating"),
        (~rating.is_between(low, high), OUT_OF_RANGE, "rating"),
        (time.is_null() & (pl.col("timestamp").fill_null("") != ""), BAD_TIME, "timestamp"),
    )
    return frame.with_columns(rating.alias("rating"), time.alias("timestamp"))
