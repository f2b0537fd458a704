"""Amazon reviews of any category, as published in 2014, 2018 and 2023: JSON lines, plain or gzip.

The three releases name their keys differently but never contradict each other, so one reader takes whichever are there.
The metadata of 2014 are Python literals: a line that is no JSON is read as one (a literal, never evaluated).
"""

import ast
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl
from polars.io.plugins import register_io_source

from expctr.data.readers.tables import (
    NO_ID,
    NOT_JSON,
    NUL,
    PROBLEM,
    UNDECODABLE,
    DataError,
    Table,
    Tables,
    check_file,
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
_HALF = re.compile("[\ud800-\udfff]")  # of a character; polars reads one as a NUL byte


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
    frame = read_json_lines(path, _REVIEWS).frame.with_columns(_whole("review"))
    return Table(typed_ratings(frame, low=1, high=5), path)


def _read_meta(path: Path) -> Table:
    table = read_json_lines(path, _ITEMS)
    frame = table.frame.with_columns(_whole("title", "brand", "categories"))
    title = pl.col("title").str.replace_many(_ENTITIES).str.replace_all(r"\s+", " ").str.strip_chars()
    scraped = pl.col("title").str.contains(r"^var |<\w+[^>]*>")  # scripts and tags in the titles of 2018
    names = pl.col("categories").str.extract_all(r'"(?:[^"\\]|\\.)*"')  # lists of strings, in 2014 lists of lists
    names = names.list.eval(pl.element().str.strip_chars('"').str.replace_many(_ENTITIES)).list.unique(
        maintain_order=True
    )
    problem = (
        pl.when(pl.col("item").fill_null("") == "")
        .then(pl.lit(NO_ID, PROBLEM))
        .when(pl.col("item").str.contains("\0", literal=True))
        .then(pl.lit(NUL, PROBLEM))
    )
    return Table(
        frame.with_columns(
            pl.when((title != "") & ~scraped).then(title).alias("title"),
            pl.col("brand").str.replace_many(_ENTITIES).str.strip_chars().replace("", None),
            names.fill_null(pl.lit([], pl.List(pl.String))).alias("categories"),
            pl.coalesce("problem", problem).alias("problem"),
        ),
        path,
    )


def _whole(*names: str) -> pl.Expr:
    """Texts in which half a character, or a NUL byte, is a question mark."""
    return pl.col(names).str.replace_all("\0", "?", literal=True)


def read_json_lines(path: Path, keys: Mapping[str, Sequence[str]]) -> Table:
    """Reads JSON objects, one a line, in chunks and only the columns asked for.

    Args:
        path: the file; gzip if its name ends in `.gz`.
        keys: our column name -> the keys that may hold it, the first present one wins; of a key listed twice, too.

    Returns:
        A table of string columns; a value that is no string is its JSON text, half a character a NUL byte.

    Raises:
        DataError: no such file.
    """
    check_file(path)
    schema: dict[str, pl.DataType] = {"row": pl.UInt32(), "problem": PROBLEM}
    schema |= dict.fromkeys(["line", "column", *keys], pl.String())

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = columns or list(schema)
        row = 1
        for chunk in _chunks(path):
            rows = pl.int_range(row, row + len(chunk), dtype=pl.UInt32, eager=True)
            row += len(chunk)
            lines = chunk
            if b"\n" in chunk or b"\r\n" in chunk:  # blank lines count, but are no rows
                full = [bool(line.strip()) for line in chunk]
                lines, rows = [*compress(chunk, full)], rows.filter(pl.Series(full, dtype=pl.Boolean))
            frame = _parse(lines, {name: keys[name] for name in wanted if name in keys})
            if "line" in wanted:
                frame = frame.with_columns(pl.Series("line", [line.decode(errors="replace") for line in lines]))
            frame = frame.with_columns(rows.alias("row"), column=pl.lit("all")).select(wanted)
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
            value = json.loads(text, object_pairs_hook=_firsts)
        except ValueError:
            value = ast.literal_eval(text.strip())
        if not isinstance(value, dict):
            return b"{}", NOT_JSON
        # every value as text: polars reads no NaN and no Infinity, and refuses the whole chunk for one
        mended = {key: _text(value[key]) for key in keys if value.get(key) is not None}
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError):  # a set, or nested too deeply
        return b"{}", NOT_JSON
    return _HALF.sub(r"\\u0000", json.dumps(mended, ensure_ascii=False)).encode(), None


def _firsts(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object in which the first value of a key listed twice counts, as for polars."""
    found: dict[str, object] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
