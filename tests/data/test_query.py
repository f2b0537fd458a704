"""Queries on ratings written by hand: which person, which target, which rows."""

from pathlib import Path

import pytest
from tiny import write

from expctr.data.catalogue import Item
from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.data.query import Query, make_query
from expctr.data.ratings_module import SplitFiles
from expctr.data.sample_rows import HistoryEntry
from expctr.errors import UserError

TITLES = {"1": "Heat (1995)", "2": "Heat (1986)", "3": "Fargo (1996)", "4": "Casper (1995)", "5": "Alien (1979)"}
TITLES |= {"6": "Kids (1995)", "7": "", "8": "Congo (1995)"}


def made(folder: Path, **options: object) -> MovieLensDataModule:
    """Users a to j rate items 1 to 6 in this order, the odd ones well; nobody rates item 8; k rates one item."""
    rows = [f"{user},{item},{2 + item % 2 * 3},{item}" for user in "abcdefghij" for item in range(1, 7)]
    movies = [f'{item},"{title}",Drama' for item, title in TITLES.items()]
    write(
        folder,
        {
            "ratings.csv": "\n".join(["userId,movieId,rating,timestamp", *rows, "k,3,5,1", "k,7,5,2", ""]),
            "movies.csv": "\n".join(["movieId,title,genres", *movies, ""]),
        },
    )
    samples = options.pop("samples", SampleOptions(fractions=(0.6, 0.2, 0.2), max_history=3))
    data = MovieLensDataModule(str(folder), samples=samples, cache_dir=str(folder / "cache"), **options)  # type: ignore[arg-type]
    data.setup()
    return data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MovieLensDataModule:
    return made(tmp_path_factory.mktemp("ratings"))


def ids(query: Query) -> list[str]:
    return [entry.item.id for entry in query.history]


def check_rows(query: Query) -> None:
    """The first row is the query, the others lack one entry each, and nothing else differs."""
    history = [(entry.item.id, entry.liked) for entry in query.history]
    expected = [history, *(history[:i] + history[i + 1 :] for i in range(len(history)))]
    for row, entries in zip(query.rows.iter_rows(named=True), expected, strict=True):
        assert list(zip(row["history"], row["history_liked"], strict=True)) == entries
        assert row["liked"] == [item for item, liked in entries if liked]
        assert row["disliked"] == [item for item, liked in entries if not liked]
        assert len(row["liked_titles"]) == len(row["liked"])
        assert (row["target"], row["target_title"]) == (query.target.id, query.target.title)
    assert query.rows["sample"].to_list() == list(range(len(expected)))
    lists = ["sample", "history", "history_liked", "liked", "liked_titles", "disliked", "disliked_titles"]
    assert query.rows.drop(lists).unique(maintain_order=True).height == 1


def test_a_query_about_a_sample_has_the_columns_of_the_sample(data: MovieLensDataModule) -> None:
    for row in data.samples.iter_rows(named=True):
        query = make_query(data, user=row["user"], target=f"id:{row['target']}")
        check_rows(query)
        assert (query.label, query.split) == (row["label"], row["split"])
        asked = query.rows.row(0, named=True)
        assert all(asked[name] == row[name] for name in row if name not in ("sample", "rating", "timestamp"))


def test_a_user_s_history_is_the_latest_ratings_without_the_target(data: MovieLensDataModule) -> None:
    query = make_query(data, user="a", target="Congo")
    assert (ids(query), query.label, query.split) == (["4", "5", "6"], None, "")
    assert [entry.liked for entry in query.history] == [False, True, False]
    check_rows(query)
    sampled = data.samples.filter(user="a")["target"].to_list()
    rated = next(item for item in ("5", "4", "3") if item not in sampled)
    query = make_query(data, user="a", target=rated)
    assert query.label == int(rated) % 2
    assert rated not in ids(query)
    assert len(ids(query)) == 3
    assert any("the history leaves it out" in note for note in query.notes)


def test_a_user_with_too_few_ratings_for_a_sample_is_noted_as_new(data: MovieLensDataModule) -> None:
    query = make_query(data, user="k", target="Alien")  # item 7 has no title
    assert query.history == [HistoryEntry(Item("3", "Fargo"), True)]
    assert any("no training row is about user k" in note for note in query.notes)
    check_rows(query)


def test_a_typed_person(data: MovieLensDataModule) -> None:
    query = make_query(data, liked='["heat (1986)", " Nikita ", null]', disliked=["FARGO"], target="Alien (1979)")
    assert query.history == [
        HistoryEntry(Item("2", "Heat"), True),
        HistoryEntry(Item("", "Nikita"), True),
        HistoryEntry(Item("3", "Fargo"), False),
    ]
    assert (query.user, query.target, query.label) == ("", Item("5", "Alien"), None)
    assert [note for note in query.notes if "Nikita" in note] == [
        "no item is called 'Nikita': it is used without an id."
    ]
    check_rows(query)


