"""Tables of one's own as they are: CSV, TSV, JSON, JSON lines or parquet; a file, a glob, a folder, or a data frame."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from expctr.data.readers.bad_rows import PROBLEM
from expctr.data.readers.base import POLARS_ERRORS, RawTable, readable
from expctr.data.readers.delimited import plain_header, read_delimited, read_header
from expctr.data.readers.files import check_file
from expctr.data.readers.frames import as_frame, check_types, plain_types
from expctr.data.readers.json_lines import read_json_lines
from expctr.data.readers.named_files import KINDS, find_files, partition, suffix
from expctr.errors import DataError, first_line, listed
from expctr.untrusted import replace_surrogates

_MANY, _SMALL = 50, 1 << 26  # more files than this, of fewer bytes in all, are read into memory at once
_HEAD = 10_000  # lines of JSON that are searched for keys
_NOT_JSON = re.compile(r"[:,\[]\s*(NaN|-?Infinity)\b")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_JSON_TYPES: dict[type, pl.DataType] = {dict: pl.Struct([]), list: pl.List(pl.String)}
NESTED = r"""(?s)^(\{\s*(".*)?\}|\[\s*(["\[{\d-].*|(true|false|null)\b.*)?\])$"""
"""An object or a list of JSON; `[REC]` and `{6F9619FF-8B86}` are none."""
_RAW = "raw."  # a file may have a column `row` or `problem`, too


@dataclass
class JSONColumns:
    """What was seen of the columns of JSON lines, in all files of a table.

    Attributes:
        nested: columns that hold objects or lists, and their types; in the frame they are JSON texts.
        plain: columns in which most values are neither these nor texts that look like them.
        floats: columns with numbers that were floats too large to hold each digit.
    """

    nested: dict[str, pl.DataType] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)
    floats: set[str] = field(default_factory=set)

    def add(self, rows: Sequence[Mapping[str, object]]) -> list[str]:
        """Add what the rows of a file show; returns their keys."""
        types: dict[str, Counter[type]] = {}
        is_plain = Counter[str]()
        for row in rows:
            for key, value in row.items():
                types.setdefault(key, Counter()).update([type(value)] if value else [])
                self.floats |= {key} if isinstance(value, float) and abs(value) >= 2**53 else set()
                is_plain[key] += -1 if isinstance(value, dict | list) or re.search(NESTED, str(value)) else 1
        self.plain |= {key for key, balance in is_plain.items() if balance > 0}
        for key, counts in types.items():
            for found, count in counts.most_common(1):
                if found in _JSON_TYPES and 2 * count > counts.total():  # a few others are read as texts
                    self.nested[key] = _JSON_TYPES[found]
        return [*types]


@dataclass(frozen=True)
class Source:
    """A table with all its columns, untyped where the files are.

    Attributes:
        table: its frame has each column of the files as `raw.NAME`, for `raw`, and those that `RawTable` needs, but no
            `line` where the files are not of text.
        schema: the columns and their types.
        is_text: every value is a string: what it means is found in its content.
        json: what is known of the columns of JSON lines.
        float32_in: columns that are 32-bit floats in some files, and not in all; and these files.
    """

    table: RawTable
    schema: Mapping[str, pl.DataType]
    is_text: bool
    json: JSONColumns = field(default_factory=JSONColumns)
    float32_in: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, pl.DataType]:
        """The types as they are in the files."""
        own = {name: dtype for name, dtype in self.json.nested.items() if self.schema.get(name) == pl.String}
        return {**self.schema, **own}

    @property
    def names(self) -> list[str]:
        return [*self.schema]


def column_of(name: str) -> str:
    """What a column of the files is called in a source's frame."""
    return _RAW + name


def raw(name: str) -> pl.Expr:
    """A column of the files in a source's frame."""
    return pl.col(_RAW + name)


def open_source(source: Any, option: str) -> Source:
    """Opens a table without reading it, except its header.

    Args:
        source: a file, a folder or a glob by name, or a data frame of polars or pandas.
        option: what the user calls it, such as `data.items`, for messages.

    Raises:
        DataError: nothing is there, the files are of several formats, or they cannot be read.
    """
    if not isinstance(source, str | Path):
        return _opened([_numbered(as_frame(source, option).lazy())], Path(option), (), False)
    files = find_files(str(source), option)
    kinds = {_kind(path) for path in files}
    if len(kinds) > 1:
        raise DataError(
            f"{option}: {source} has files of several formats ({', '.join(sorted(kinds))}). Fix: name one kind of "
            f"them, such as {option}: '{Path(source) / '*.parquet'}'"
        )
    # each pass over a plan of hundreds of files takes seconds, and threads without end
    are_small = len(files) > _MANY and sum(path.stat().st_size for path in files) < _SMALL
    frames, seen = [], JSONColumns()
    for path in files:
        with readable(path):
            frame = _scan(path, seen)
        found = frame.collect_schema().names()
        folders = {name: value for name, value in partition(path, str(source)).items() if _RAW + name not in found}
        frame = frame.with_columns(pl.lit(value, pl.String).alias(_RAW + name) for name, value in folders.items())
        frame = frame.with_columns(file=pl.lit(str(path))) if len(files) > 1 else frame
        if are_small:
            with readable(path):
                frame = frame.collect().lazy()
        frames.append(frame)
    check_types({str(path): frame for path, frame in zip(files, frames, strict=True)})
    opened = _opened(frames, Path(source), tuple(files) if len(files) > 1 else (), kinds <= {"CSV", "JSON lines"})
    if are_small:
        opened = replace(opened, table=replace(opened.table, frame=opened.table.frame.collect().lazy()))
    float32_in: dict[str, list[str]] = {}
    for path, frame in zip(files, frames, strict=True):
        for name, dtype in frame.collect_schema().items():
            if dtype == pl.Float32 and opened.schema.get(name.removeprefix(_RAW), dtype) != dtype:
                float32_in.setdefault(name.removeprefix(_RAW), []).append(str(path))
    return replace(opened, json=seen, float32_in=float32_in)


def _opened(frames: Sequence[pl.LazyFrame], path: Path, parts: tuple[Path, ...], is_text: bool) -> Source:
    try:
        frame = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
        schema = frame.collect_schema()
    except POLARS_ERRORS as error:
        raise DataError(
            f"{path} has files whose columns do not fit together: {first_line(error)}. Fix: give a column the same "
            "type in all"
        ) from error
    columns = {name.removeprefix(_RAW): dtype for name, dtype in schema.items() if name.startswith(_RAW)}
    if not columns:
        raise DataError(
            f"no rows in {path}. Fix: check that this is the right file; in JSON, write one object per line, or one "
            "list of objects"
        )
    return Source(RawTable(frame, path, parts), columns, is_text)


def _kind(path: Path) -> str:
    kind = KINDS.get(suffix(path), "CSV")
    if kind != "JSON":
        return kind
    first = next(iter(_lines(path, 1)), "")
    return "JSON" if first.lstrip("\ufeff ").startswith("[") else "JSON lines"


def _scan(path: Path, seen: JSONColumns) -> pl.LazyFrame:
    """A file as a lazy frame. What is `seen` of the columns of JSON lines is added."""
    kind = _kind(path)
    if kind == "parquet":
        return _numbered(pl.scan_parquet(path, glob=False))
    if kind == "JSON":
        return _numbered(_read_json(path).lazy())
    if kind == "JSON lines":
        lines = _lines(path, _HEAD)
        keys = seen.add([*map(_row, lines)])
        if _is_one_object(lines):
            raise DataError(
                f"{path} holds one object with the keys {listed(keys, 3)}, and no rows. Fix: write one list of "
                "objects, one per row (pandas: .to_json(orient='records'))"
            )
        return read_json_lines(path, {_RAW + key: (key,) for key in keys}).frame
    names = [name for name in read_header(path) if plain_header(name)]
    if not names:
        raise DataError(f"no header and no rows: {path} is empty. Fix: delete it, or put the right file in its place")
    if len(names) < 2:
        raise DataError(
            f"no names of columns in {path}, row 1: {' '.join(names)[:120]!r}. Fix: begin the file with its header; "
            "delete comments and sep= above it"
        )
    headers = {_RAW + name: (name,) for name in names}
    frame = read_delimited(path, headers, [*headers]).frame
    filled = pl.col(*headers)  # `replace` takes milliseconds per column
    return frame.with_columns(pl.when(filled != "").then(filled))


def _numbered(frame: pl.LazyFrame) -> pl.LazyFrame:
    """A typed frame as that of a source: its rows are counted from 1, and none is bad by itself. It has no `line`."""
    frame = plain_types(frame)
    names = frame.collect_schema().names()
    frame = frame.rename({name: _RAW + name for name in names}).with_row_index("row", 1)
    return frame.with_columns(problem=pl.lit(None, PROBLEM), column=pl.lit("all"))


def _lines(path: Path, count: int) -> list[str]:
    check_file(path)
    try:
        lines = pl.scan_lines(path, name="line", glob=False).filter(pl.col("line").str.strip_chars() != "")
        return lines.head(count).collect()["line"].to_list()
    except (OSError, *POLARS_ERRORS) as error:
        raise DataError(
            f"cannot read {path}: {first_line(error)}. Fix: check that the file is complete and UTF-8"
        ) from error


def _row(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}  # a bad row, which its reader names
    return {replace_surrogates(key, "\0"): value for key, value in row.items()} if isinstance(row, dict) else {}


def _is_one_object(lines: Sequence[str]) -> bool:
    """Whether a file is one object of columns, or one around its rows, and not a row per line."""
    if not lines or not lines[0].lstrip("\ufeff ").startswith("{"):
        return False
    try:
        found = json.loads("\n".join(lines).removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return False  # several rows, or a bad one, which its reader names
    return bool(found) and all(isinstance(value, dict | list) for value in found.values())


def _read_json(path: Path) -> pl.DataFrame:
    """A JSON file that holds one list of objects. NaN and Infinity, which Python writes, are numbers."""
    text = "\n".join(pl.read_lines(path, glob=False).to_series()).removeprefix("\ufeff")
    try:
        if _SURROGATE.search(text):  # polars refuses half of a pair, or makes it a NUL byte
            text = replace_surrogates(json.dumps(json.loads(text), ensure_ascii=False))
        if _NOT_JSON.search(text):
            return pl.DataFrame(json.loads(text), infer_schema_length=None)
        return pl.read_json(BytesIO(text.encode()), infer_schema_length=None)
    except (*POLARS_ERRORS, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot read {path} as JSON: {first_line(error)}. Fix: write one list of objects, [{{...}}, {{...}}]; or "
            "one object per line without the brackets"
        ) from error
