"""From a folder of raw files to batches, through the cache."""

import os
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from polars.testing import assert_frame_equal
from tiny import write

from expctr.data import ratings_module
from expctr.data.batches import Nouns
from expctr.data.datamodules import AmazonBooksDataModule, BookCrossingDataModule, MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.data.ratings_module import PaperDataset, RatingsDataModule, SplitFiles
from expctr.errors import DataError, UserError
from expctr.evaluation.table import PAPER

ROOT = Path(__file__).parents[2]
HEADER = "userId,movieId,rating,timestamp\n"


def movielens(folder: Path) -> Path:
    ratings = "".join(f"{user},{item},{1 + (user + item) % 5},{item}\n" for user in range(20) for item in range(1, 6))
    movies = "movieId,title,genres\n" + "".join(f"{item},Movie {item} (199{item}),Drama|War\n" for item in range(1, 6))
    return write(folder, {"ratings.csv": HEADER + ratings, "movies.csv": movies})


def module(folder: Path, **options: object) -> MovieLensDataModule:
    return MovieLensDataModule(str(folder), cache_dir=str(folder / "cache"), **options)  # type: ignore[arg-type]


def test_movielens_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = module(movielens(tmp_path))
    data.prepare_data()
    printed = capsys.readouterr().out
    for word in (
        "read",
        "100",
        "kept",
        "base rate",
        "label entropy",
        "rating >= 4",
        "history length",
        "without a title",
    ):
        assert word in printed
    data.setup("fit")
    assert [data.rows(split).height for split in ("train", "val", "test")] == [16, 2, 2]
    batch = data.table("train").batch([0, 1])
    assert batch.texts[0].target.startswith("Movie ")
    fields = {"user", "target", "target_year", "target_genres", "liked", "disliked"}
    assert set(batch.features) == {*fields, "history", "history_liked"}
    assert data.nouns.items == "movies"


def test_cache_is_used_until_a_file_or_an_option_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = movielens(tmp_path), []
    make = ratings_module.make_samples
    monkeypatch.setattr(ratings_module, "make_samples", lambda *args: made.append(1) or make(*args))
    first, again = module(folder), module(folder)
    for data in (first, again):
        data.prepare_data()
        data.setup()
    assert len(made) == 1
    assert_frame_equal(first.samples, again.samples)
    assert first.summary == again.summary
    module(folder, samples=SampleOptions(seed=1)).prepare_data()
    assert len(made) == 2
    os.utime(folder / "movies.csv", (1, 1))
    module(folder).prepare_data()
    assert len(made) == 3
    tables = 3 + 2  # the items are read again only if their file changes
    assert sorted(path.suffix for path in (folder / "cache").iterdir()) == [".json"] * tables + [".parquet"] * tables


