"""Reads a delimited text file with or without a header.

The file is read as lines, and each line is split on its own. So an error can always name the line, and a quote that is
not closed damages one row only. Lines are joined only where a quoted value has line breaks in it.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from expctr.data.readers.bad_rows import BAD_CSV, HEADER, NUL, TOO_FEW, TOO_MANY, UNDECODABLE, marked
from expctr.data.readers.base import RawTable
from expctr.data.readers.csv_rows import check_row_names
from expctr.data.readers.lines import Encoding, join_records, read_lines
from expctr.data.readers.values import MISSING_TEXTS
from expctr.errors import DataError

_DELIMITERS = ("::", "\t", ";", ",", "|")
_QUOTING, _PLAIN = (";", ","), ("\t", "|")
"""Delimiters with which values may be quoted, and those with which quotes are text unless all values have them."""
_HEAD = 20  # number of lines from which the layout of a file without a header is detected
_MAX_COLUMNS = 1000
_NAMES = 20  # columns whose names, again in a row, show that it is the header
csv.field_size_limit(1 << 30)  # the default of 128 KiB would refuse a long title, but only in a row with quotes


def read_delimited(
    path: Path,
    headers: Mapping[str, Sequence[str]],
    required: Sequence[str],
    order: Sequence[str] | Callable[[Sequence[str]], Sequence[str]] = (),
    encoding: Encoding = "utf-8",
    replace: Mapping[str, str] | None = None,
) -> RawTable:
    r"""Reads a delimited text file, plain or compressed by gzip or zstd, all columns as strings.

    The delimiter is the one that splits the header (or the first lines) into the required columns. Values may be quoted
    if the delimiter is `,` or `;`, and with a header also for a tab or `|` (see `_may_quote`). With `;` a backslash
    escapes a quote, as in the original BookCrossing files; other backslashes stand for themselves. A line break inside
    a quoted value becomes a space.

    A file without a header has as many columns as most of its first lines.

    Args:
        path: the file.
        headers: column -> the headers that are accepted for it, in lower case and without punctuation. The first one
            that is there counts.
        required: the columns that must be in the file; other columns are null if they are missing.
        order: the columns in the order of the file, for a layout without a header; or a function that finds them by the
            first lines, and returns none if these have a header.
        encoding: in which the dataset was published. People convert such files, so one that is valid UTF-8 is read as
            UTF-8. With `utf-8`, or the byte order mark of UTF-8, lines that are not UTF-8 are bad rows.
        replace: regular expression -> replacement in each raw line, before it is split.

    Returns:
        A table with the columns in `headers` and `order`.

    Raises:
        DataError: no such file, no delimiter splits the first line into the required columns, a column is repeated, or
            rows have names without a column.
    """
    raw = read_lines(path, encoding)
    lines, bad = raw.frame, "[\0\ufffd]" if raw.undecodable else "\0"
    head = lines.filter(pl.col("line") != "").head(_HEAD).collect()
    if head.is_empty():
        raise DataError(f"no header and no data, {path}, row 1: the file is empty. Fix: download or write it again")
    if head.height == 1 and "\r" in head["line"][0]:
        raise DataError(f"lines end with carriage returns only, {path}. Fix: save the file with line feeds")
    first = head["line"].to_list()
    order = order(first) if callable(order) else order
    delimiter, fields = _detect_columns(path, first, headers, required, order)
    width, quoted = len(fields), _may_quote(delimiter, [] if order else first)
    if raw.has_quotes and not (quoted or order):
        doubled, plain = lines.select(_quotes(delimiter, width)).collect(engine="streaming").row(0)
        quoted = doubled > plain
    if not order:
        check_row_names(path, width, [_split_line(line, delimiter, quoted) for line in first[1:]])
    for pattern, by in (replace or {}).items():
        lines = lines.with_columns(pl.col("line").str.replace_all(pattern, by))
    if not order:
        lines = lines.filter(pl.col("row") > head["row"][0])
    if raw.has_quotes and quoted:
        lines = join_records(lines, _has_odd_quotes(delimiter), lambda text: _is_record(text, delimiter, width))
    lines = lines.filter(pl.col("line") != "")

    values = pl.Struct({f"{i}": pl.String for i in range(width + 1)})
    split = pl.col("line").map_batches(
        lambda batch: _split_lines(batch, delimiter, width, quoted), return_dtype=values, is_elementwise=True
    )
    value = [pl.col("values").struct.field(str(i)) for i in range(width + 1)]
    names = [] if order else fields[:_NAMES]
    checks = {
        HEADER: pl.all_horizontal(
            not order, *(value[i].str.strip_chars('\ufeff "') == name.strip(' "') for i, name in enumerate(names))
        ),
        BAD_CSV: value[0].is_null(),
        TOO_FEW: value[width - 1].is_null(),
        TOO_MANY: value[width].is_not_null(),
        NUL: pl.col("line").str.contains("\0", literal=True),
        UNDECODABLE: pl.col("line").str.contains("\ufffd", literal=True) if raw.undecodable else pl.lit(False),
    }
    problem = pl.coalesce(pl.when(failed).then(marked(name)) for name, failed in checks.items())
    column = pl.coalesce(
        pl.when(checks[HEADER] | value[0].is_null()).then(pl.lit("all")),
        *(pl.when(v.is_null() | v.str.contains(bad)).then(pl.lit(f[:60])) for v, f in zip(value, fields, strict=False)),
        pl.lit(f"{width + 1} of {width}"),
    )
    place = _positions(fields, headers, order)
    columns = [
        (value[place[name]].str.strip_chars() if name in place else pl.lit(None, pl.String)).alias(name)
        for name in dict.fromkeys([*order, *headers])
    ]
    frame = lines.with_columns(split.alias("values")).select(
        "row", "line", problem.alias("problem"), column.alias("column"), *columns
    )
    unused = () if order else tuple(f for i, f in enumerate(fields) if i not in place.values() and f)
    absent = tuple(name for name in headers if name not in place)
    return RawTable(frame, path, absent=absent, unused=unused, is_latin=raw.is_latin)


def read_header(path: Path) -> list[str]:
    """The names of the columns of a file with a header. Its delimiter is the one that splits it into the most names."""
    lines = read_lines(path, "utf-8").frame.filter(pl.col("line") != "")
    head = lines.select("line").head(_HEAD).collect()["line"].to_list() or [""]
    return [name.strip() for name in max((_split_line(head[0], d, _may_quote(d, head)) for d in _DELIMITERS), key=len)]


def plain_header(header: str) -> str:
    """Removes case, punctuation and the type that RecBole adds: `User-ID` and `user_id:token` are both `userid`."""
    return "".join(c for c in header.split(":")[0].lower() if c.isalnum())


def _detect_columns(
    path: Path, head: Sequence[str], headers: Mapping[str, Sequence[str]], required: Sequence[str], order: Sequence[str]
) -> tuple[str, list[str]]:
    """The delimiter, and the names of the file's columns: its header, or `order` if it has none."""
    if order:
        widths = {
            d: Counter(len(_split_line(line, d, d in _QUOTING)) for line in head).most_common(1)[0] for d in _DELIMITERS
        }
        least = max(2, len(required))
        delimiter, (width, _) = max(widths.items(), key=lambda by: (by[1][0] >= least, by[1][1] * (by[1][0] - 1)))
        fields = [*order[:width], *(f"column {i + 1}" for i in range(len(order), width))]
        known = width >= least
    else:
        splits = {
            d: _split_line(head[0], d, _may_quote(d, head), _MAX_COLUMNS)[: _MAX_COLUMNS + 1] for d in _DELIMITERS
        }
        delimiter, fields = max(splits.items(), key=lambda split: len(_positions(split[1], headers, ())))
        fields = [field.strip() for field in fields]
        place = _positions(fields, headers, ())
        known = place.keys() >= set(required) and len(fields) > 1 and "\0" not in head[0]
        plain = [plain_header(field) for field in fields]
        exact = {name for accepted in headers.values() for name in accepted}
        count, alike = Counter(fields), Counter(plain)
        twice = [
            fields[i]
            for i in place.values()
            if count[fields[i]] > 1 or (fields[i] not in exact and alike[plain[i]] > 1)
        ]
        if twice:
            raise DataError(
                f"two columns of one name, {path}, row 1, column {twice[0][:60]}. Fix: delete or rename one of them"
            )
    if len(fields) > _MAX_COLUMNS:
        raise DataError(
            f"{len(head[0].split(delimiter)):,} columns, {path}, row 1, and at most {_MAX_COLUMNS:,} are read. "
            "Fix: keep the columns that are needed, or, if it has fewer, download the damaged file again"
        )
    if not known:
        accepted = "; ".join(f"{name}: {', '.join(headers[name])}" for name in required if not order)
        raise DataError(
            f"wrong delimiter or header, {path}, row 1, column 1: none of {' '.join(map(repr, _DELIMITERS))} splits "
            f"{head[0][:120]!r} into the columns {', '.join(required)}. Fix: "
            + (f"use these column names ({accepted})" if accepted else "check that this is the right file")
        )
    return delimiter, fields


