"""What is no table in a text file is named for what it is, with what to do about it."""

import os
import zipfile
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from readers.test_table import CLICKS

from expctr.data.readers.files import check_file, find_layout
from expctr.data.readers.lines import read_lines
from expctr.data.readers.named_files import find_files
from expctr.errors import DataError


def workbook(first: str, content: str = "x") -> bytes:
    """A zip archive that begins with a file of this name."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(first, content)
    return packed.getvalue()


def arrow() -> bytes:
    written = BytesIO()
    CLICKS.write_ipc(written)
    return written.getvalue()


OTHERS = {
    "a spreadsheet": workbook("[Content_Types].xml"),
    "a spreadsheet, by its other name": workbook("mimetype", "application/vnd.oasis.opendocument.spreadsheet"),
    "an Arrow or Feather file": arrow(),
    "an SQLite database": b"SQLite format 3\0" + bytes(84),
    "an Excel workbook": bytes.fromhex("d0cf11e0a1b11ae1") + bytes(500),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_programs_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clicks.csv"
    path.write_bytes(OTHERS[kind])
    with pytest.raises(DataError, match=rf"^{kind.split(',')[0]}, .*clicks\.csv\. Fix: save the table as CSV"):
        check_file(path)


def test_a_file_of_pzstd_is_named(tmp_path: Path) -> None:
    """It begins with a frame to skip, and polars takes it for text."""
    path = tmp_path / "clicks.csv.zst"
    path.write_bytes(bytes.fromhex("502a4d18 04000000 00000000 28b52ffd") + bytes(40))
    with pytest.raises(DataError, match=r"^packed by pzstd, .*clicks\.csv\.zst\. Fix: unpack it, or pack it with zstd"):
        check_file(path)


@pytest.mark.parametrize("header", ["ORCID,title", "Objects,clicked", "SQL,x"])
def test_a_header_that_looks_alike_is_a_header(tmp_path: Path, header: str) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text(f"{header}\n1,2\n")
    check_file(path)


@pytest.mark.parametrize("named", ["", "*.csv", "caf\udce9.csv"])
def test_a_file_whose_name_is_not_utf_8_is_refused(named: str, tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"the name of a file is not UTF-8, .* Fix: rename it"):
        find_files(str(tmp_path / named), "data.interactions")


def test_the_home_of_nobody_is_no_home() -> None:
    with pytest.raises(DataError, match=r"no such file: ~nobody-of-this-name/a.csv"):
        find_files("~nobody-of-this-name/a.csv", "data.interactions")


def test_a_stream_is_not_to_be_removed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"a stream, .*pipe: .* Fix: write it to a file"):
        check_file(tmp_path / "pipe")


@pytest.mark.parametrize("address", ["https://example.com/clicks.csv", "s3://bucket/day=*/clicks.parquet", "gs://a/b"])
def test_an_address_on_the_network_is_said_to_be_one(address: str) -> None:
    with pytest.raises(DataError, match=r"is not on this machine\. Fix: download it"):
        find_files(address, "data.interactions")
    with pytest.raises(DataError, match=r"is not on this machine\. Fix: download it"):
        find_layout(Path(address), {})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_characters_are_named_with_and_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "clicks.csv"
    path.write_bytes(CLICKS.write_csv().encode(encoding))
    with pytest.raises(DataError, match=r"the file is UTF-16 or damaged, .*Fix: save it as UTF-8"):
        read_lines(path, "utf-8")


def test_a_zero_byte_is_a_matter_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text(CLICKS.write_csv().replace("bob", "b\0b"))
    assert read_lines(path, "utf-8").frame.select(pl.len()).collect().item() == 5