def test_folders_and_files_at_home_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from Python, where no shell replaces the tilde."""
    folder = tmp_path / "data"
    folder.mkdir()
    movielens(folder)
    write(folder, {"people.csv": "liked_titles,disliked_titles,target_title\nMovie 1,,Movie 2\n"})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    data = MovieLensDataModule("~/data", cache_dir="~/cache", people="~/data/people.csv")
    data.setup()
    assert len(data.table("predict")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data"]
    for name, items in {"train": (1, 2, 3), "val": (4,), "test": (5,)}.items():
        ratings = "".join(f"{user},{item},{1 + (user + item) % 5},{item}\n" for user in range(20) for item in items)
        write(tmp_path, {f"{name}.csv": HEADER + ratings})
    files = SplitFiles("~/train.csv", "~/val.csv", "~/test.csv")
    own = MovieLensDataModule("~/data", cache_dir="~/cache", splits=files)
    own.setup()
    assert own.summary.own_splits


def test_labels_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    """As of clicks that are in the range of the ratings: 0 and 1 of 10."""
    ratings = "".join(f"{user},{item},{(user + item) % 2}\n" for user in range(9) for item in range(3))
    books = "ISBN,Book-Title\n" + "".join(f"{item},Book {item}\n" for item in range(3))
    write(tmp_path, {"Ratings.csv": "User-ID,ISBN,Book-Rating\n" + ratings, "Books.csv": books})
    data = BookCrossingDataModule(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"^all 9 samples have the label 0, .*Fix: check data\.samples\.threshold"):
        data.prepare_data()


def test_a_checkpoint_is_of_its_samples(tmp_path: Path) -> None:
    """Also where users, items and therefore all vocabularies are the same, and only a label has changed."""
    folders = [tmp_path / name for name in ("made", "again", "changed")]
    for folder in folders:
        folder.mkdir()
    made, again, changed = (module(movielens(folder)) for folder in folders)
    ratings = folders[-1] / "ratings.csv"
    ratings.write_text(re.sub(r"(\d+,\d+),5,", r"\1,1,", ratings.read_text()))
    for data in (made, again, changed):
        data.prepare_data()
        data.setup("fit")
    again.load_state_dict(made.state_dict())
    changed.features.check_same(made.features)
    with pytest.raises(DataError, match=r"labels, or who rated what, have changed, or another version drew them"):
        changed.load_state_dict(made.state_dict())


def test_a_checkpoint_is_of_its_titles(tmp_path: Path) -> None:
    """They are in no vocabulary, and in every prompt."""
    for name in ("made", "changed"):
        (tmp_path / name).mkdir()
    made, changed = (module(movielens(tmp_path / name)) for name in ("made", "changed"))
    films = tmp_path / "changed" / "movies.csv"
    films.write_text(re.sub(r"^(\d+),(\w)", r"\1,New \2", films.read_text(), flags=re.MULTILINE))
    for data in (made, changed):
        data.prepare_data()
        data.setup("fit")
    state = made.state_dict()
    with pytest.raises(DataError, match=r"not the checkpoint's: titles or histories have changed"):
        changed.load_state_dict(state)
    changed.load_state_dict({"samples": state["samples"]})  # of an older version
    assert made.content_digest() != changed.content_digest()


def test_a_checkpoint_is_of_its_side_features(tmp_path: Path) -> None:
    """They have changed places: their vocabularies are the same."""
    for name in ("made", "changed"):
        (tmp_path / name).mkdir()
    made, changed, blind = (
        module(movielens(tmp_path / name), fields=fields)
        for name, fields in (("made", None), ("changed", None), ("changed", ["user", "target"]))
    )
    genres_alone = module(tmp_path / "made", fields=["target", "target_genres"])  # a column of lists
    genres_alone.setup()
    assert genres_alone.state_dict()["features"]
    for name, genres in (("made", "ABABB"), ("changed", "BABAB")):
        films = tmp_path / name / "movies.csv"
        head, *rows = films.read_text().splitlines()
        moved = (row.replace("Drama|War", genre) for row, genre in zip(rows, genres, strict=True))
        films.write_text("\n".join([head, *moved, ""]))
    for data in (made, changed, blind):
        data.prepare_data()
        data.setup("fit")
    changed.features.check_same(made.features)
    state = made.state_dict()
    with pytest.raises(DataError, match=r"not the checkpoint's: side features have changed"):
        changed.load_state_dict(state)
    changed.load_state_dict({name: state[name] for name in ("samples", "texts")})  # of an older version
    blind.load_state_dict(state | {"features": blind.state_dict()["features"]})
    assert blind.state_dict()["features"] != state["features"]


def test_a_digest_of_the_source_knows_files_that_no_sample_is_made_of(tmp_path: Path) -> None:
    """Such as ratings of users with too few of them, whom a user may ask for all the same."""
    data = module(movielens(tmp_path))
    data.setup()
    before = data.source_digest()
    assert before == data.source_digest()
    with (tmp_path / "ratings.csv").open("a") as file:
        file.write("777,1,5,1\n")
    assert data.source_digest() != before


def test_own_splits_in_other_spellings(tmp_path: Path) -> None:
    movielens(tmp_path)
    write(
        tmp_path,
        {
            "train.csv": "user,item,rating,timestamp\n1,1,5,1\n1,2,5,2\n",
            "val.tsv": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t3\t2\t3\n",
            "test.dat": "1::4::5::4\n",
        },
    )
    own = SplitFiles(*(str(tmp_path / name) for name in ("train.csv", "val.tsv", "test.dat")))
    with pytest.warns(UserWarning, match=r"all rows of your files are samples; samples\.max_samples is not used"):
        data = module(tmp_path, splits=own)
    data.setup()
    assert len(data.table("train").batch([])) == 0
    assert [data.rows(split)["target"].to_list() for split in ("train", "val", "test")] == [["2"], ["3"], ["4"]]
    assert data.rows("test")["liked"].to_list() == [["1", "2"]]
    # the one user is known from training; item 4 is new, as item 3 is
    slices = {name: rows.tolist() for name, rows in data.slices("test").items()}
    assert slices == {"warm users": [True], "cold users": [False], "warm items": [False], "cold items": [True]}


@pytest.mark.parametrize(
    ("kind", "threshold", "operator", "noun", "sizes"),
    [
        (MovieLensDataModule, 4, "ge", "movie", 20_000),
        (BookCrossingDataModule, 5, "ge", "book", 40_000),
        (AmazonBooksDataModule, 4, "gt", "book", 20_000),
    ],
)
def test_defaults_are_those_of_the_paper(
    kind: type[RatingsDataModule], threshold: float, operator: str, noun: str, sizes: int
) -> None:
    data = kind("folder")  # type: ignore[call-arg]
    assert (data.options.threshold, data.options.threshold_op, data.nouns.item) == (threshold, operator, noun)
    assert data.options.max_samples == sizes
    assert (data.options.targets_per_user, data.options.max_history) == (1, 10)


def test_the_papers_rows_are_those_of_its_datasets_or_none(tmp_path: Path) -> None:
    """Only the paper's own configs name one."""
    assert set(get_args(PaperDataset)) == set(PAPER)
    assert module(tmp_path).paper_dataset is None
    for config in ("movielens", "bookcrossing", "amazon"):
        assert (
            yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())["data"]["init_args"]["paper_dataset"]
            in PAPER
        )


@pytest.mark.parametrize(
    ("category", "noun", "person"), [("Movies_and_TV", "movie", "viewer"), ("Gift_Cards", "product", "customer")]
)
def test_nouns_follow_from_the_category_in_the_folder(tmp_path: Path, category: str, noun: str, person: str) -> None:
    (tmp_path / f"meta_{category}.json.gz").touch()
    data = AmazonBooksDataModule(str(tmp_path))
    assert (data.category, data.nouns.item, data.nouns.person) == (category, noun, person)


def test_own_nouns_come_before_those_of_the_category(tmp_path: Path) -> None:
    data = AmazonBooksDataModule(str(tmp_path), nouns=Nouns("gift card", "gift cards"))
    assert (data.nouns.item, data.nouns.person) == ("gift card", "customer")


def test_a_modules_kinds_of_side_features_reach_its_batches(tmp_path: Path) -> None:
    data = module(movielens(tmp_path))
    data.feature_kinds = {"target_year": "number"}
    data.setup()
    assert data.features.kinds == {"target_year": "number"}
    assert data.table("train").features["target_year"].is_floating_point()
