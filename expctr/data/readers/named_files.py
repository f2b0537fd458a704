"""The files that are meant by a name: one, those of a folder and the folders in it, or those that match a glob."""

import fnmatch
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

from expctr.data.readers.files import check_file, check_local, plain_name
from expctr.errors import DataError

KINDS = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "JSON"),
    **dict.fromkeys((".csv", ".tsv", ".txt", ".tab"), "CSV"),
}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_LOCK = "~$"
"""How the name of a file begins that a spreadsheet program keeps while a table is open."""
_HIDDEN = (".", "_", "lost+found")
"""How names begin that are left out in a folder: notes of Spark and of file systems."""
_LAKES = ("_delta_log", ".hoodie", "metadata/*.metadata.json")
"""What Delta, Hudi and Iceberg have in the folder of a table. Files removed from the table are still there."""


def find_files(named: str, option: str) -> list[Path]:
    """The files that a user names: one, those in a folder and the folders in it, or those that match a glob."""
    path = Path(os.path.expanduser(named))
    if not named.strip():
        raise DataError(f"{option}: the name is empty. Fix: name a file, a folder or a pattern")
    if path.is_dir():
        _check_lakes([path], option)
        inside = [file for file in _below(path) if not file.name.startswith(_LOCK)]
        files = _without_compressed([file for file in inside if suffix(file) in KINDS])
        if not files:
            for file in inside:
                if file.is_file():
                    check_file(file)  # which says what to do with a workbook or an archive
            links = "".join(f"; {link} is a link to a folder, and not read" for link in linked_folders(named)[:5])
            raise DataError(f"{option}: no table in {path}{links}. Fix: name a folder with files of {', '.join(KINDS)}")
    elif not path.exists() and glob.has_magic(named):
        files = _without_compressed([file for file in _matching(path) if not file.name.startswith(_LOCK)])
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
    by_preference = sorted(files, key=lambda file: (file.is_symlink(), file), reverse=True)
    named_once = {_identity(file, str(path)): file for file in by_preference}
    return sorted(named_once.values()) if len(named_once) < len(files) else files


def _without_compressed(files: Sequence[Path]) -> list[Path]:
    """The files, without compressed copies of others."""
    plain = {*files}
    return [file for file in files if (own := file.with_name(plain_name(file.name))) == file or own not in plain]


def same_content(files: Sequence[Path]) -> dict[Path, Path]:
    """The files that have the content of an earlier one, and that one; but for folders that are values of a column."""
    places = {file: (file.stat().st_size, *(part for part in file.parts[:-1] if "=" in part)) for file in files}
    count, first, copies = Counter(places.values()), dict[object, Path](), dict[Path, Path]()
    for file, place in places.items():
        if count[place] > 1:
            with file.open("rb") as content:
                key = place, hashlib.file_digest(content, "sha256").digest()
            if (original := first.setdefault(key, file)) != file:
                copies[file] = original
    return copies


def _identity(file: Path, named: str) -> object:
    """What two names of one file have in common, links of both kinds; but for folders that are values of a column."""
    stat, values = file.stat(), tuple(partition(file, named).items())
    return values, (stat.st_dev, stat.st_ino) if stat.st_nlink > 1 else file.resolve()


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
    return () if any(part.startswith(".") for part in parts) else (".", _HIDDEN[-1])


def _below(folder: Path, parts: Sequence[str] = ("**", "*"), hidden: tuple[str, ...] = _HIDDEN) -> list[Path]:
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
    path = Path(os.path.expanduser(named))
    return [str(file.relative_to(path)) if path.is_dir() else file.name for file in left_out(named)]


def left_out(named: str) -> list[Path]:
    """The files that `unused_files` names."""
    path = Path(os.path.expanduser(named))
    if path.is_dir():
        return [file for file in sorted({*_below(path)} - {*find_files(named, "")}) if file.is_file()]
    found = [] if path.exists() or not glob.has_magic(named) else _matching(path)
    return sorted({*found} - {*find_files(named, "")})


def linked_folders(named: str) -> list[str]:
    """The links in a folder, or below a glob's `**`, to other folders: not read, as they could lead back up."""
    path, parts = Path(os.path.expanduser(named)), ["**"]
    hidden: tuple[str, ...] = _HIDDEN
    if not path.exists() and "**" in path.parts:
        path, parts = _split_glob(path)
        parts, hidden = parts[: parts.index("**") + 1], _hidden(parts)
    inside = _below(path, [*parts, "*"], hidden) if path.is_dir() else []
    return [str(link.relative_to(path)) for link in inside if link.is_symlink() and link.is_dir()]


def partition(path: Path, named: str) -> dict[str, str | None]:
    """What the folders of a file are called, below what a user named: `date=2024-01-01/split=train/part-0.parquet`."""
    fixed = [*takewhile(lambda part: not glob.has_magic(part), Path(os.path.expanduser(named)).parts)]
    pairs = (folder.partition("=") for folder in path.parts[len(fixed) : -1])
    return {name: None if value == _NO_VALUE else unquote(value) for name, equals, value in pairs if name and equals}


def suffix(path: Path) -> str:
    return Path(plain_name(path.name)).suffix.lower()
