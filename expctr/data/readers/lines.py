"""Text files as numbered lines, whatever their encoding and compression; and records of several lines in CSV."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import filterfalse
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from expctr.data.readers.files import check_file
from expctr.errors import DataError

Encoding = Literal["utf-8", "latin-1"]

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
"""How the content of a compressed file begins, whatever its name."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROLS = re.compile(r"(?<![\xc2\xc3])[\x80-\x9f]")
"""Control characters of Latin-1, which no text has: in Windows-1252 they are quotes, dashes and letters. After Â or Ã
the text was encoded twice, as some rows of BX-Books.csv.
"""
_LONGEST = 1000
"""Most lines of one record: the partner of a stray quote is not looked for in the whole file."""


@dataclass(frozen=True)
class Lines:
    """The lines of a file.

    Attributes:
        frame: `row` (from 1) and `line`, without blank lines at its head.
        has_quotes: whether there may be a quote in the file.
        undecodable: whether lines may hold U+FFFD in place of bytes that are not UTF-8.
        is_latin: whether it was read as Latin-1.
    """

    frame: pl.LazyFrame
    has_quotes: bool
    undecodable: bool
    is_latin: bool


def read_lines(path: Path, encoding: Encoding) -> Lines:
    """Reads a text file, plain or compressed by gzip or zstd, in a few MB of memory if it is UTF-8.

    Args:
        path: the file; its content says how it is compressed.
        encoding: of a file that is not valid UTF-8 and has no byte order mark. Latin-1 is read as browsers read it, as
            Windows-1252, in which spreadsheets save; of a file whose lines are mostly UTF-8, only the other lines.

    Raises:
        DataError: no such file, it is UTF-16, cut short or damaged.
    """
    check_file(path)
    if is_wide(path):
        raise DataError(f"the file is UTF-16 or damaged, {path}. Fix: save it as UTF-8")
    try:
        is_utf8, has_quotes = _inspect(path)
        if is_utf8:
            frame = pl.scan_lines(path, name="line", row_index_name="row", row_index_offset=1, glob=False)
        else:
            raw = decompress(path)
            if raw.startswith(_UTF16):
                raise DataError(f"the file is UTF-16, {path}. Fix: save it as UTF-8")
            encoding = "utf-8" if raw.startswith(codecs.BOM_UTF8) else encoding
            text = _from_latin(raw) if encoding == "latin-1" else raw.decode("utf-8", "replace")
            frame = pl.LazyFrame({"line": text.split("\n")}).with_row_index("row", 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"cannot read {path}: {error}. Fix: the file is cut short or damaged; download it again"
        ) from error
    line = pl.col("line").str.strip_chars_end("\r").str.strip_prefix("\ufeff")
    undecodable, is_latin = not is_utf8 and encoding == "utf-8", not is_utf8 and encoding == "latin-1"
    return Lines(frame.with_columns(line), has_quotes, undecodable, is_latin)


def _from_latin(raw: bytes) -> str:
    """The text of a file that is not UTF-8; if most lines that tell are, only the others are not."""
    telling = [line for line in raw.split(b"\n") if not line.isascii()]
    others = {*filterfalse(_is_utf8, telling)}
    if sum(line in others for line in telling) < len(telling) / 2:
        return "\n".join(_latin(line) if line in others else line.decode() for line in raw.split(b"\n"))
    return _latin(raw)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _latin(raw: bytes) -> str:
    return _CONTROLS.sub(
        lambda found: found[0].encode("latin-1").decode("cp1252", "ignore") or found[0], raw.decode("latin-1")
    )


class ZstdText(io.RawIOBase):
    """The text of a zstd file as bytes. Seeking goes forward only."""

    def __init__(self, path: Path) -> None:
        lines = pl.scan_lines(path, name="line", glob=False)
        self._batches = lines.collect_batches(maintain_order=True, engine="streaming")
        self._rest, self._at = memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Raises OSError if the file is damaged or not UTF-8."""
        try:
            while not self._rest:
                lines = next(self._batches)["line"]
                self._rest = memoryview("".join(f"{line}\n" for line in lines).encode())
        except StopIteration:
            return 0
        except pl.exceptions.PolarsError as error:
            raise OSError(f"it is damaged, or its text is not UTF-8 ({error})") from error
        read = min(len(buffer), len(self._rest))
        buffer[:read], self._rest = self._rest[:read], self._rest[read:]
        self._at += read
        return read

    def seek(self, offset: int, whence: int = 0) -> int:
        while whence == 0 and self._at < offset and self.read(min(offset - self._at, 1 << 20)):
            pass
        return self._at


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The content of a file, and the file itself, whose position tells how much is read."""
    with path.open("rb") as raw:
        magic = magic_of(path)
        if magic.startswith(ZSTD):
            yield io.BufferedReader(cast(io.RawIOBase, ZstdText(path)), 1 << 20), raw
        elif magic.startswith(GZIP):
            yield io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20), raw
        else:
            yield raw, raw


