"""The tables that every reader returns, how a delimited text file becomes one, and what is said of a bad row.

A file is read as lines and split by polars, so that an error can name the line, whatever is wrong with it: a row that
cannot be used is not raised while reading, it is *marked*. `Table.collect` then raises the first one, or counts and
skips them all.
"""

import codecs
import csv
import fnmatch
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from expctr.errors import UserError

OnBadRow = Literal["error", "skip"]

TOO_FEW, TOO_MANY, BAD_CSV = "too few columns", "too many columns", "not a row of CSV"
UNDECODABLE, NUL = "undecodable bytes", "NUL byte"
NOT_JSON, NO_ID = "not a JSON object", "no user or item id"
NOT_A_NUMBER, OUT_OF_RANGE, BAD_TIME = "rating is not a number", "rating out of range", "timestamp is not a number"
_MENDS = {
    TOO_FEW: "give the row all its columns",
    TOO_MANY: "quote the value that contains the delimiter",
    BAD_CSV: "close each quote on its own line, and double one inside a value",
    UNDECODABLE: "save the whole file in one encoding, UTF-8",
    NUL: "the file is damaged or no text: get it again",
    NOT_JSON: "write one JSON object a line",
    NO_ID: "give the row both ids",
    NOT_A_NUMBER: "write a number",
    OUT_OF_RANGE: "put it on the dataset's scale",
    BAD_TIME: "write seconds since 1970",
}
PROBLEM = pl.Enum(list(_MENDS))
"""What can be wrong with a row; one byte a row, since it is collected for all of them."""

_LOCATED = {
    NUL: "user or item",
    NO_ID: "user or item",
    NOT_A_NUMBER: "rating",
    OUT_OF_RANGE: "rating",
    BAD_TIME: "timestamp",
}
_DELIMITERS = ("::", "\t", ";", ",", "|")
_QUOTING = (";", ",")
_HEAD, _WIDEST = 20, 1000  # lines that tell the layout, and the columns that one may have
csv.field_size_limit(1 << 30)  # the default of 128 KiB would refuse a long title, and only in a row with quotes
_MILLISECONDS = 10**11  # a timestamp beyond this is in milliseconds (Amazon 2023); in seconds it would be the year 5138

RATINGS: dict[str, tuple[str, ...]] = {
    "user": ("user", "userid", "reviewerid"),
    "item": ("item", "itemid", "movieid", "isbn", "asin", "parentasin"),
    "rating": ("rating", "bookrating", "overall"),
    "timestamp": ("timestamp", "unixreviewtime"),
}
"""Our names for the columns of a ratings file, and the headers that mean them."""


class DataError(UserError):
    """Raw data that cannot be used: what is wrong, in which file, row and column, and how to mend it."""


@dataclass(frozen=True)
class Table:
    """One raw file as a lazy table.

    Attributes:
        frame: the columns that the reader promises, and `row` (1-based line of the file), `problem` (null in a good
            row), `column` (where the problem is) and `line` (the raw text).
        path: the file, for messages.
    """

    frame: pl.LazyFrame
    path: Path

    def collect(self, columns: Sequence[str | pl.Expr], on_bad_row: OnBadRow, dropped: Counter[str]) -> pl.DataFrame:
        """Reads some columns of the good rows.

        Args:
            columns: what to read.
            on_bad_row: raise at the first bad row, or skip them all.
            dropped: counts the skipped rows by reason; added to in place.

        Raises:
            DataError: a row is bad and `on_bad_row` is `error`, or the file has no rows.
        """
        try:
            frame = self.frame.select(*columns, "problem").collect(engine="streaming")
        except OSError as error:
            raise DataError(f"cannot be read, {self.path}: {error}") from error
        if frame.is_empty():
            raise DataError(f"no rows in {self.path}: is this the right file, and whole?")
        problems = frame["problem"].drop_nulls()
        if problems.len() and on_bad_row == "error":
            raise self._first_problem(problems.len(), frame.height)
        for problem, count in problems.value_counts().iter_rows():
            dropped[f"{self.path.name}: {problem}"] += count
        return frame.filter(pl.col("problem").is_null()).drop("problem")

    def _first_problem(self, count: int, rows: int) -> DataError:
        bad = self.frame.filter(pl.col("problem").is_not_null()).select("row", "problem", "column", "line")
        row, problem, column, line = bad.head(1).collect().row(0)
        return DataError(
            f"{problem}, {self.path}, row {row:,}, column {column}: {line[:120]!r}. Mend: {_MENDS[problem]}; or "
            f"count and skip such rows with on_bad_row: skip ({count:,} of {rows:,} rows are bad)"
        )


