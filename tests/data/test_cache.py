"""The cache of samples: loaded if nothing changed, made again if anything is damaged."""

import json
from pathlib import Path

import polars as pl
import pytest

from expctr.data.cache import cached_samples
from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.data.readers.base import RawTables
from expctr.data.summary import DataSummary
from expctr.errors import DataError

SAMPLES, SUMMARY = pl.DataFrame({"sample": [0, 1], "user": ["a", "b"]}), DataSummary(rule="liked", rows=7)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_text("1,2,3,4\n")
    return path


class Maker:
    """Makes the samples, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[pl.DataFrame, DataSummary]:
        self.calls += 1
        return SAMPLES, SUMMARY


def load(raw: Path, make: Maker) -> None:
    samples, summary = cached_samples([raw], SampleOptions(), make, str(raw.parent / "cache"))
    assert samples.equals(SAMPLES)
    assert summary == SUMMARY


def test_samples_are_made_once(raw: Path) -> None:
    make = Maker()
    load(raw, make)
    load(raw, make)
    assert make.calls == 1
    raw.write_text("1,2,3,4,5\n")
    load(raw, make)
    assert make.calls == 2


@pytest.mark.parametrize("kind", ["parquet", "json"])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other", "gone"])
def test_damaged_samples_are_made_again(raw: Path, kind: str, damage: str) -> None:
    make = Maker()
    load(raw, make)
    (path,) = (raw.parent / "cache").glob(f"*.{kind}")
    whole = path.read_bytes()
    for place in range(0, len(whole), 1 + len(whole) // 20) if damage == "flipped" else [len(whole) // 2]:
        contents = {
            "empty": b"",
            "cut": whole[:place],
            "flipped": whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :],
            "other": json.dumps([1]).encode(),
        }
        path.write_bytes(contents[damage]) if damage != "gone" else path.unlink()
        calls = make.calls
        load(raw, make)
        assert make.calls == calls + 1
        assert path.read_bytes() == whole


def test_a_file_that_changes_while_it_is_read_is_refused(raw: Path) -> None:
    for change in (lambda: raw.write_text("1,2,3\n"), lambda: raw.write_text("1,2,3,4\n" * 9), raw.unlink):

        def make(change: object = change) -> tuple[pl.DataFrame, DataSummary]:
            change()  # type: ignore[operator]
            return SAMPLES, SUMMARY

        with pytest.raises(DataError, match=r"ratings.csv"):
            cached_samples([raw], SampleOptions(), make, str(raw.parent / "cache"))
        assert not (raw.parent / "cache").exists()


def test_a_cache_that_cannot_be_written(raw: Path) -> None:
    (raw.parent / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cannot save the samples in .*cache.*data.cache_dir"):
        load(raw, Maker())


def test_samples_are_made_of_what_the_files_hold_when_their_sizes_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = "".join(f"{user}\t{item}\t{item}\t{item}\n" for user in range(20) for item in range(1, 6))
    (tmp_path / "u.data").write_text(ratings)
    titles = b"".join(b"%d|Caf\xe9 %d|||%b\n" % (item, item, b"|0" * 19) for item in range(1, 6))
    (tmp_path / "u.item").write_bytes(titles)  # not UTF-8: it is in memory once it is opened
    opened = MovieLensDataModule.read

    def read(data: MovieLensDataModule) -> RawTables:
        tables = opened(data)
        (tmp_path / "u.item").write_bytes(titles.replace(b"Caf", b"Cof"))
        return tables

    monkeypatch.setattr(MovieLensDataModule, "read", read)
    data = MovieLensDataModule(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    (tmp_path / "u.item").touch()
    with pytest.raises(DataError, match=r"u.item changed while it was read"):
        data._load()
    monkeypatch.undo()
    samples, _ = data._load()
    assert samples["target_title"].str.starts_with("Cofé").all()
