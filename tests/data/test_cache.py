"""The cache of samples: loaded if nothing changed, made again if anything is damaged."""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest

from expctr.data import cache
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


def test_samples_that_other_code_made_are_made_again(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    load(raw, make)
    monkeypatch.setattr("expctr.data.cache.hash_of_code", lambda _: "of another version")
    load(raw, make)
    assert make.calls == 2


def test_the_key_of_the_cache_is_of_all_code_that_reads_and_makes_samples(tmp_path: Path) -> None:
    source = Path(importlib.util.find_spec("expctr.data").origin or "").parent  # type: ignore[union-attr]
    copy = shutil.copytree(source, tmp_path / "data")
    assert (same := cache.hash_of_code(copy)) == cache.hash_of_code(source)
    for changed in ("readers/lost_digits.py", "samples.py"):
        cache.hash_of_code.cache_clear()
        (copy / changed).write_text((before := (copy / changed).read_text()) + "#")
        assert cache.hash_of_code(copy) != same
        (copy / changed).write_text(before)


def test_a_file_of_the_same_size_and_time_is_another_one_if_it_was_written_again(raw: Path) -> None:
    make, before = Maker(), raw.stat()
    load(raw, make)
    raw.write_text("1,2,3,5\n")
    os.utime(raw, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (raw.stat().st_size, raw.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    load(raw, make)
    assert make.calls == 2


@pytest.mark.parametrize("kind", ["parquet", "json"])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other", "gone", "a pipe"])
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
        if damage in contents:
            path.write_bytes(contents[damage])
        else:
            path.unlink()
        if damage == "a pipe":
            os.mkfifo(path)
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


def test_a_cache_that_cannot_be_written_is_a_warning(raw: Path) -> None:
    (raw.parent / "cache").write_text("a file")
    with pytest.warns(UserWarning, match=r"cannot save what was read in .*cache.*data.cache_dir"):
        load(raw, Maker())


def test_samples_that_could_not_be_saved_are_made_once_per_data_module(tmp_path: Path) -> None:
    folder, made = ratings(tmp_path), []
    (folder / "cache").write_text("a file")

    class Counted(MovieLensDataModule):
        def _make(self) -> tuple[pl.DataFrame, DataSummary]:
            made.append(1)
            return super()._make()

    data = Counted(str(folder), cache_dir=str(folder / "cache"))
    with pytest.warns(UserWarning, match="cannot save"):
        data.prepare_data()
    data.setup()
    assert (len(made), data.samples.height) == (1, 20)


@pytest.mark.parametrize("at", ["while it writes", "before it renames"])
def test_an_interrupted_process_leaves_no_part_of_a_table(raw: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    def interrupt(*_: object) -> None:
        if at == "before it renames":
            write_parquet(SAMPLES, *_)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    write_parquet = pl.DataFrame.write_parquet
    monkeypatch.setattr(pl.DataFrame, "write_parquet", lambda _, path: interrupt(path))
    with pytest.raises(KeyboardInterrupt):
        load(raw, Maker())
    assert [*(raw.parent / "cache").iterdir()] == []


def test_what_a_killed_process_left_is_deleted_after_a_day(raw: Path) -> None:
    folder = raw.parent / "cache"
    folder.mkdir()
    new, old = (folder / f"{name * 16}.json.{'0a' * 8}.part" for name in "be")
    others = [folder / name for name in ("film.part", f"{'a' * 16}.csv.{'0' * 16}.part", f"{'a' * 16}.parquet.1.part")]
    link = folder / f"{'c' * 16}.json.{'1' * 16}.part"
    link.symlink_to(raw)
    for path in (new, old, *others):
        path.write_text("half")
    for path in (raw, old, *others):
        os.utime(path, (1, 1))
    os.utime(link, (1, 1), follow_symlinks=False)
    load(raw, Maker())
    assert new.exists()
    assert not old.exists()
    assert all(path.exists() for path in (*others, link))


def test_whatever_decides_what_is_read_makes_other_samples(raw: Path) -> None:
    make = Maker()
    for key in (None, ["a", 1], ["a", 2], ["a", 2]):
        cached_samples([raw], SampleOptions(), make, str(raw.parent / "cache"), key)
    assert make.calls == 3


READER = """
from expctr.data.datamodules import MovieLensDataModule

class Mine(MovieLensDataModule):
    version = {version}

    def __init__(self, path, least=0, **kwargs):
        super().__init__(path, **kwargs)
        self.least = least

    def read(self):
        return super().read()  # {comment}
"""


def test_one_s_own_reader_is_never_served_what_another_one_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = ratings(tmp_path), []
    monkeypatch.setattr(MovieLensDataModule, "_make", lambda _: made.append(1) or (SAMPLES, SUMMARY))

    def load(comment: str = "", version: int = 0, **options: int) -> int:
        (tmp_path / "mine.py").write_text(READER.format(comment=comment, version=version))
        spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
        assert module.Mine(str(folder), cache_dir=str(folder / "cache"), **options)._prepared
        return len(made)

    assert MovieLensDataModule(str(folder), cache_dir=str(folder / "cache"))._prepared
    assert load() == 2  # another class
    assert load() == 2
    assert load(comment="changed") == 3
    assert load(comment="changed", version=1) == 4
    assert load(comment="changed", version=1, least=3) == 5
    assert load(comment="changed", version=1, least=3, ctr_batch_size=7) == 5  # does not change what is read


def test_items_are_read_again_only_if_their_file_changes(tmp_path: Path) -> None:
    folder = ratings(tmp_path)
    cache = folder / "cache"

    def items(**options: SampleOptions) -> set[str]:
        data = MovieLensDataModule(str(folder), cache_dir=str(cache), **options)
        data.setup()
        before = {path.name for path in cache.iterdir()}
        assert data.catalogue.matches("Film 1") != []
        assert {path.name for path in cache.iterdir()} == before  # the samples' items are those of the catalogue
        return before

    first = items()
    assert len(items(samples=SampleOptions(seed=1)) - first) == 2  # samples and their summary
    os.utime(folder / "u.item", (1, 1))
    assert len(items() - first) == 2 + 2 + 2


def ratings(folder: Path) -> Path:
    """Writes ratings of twenty users and five films."""
    lines = "".join(f"{user}\t{item}\t{item}\t{item}\n" for user in range(20) for item in range(1, 6))
    (folder / "u.data").write_text(lines)
    titles = "".join(f"{item}|Film {item}|||{'|0' * 19}\n" for item in range(1, 6))
    (folder / "u.item").write_text(titles)
    return folder


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
        data.setup()
    monkeypatch.undo()
    data.setup()
    assert data.samples["target_title"].str.starts_with("Cofé").all()


def test_a_user_without_a_home_reads_without_a_cache(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.warns(UserWarning, match=r"no home folder: what is read is not cached\. Fix: set data\.cache_dir"):
        samples, summary = cached_samples([raw], SampleOptions(), Maker())
    assert samples.equals(SAMPLES)
    assert summary == SUMMARY