@dataclass(frozen=True)
class Tables:
    """A dataset's raw files.

    Attributes:
        interactions: `user` str, `item` str, `rating` float32, `timestamp` int64 seconds or null, and `review`
            str or null where the raw data have reviews.
        items: `item`, `title` (null where the raw data have none) and side features: integers, strings, lists of
            strings.
        users: `user` and side features; None where the raw data say nothing of them.
    """

    interactions: Table
    items: Table
    users: Table | None = None

    @property
    def files(self) -> list[Path]:
        """The raw files that the tables are read from."""
        return [table.path for table in (self.interactions, self.items, self.users) if table is not None]


def find_files(folder: Path, layouts: Mapping[str, Sequence[str]]) -> tuple[str, list[Path]]:
    """Finds which layout a folder holds: the first one all of whose required files are there.

    Args:
        folder: the folder with the raw files.
        layouts: layout name -> file name patterns; one that ends in `?` is optional.

    Returns:
        The layout's name and its files, in the order of the patterns, those that are not there left out.

    Raises:
        DataError: no such folder, or no layout is complete; the message lists what was looked for and what is there.
    """
    try:
        if not folder.is_dir():
            raise DataError(f"no such folder: {folder}. Mend: set the path to the folder that holds the raw files")
        content = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot be read, {folder}: {error.strerror}. Mend: the folder's name or permissions"
        ) from error
    for name, patterns in layouts.items():
        matching = (fnmatch.filter(content, pattern.rstrip("?")) for pattern in patterns)  # links to nothing, too
        found = [folder / names[0] if names else None for names in matching]
        if all(path or pattern.endswith("?") for path, pattern in zip(found, patterns, strict=True)):
            return name, [path for path in found if path]
    wanted = "; ".join(f"{name}: {', '.join(p for p in files if p[-1] != '?')}" for name, files in layouts.items())
    there = ", ".join(content[:12]) + (", ..." if len(content) > 12 else "") if content else "nothing"
    raise DataError(f"no known layout in {folder}. Looked for {wanted}. The folder holds {there}")


def check_file(path: Path) -> None:
    """Raises a DataError where there is no file that can be read."""
    try:
        if path.is_file():
            path.open("rb").close()
            return
        there = os.path.lexists(path)
    except OSError as error:
        raise DataError(f"cannot be read, {path}: {error.strerror}. Mend: its name or permissions") from error
    raise DataError(f"{'not a file' if there else 'no such file'}: {path}")


def read_delimited(
    path: Path,
    names: Mapping[str, Sequence[str]],
    required: Sequence[str],
    headerless: Sequence[str] = (),
    encoding: Literal["utf-8", "latin-1"] = "utf-8",
    replace: Mapping[str, str] | None = None,
) -> Table:
    r"""Reads a delimited text file with or without a header, all columns as strings.

    The delimiter is what splits the header (or the first line) into the required columns. `,` and `;` files may quote
    values; within `;` files a backslash escapes, as in the original BookCrossing dump. An `encoding` of `latin-1` means
    that the layout was published so: such a file is read as UTF-8 if all of it is valid UTF-8, because people convert
    it, and else as latin-1, which any bytes are. In a `utf-8` layout, and in a file that begins with UTF-8's byte order
    mark, the lines that are not UTF-8 are bad rows. A file without a header has the columns of most of its first lines.

    Args:
        path: the file.
        names: our column name -> the headers that mean it, lower case and without punctuation.
        required: the columns that must be there; others are null when they are not.
        headerless: our names in the file's order, for layouts that have no header.
        encoding: the encoding that the layout was published in.
        replace: regular expression -> replacement, made in each raw line before it is split.

    Returns:
        A table of the columns in `names` and `headerless`.

    Raises:
        DataError: no such file, its first line has not the required columns by any delimiter, or has one twice.
    """
    lines, head, lossy = _read_lines(path, encoding)
    delimiter, fields = _sniff(path, head["line"].to_list(), names, required, headerless)
    for pattern, by in (replace or {}).items():
        lines = lines.with_columns(pl.col("line").str.replace_all(pattern, by))
    if not headerless:
        lines = lines.filter(pl.col("row") > head["row"][0])

    width = len(fields)
    parts = pl.Struct({f"{i}": pl.String for i in range(width + 1)})
    split = pl.col("line").map_batches(
        lambda batch: _split(batch, delimiter, width), return_dtype=parts, is_elementwise=True
    )
    value = [pl.col("parts").struct.field(str(i)) for i in range(width + 1)]
    line, bad = pl.col("line"), "[\0\ufffd]" if lossy else "\0"
    problem = (
        pl.when(value[0].is_null())
        .then(pl.lit(BAD_CSV, PROBLEM))
        .when(value[width - 1].is_null())
        .then(pl.lit(TOO_FEW, PROBLEM))
        .when(value[width].is_not_null())
        .then(pl.lit(TOO_MANY, PROBLEM))
        .when(line.str.contains("\0", literal=True))
        .then(pl.lit(NUL, PROBLEM))
        .when(line.str.contains("\ufffd", literal=True) if lossy else False)
        .then(pl.lit(UNDECODABLE, PROBLEM))
    )
    column = pl.coalesce(
        pl.when(value[0].is_null()).then(pl.lit("all")),
        *(pl.when(v.is_null() | v.str.contains(bad)).then(pl.lit(f[:60])) for v, f in zip(value, fields, strict=False)),
        pl.lit(f"{width + 1} of {width}"),
    )
    ours = _ours(fields, names, headerless)
    columns = [
        (value[ours[name]].str.strip_chars() if name in ours else pl.lit(None, pl.String)).alias(name)
        for name in dict.fromkeys([*headerless, *names])
    ]
    frame = lines.with_columns(split.alias("parts")).select(
        "row", "line", problem.alias("problem"), column.alias("column"), *columns
    )
    return Table(frame, path)


