"""Tables of tiny datasets."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from expctr.data.readers.bad_rows import OnBadRow
from expctr.data.readers.base import RawTable, RawTables


def write(folder: Path, contents: Mapping[str, str | bytes]) -> Path:
    """Writes files into a folder, and returns the folder."""
    for name, content in contents.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def rows(table: RawTable, on_bad_row: OnBadRow = "error") -> list[dict[str, object]]:
    """A table's good rows, without the columns about problems."""
    own = [c for c in table.frame.collect_schema().names() if c not in ("row", "place", "line", "problem", "column")]
    return table.collect(own, on_bad_row, Counter()).to_dicts()


def make_tables(ratings: list[tuple[str, str, float, int | None]], **more: pl.DataFrame) -> RawTables:
    """Tables in memory: (user, item, rating, timestamp); item `i` is called "Title i"."""
    schema = {"user": pl.String, "item": pl.String, "rating": pl.Float32, "timestamp": pl.Int64}
    interactions = pl.DataFrame(ratings, schema=schema, orient="row")
    titles = interactions.select(pl.col("item").unique().sort()).with_columns(title="Title " + pl.col("item"))
    return RawTables(
        in_memory(more.get("interactions", interactions)),
        in_memory(more.get("items", titles)),
        in_memory(more["users"]) if "users" in more else None,
    )


def in_memory(frame: pl.DataFrame) -> RawTable:
    about = {"problem": pl.lit(None, pl.String), "column": pl.lit(None, pl.String), "line": pl.lit("")}
    return RawTable(frame.lazy().with_columns(row=pl.int_range(1, pl.len() + 1), **about), Path("memory"))
