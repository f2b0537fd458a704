"""Ratings files: their columns under all accepted headers, their types, and the rows that are not ratings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from expctr.data.readers.bad_rows import BAD_TIME, NO_ID, NO_TIME, NOT_A_NUMBER, OUT_OF_RANGE, ROUNDED_ID, bad_ids, mark
from expctr.data.readers.base import RawTable
from expctr.data.readers.delimited import plain_header, read_delimited
from expctr.data.readers.files import plain_name
from expctr.data.readers.lines import Encoding
from expctr.data.readers.lost_digits import is_rounded
from expctr.data.readers.timestamps import seconds
from expctr.data.readers.values import as_key

HEADERS: dict[str, tuple[str, ...]] = {
    "user": ("user", "userid", "reviewerid"),
    "item": ("item", "itemid", "movieid", "isbn", "asin", "parentasin"),
    "rating": ("rating", "bookrating", "overall"),
    "timestamp": ("timestamp", "unixreviewtime", "ts", "unixtime", "time", "datetime", "date"),
}
"""Column -> the headers that are accepted for it, without case and punctuation."""

Scale = tuple[float, float, str]
"""Lowest and highest rating, and whose scale it is."""


def read_ratings(
    path: Path,
    scale: Scale,
    encoding: Encoding = "utf-8",
    order: Callable[[Sequence[str]], Sequence[str]] | None = None,
    any_item: bool = False,
) -> RawTable:
    """Reads a delimited file with the columns user, item, rating and perhaps timestamp, with or without a header.

    For `encoding` and errors see `read_delimited`. `order` finds the columns of a file by its first lines,
    by default user, item, rating, timestamp if they have no header. For `any_item` see `typed_ratings`.
    """
    named = Path(plain_name(path.name)).suffix in (".data", ".dat")

    def usual(head: Sequence[str]) -> Sequence[str]:
        no_header = plain_header(head[0]).isdigit() or (named and "user" not in head[0].lower())
        return tuple(HEADERS) if no_header else ()

    table = read_delimited(path, HEADERS, ("user", "item", "rating"), order or usual, encoding)
    frame = typed_ratings(table.frame, *scale[:2], "timestamp" not in table.absent, any_item)
    return replace(table, frame=frame, scale=described(scale), has_single_times=True)


def described(scale: Scale) -> str:
    return f"{scale[0]:g} to {scale[1]:g} for {scale[2]}"


def typed_ratings(
    frame: pl.LazyFrame, low: float, high: float, is_timed: bool = True, any_item: bool = False
) -> pl.LazyFrame:
    """Converts the string columns `rating` and `timestamp`, and marks the rows that are not ratings.

    The texts of the times stay as `time_text`, for `lost_seconds`.

    Args:
        frame: with the strings.
        low: the lowest rating.
        high: the highest rating.
        is_timed: whether each row must have a timestamp.
        any_item: whether any text may name an item; otherwise it is bad if it says that there is none, or is a number
            that lost its last digits, as that of a user is.
    """
    rating = pl.col("rating").cast(pl.Float32, strict=False)
    no_time = pl.col("timestamp").fill_null("") == ""
    frame = frame.with_columns(pl.col("timestamp").map_batches(seconds, pl.Int64, is_elementwise=True).alias("time"))
    ids = [pl.col(name) for name in (("user",) if any_item else ("user", "item"))]
    frame = mark(
        frame,
        *bad_ids("user"),
        *bad_ids("item"),
        *((as_key(value, pl.String()).is_null(), NO_ID, value.meta.output_name()) for value in ids),
        *((is_rounded(value, pl.String()), ROUNDED_ID, value.meta.output_name()) for value in ids),
        (rating.is_null() | rating.is_nan(), NOT_A_NUMBER, "rating"),
        (~rating.is_between(low, high), OUT_OF_RANGE, "rating"),
        (no_time & is_timed, NO_TIME, "timestamp"),
        (pl.col("time").is_null() & ~no_time, BAD_TIME, "timestamp"),
    )
    typed = {"rating": rating, "timestamp": pl.col("time"), "time_text": pl.col("timestamp")}
    return frame.with_columns(**typed).drop("time")