def read_ratings(path: Path, low: float, high: float, encoding: Literal["utf-8", "latin-1"] = "utf-8") -> Table:
    """Reads a delimited ratings file: user, item, rating and, if it is there, timestamp, with or without a header.

    Args:
        path: the file.
        low: the lowest rating of the scale.
        high: the highest.
        encoding: see `read_delimited`.

    Raises:
        DataError: as `read_delimited`.
    """
    check_file(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    bare = plain_name(first).isdigit() or (path.suffix in (".data", ".dat") and "user" not in first.lower())
    order = tuple(RATINGS) if bare else ()
    table = read_delimited(path, RATINGS, ("user", "item", "rating"), order, encoding)
    return Table(typed_ratings(table.frame, low, high), path)


def typed_ratings(frame: pl.LazyFrame, low: float, high: float) -> pl.LazyFrame:
    """Gives the columns of a ratings table their types, and marks ratings that are no numbers or off the scale.

    Args:
        frame: string columns `user`, `item`, `rating`, `timestamp`, perhaps `review`, and a table's own columns.
        low: the lowest rating of the scale.
        high: the highest.
    """
    rating = pl.col("rating").cast(pl.Float32, strict=False)
    time = pl.col("timestamp").cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)  # inf is none
    time = pl.when(time > _MILLISECONDS).then(time // 1000).otherwise(time)
    problem = (
        pl.when(pl.col("problem").is_not_null())
        .then("problem")
        .when((pl.col("user").fill_null("") == "") | (pl.col("item").fill_null("") == ""))
        .then(pl.lit(NO_ID, PROBLEM))
        .when(pl.any_horizontal(pl.col("user", "item").str.contains("\0", literal=True)))
        .then(pl.lit(NUL, PROBLEM))
        .when(rating.is_null() | rating.is_nan())
        .then(pl.lit(NOT_A_NUMBER, PROBLEM))
        .when(~rating.is_between(low, high))
        .then(pl.lit(OUT_OF_RANGE, PROBLEM))
        .when(time.is_null() & (pl.col("timestamp").fill_null("") != ""))
        .then(pl.lit(BAD_TIME, PROBLEM))
    )
    found = problem.cast(pl.String).replace_strict(_LOCATED, default=None, return_dtype=pl.String)
    located = pl.when(pl.col("problem").is_null()).then(found).otherwise("column")
    return frame.with_columns(
        problem.alias("problem"), located.alias("column"), rating.alias("rating"), time.alias("timestamp")
    )


def plain_name(header: str) -> str:
    """A header without case, punctuation and RecBole's type: `User-ID` and `user_id:token` are both `userid`."""
    return "".join(c for c in header.split(":")[0].lower() if c.isalnum())


def _read_lines(path: Path, encoding: str) -> tuple[pl.LazyFrame, pl.DataFrame, bool]:
    """The file's lines with their numbers, the first of them, and whether some bytes could not be decoded."""
    check_file(path)
    utf8 = _is_utf8(path)
    if utf8:
        lines = pl.scan_lines(path, name="line", row_index_name="row", row_index_offset=1)
    else:
        raw = path.read_bytes()
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"the file is UTF-16, {path}. Mend: save it as UTF-8")
        encoding = "utf-8" if raw.startswith(codecs.BOM_UTF8) else encoding
        text = raw.decode(encoding, errors="replace")
        lines = pl.LazyFrame({"line": text.split("\n")}).with_row_index("row", 1)
    lines = lines.with_columns(pl.col("line").str.strip_chars_end("\r").str.strip_prefix("\ufeff"))
    lines = lines.filter(pl.col("line") != "")
    head = lines.head(_HEAD).collect()
    if head.is_empty():
        raise DataError(f"no header and no data, {path}, row 1: the file is empty")
    if head.height == 1 and "\r" in head["line"][0]:
        raise DataError(f"lines end with carriage returns alone, {path}. Mend: save the file with line feeds")
    return lines, head, not utf8 and encoding == "utf-8"


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while chunk := file.read(1 << 22):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _sniff(
    path: Path,
    head: Sequence[str],
    names: Mapping[str, Sequence[str]],
    required: Sequence[str],
    headerless: Sequence[str],
) -> tuple[str, list[str]]:
    """The delimiter, and the file's column names in order (ours where it has no header)."""
    if headerless:
        widths = {d: Counter(len(_fields(line, d)) for line in head).most_common(1)[0] for d in _DELIMITERS}
        least = max(2, len(required))
        delimiter, (width, _) = max(widths.items(), key=lambda by: (by[1][0] >= least, by[1][1] * (by[1][0] - 1)))
        extra = range(len(headerless), width)
        fields = [*headerless[:width], *(f"column {i + 1}" for i in extra)]
        known = width >= least
    else:
        splits = {d: [field.strip() for field in _fields(head[0], d, _WIDEST)[: _WIDEST + 1]] for d in _DELIMITERS}
        delimiter, fields = max(splits.items(), key=lambda split: len(_ours(split[1], names, ())))
        ours = _ours(fields, names, ())
        known = ours.keys() >= set(required) and len(fields) > 1 and "\0" not in head[0]
        plain = [plain_name(field) for field in fields]
        twice = [fields[i] for i in ours.values() if plain.count(plain[i]) > 1]
        if twice:
            raise DataError(
                f"two columns of one name, {path}, row 1, column {twice[0][:60]}. Mend: delete or rename one"
            )
    if not known:
        raise DataError(
            f"wrong delimiter or header, {path}, row 1, column 1: none of {' '.join(map(repr, _DELIMITERS))} splits "
            f"{head[0][:120]!r} into the columns {', '.join(required)}"
        )
    if len(fields) > _WIDEST:
        raise DataError(f"more than {_WIDEST:,} columns, {path}, row 1. Mend: the file is damaged: get it again")
    return delimiter, fields