def _positions(fields: Sequence[str], headers: Mapping[str, Sequence[str]], order: Sequence[str]) -> dict[str, int]:
    """Column -> its position in the file."""
    if order:
        return {name: i for i, name in enumerate(fields) if name in order}
    # reversed: the first of equal names counts; and an exact name comes before one that only looks alike
    index = {name: i for i, name in reversed([*enumerate(map(plain_header, fields))])}
    index |= {name: i for i, name in reversed([*enumerate(fields)])}
    found = {name: next((index[a] for a in accepted if a in index), None) for name, accepted in headers.items()}
    return {name: i for name, i in found.items() if i is not None}


def _may_quote(delimiter: str, head: Sequence[str]) -> bool:
    """Whether values may be in quotes. With a tab or `|`, if the header or all first values of a column are, or (see
    `_quotes`) one anywhere shows that a program has put it in quotes.

    Missing values, which no program puts in quotes, do not count.

    Args:
        delimiter: of the file.
        head: its first lines, with the header; none if it has none.
    """
    if delimiter not in _PLAIN or not head:
        return delimiter in _QUOTING
    header, *rows = ([value.strip() for value in line.split(delimiter)] for line in head)
    if any(len(row) > len(header) for row in rows) and all(len(_split_line(d, delimiter)) == len(header) for d in head):
        return True  # only so do the rows have as many values as the header
    columns = ([value for value in column if value not in MISSING_TEXTS] for column in zip(*rows, strict=False))
    full = [column for column in columns if len(column) > 1 and 2 * len(column) >= len(rows)]
    return any(all(len(v) > 1 and v[0] == v[-1] == '"' for v in column) for column in (header, *full))


