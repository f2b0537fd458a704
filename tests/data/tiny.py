"""Tables of tiny datasets."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from expctr.data.feature_kinds import FeatureKind
from expctr.data.readers.bad_rows import OnBadRow
from expctr.data.readers.base import RawTable, RawTables


def write(folder: Path, contents: Mapping[str, str | bytes]) -> Path:
    """Writes files into a folder, and returns the folder."""
    for name, content in contents.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def rows(table: RawTable, on_bad_row: OnBadRow = "error") -> list[dict[str, object]]:
    """A table's good rows, without the columns about problems."""
    about = ("row", "place", "line", "problem", "column", "time_text")
    own = [c for c in table.frame.collect_schema().names() if c not in about]
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


KINDS: dict[str, FeatureKind] = {"target_brand": "category", "target_price": "number", "target_stock": "quantiles"}
"""Kinds of `typed_samples` that its types do not say."""


def typed_samples(count: int = 24) -> pl.DataFrame:
    """Samples with a side feature of each kind, of which every fifth row has none; the last third are test rows."""
    present = pl.int_range(count, eager=True) % 5 != 4
    numbers = [float(i % 7) for i in range(count)]
    ids = [["x"], ["y", "z"], []] * (count // 3)
    side = pl.DataFrame(
        {
            "target_price": numbers,
            "target_stock": [int(number) for number in numbers],
            "target_brand": ["red", "blue", "green"] * (count // 3),
            "target_sizes": [[40, 41], [42], []] * (count // 3),
            "user_member": [True, False, False] * (count // 3),
        }
    ).select(pl.when(present).then(pl.all()))
    made = pl.DataFrame(
        {
            "sample": range(count),
            "split": ["train"] * (count - count // 3) + ["test"] * (count // 3),
            "user": [f"u{i % 4}" for i in range(count)],
            "target": ["x", "y", "z"] * (count // 3),
            "target_title": "A title",
            "liked": ids,
            "disliked": [["z"]] * count,
            "history": [["z", *liked] for liked in ids],
            "history_liked": [[False, *(True for _ in liked)] for liked in ids],
            "label": [i % 2 for i in range(count)],
        }
    )
    titles = pl.col("liked", "disliked").list.eval(pl.element().str.to_uppercase()).name.suffix("_titles")
    return made.hstack(side).with_columns(titles)
