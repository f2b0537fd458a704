"""Finds the raw files of a dataset, and checks that they can be read."""

import fnmatch
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from expctr.data.readers.base import RawTable, RawTables
from expctr.errors import DataError
from expctr.untrusted import replace_surrogates

_COMPRESSED = (".gz", ".zst")
_ARCHIVES = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR"}
_SKIPPED = b"\x2a\x4d\x18"
"""Bytes of a zstd frame that is skipped, after one of 0x50 to 0x5f. Polars takes a file that begins so for text."""
_WORKBOOKS = (b"[Content_Types].xml", b"mimetypeapplication/vnd.oasis")  # in the head of .xlsx and .ods, zip archives
_SHEETS = ("a spreadsheet", "an Excel workbook")
_FORMATS = {
    b"ARROW1": "an Arrow or Feather file",
    b"\xd0\xcf\x11\xe0": _SHEETS[1],
    b"\x89HDF": "an HDF5 file",
    b"SQLite format": "an SQLite database",
    b"\x93NUMPY": "a NumPy file",
    b"Obj\x01": "an Avro file",
}
"""How the files of other programs begin."""
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+]+:/")  # also a `Path` of it, which has one slash
_PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp")


@dataclass(frozen=True)
class Layout:
    """File name patterns of one layout. `|` separates alternatives; case does not matter; `.gz` and `.zst` may follow.

    Attributes:
        ratings: one pattern, or three of the splits train, val and test.
        items: may be the pattern of the ratings, if one file holds both.
        users: empty if the layout has no such file; the file is optional.
    """

    ratings: tuple[str, ...]
    items: str
    users: str = ""


@dataclass(frozen=True)
class FoundFiles:
    """The files of the layout that a folder holds; `notes` says which similar files are not used, `doubts` why one of
    them should perhaps be.
    """

    layout: str
    ratings: tuple[Path, ...]
    items: Path
    users: Path | None
    notes: tuple[str, ...]
    doubts: tuple[str, ...]

    def tables(self, ratings: Sequence[RawTable], items: RawTable, users: RawTable | None) -> RawTables:
        """The tables that were read from these files; `ratings` has one table, or those of train, val and test."""
        splits = dict(zip(("train", "val", "test"), ratings, strict=True)) if len(ratings) > 1 else {}
        return RawTables(ratings[0], items, users, self.notes, splits, doubts=self.doubts)


def find_layout(folder: Path, layouts: Mapping[str, Layout]) -> FoundFiles:
    """Finds the layout of which the folder holds all required files.

    Of a file and its compressed copy the plain one is read. Any other choice is left to the user.

    Args:
        folder: the folder with the raw files.
        layouts: by name. A ratings file that belongs to one layout does not count for those after it.

    Raises:
        DataError: no such folder, no layout is complete, two are, or two files could be meant. The message lists the
            files.
    """
    content = _listed(folder)
    complete: dict[str, list[list[str]]] = {}
    taken: set[str] = set()
    for name, layout in layouts.items():
        matching = [[n for n in _matching(content, p) if n not in taken] for p in layout.ratings]
        matching += [_matching(content, layout.items), _matching(content, layout.users)]
        if all(matching[:-1]):
            complete[name] = matching
            taken.update(n for names in matching[: len(layout.ratings)] for n in names)
    if not complete:
        raise _no_layout(folder, content, layouts)
    if len(complete) > 1:
        held = "; ".join(f"{name}: {', '.join(n for ns in m for n in ns)}" for name, m in complete.items())
        raise DataError(
            f"{folder} holds {len(complete)} layouts ({held}). Fix: keep the files of one of them in the folder, and "
            "move the others"
        )
    ((name, matching),) = complete.items()
    chosen = [_choose(folder, names) for names in matching]
    *ratings, items, users = chosen
    patterns = {p for one in layouts.values() for p in (*one.ratings, one.items, one.users)}
    similar = (n for n in content if any(_matching([n], p, "*") for p in patterns))
    notes = tuple(f"not used: file {n}" for n in similar if n not in chosen)
    doubts = odd_copies([folder / n for names in matching for n in names])
    paths = tuple(folder / n for n in ratings if n)
    return FoundFiles(name, paths, folder / str(items), folder / users if users else None, notes, tuple(doubts))


