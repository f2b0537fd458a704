"""Reads JSON lines: one object per line, in chunks. Gzip and zstd files are read as they are.

Lines may also be Python literals, as in the Amazon metadata of 2014; a literal is parsed, never evaluated as code.
Long texts need not be kept: `RawTable.texts_at` reads those of a few rows later, by their places in the file.
"""

import ast
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import compress
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from expctr.data.readers import interrupts
from expctr.data.readers.bad_rows import NOT_JSON, PROBLEM, UNDECODABLE
from expctr.data.readers.base import RawTable
from expctr.data.readers.files import check_file
from expctr.data.readers.lines import opened
from expctr.data.readers.progress import reading_progress
from expctr.data.readers.python_literals import split_literal
from expctr.errors import DataError
from expctr.untrusted import replace_surrogates

_CHUNK = 1 << 24  # bytes


def read_json_lines(path: Path, keys: Mapping[str, Sequence[str]]) -> RawTable:
    """Reads only the columns that are used.

    Args:
        path: the file, plain or compressed by gzip or zstd.
        keys: column -> the keys that may hold it. The first key that is present counts, and of a repeated key the first
            value.

    Returns:
        A table of strings, and `place`. Other values become their JSON text, and half of a surrogate pair a NUL byte.

    Raises:
        DataError: no such file, or it is an archive.
    """
    check_file(path)
    schema: dict[str, pl.DataType] = {"row": pl.UInt32(), "place": pl.UInt64(), "problem": PROBLEM}
    schema |= dict.fromkeys(["line", "column", *keys], pl.String())

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        used = columns or list(schema)
        row, place = 1, 0
        for chunk in interrupts.until_interrupted(_chunks(path)):
            sizes = np.fromiter(map(len, chunk), np.uint64, len(chunk))
            ends = np.cumsum(sizes, dtype=np.uint64) + np.uint64(place)
            about = pl.DataFrame({"row": np.arange(row, row + len(chunk), dtype=np.uint32), "place": ends - sizes})
            row, place = row + len(chunk), int(ends[-1])
            lines = chunk
            if b"\n" in chunk or b"\r\n" in chunk:  # blank lines are counted, but are not rows
                full = [bool(line.strip()) for line in chunk]
                lines, about = [*compress(chunk, full)], about.filter(pl.Series(full, dtype=pl.Boolean))
            frame = _parse(lines, {name: keys[name] for name in used if name in keys})
            if "line" in used:
                frame = frame.with_columns(pl.Series("line", [line.decode(errors="replace") for line in lines]))
            frame = pl.concat([frame, about], how="horizontal").with_columns(column=pl.lit("all")).select(used)
            yield frame if predicate is None else frame.filter(predicate)
            if limit is not None and row > limit:
                return

    frame = register_io_source(source, schema=schema, is_pure=True)
    return RawTable(frame, path, texts_at=lambda places, name: _texts_at(path, places, {name: keys[name]}))


def _chunks(path: Path) -> Iterator[list[bytes]]:
    """The lines of the file, some tens of MB at a time."""
    read = 0
    try:
        with (
            opened(path) as (file, raw),
            reading_progress(path, raw) as progress,
            ThreadPoolExecutor(1) as ahead,  # decompresses the next chunk while this one is parsed
        ):
            coming = ahead.submit(file.readlines, _CHUNK)
            while lines := coming.result():
                coming = ahead.submit(file.readlines, _CHUNK)
                read += len(lines)
                yield lines
                progress.rows(read)
    except (OSError, EOFError, zlib.error) as error:  # not a bad row to skip: nobody knows how much is missing
        raise DataError(
            f"cannot read {path} after row {read:,}: {error}. Fix: the file is cut short or damaged; download it again"
        ) from error


def _texts_at(path: Path, places: pl.Series, keys: Mapping[str, Sequence[str]]) -> pl.Series:
    """One column of the rows that begin at some places, in their order. The other rows are skipped, not parsed."""
    ordered = places.unique().sort()
    lines = []
    with opened(path) as (file, _):
        for place in ordered:
            file.seek(place)
            lines.append(file.readline())
    found = _parse(lines, keys).select(pl.first()).to_series() if lines else pl.Series(dtype=pl.String)
    return found.gather(ordered.search_sorted(places))


def _parse(lines: list[bytes], keys: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """One row per line: string columns and `problem`."""
    schema = {key: pl.String for accepted in keys.values() for key in accepted} or {"": pl.String}
    problems: list[str | None] = [None] * len(lines)
    try:
        if not lines or lines[0].startswith(b"{'"):
            raise pl.exceptions.ComputeError("a Python literal")
        frame = pl.read_ndjson(io.BytesIO(b"".join(lines)), schema=schema)
        if frame.height != len(lines):
            raise pl.exceptions.ComputeError("empty lines")
    except pl.exceptions.PolarsError:
        # Slow, so only if polars fails: a line is a Python literal, or bad and must be found.
        parsed = [_parse_line(line, [*schema]) for line in lines]
        problems = [problem for _, problem in parsed]
        frame = pl.DataFrame({key: [values.get(key) for values, _ in parsed] for key in schema}, schema=schema)
    columns = [pl.coalesce(*accepted).alias(name) for name, accepted in keys.items()]
    return frame.select(*columns, pl.Series("problem", problems, PROBLEM))


def _parse_line(line: bytes, keys: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """The values of a line as texts, and the problem of the line."""
    try:
        text = line.decode().rstrip("\r\n").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return {}, UNDECODABLE
    sources = split_literal(text) if text.startswith("{'") else None
    if sources is not None:
        return {key: _literal_text(sources[key]) for key in keys if sources.get(key, "None") != "None"}, None
    try:
        try:
            value = json.loads(text, object_pairs_hook=_first_values)
        except ValueError:
            value = ast.literal_eval(text.strip())
        if not isinstance(value, dict):
            return {}, NOT_JSON
        return {key: _text(value[key]) for key in keys if value.get(key) is not None}, None
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError):  # a set, or nested too deeply
        return {}, NOT_JSON


def _literal_text(source: str) -> str:
    """The text of a Python literal."""
    if source[0] in "'\"" and "\\" not in source:
        return source[1:-1]
    return _evaluated_text(source)


@lru_cache(maxsize=1 << 12)  # the same categories and prices are repeated in many lines
def _evaluated_text(source: str) -> str:
    return _text(ast.literal_eval(source))


def _first_values(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object in which the first value of a repeated key counts, as in polars."""
    return {**dict(pairs), **dict(reversed(pairs))}


def _text(value: object) -> str:
    if isinstance(value, float):
        return np.format_float_positional(value, trim="-")  # as polars writes it: 28.0 is 28, and 1e-7 has its zeros
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return replace_surrogates(text, "\0")  # as polars reads them
