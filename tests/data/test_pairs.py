"""Pairs as rows: the same histories as a query has, and a reason for each pair that has none."""

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_query import made

from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.data.pairs import PairRows, read_columns
from expctr.data.query import make_query
from expctr.data.table import TableDataModule
from expctr.errors import DataError, UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MovieLensDataModule:
    return made(tmp_path_factory.mktemp("ratings"))


def make(data: MovieLensDataModule, **columns: list[object]) -> tuple[pl.DataFrame, list[str | None]]:
    pairs = read_columns(pl.DataFrame(columns))
    rows, problems = PairRows(data, pairs["user"].unique().to_list()).make(pairs)
    return rows, problems.to_list()


def test_a_pair_has_the_row_of_the_same_query(data: MovieLensDataModule) -> None:
    """Samples, rated targets, and items that nobody has rated; in any order, and some of them twice."""
    asked = [(user, item) for item in ("8", "6", "1", "3") for user in "badabdcefghij"]
    rows, problems = make(data, user=[user for user, _ in asked], item=[item for _, item in asked])
    assert problems == [None] * len(asked)
    assert rows["sample"].to_list() == list(range(len(asked)))
    compared = data.samples.columns[1:]
    compared = [name for name in compared if name not in ("split", "label", "rating", "timestamp", "review")]
    for place, (user, item) in enumerate(asked):
        query = make_query(data, user=user, target=f"id:{item}")
        assert_frame_equal(rows.select(compared)[place : place + 1], query.rows.select(compared)[:1])


def test_titles_make_the_row_of_the_same_query(data: MovieLensDataModule) -> None:
    rows, problems = make(
        data,
        liked_titles=["Fargo|Brand new", None],
        disliked_titles=["Casper", "Kids| "],
        target_title=["Alien", "Quite new"],
    )
    assert problems == [None, None]
    for place, (liked, disliked, target) in enumerate(
        [(["Fargo", "Brand new"], ["Casper"], "Alien"), ([], ["Kids"], "Quite new")]
    ):
        query = make_query(data, liked=liked, disliked=disliked, target=target)
        assert_frame_equal(rows.drop("sample")[place : place + 1], query.rows.drop("sample")[:1])


def test_typed_histories_are_those_of_a_query(data: MovieLensDataModule) -> None:
    """Without the target, each title once; what a query refuses has a reason."""
    rows, problems = make(
        data,
        liked_titles=["Fargo|Alien|Fargo", "Fargo", "Alien", "Fargo|Kids"],
        disliked_titles=["", "", "", "Kids"],
        target_title=["Alien", "Alien", "Alien", "Alien"],
    )
    assert problems == [None, None, "no title of a history but the target", "a title is both liked and disliked"]
    query = make_query(data, liked=["Fargo", "Alien", "Fargo"], target="Alien")
    assert_frame_equal(rows.drop("sample")[:1], query.rows.drop("sample")[:1])


def test_an_item_that_is_liked_and_disliked_by_two_names_has_no_score(data: MovieLensDataModule) -> None:
    _, problems = make(
        data,
        liked_titles=["Kids|Fargo", "Casper|id:3", "Brand new", "Fargo", "Fargo|Alien"],
        disliked_titles=["fargo", "Fargo (1996)", "brand  NEW", "Brand new", "alien"],
        target_title=["Alien"] * 5,
    )
    both = "a title is both liked and disliked"
    assert problems == [both, both, both, None, both]


def test_lists_of_titles_and_ids_can_be_mixed(data: MovieLensDataModule) -> None:
    rows, problems = make(
        data,
        user=["a", "somebody"],
        item=[None, "8"],
        liked_titles=[[], ["Fargo"]],
        target_title=["Congo", "Congo"],
    )
    assert problems == [None, None]
    assert rows["target"].to_list() == ["8", "8"]
    assert rows["target_title"].to_list() == ["Congo", "Congo"]
    assert rows["user"].to_list() == ["a", None]  # a name is not an id
    assert rows["history"].to_list() == [["4", "5", "6"], ["3"]]


def test_each_pair_that_cannot_be_scored_says_why(data: MovieLensDataModule) -> None:
    rows, problems = make(
        data,
        user=["a", "a", "nobody", "", "k", "a", " a "],
        item=["77", "", "1", "1", "3", "7", " 1 "],
    )
    assert problems == [
        "no item with a title has the id 77",
        "no item and no target_title",
        "the ratings have no user nobody",
        "no user and no titles of a history",
        "user k has rated no other item",
        "no item with a title has the id 7",
        None,
    ]
    assert rows["sample"].to_list() == [6]