def join_records(lines: pl.LazyFrame, has_odd_quotes: pl.Expr, is_record: Callable[[str], bool]) -> pl.LazyFrame:
    r"""Joins the lines of records that have line breaks inside quotes; `row` becomes the first of their lines.

    A record starts and ends in lines with an odd number of quotes. Two such lines are joined only if `is_record`
    accepts the text between them, so that a stray quote damages its own line only.

    Args:
        lines: `row` and `line`.
        has_odd_quotes: whether a line has an odd number of quotes.
        is_record: whether a text of several lines is one record.
    """
    if lines.select(has_odd_quotes.sum()).collect(engine="streaming").item() < 2:
        return lines

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        rest = lines.head(0).collect()
        for batch in lines.collect_batches(maintain_order=True, engine="streaming"):
            joined, rest = _join(pl.concat([rest, batch]), has_odd_quotes, is_record, last=False)
            yield _narrowed(joined, columns, predicate)
        yield _narrowed(_join(rest, has_odd_quotes, is_record, last=True)[0], columns, predicate)

    return register_io_source(source, schema=lines.collect_schema(), is_pure=True)


def _narrowed(frame: pl.DataFrame, columns: list[str] | None, predicate: pl.Expr | None) -> pl.DataFrame:
    frame = frame if predicate is None else frame.filter(predicate)
    return frame if columns is None else frame.select(columns)


def _join(
    batch: pl.DataFrame, has_odd_quotes: pl.Expr, is_record: Callable[[str], bool], last: bool
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The batch with joined records, and its last lines if a record may go on after them."""
    odd = batch.select(has_odd_quotes.arg_true()).to_series().to_list()
    line, keep = batch["line"], np.ones(batch.height, dtype=np.bool_)
    texts: dict[int, str] = {}
    end, at = batch.height, 0
    while at < len(odd):
        first, second = odd[at], odd[at + 1] if at + 1 < len(odd) else None
        if second is None and not last and batch.height - first < _LONGEST:
            end = first
            break
        text = "\n".join(line[first : second + 1]) if second and second - first < _LONGEST else ""
        if second and text and is_record(text):
            texts[first] = text
            keep[first + 1 : second + 1] = False
            at += 1
        at += 1
    if texts:
        batch = batch.with_columns(line.scatter([*texts], [*texts.values()]))
    return batch[:end].filter(pl.Series(keep[:end])), batch[end:]


def _inspect(path: Path) -> tuple[bool, bool]:
    """Whether the file is UTF-8, and whether there is a quote in it."""
    if magic_of(path).startswith((GZIP, ZSTD)):
        found = pl.scan_lines(path, name="line", glob=False).select(
            pl.col("line").str.contains('"', literal=True).any()
        )
        try:
            return True, bool(found.collect(engine="streaming").item())
        except pl.exceptions.ComputeError:
            return False, True
    has_quotes = False
    with path.open("rb") as file:
        chunks = iter(partial(file.read, 1 << 22), b"")
        try:
            for text in codecs.iterdecode(chunks, "utf-8"):
                has_quotes = has_quotes or '"' in text
        except UnicodeDecodeError:
            return False, True
    return True, has_quotes


def is_wide(path: Path) -> bool:
    """Whether a plain file is UTF-16 or UTF-32, with or without a byte order mark: of ASCII, each other byte is 0."""
    with path.open("rb") as file:
        head = file.read(200)
    return head.startswith(_UTF16) or 3 * head.count(0) > len(head)


def decompress(path: Path) -> bytes:
    """The content of a file, plain or compressed by gzip."""
    magic = magic_of(path)
    if magic.startswith(ZSTD):
        raise DataError(f"the text is not UTF-8, {path}. Fix: unpack it, or save it as UTF-8")
    return gzip.decompress(path.read_bytes()) if magic.startswith(GZIP) else path.read_bytes()


def magic_of(path: Path) -> bytes:
    """The first bytes, which tell a compressed file."""
    with path.open("rb") as file:
        return file.read(4)
