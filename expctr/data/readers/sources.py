"""Tables of one's own as they are: CSV, TSV, JSON, JSON lines or parquet; a file, a glob, a folder, or a data frame."""

import fnmatch
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from expctr.data.readers.bad_rows import PROBLEM
from expctr.data.readers.base import POLARS_ERRORS, RawTable, readable
from expctr.data.readers.delimited import plain_header, read_delimited, read_header
from expctr.data.readers.files import check_file, check_local, plain_name
from expctr.data.readers.frames import as_frame, check_types, plain_types
from expctr.data.readers.json_lines import read_json_lines
from expctr.errors import DataError, first_line, listed
from expctr.untrusted import replace_surrogates

_KINDS = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "JSON"),
    **dict.fromkeys((".csv", ".tsv", ".txt", ".tab"), "CSV"),
}
_MANY, _SMALL = 50, 1 << 26  # more files than this, of fewer bytes in all, are read into memory at once
_HEAD = 10_000  # lines of JSON that are searched for keys
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_NOT_JSON = re.compile(r"[:,\[]\s*(NaN|-?Infinity)\b")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_JSON_TYPES: dict[type, pl.DataType] = {dict: pl.Struct([]), list: pl.List(pl.String)}
NESTED = r"""(?s)^(\{\s*(".*)?\}|\[\s*(["\[{\d-].*|(true|false|null)\b.*)?\])$"""
"""An object or a list of JSON; `[REC]` and `{6F9619FF-8B86}` are none."""
_LOCK = "~$"
"""How the name of a file begins that a spreadsheet program keeps while a table is open."""
_RAW = "raw."  # a file may have a column `row` or `problem`, too


@dataclass(frozen=True)
class Source:
    """A table with all its columns, untyped where the files are.

    Attributes:
        table: its frame has each column of the files as `raw.NAME`, for `raw`, and those that `RawTable` needs, but no
            `line` where the files are not of text.
        schema: the columns and their types.
        is_text: every value is a string: what it means is found in its content.
        nested: columns of JSON lines that hold objects or lists, and their types; in the frame they are JSON texts.
        plain: columns of JSON lines in which most values are neither these nor texts that look like them.
    """

    table: RawTable
    schema: Mapping[str, pl.DataType]
    is_text: bool
    nested: Mapping[str, pl.DataType] = field(default_factory=dict)
    plain: Collection[str] = ()

    @property
    def types(self) -> dict[str, pl.DataType]:
        """The types as they are in the files."""
        own = {name: dtype for name, dtype in self.nested.items() if self.schema.get(name) == pl.String}
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
    frames = []
    nested: dict[str, pl.DataType] = {}
    plain: set[str] = set()
    for path in files:
        with readable(path):
            frame = _scan(path, nested, plain)
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
    return replace(opened, nested=nested, plain=plain)


_LAKES = ("_delta_log", ".hoodie", "metadata/*.metadata.json")
"""What Delta, Hudi and Iceberg have in the folder of a table. Files removed from the table are still there."""


def find_files(named: str, option: str) -> list[Path]:
    """The files that a user names: one, those in a folder and the folders in it, or those that match a glob."""
    path = Path(named).expanduser()
    if not named.strip():
        raise DataError(f"{option}: the name is empty. Fix: name a file, a folder or a pattern")
    if path.is_dir():
        _check_lakes([path], option)
        inside = [file for file in _below(path) if not file.name.startswith(_LOCK)]
        files = [file for file in inside if _suffix(file) in _KINDS]
        plain = {*files}  # a compressed copy of a file that is there, too, is not read
        files = [file for file in files if (own := file.with_name(plain_name(file.name))) == file or own not in plain]
        if not files:
            for file in inside:
                if file.is_file():
                    check_file(file)  # which says what to do with a workbook or an archive
            links = "".join(f"; {link} is a link to a folder, and not read" for link in linked_folders(named)[:5])
            raise DataError(
                f"{option}: no table in {path}{links}. Fix: name a folder with files of {', '.join(_KINDS)}"
            )
    elif not path.exists() and glob.has_magic(named):
        files = [file for file in _matching(path) if not file.name.startswith(_LOCK)]
        if not files:
            check_local(named)
            raise DataError(f"{option}: no file matches {named}. Fix: check the pattern, and put it in quotes")
    else:
        files = [path]
    if files != [path]:
        _check_lakes([*dict.fromkeys(folder for file in files for folder in file.absolute().parents)], option)
    for file in files:
        check_file(file)
    # one file by several names has its rows once: under its own name, if that is among them
    named_once = {file.resolve(): file for file in sorted(files, key=Path.is_symlink, reverse=True)}
    return sorted(named_once.values()) if len(named_once) < len(files) else files


def _check_lakes(folders: Sequence[Path], option: str) -> None:
    for folder in folders:
        if lake := next((log for log in _LAKES if next(folder.glob(log), None)), None):
            raise DataError(
                f"{option}: {folder} is a table with a log of its own ({lake}), which says which files count. Fix: "
                "read it with its own library, and write it as parquet, or give the data frame"
            )


