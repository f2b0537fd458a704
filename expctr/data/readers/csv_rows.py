"""The rows of a CSV of people or of pairs: each is checked as it is read, in constant memory."""

import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from expctr.data.readers.bad_rows import BAD_CSV, FIXES, NUL, TOO_FEW, TOO_MANY, UNDECODABLE
from expctr.data.readers.lines import is_wide, opened
from expctr.errors import DataError

_HEAD = 20  # rows that show whether each has a name
_UNDECODED = re.compile("[\udc80-\udcff]")

Row = tuple[int, list[str]]
"""The line at which a row ends, and its values."""


def read_rows(path: Path) -> Iterator[Row]:
    """The header and the rows of a CSV, plain or compressed by gzip or zstd, without blank lines.

    Raises:
        DataError: the file is cut short or UTF-16; two columns have one name; or a row has the wrong number of columns,
            an open quote, a NUL byte, or bytes that are not UTF-8.
    """
    try:
        if is_wide(path):
            raise DataError(f"the file is UTF-16 or damaged, {path}. Fix: save it as UTF-8")
        with opened(path) as (file, _):
            yield from _checked(path, _read(path, io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"cannot read {path}: {error}. Fix: the file is cut short or damaged; download it again"
        ) from error


def check_row_names(path: Path, width: int, rows: Sequence[Sequence[str]]) -> None:
    """Raises DataError if each of the first rows has one value more than the header has names, as R writes them."""
    if len(rows) > 1 and all(len(row) == width + 1 and row[-1].strip() for row in rows):
        raise DataError(
            f"names of rows without a column, {path}, row 1: the header has {width:,} names, and the rows have "
            f"{width + 1:,} values. Fix: write the table without them (R: row.names = FALSE; pandas: index=False)"
        )


def _read(path: Path, text: io.TextIOWrapper) -> Iterator[Row]:
    rows = csv.reader(text, strict=True)  # otherwise an unclosed quote swallows the rows below it
    first = 1  # line of the row: a quote that is not closed ends with the file
    try:
        for row in rows:
            first = rows.line_num + 1
            if row:
                yield rows.line_num, row
    except csv.Error as error:
        raise DataError(f"{BAD_CSV}, {path}, row {first:,}: {error}. Fix: {FIXES[BAD_CSV]}") from error


def _checked(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    head = [*islice(rows, 1 + _HEAD)]
    header = head[0][1] if head else []
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise DataError(f"two columns of one name, {path}, row 1, column {twice[0]}. Fix: delete or rename one of them")
    check_row_names(path, len(header), [row for _, row in head[1:]])
    for line, row in chain(head, rows):
        if len(header) > 1 and len(row) < len(header):
            raise _bad_row(TOO_FEW, path, line, header[len(row)] or str(len(row) + 1))
        if len(header) > 1 and len(row) > len(header):
            raise _bad_row(TOO_MANY, path, line, f"{len(row):,} of {len(header):,}")
        text = "".join(row)
        if not text.isascii() or "\0" in text:
            for problem, bad in ((UNDECODABLE, _UNDECODED), (NUL, re.compile("\0"))):
                if found := [i for i, value in enumerate(row) if bad.search(value)]:
                    name = header[found[0]] if found[0] < len(header) and line > head[0][0] else ""
                    raise _bad_row(problem, path, line, name or str(found[0] + 1))
        yield line, row


def _bad_row(problem: str, path: Path, line: int, column: str) -> DataError:
    return DataError(f"{problem}, {path}, row {line:,}, column {column}. Fix: {FIXES[problem]}")