def _ours(fields: Sequence[str], names: Mapping[str, Sequence[str]], headerless: Sequence[str]) -> dict[str, int]:
    """Our column name -> its position in the file."""
    if headerless:
        return {name: i for i, name in enumerate(fields) if name in headerless}
    plain = [plain_name(field) for field in fields]
    found = {name: next((plain.index(a) for a in accepted if a in plain), None) for name, accepted in names.items()}
    return {name: i for name, i in found.items() if i is not None}


def _split(lines: pl.Series, delimiter: str, width: int) -> pl.Series:
    """Splits lines into a struct of `width` + 1 strings: a good line leaves the last one null, and only that; a line
    that is no row of CSV leaves all of them.
    """
    if not (delimiter in _QUOTING and lines.str.contains(r'["\\]').any()):
        parts = lines.str.splitn(delimiter, width + 1)
        return parts.struct.rename_fields([str(i) for i in range(width + 1)])
    rows: list[list[str | None]] = []
    for line in lines:
        fields: list[str | None] = [*_fields(line, delimiter, width)]
        rows.append((fields + [None] * (width + 1))[: width + 1])
    schema = {str(i): pl.String for i in range(width + 1)}
    return pl.DataFrame(rows, schema=schema, orient="row").to_struct(lines.name)


def _fields(line: str, delimiter: str, most: int = -1) -> list[str]:
    """A line's values, none where it is no row of CSV; what is beyond `most` delimiters may be left in one piece."""
    escape = "\\" if delimiter == ";" else None
    if delimiter not in _QUOTING or not ('"' in line or (escape and escape in line)):
        return line.split(delimiter, most)
    if re.sub(r"\\.", "", line).count('"') % 2 if escape else line.count('"') % 2:
        return []  # half of a value with a line break in it, which the other half may not show
    try:
        return next(csv.reader((line,), delimiter=delimiter, escapechar=escape, strict=True))
    except csv.Error:
        return []
