"""The example in docs/data.md: its files are read as they stand in the page, and the page shows what is printed."""

import re
from pathlib import Path

import pytest

from expctr.data.batches import SampleText
from expctr.data.datamodules import MovieLensDataModule
from expctr.data.new_users import read_new_users
from expctr.data.options import SampleOptions
from expctr.data.table import TableDataModule

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")


def block(start: str) -> str:
    """The block of text that starts with this line."""
    (found,) = re.findall(rf"```text\n({re.escape(start)}\n.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    (tmp_path / "ratings.csv").write_text(block("userId,movieId,rating,timestamp"))
    (tmp_path / "movies.csv").write_text(block("movieId,title,genres"))
    return tmp_path


def module(films: Path) -> MovieLensDataModule:
    return MovieLensDataModule(
        str(films), samples=SampleOptions(targets_per_user=2, max_samples=20_000), cache_dir=str(films / "cache")
    )


def test_the_page_shows_what_prepare_prints(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module(films).prepare_data()
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert printed.strip() == block("Rows").strip()


def test_the_page_shows_the_error_of_a_bad_row(films: Path) -> None:
    with (films / "ratings.csv").open("a") as file:
        file.write("bad,row\n")
    with pytest.raises(ValueError, match="too few columns") as error:
        module(films).prepare_data()
    shown = " ".join(PAGE.split())
    assert f"error: {error.value}".replace(str(films), "films") in shown


def test_the_new_users_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(block("user,liked_titles,disliked_titles,target_title"))
    zoe, other = read_new_users(tmp_path / "people.csv")
    assert zoe.text == SampleText("Usual Suspects, The", ("Heat", "Fargo"), ("Casper",))
    assert other.text == SampleText("Toy Story", (), ("Heat",))


def test_the_page_shows_what_its_columns_are_taken_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clicks.csv").write_text(block("user_id,sku,clicked,ts,position"))
    (tmp_path / "items.csv").write_text(block("sku,name,price,brand,tags"))
    monkeypatch.chdir(tmp_path)
    notes = TableDataModule("clicks.csv", "items.csv").read().notes
    assert list(notes) == block(notes[0]).splitlines()