def _split_lines(lines: pl.Series, delimiter: str, width: int, quoted: bool) -> pl.Series:
    """Splits lines into a struct of `width` + 1 strings.

    In a good line only the last string is null. In a line that is not a row of CSV all strings are null.
    """
    names = [str(i) for i in range(width + 1)]
    parts = lines.str.splitn(delimiter, width + 1).struct.rename_fields(names)
    if not (quoted and lines.str.contains(r'["\\]').any()):
        return parts
    # Most lines have quotes, if any, only around whole values. The others need a parser.
    plain = pl.all().is_null() | pl.all().str.contains(r'^(?:[^"\\\n]*|"[^"\\\n]*")$')
    frame = parts.struct.unnest().select(pl.int_range(pl.len()).alias("at"), pl.all())
    is_plain = frame.drop("at").select(pl.all_horizontal(plain)).to_series()
    others = [
        (at, *([*_split_line(lines[at], delimiter, most=width), *[None] * (width + 1)][: width + 1]))
        for at in (~is_plain).arg_true()
    ]
    frame = frame.filter(is_plain).with_columns(pl.col(pl.String).str.strip_chars('"'))
    if others:
        parsed = pl.DataFrame(others, schema=frame.schema, orient="row")
        breaks = pl.col(pl.String).str.replace_all(r"\s*\n\s*", " ")
        frame = pl.concat([frame, parsed.with_columns(breaks)]).sort("at")
    return frame.drop("at").to_struct(lines.name)


def _split_line(line: str, delimiter: str, quoted: bool = True, most: int = -1) -> list[str]:
    """The values of a line; none if it is not a row of CSV. After `most` delimiters the rest may stay in one piece."""
    if not quoted or '"' not in line:
        return line.split(delimiter, most)
    if delimiter == ";" and "\\" in line:
        # from the first backslash of several only, and possessive: a cell of many would take quadratic time
        escaped = re.sub(r'(?<!\\)\\++(?!")', lambda backslashes: 2 * backslashes[0], line)
        if re.sub(r"\\.", "", escaped).count('"') % 2 == 0 and (found := _parsed(escaped, delimiter, "\\")):
            return found  # else no quote is escaped, and a value ends in a backslash
    return [] if line.count('"') % 2 else _parsed(line, delimiter)  # half of a value; csv would accept some of these


def _parsed(line: str, delimiter: str, escape: str | None = None) -> list[str]:
    for skips in (True, False):  # blanks after a delimiter: `1, "Heat"` has quotes around a value, `1, "A" b` has not
        with suppress(csv.Error):
            return next(
                csv.reader((line,), delimiter=delimiter, escapechar=escape, strict=True, skipinitialspace=skips)
            )
    return []


def _quotes(delimiter: str, width: int) -> tuple[pl.Expr, pl.Expr]:
    """How many lines have a value that begins and ends with a quote, and has some in between, all of them doubled; and
    how many have quotes, but no value that begins or ends with one, as no program writes that puts values in quotes.
    Lines of other than `width` values, which may be parts of a row, are not counted among the latter.
    """
    other, ends = f'([^"{delimiter}]|"")*', re.escape(delimiter)
    line = pl.col("line").str
    doubled = line.contains(f'(^|{ends})"{other}""{other}"(\r?$|{ends})')
    is_row = line.count_matches(delimiter, literal=True) == width - 1
    plain = is_row & line.contains('"', literal=True) & ~line.contains(f'(^|{ends})"|"(\r?$|{ends})')
    return doubled.sum().alias("doubled"), plain.sum().alias("plain")


def _has_odd_quotes(delimiter: str) -> pl.Expr:
    text = pl.col("line").str.replace_all(r"\\.", "") if delimiter == ";" else pl.col("line")
    return text.str.count_matches('"', literal=True) % 2 == 1


def _is_record(text: str, delimiter: str, width: int) -> bool:
    """Whether lines are one row of CSV, and not rows of which two have a quote too many."""
    if len(_split_line(text, delimiter)) != width:
        return False
    first, *between, last = text.split("\n")
    alone = ["".join(first.rsplit('"', 1)), *between, last.replace('"', "", 1)]
    return not all(len(_split_line(line, delimiter)) == width for line in alone)