def test_an_id_and_a_title_that_disagree_are_a_problem(data: MovieLensDataModule) -> None:
    """Of a pair that is a sample, of one that is not, and of a typed history."""
    titles = ["Fargo", "congo", "Congo (1995)", "  CONGO", "Fargo", "Fargo", ""]
    rows, problems = make(
        data,
        user=["a"] * 5 + ["", "a"],
        item=["8"] * 6 + ["8"],
        target_title=titles,
        liked_titles=[""] * 5 + ["Kids", ""],
    )
    wrong = "item 8 is called Congo, not Fargo"
    assert problems == [wrong, None, None, None, wrong, wrong, None]
    assert rows["sample"].to_list() == [i for i, problem in enumerate(problems) if problem is None]
    sample = data.samples.row(0, named=True)
    _, problems = make(data, user=[sample["user"]], item=[sample["target"]], target_title=["Something else"])
    assert problems == [f"item {sample['target']} is called {sample['target_title']}, not Something else"]


@pytest.mark.parametrize("item", [8, 8.0])
def test_numbers_are_ids_too(data: MovieLensDataModule, item: float) -> None:
    """A float is what a missing value makes of a column of ids."""
    assert make(data, user=["a", "a"], item=[item, None])[1] == [None, "no item and no target_title"]


def test_a_pair_that_is_several_samples_has_one_row_the_newest(tmp_path: Path) -> None:
    """Impressions of item 1 at the times 3 and 9, kept as targets of their own."""
    rows = [("a", item, time % 2, time) for time, item in enumerate("2314532451")]
    log = pl.DataFrame(rows, schema=["user", "item", "label", "timestamp"], orient="row")
    others = log.with_columns(user=pl.lit("b"))
    samples = SampleOptions(threshold=None, repeats="keep", targets_per_user=10, order="time", split="random")
    data = TableDataModule(interactions=pl.concat([log, others]), samples=samples)
    data.setup()
    assert data.samples.filter(user="a", target="1").height == 2
    made, problems = make(data, user=["a"], item=["1"])
    assert problems == [None]
    assert made.height == 1
    assert made["timestamp"].item() == data.samples.filter(user="a", target="1")["timestamp"].max()


@pytest.mark.parametrize("from_files", [False, True])
def test_users_without_samples_have_their_side_features(tmp_path: Path, from_files: bool) -> None:
    """Of a large log few users have samples, see max_samples; all others would have the score of nobody."""
    clicks = pl.DataFrame(
        {
            "user": [f"u{i % 8}" for i in range(80)],
            "item": [f"i{i * 7 % 23}" for i in range(80)],
            "clicked": [int(i % 3 == 0) for i in range(80)],
            "ts": [1_700_000_000 + 60 * i for i in range(80)],
        }
    )
    users = pl.DataFrame({"user": [f"u{i}" for i in range(7)], "age": range(30, 37), "plan": [*"aabbabb"]})
    tables: list[Any] = [clicks, None, users]
    if from_files:
        clicks.write_csv(tmp_path / "clicks.csv")
        users.write_csv(tmp_path / "users.csv")
        tables = [str(tmp_path / "clicks.csv"), None, str(tmp_path / "users.csv")]
    options = SampleOptions(threshold=None, max_samples=7, fractions=(0.6, 0.2, 0.2), min_ratings=1)
    data = TableDataModule(*tables, samples=options, cache_dir=str(tmp_path / "cache"))
    data.setup()
    known = data.samples["user"].unique().to_list()
    assert 0 < len(known) < 8
    for _ in range(2):  # then from the cache
        asked = [f"u{i}" for i in range(8)]
        rows, problems = make(data, user=asked, item=["i1"] * 8)
        assert problems == [None] * 8
        assert rows["user_age"].to_list() == [*range(30, 37), None]  # u7 is not in the table of users
        assert rows["user_plan"].to_list() == [*"aabbabb", None]
        of_samples = data.samples.select("user", "user_age", "user_plan").unique()
        assert_frame_equal(
            rows.filter(pl.col("user").is_in(known)).select(of_samples.columns).sort("user"), of_samples.sort("user")
        )
        for i, user in enumerate(asked):
            query = make_query(data, user=user, target="id:i1")
            assert query.rows["user_age"][0] == (30 + i if i < 7 else None)
        del data.user_features


