"""Amazon reviews of any category, as published in 2014, 2018 and 2023: JSON lines, plain or gzip.

The three releases name their keys differently but never contradict each other, so one reader takes whichever are there.
The metadata of 2014 are Python literals: a line that is no JSON is read as one (a literal, never evaluated).
"""

import ast
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl
from polars.io.plugins import register_io_source

from expctr.data.tables import (
    NO_ID,
    NOT_JSON,
    PROBLEM,
    UNDECODABLE,
    DataError,
    Table,
    Tables,
    find_files,
    read_ratings,
    typed_ratings,
)

_REVIEWS = {
    "user": ("reviewerID", "user_id"),
    "item": ("parent_asin", "asin"),  # 2023 names the variant in asin, and its metadata only the parent
    "rating": ("overall", "rating"),
    "timestamp": ("unixReviewTime", "timestamp"),
    "review": ("reviewText", "text"),
}
_ITEMS = {
    "item": ("parent_asin", "asin"),
    "title": ("title",),
    "brand": ("brand", "store"),
    "categories": ("categories", "category"),
}
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'"}
_CHUNK = 1 << 25


def read(folder: Path, category: str | None = None) -> Tables:
    """Reads one category.

    Items have `brand` (which is the author in the Books of 2018) and `categories` (list); users have nothing.

    Args:
        folder: the folder with the reviews and the metadata.
        category: as in the file names; default the only one there is, else Books.

    Raises:
        DataError: no such files; the message lists what was looked for and what is there.
    """
    if category is None:
        names = {path.name.removeprefix("meta_").split(".json")[0] for path in folder.glob("meta_*.json*")}
        category = names.pop() if len(names) == 1 else "Books"
    layouts = {
        "2014": (f"reviews_{category}*.json*", f"meta_{category}.json*"),
        "2018 (5-core)": (f"{category}_5.json*", f"meta_{category}.json*"),
        "2018 or 2023": (f"{category}.json*", f"meta_{category}.json*"),
    }
    _, (reviews, meta) = find_files(folder, layouts)
    return Tables(read_interactions(reviews), _read_meta(meta))


def read_interactions(path: Path) -> Table:
    """Reads one file of reviews, or of plain ratings as CSV.

    Raises:
        DataError: no such file, or a CSV whose first line is not understood.
    """
    if ".json" not in path.name:
        return read_ratings(path, low=1, high=5)
    table = read_json_lines(path, _REVIEWS)
    return Table(typed_ratings(table.frame, low=1, high=5), path)


def _read_meta(path: Path) -> Table:
    table = read_json_lines(path, _ITEMS)
    title = pl.col("title").str.replace_many(_ENTITIES).str.replace_all(r"\s+", " ").str.strip_chars()
    scraped = pl.col("title").str.contains(r"^var |<\w+[^>]*>")  # scripts and tags in the titles of 2018
    names = pl.col("categories").str.extract_all(r'"(?:[^"\\]|\\.)*"')  # lists of strings, in 2014 lists of lists
    names = names.list.eval(pl.element().str.strip_chars('"').str.replace_many(_ENTITIES)).list.unique(
        maintain_order=True
    )
    problem = pl.when(pl.col("problem").is_null() & pl.col("item").is_null()).then(pl.lit(NO_ID, PROBLEM))
    return Table(
        table.frame.with_columns(
            pl.when((title != "") & ~scraped).then(title).alias("title"),
            pl.col("brand").str.replace_many(_ENTITIES).str.strip_chars().replace("", None),
            names.fill_null(pl.lit([], pl.List(pl.String))).alias("categories"),
            pl.coalesce("problem", problem).alias("problem"),
        ),
        path,
    )


def read_json_lines(path: Path, keys: Mapping[str, Sequence[str]]) -> Table:
    """Reads JSON objects, one a line, in chunks and only the columns asked for.

    Args:
        path: the file; gzip if its name ends in `.gz`.
        keys: our column name -> the keys that may hold it, the first present one wins.

    Returns:
        A table of string columns; a value that is no string is its JSON text.

    Raises:
        DataError: no such file.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    schema: dict[str, pl.DataType] = {"row": pl.UInt32(), "problem": PROBLEM}
    schema |= dict.fromkeys(["line", "column", *keys], pl.String())

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = columns or list(schema)
        row = 1
        for lines in _chunks(path):
            frame = _parse(lines, {name: keys[name] for name in wanted if name in keys})
            extra = {"row": pl.int_range(row, row + len(lines), dtype=pl.UInt32), "column": pl.lit("all")}
            if "line" in wanted:
                frame = frame.with_columns(pl.Series("line", [line.decode(errors="replace") for line in lines]))
            frame = frame.with_columns(**extra).select(wanted)
            row += len(lines)
            yield frame if predicate is None else frame.filter(predicate)
            if limit is not None and row > limit:
                return

    return Table(register_io_source(source, schema=schema, is_pure=True), path)


def _chunks(path: Path) -> Iterator[list[bytes]]:
    """The file's lines, some tens of MB at a time."""
    read = 0
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            while lines := file.readlines(_CHUNK):
                read += len(lines)
                yield lines
    except (OSError, EOFError, zlib.error) as error:  # how much is missing nobody knows, so it is no row to skip
        raise DataError(
            f"cannot be read, {path}, after row {read:,}: {error}. Mend: the file is cut short or damaged: get it again"
        ) from error


def _parse(lines: list[bytes], keys: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """One row a line, string columns and `problem`."""
    schema = {key: pl.String for accepted in keys.values() for key in accepted} or {"": pl.String}
    problems: list[str | None] = [None] * len(lines)
    try:
        frame = pl.read_ndjson(io.BytesIO(b"".join(lines)), schema=schema)
        if frame.height != len(lines):
            raise pl.exceptions.ComputeError("empty lines")
    except pl.exceptions.PolarsError:
        # Line by line only where polars stumbles: at Python literals, or to tell which line is bad.
        mended = [_mend(line, schema) for line in lines]
        problems = [problem for _, problem in mended]
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(text for text, _ in mended)), schema=schema)
    columns = [pl.coalesce(*accepted).alias(name) for name, accepted in keys.items()]
    return frame.select(*columns, pl.Series("problem", problems, PROBLEM))


def _mend(line: bytes, keys: Mapping[str, object]) -> tuple[bytes, str | None]:
    """The keys of a line as strict JSON, and what is wrong with it."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return b"{}", UNDECODABLE
    try:
        try:
            value = json.loads(text)
        except ValueError:
            value = ast.literal_eval(text.strip())
        if not isinstance(value, dict):
            return b"{}", NOT_JSON
        # every value as text: polars reads no NaN and no Infinity, and refuses the whole chunk for one
        mended = {key: _text(value[key]) for key in keys if value.get(key) is not None}
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError):  # a set, or nested too deeply
        return b"{}", NOT_JSON
    return json.dumps(mended, ensure_ascii=False).encode("utf-8", "replace"), None  # half a character is a "?"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
