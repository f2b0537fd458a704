"""Files that are whole or not there."""

import errno
from pathlib import Path

import pytest
from polars.exceptions import ComputeError

from expctr.whole_files import replacing


def test_a_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "new"


def fail(path: Path, error: Exception) -> None:
    with replacing(path) as part:
        part.write_text("half")
        raise error


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), ComputeError("transport error"), PermissionError("denied")],
)
def test_an_error_names_the_file_and_leaves_the_old_one(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match=str(error).split("] ")[-1]) as raised:
        fail(path, error)
    assert raised.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "old"


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as raised, replacing(tmp_path) as part:
        part.write_text("new")
    assert raised.value.filename == str(tmp_path)
    assert not part.exists()