def test_a_user_of_ready_rows_without_samples_is_not_said_to_be_in_no_row() -> None:
    rows = pl.DataFrame(
        {
            "user": [f"u{i}" for i in range(40)],
            "liked_titles": ["Heat|Fargo"] * 40,
            "disliked_titles": ["Casper"] * 40,
            "title": [f"Film {i}" for i in range(40)],
            "label": [0, 1] * 20,
        }
    )
    options = SampleOptions(threshold=None, order="shuffle", max_samples=20)
    data = TableDataModule(interactions=rows, samples=options)
    data.setup()
    (left, *_) = sorted({*rows["user"]} - {*data.samples["user"]})
    _, problems = make(data, user=[left], target_title=["Heat"])
    assert problems == [f"no sample is of user {left}, though rows beyond data.samples.max_samples may be"]
    with pytest.raises(UserError, match=rf"user: no sample is of user '{left}', though .*Fix: give another id"):
        make_query(data, user=left, target="Heat")


@pytest.mark.parametrize("names", [["user"], ["item"], ["target_title"], ["liked_titles", "x"]])
def test_a_table_without_people_or_targets_is_refused(names: list[str]) -> None:
    with pytest.raises(DataError, match=rf"pairs have no column .*; their columns are {', '.join(names)}\. Fix: "):
        read_columns(pl.DataFrame({name: ["a"] for name in names}))


def test_an_exact_name_comes_before_one_that_looks_alike_and_two_of_these_are_refused() -> None:
    exact = read_columns(pl.DataFrame({"User": ["b"], "user": ["a"], "item": ["8"]}))
    assert exact["user"].to_list() == ["a"]
    with pytest.raises(DataError, match=r"pairs: columns User, USER could all be user\. Fix: rename the one that is"):
        read_columns(pl.DataFrame({"User": ["b"], "USER": ["a"], "item": ["8"]}))


@pytest.mark.parametrize("liked", [[1984], [True], [date(1984, 1, 1)], [1.5]])
def test_a_history_of_one_number_a_row_is_refused(liked: list[object]) -> None:
    with pytest.raises(DataError, match=r"pairs: the column liked_titles is of type .* Fix: give lists of texts, or "):
        read_columns(pl.DataFrame({"user": ["a"], "item": ["8"], "liked_titles": liked}))


def test_a_list_that_cannot_be_read_is_a_problem_of_its_pair(data: MovieLensDataModule) -> None:
    liked = ["{'Fargo', 'Kids'}", "['Fargo', nan]", "[REC]"]
    rows, problems = make(data, user=["a"] * 3, item=["8"] * 3, liked_titles=liked)
    assert problems == ['liked_titles is a list that cannot be read; write ["Heat", "Fargo"] or Heat|Fargo', None, None]
    assert rows["liked_titles"].to_list() == [["Fargo"], ["[REC]"]]


@pytest.mark.parametrize("nothing", ["NULL", "nan", "None", "\\N", " N/A ", "NULL|nan", "['nan']", "[None]", "-|-"])
def test_a_text_that_says_that_there_is_no_title_is_none(data: MovieLensDataModule, nothing: str) -> None:
    rows, problems = make(
        data,
        user=["a", "a", "NULL"],
        item=["8", "null", "8"],
        liked_titles=[nothing] * 3,
        disliked_titles=["", nothing, nothing],
        target_title=["", "NULL", "Congo"],
    )
    assert problems == [None, "no item and no target_title", "no user and no titles of a history"]
    assert rows["history"].to_list() == [["4", "5", "6"]]  # that of the user


@pytest.mark.parametrize("dtype", [pl.Float32(), pl.Float64(), pl.String()])
def test_an_id_that_lost_its_last_digits_is_a_problem_of_its_pair(dtype: pl.DataType) -> None:
    """It would be a neighbour's."""
    ids = {pl.Float32(): [20_000_001, 7], pl.Float64(): [2**53 + 2, 7], pl.String(): ["2.00E+07", "7"]}[dtype]
    pairs = pl.DataFrame({"user": pl.Series(ids, dtype=dtype), "item": ["1", "2"]})
    said = "user is a number that lost its last digits; write ids as whole numbers or texts"
    assert read_columns(pairs)["unread"].to_list() == [said, None]
