"""Bad rows of raw files: what can be wrong, how to fix it, and how readers mark them.

A marked row lets `RawTable.collect` either raise the first bad row or count and skip all of them.
"""

from collections import Counter
from typing import Literal

import polars as pl

OnBadRow = Literal["error", "skip"]

TOO_FEW, TOO_MANY, BAD_CSV = "too few columns", "too many columns", "not a row of CSV"
HEADER = "the header again"
UNDECODABLE, NUL = "undecodable bytes", "NUL byte"
NOT_JSON, NO_ID, ROUNDED_ID = "not a JSON object", "no user or item id", "id is a number that lost its last digits"
NESTED_ID, NESTED_TITLE = "id is an object or a list", "title is an object or a list"
NOT_A_NUMBER, OUT_OF_RANGE = "rating is not a number", "rating out of range"
NO_TIME, BAD_TIME, OTHER_TIME = "no timestamp", "timestamp is not a time", "timestamp is unlike most others"
ROUNDED_TIME = "timestamp is a number that lost its last digits"
BAD_LABEL, BAD_SPLIT = "label is neither 1 nor 0", "split is none of train, val and test"
BAD_FEATURE, BAD_HISTORY = "feature is not of its kind", "history and its labels do not match"
BAD_TITLES, BAD_LIST = "titles cannot be told apart", "list cannot be read"
FIXES = {  # {scale} and {path} are those of the table
    TOO_FEW: "give the row all its columns",
    TOO_MANY: "put quotes around the value that contains the delimiter",
    BAD_CSV: "close each quote, and double a quote inside a value (Spark: escape='\"'; R: qmethod='double')",
    HEADER: "delete this line; if the file was joined from several, name their folder or a pattern instead",
    UNDECODABLE: "save the whole file in one encoding, UTF-8",
    NUL: "the file is damaged or not a text file; download it again",
    NOT_JSON: "write one JSON object per line",
    NO_ID: "give the row a user id and an item id",
    ROUNDED_ID: "write ids as whole numbers or texts, in all files; a column of floats holds 15 digits",
    NESTED_ID: "write the id itself, as a text or a number, in all rows",
    NESTED_TITLE: "write the title itself, as a text, in all rows",
    NOT_A_NUMBER: "write a number",
    OUT_OF_RANGE: "use the rating scale, {scale}; labels of 0 and 1, such as clicks, are read with --data "
    "TableDataModule --data.interactions {path}",
    NO_TIME: "write seconds since 1970 or a date, or order ratings at random with data.samples.order: shuffle",
    BAD_TIME: "write seconds since 1970, or a date such as 2005-04-02 23:53:47",
    OTHER_TIME: "write all times in one form and one unit; where most are from 1980 to 2100, another year is a mistake",
    ROUNDED_TIME: "write whole numbers or dates, in all files; a column of 32-bit floats holds 7 digits",
    BAD_LABEL: "write 1 or 0, true or false; a rating belongs in data.columns.rating, with data.samples.threshold",
    BAD_SPLIT: "write train, val or test",
    BAD_FEATURE: "correct the value, or choose the kind category in data.features",
    BAD_HISTORY: "give each entry of the history one label, 1 or 0",
    BAD_TITLES: "write each title in double quotes, with a comma after it",
    BAD_LIST: 'write the whole list as ["Heat", "Fargo"] or as Heat|Fargo',
}
MISSING = "value that is not of its kind, and counts as missing"
"""The reason for a feature's bad value, if bad rows are skipped: its row stays."""
PROBLEM = pl.Enum(list(FIXES))
"""Type of the column `problem`. An enum takes one byte per row; the column is read for every row."""


def marked(problem: str) -> pl.Expr:
    """The constant that marks a row as bad."""
    return pl.lit(problem, PROBLEM)


def has_row() -> pl.Expr:
    """Whether a row stays if bad rows are skipped: it is good, or only the value of a feature is bad."""
    return pl.col("problem").is_null() | (pl.col("problem").cast(pl.String) == BAD_FEATURE)


def take_missing(skipped: Counter[str]) -> list[str]:
    """Takes values that count as missing out of what was skipped, so that it counts rows; returns them in words."""
    return [f"{reason}: {skipped.pop(reason):,}" for reason in [*skipped] if reason.endswith(MISSING)]


def bad_ids(name: str, shown: str = "") -> list[tuple[pl.Expr, str, str]]:
    """The checks of an id column for `mark`; `shown` is what the file calls it, if that is something else."""
    ids = pl.col(name)
    return [
        (ids.fill_null("") == "", NO_ID, shown or name),
        (ids.str.contains("\0", literal=True), NUL, shown or name),
    ]


def mark(frame: pl.LazyFrame, *checks: tuple[pl.Expr, str, str]) -> pl.LazyFrame:
    """Marks the rows that fail a check (condition, problem, column), unless marked already; the first one counts."""
    problems = [pl.when(bad).then(marked(problem)) for bad, problem, _ in checks]
    columns = [pl.when(bad).then(pl.lit(column)) for bad, _, column in checks]
    return frame.with_columns(
        pl.coalesce("problem", *problems).alias("problem"),
        pl.when(pl.col("problem").is_null()).then(pl.coalesce(columns)).otherwise("column").alias("column"),
    )
