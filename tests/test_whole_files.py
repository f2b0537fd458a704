"""Files that are whole or not there."""

import errno
import os
import secrets
import stat
from pathlib import Path

import polars as pl
import pytest
from polars.exceptions import ComputeError

from expctr.whole_files import replacing, write_parquet, write_together, writing


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


def test_a_link_under_the_part_s_name_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "run"
    mine.write_text("thesis")
    folder.mkdir()
    for number in [os.getpid(), *range(1, 2000)]:
        (folder / f"scores.parquet.{number}.part").symlink_to(mine)
    write_parquet(pl.DataFrame({"score": [0.5]}), folder / "scores.parquet")
    assert mine.read_text() == "thesis"
    assert pl.read_parquet(folder / "scores.parquet").height == 1

    monkeypatch.setattr(secrets, "token_hex", lambda _: "1")  # somebody who guesses the name is refused, too
    with pytest.raises(FileExistsError):
        write_parquet(pl.DataFrame({"score": [0.5]}), folder / "scores.parquet")
    assert mine.read_text() == "thesis"


def test_the_mode_is_the_umask_s(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_parquet(pl.DataFrame({"score": [0.5]}), tmp_path / "scores.parquet")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "scores.parquet").stat().st_mode) == 0o640


def test_a_device_or_a_pipe_stays_what_it_is(tmp_path: Path) -> None:
    with writing(Path(os.devnull)) as part:
        part.write_text("nothing")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with writing(Path("/dev/stdout")) as part:  # which may lead to a file
        assert part == Path("/dev/stdout")
    os.mkfifo(tmp_path / "pipe")
    with writing(tmp_path / "pipe") as part:
        assert part == tmp_path / "pipe"


def test_what_a_user_names_is_replaced_where_it_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("old")
    with writing(tmp_path / "table.csv") as part:
        part.write_text("new")
        assert (tmp_path / "table.csv").read_text() == "old"
    assert (tmp_path / "table.csv").read_text() == "new"


def test_a_link_that_a_user_names_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    """A page that is published under another name would go on to show the old numbers."""
    (tmp_path / "published").mkdir()
    published, link = tmp_path / "published" / "www.html", tmp_path / "report.html"
    link.symlink_to(published)  # which is not there yet
    for content in ("old", "new"):
        with writing(link) as part:
            part.write_text(content)
        assert (link.is_symlink(), published.read_text()) == (True, content)
    folder = tmp_path / "public"
    folder.symlink_to(tmp_path / "published")
    with pytest.raises(IsADirectoryError), writing(folder) as part:
        part.write_text("new")
    assert folder.is_symlink()


def test_a_pipe_in_place_of_a_file_of_ours_is_replaced(tmp_path: Path) -> None:
    """Nobody would read it, and writing to it would wait for ever."""
    os.mkfifo(tmp_path / "ours.json")
    with replacing(tmp_path / "ours.json") as part:
        part.write_text("whole")
    assert (tmp_path / "ours.json").read_text() == "whole"


def test_files_that_belong_together_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    """And the error names the one that failed. The last is renamed last."""
    first, second, last = (tmp_path / name for name in ("a.parquet", "b.txt", "c.json"))
    for path in (first, second, last):
        path.write_text("old")

    def fails(part: Path) -> None:
        part.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))

    rows = pl.DataFrame({"x": [1]})
    for name in (first, second, last):
        contents = {first: rows.write_parquet, second: "new", last: "new"} | {name: fails}
        with pytest.raises(OSError, match="No space left") as raised:
            write_together(contents)
        assert raised.value.filename == str(name)
        assert [path.read_text() for path in (first, second, last)] == ["old"] * 3
    seen = []

    def looks(part: Path) -> None:
        seen.append([path.read_text() for path in (first, second, last)])
        part.write_text("new")

    write_together({second: "new", first: rows.write_parquet, last: looks})
    assert seen == [["old"] * 3]
    assert (second.read_text(), last.read_text(), pl.read_parquet(first).height) == ("new", "new", 1)
    assert len([*tmp_path.iterdir()]) == 3