def test_a_title_of_several_items_has_no_id_in_a_history_and_is_refused_as_a_target(data: MovieLensDataModule) -> None:
    query = make_query(data, liked="Heat", target="Alien")
    assert query.history == [HistoryEntry(Item("", "Heat"), True)]
    (note,) = (note for note in query.notes if "'Heat' can be" in note)
    assert note == (
        "'Heat' can be one of several items: 1 ('Heat (1995)'), 2 ('Heat (1986)'): it is used without an id"
    )
    with pytest.raises(UserError, match=r"target: 'Heat' can be one of several .* Fix: name one, such as id:1"):
        make_query(data, user="a", target="Heat")
    assert make_query(data, user="a", target="Heat (1986)").target == Item("2", "Heat")


def test_an_item_typed_twice_in_other_spellings_is_one_entry(data: MovieLensDataModule) -> None:
    query = make_query(data, liked=["Fargo", "fargo", "id:3", "New", "New"], target="Alien")
    assert query.history == [HistoryEntry(Item("3", "Fargo"), True), HistoryEntry(Item("", "New"), True)]
    for liked, disliked in (("Fargo", "fargo (1996)"), ("New", "New")):
        with pytest.raises(UserError, match=f"{liked!r} is in both liked and disliked"):
            make_query(data, liked=liked, disliked=disliked, target="Alien")


def test_a_new_target_keeps_its_typed_title_and_the_nearest_titles_are_noted(data: MovieLensDataModule) -> None:
    query = make_query(data, user="a", target=" Fargos ")
    assert query.target == Item("", "Fargos")
    assert any("treated as a new item. The nearest titles: 'Fargo (1996)'" in note for note in query.notes)
    assert query.rows["target_genres"].to_list()[0] is None
    check_rows(query)


def test_an_item_without_ratings_keeps_its_id_and_is_noted_as_new(data: MovieLensDataModule) -> None:
    query = make_query(data, user="a", target="Congo")
    assert query.target == Item("8", "Congo")
    assert any("no training row is about the target" in note for note in query.notes)


def test_a_title_may_be_a_number_or_have_half_a_character(data: MovieLensDataModule) -> None:
    query = make_query(data, liked=[1984, "Cut \ud800"], target=300)  # type: ignore[list-item, arg-type]
    assert [entry.item.title for entry in query.history] == ["1984", "Cut ?"]
    assert query.target.title == "300"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "Fargo"}, "no person to explain"),
        ({"liked": '["Heat", null]', "target": "NULL"}, "no target to explain"),
        ({"liked": '["NULL", null]', "target": "Fargo"}, "no history"),
        ({"user": "a", "liked": "Heat", "target": "Fargo"}, "two persons"),
        ({"user": "a"}, "no target to explain"),
        ({"user": "a", "target": " "}, "no target to explain"),
        ({"user": "z", "target": "Fargo"}, r"no user 'z'. Fix: give another id; of 11 ids the nearest are 'a'"),
        ({"user": "a", "target": "id:7"}, "no item with a title has the id '7'"),
        ({"liked": "Fargo", "target": "Fargo"}, "titles other than the target"),
        ({"liked": " | ", "disliked": [], "target": "Fargo"}, "no history. Fix: give titles"),
        ({"user": "k", "target": "Fargo"}, "user 'k' has rated no other item"),
    ],
)
def test_refused_queries(data: MovieLensDataModule, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_query(data, **arguments)  # type: ignore[arg-type]


def test_own_splits_have_their_own_users_and_histories_of_train_alone(tmp_path: Path) -> None:
    head = "user,item,rating,timestamp\n"
    write(
        tmp_path,
        {
            "train.csv": head + "x,1,5,1\nx,3,1,2\nx,5,5,3\ny,1,5,1\ny,3,5,2\n",
            "val.csv": head + "x,4,5,9\n",
            "test.csv": head + "x,6,1,9\nx,5,1,9\ny,6,5,9\n",
        },
    )
    own = SplitFiles(*(str(tmp_path / f"{name}.csv") for name in ("train", "val", "test")))
    data = made(tmp_path, splits=own)
    query = make_query(data, user="x", target="Kids")
    assert (query.split, query.label, ids(query)) == ("test", 0, ["1", "3"])  # 5 is a test target, too
    assert ids(make_query(data, user="x", target="Congo")) == ["1", "3", "5"]
    twice = data.samples.filter(user="x", target="5")
    assert make_query(data, user="x", target="Alien").split == twice["split"][-1] == "test"
    with pytest.raises(UserError, match=r"no user 'a'\. Fix: give another id; of 2 ids the nearest are 'x'"):
        make_query(data, user="a", target="Alien")


def test_each_row_of_a_query_has_the_counts_of_its_own_history(tmp_path: Path) -> None:
    data = made(tmp_path, history_counts=True)
    query = make_query(data, liked="Heat (1986)|Nikita", disliked="Fargo", target="Alien")
    encoded = data.features.encode(query.rows)
    values = data.features.vocabularies
    found = [
        [values[name][i - 2] for i in encoded[name].tolist()]
        for name in ("history_count", "history_liked_count", "history_liked_share")
    ]
    # whole, then without each of the two liked titles, then without the disliked one
    assert found == [["3", "2", "2", "2"], ["2", "1", "1", "2"], ["0.65", "0.5", "0.5", "1"]]