def check_file(path: Path) -> None:
    """Raises DataError if a file is missing, not a file, not readable, or an archive, or if its name is no UTF-8."""
    if replace_surrogates(str(path)) != str(path):
        raise DataError(f"the name of a file is not UTF-8, {path}. Fix: rename it")
    try:
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(64)
            start = head[:8]
            found = next((kind for magic, kind in _FORMATS.items() if head.startswith(magic)), None)
            if any(name in head for name in _WORKBOOKS):
                found = _SHEETS[0]
            if found:
                sheet = " (pandas: pandas.read_excel(...).to_csv(..., index=False))" if found in _SHEETS else ""
                raise DataError(f"{found}, {path}. Fix: save the table as CSV in UTF-8{sheet}, or as parquet")
            packed = next((kind for magic, kind in _ARCHIVES.items() if start.startswith(magic)), None)
            if start[1:4] == _SKIPPED and start[0] >> 4 == 5:
                raise DataError(f"packed by pzstd, {path}. Fix: unpack it, or pack it with zstd or gzip")
            if packed:
                raise DataError(f"a {packed} archive, {path}. Fix: unpack it; gzip and zstd files are read as they are")
            is_text = start.isascii() and min(start, default=9) >= 9  # unpacked, with its name left as it was
            if path.suffix == ".gz" and not is_text and not start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
                raise DataError(f"cannot read {path}: its first bytes are damaged. Fix: download it again")
            return
        exists = os.path.lexists(path)
        is_stream = path.is_fifo() or path.is_char_device() or path.is_socket()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Fix: check its name and permissions") from error
    if is_stream:
        raise DataError(f"a stream, {path}: data are read more than once. Fix: write it to a file, and name that")
    if exists and path.is_symlink() and not path.exists():
        raise DataError(
            f"not a file: {path} is a link to {path.readlink()}, which is not there. Fix: mount its disk, put the file "
            "there, or remove the link"
        )
    if exists:
        raise DataError(f"not a file: {path}. Fix: remove it, and put the file in its place")
    check_local(str(path))
    raise DataError(f"no such file: {path}. Fix: check the path")


def check_local(named: str) -> None:
    """Raises DataError for an address on the network, such as `s3://bucket/clicks.csv`."""
    if _REMOTE.match(named):
        raise DataError(f"{named} is not on this machine. Fix: download it, and name the file or the folder here")


def plain_name(name: str) -> str:
    """The name without the ending of a compressed file."""
    return next((name[: -len(end)] for end in _COMPRESSED if name.lower().endswith(end)), name)


def odd_copies(files: Iterable[Path]) -> list[str]:
    """What looks wrong if gzip files stand beside plain ones, which are read, and do not unpack to their size."""
    pairs = [(file, file.with_name(plain_name(file.name))) for file in dict.fromkeys(files) if file.is_file()]
    gzipped = [(file, plain) for file, plain in pairs if file.suffix.lower() == ".gz" and plain.is_file()]
    return [
        f"{file} is left out as a compressed copy of {plain.name}, which has another size. Fix: remove one of them, or "
        "rename one, so that both are read"
        for file, plain in gzipped
        if not _unpacks_to(file, plain.stat().st_size)
    ]


def _unpacks_to(file: Path, size: int) -> bool:
    with suppress(OSError, EOFError, zlib.error):
        with file.open("rb") as packed:
            packed.seek(max(0, file.stat().st_size - 4))
            if int.from_bytes(packed.read(), "little") == size % 2**32:  # as a file of one member says
                return True
        left = size
        with gzip.open(file) as content:
            while left >= 0 and (block := content.read(1 << 20)):
                left -= len(block)
        return left == 0
    return False


def _listed(folder: Path) -> list[str]:
    try:
        if not folder.is_dir():
            check_local(str(folder))
            here = "" if folder.is_absolute() else f", seen from {Path.cwd()}"
            raise DataError(
                f"no such folder: {folder}{here}. Fix: set data.path to the folder that holds the raw files"
            )
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot read {folder}: {error.strerror}. Fix: check the folder's name and permissions"
        ) from error


def _matching(content: Sequence[str], pattern: str, ending: str = "") -> list[str]:
    """The names that match, broken links too."""
    patterns = [alternative.lower() + ending for alternative in pattern.split("|") if alternative]
    return [n for n in content if any(fnmatch.fnmatchcase(plain_name(n).lower(), p) for p in patterns)]


def _choose(folder: Path, names: Sequence[str]) -> str | None:
    """The only name, or the plain one if the others are its compressed copies."""
    if len({plain_name(name) for name in names}) > 1:
        raise DataError(
            f"several files could be meant in {folder}: {', '.join(names)}. Fix: keep one of them in the folder, and "
            "move the others"
        )
    return min(names, key=len, default=None)


def _no_layout(folder: Path, content: Sequence[str], layouts: Mapping[str, Layout]) -> DataError:
    required = {name: list(dict.fromkeys((*layout.ratings, layout.items))) for name, layout in layouts.items()}
    missing = {name: [p for p in patterns if not _matching(content, p)] for name, patterns in required.items()}
    nearest = min(missing, key=lambda name: len(missing[name]) / len(required[name]))
    if len(missing[nearest]) < len(required[nearest]):
        looked = f"{nearest} lacks {_listed_patterns(missing[nearest])}"
    else:
        looked = "Looked for " + "; ".join(f"{name}: {_listed_patterns(of)}" for name, of in required.items())
    listed = ", ".join(content[:12]) + (", ..." if len(content) > 12 else "") if content else "nothing"
    packed = [n for n in content if n.lower().endswith(_PACKED)]
    unfinished = [n for n in content if n.lower().endswith(_UNFINISHED)]
    fix = "set data.path to the folder that holds the raw files, or rename the files"
    if packed:
        fix = f"unpack {', '.join(packed[:3])}, or {fix}"
    if unfinished:
        fix = f"wait until the download of {', '.join(unfinished[:3])} is complete, or {fix}"
    return DataError(f"no known layout in {folder}. {looked}. The folder holds {listed}. Fix: {fix}")


def _listed_patterns(patterns: Sequence[str]) -> str:
    return ", ".join(patterns).replace("|", " or ").replace("[-_]", "-").replace("[0-9]*", "5")