def _matching(pattern: Path) -> list[Path]:
    """The files that match a glob, and the links to files that are not there. `**` follows no links."""
    there, parts = _split_glob(pattern)
    found = _below(there, [*parts, "*"] if parts[-1] == "**" else parts, _hidden(parts))
    return [file for file in found if file.is_file() or (file.is_symlink() and not file.exists())]


def _split_glob(pattern: Path) -> tuple[Path, list[str]]:
    """The folder above a glob, and its parts. Folders that are there are meant as they are called, as `[1] clicks`."""
    there = next(folder for folder in pattern.parents if folder.is_dir())
    parts = pattern.relative_to(there).parts
    return there, [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts]


def _hidden(parts: Sequence[str]) -> tuple[str, ...]:
    return () if any(part.startswith(".") for part in parts) else (".",)


def _below(folder: Path, parts: Sequence[str] = ("**", "*"), hidden: tuple[str, ...] = (".", "_")) -> list[Path]:
    """What matches the parts of a glob, without names that begin as `hidden` ones do. `**` follows no links.

    Raises:
        DataError: a folder cannot be read, of which `Path.glob` would say nothing.
    """

    def content(inner: Path) -> list[os.DirEntry[str]]:
        with os.scandir(inner) as entries:
            return [entry for entry in entries if not entry.name.startswith(hidden)]

    found = [folder]
    try:
        for part in parts:
            if part == "**":
                for inner in found:  # grows: links are not followed, as those that lead back up have no end
                    found += [Path(entry) for entry in content(inner) if entry.is_dir(follow_symlinks=False)]
                found = [*dict.fromkeys(found)]
            elif glob.has_magic(part):
                folders = [inner for inner in found if inner.is_dir()]
                found = [Path(e) for inner in folders for e in content(inner) if fnmatch.fnmatch(e.name, part)]
            else:
                found = [inner / part for inner in found if _is_there(inner / part)]
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}. Fix: check its permissions, or name what is to be read "
            "by a pattern that leaves it out"
        ) from error
    return sorted({*found})


def _is_there(path: Path) -> bool:
    with suppress(FileNotFoundError, NotADirectoryError):
        return bool(path.lstat())
    return False


def unused_files(named: str) -> list[str]:
    """The files of a folder or a glob that are not read: of other formats, copies, links, and locks of spreadsheets."""
    path = Path(named).expanduser()
    if path.is_dir():
        return [
            str(file.relative_to(path)) for file in sorted({*_below(path)} - {*find_files(named, "")}) if file.is_file()
        ]
    found = [] if path.exists() or not glob.has_magic(named) else _matching(path)
    return [file.name for file in sorted({*found} - {*find_files(named, "")})]


def linked_folders(named: str) -> list[str]:
    """The links in a folder, or below a glob's `**`, to other folders: not read, as they could lead back up."""
    path, parts = Path(named).expanduser(), ["**"]
    hidden: tuple[str, ...] = (".", "_")
    if not path.exists() and "**" in path.parts:
        path, parts = _split_glob(path)
        parts, hidden = parts[: parts.index("**") + 1], _hidden(parts)
    inside = _below(path, [*parts, "*"], hidden) if path.is_dir() else []
    return [str(link.relative_to(path)) for link in inside if link.is_symlink() and link.is_dir()]


def partition(path: Path, named: str) -> dict[str, str | None]:
    """What the folders of a file are called, below what a user named: `date=2024-01-01/split=train/part-0.parquet`."""
    fixed = [*takewhile(lambda part: not glob.has_magic(part), Path(named).expanduser().parts)]
    pairs = (folder.partition("=") for folder in path.parts[len(fixed) : -1])
    return {name: None if value == _NO_VALUE else unquote(value) for name, equals, value in pairs if name and equals}


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


def _suffix(path: Path) -> str:
    return Path(plain_name(path.name)).suffix.lower()


def _kind(path: Path) -> str:
    kind = _KINDS.get(_suffix(path), "CSV")
    if kind != "JSON":
        return kind
    first = next(iter(_lines(path, 1)), "")
    return "JSON" if first.lstrip("\ufeff ").startswith("[") else "JSON lines"


def _scan(path: Path, nested: dict[str, pl.DataType], plain: set[str]) -> pl.LazyFrame:
    """A file as a lazy frame. `nested` and `plain` get the columns of JSON lines, see `Source`."""
    kind = _kind(path)
    if kind == "parquet":
        return _numbered(pl.scan_parquet(path, glob=False))
    if kind == "JSON":
        return _numbered(_read_json(path).lazy())
    if kind == "JSON lines":
        lines = _lines(path, _HEAD)
        keys: dict[str, Counter[type]] = {}
        is_plain = Counter[str]()
        for row in map(_row, lines):
            for key, value in row.items():
                keys.setdefault(key, Counter()).update([type(value)] if value else [])
                is_plain[key] += -1 if isinstance(value, dict | list) or re.search(NESTED, str(value)) else 1
        plain |= {key for key, balance in is_plain.items() if balance > 0}
        for key, types in keys.items():
            for found, count in types.most_common(1):
                if found in _JSON_TYPES and 2 * count > types.total():  # a few others are read as texts
                    nested[key] = _JSON_TYPES[found]
        if _is_one_object(lines):
            raise DataError(
                f"{path} holds one object with the keys {listed([*keys], 3)}, and no rows. Fix: write one list of "
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
