"""Finds the raw files of a dataset, and checks that they can be read."""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from expctr.errors import DataError


def find_layout(folder: Path, layouts: Mapping[str, Sequence[str]]) -> tuple[str, list[Path]]:
    """Finds the first layout of which the folder holds all required files.

    Args:
        folder: the folder with the raw files.
        layouts: layout name -> file name patterns; a pattern that ends in `?` is optional.

    Returns:
        The name of the layout, and the files that exist, in the order of the patterns.

    Raises:
        DataError: no such folder, or no layout is complete. The message lists the patterns and the folder's content.
    """
    try:
        if not folder.is_dir():
            raise DataError(f"no such folder: {folder}. Fix: set data.path to the folder that holds the raw files")
        content = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot read {folder}: {error.strerror}. Fix: check the folder's name and permissions"
        ) from error
    for name, patterns in layouts.items():
        matching = (fnmatch.filter(content, pattern.rstrip("?")) for pattern in patterns)  # broken links match, too
        found = [folder / names[0] if names else None for names in matching]
        if all(path or pattern.endswith("?") for path, pattern in zip(found, patterns, strict=True)):
            return name, [path for path in found if path]
    required = "; ".join(f"{name}: {', '.join(p for p in files if p[-1] != '?')}" for name, files in layouts.items())
    listed = ", ".join(content[:12]) + (", ..." if len(content) > 12 else "") if content else "nothing"
    raise DataError(
        f"no known layout in {folder}. Looked for {required}. The folder holds {listed}. Fix: set data.path to the "
        "folder that holds the raw files, or rename the files"
    )


def check_file(path: Path) -> None:
    """Raises DataError if a file is missing, not a file, or not readable."""
    try:
        if path.is_file():
            path.open("rb").close()
            return
        exists = os.path.lexists(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Fix: check its name and permissions") from error
    if exists:
        raise DataError(f"not a file: {path}. Fix: remove it, and put the file in its place")
    raise DataError(f"no such file: {path}. Fix: check the path")
