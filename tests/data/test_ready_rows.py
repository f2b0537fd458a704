"""Ready rows: tables with history, target and label in each row, such as TALLRec's JSON, are samples as they stand."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from expctr.data.catalogue import Item
from expctr.data.options import SampleOptions
from expctr.data.query import make_query
from expctr.data.ratings_module import SplitFiles
from expctr.data.table import TableDataModule
from expctr.errors import DataError, UserError

ROWS = [
    {
        "user": f"u{i % 4}",
        "liked": ["Heat", f"Film {i % 5}"],
        "disliked": ["Casper"] * (i % 2),
        "target_title": f"Film {i % 5 + i % 3 + 1}",
        "label": i % 2,
    }
    for i in range(40)
]


def tallrec(row: dict[str, Any]) -> dict[str, str]:
    """A row in TALLRec's words."""
    liked, disliked = (", ".join(f'"{title}"' for title in row[name]) for name in ("liked", "disliked"))
    return {
        "instruction": "Given the user's preference and unpreference, identify whether the user will like the target "
        'movie by answering "Yes." or "No.".',
        "input": f"User Preference: {liked}\nUser Unpreference: {disliked}\n"
        f'Whether the user will like the target movie "{row["target_title"]}"?',
        "output": "Yes." if row["label"] else "No.",
    }


def prepared(interactions: Any, **more: Any) -> TableDataModule:
    module = TableDataModule(interactions, **more)
    module.setup()
    return module


def test_a_row_is_a_sample() -> None:
    data = prepared(pl.DataFrame(ROWS))
    assert data.samples.height == data.summary.rows == 40
    assert data.summary.splits["train"]["samples"] == 32
    row = data.samples.filter(pl.col("label") == 1).row(0, named=True)
    assert row["disliked"] == row["disliked_titles"] == ["Casper"]
    assert row["liked"][0] == row["history"][0] == "Heat"
    assert row["history_liked"] == [True, True, False]
    assert row["target"] == row["target_title"]
    assert data.samples.group_by("user").len()["len"].to_list() == [10] * 4
    assert len(data.table("train")) == 32
    assert data.features.sizes["target"] == data.features.sizes["liked"]


def test_tallrecs_own_json_as_three_files(tmp_path: Path) -> None:
    for name, part in (("train", ROWS[:30]), ("valid", ROWS[30:35]), ("test", ROWS[35:])):
        (tmp_path / f"{name}.json").write_text(json.dumps([tallrec(row) for row in part], indent=1))
    files = SplitFiles(*(str(tmp_path / f"{name}.json") for name in ("train", "valid", "test")))
    data = prepared(None, splits=files, cache_dir=str(tmp_path / "cache"))
    assert [data.rows(split).height for split in ("train", "val", "test")] == [30, 5, 5]
    found = {
        *data.samples.select(
            "target_title", pl.col("liked_titles").list.join("|"), pl.col("disliked_titles").list.join("|"), "label"
        ).rows()
    }
    assert found == {(r["target_title"], "|".join(r["liked"]), "|".join(r["disliked"]), r["label"]) for r in ROWS}
    assert data.users.to_list() == [""]


def test_books_of_tallrec_name_their_authors() -> None:
    row = tallrec(ROWS[0]) | {
        "input": 'User Preference: "Sula" written by Toni Morrison, "Emma" written by Jane Austen\n'
        'User Unpreference: \nWhether the user will like the target book ""Jazz" written by Toni Morrison"?'
    }
    data = TableDataModule(pl.DataFrame([row]))
    assert data.read().interactions.frame.select("title", "history").collect().row(0) == ("Jazz", ["Sula", "Emma"])


def test_entries_are_ids_or_titles_of_a_table_of_items() -> None:
    items = pl.DataFrame({"id": ["1", "2", "3"], "title": ["Heat", "Casper", "Seven"], "genre": ["a", "b", "c"]})
    histories = [["1", "Casper", "New"], ["3", "2", "Heat"]]
    rows = pl.DataFrame({"history": histories * 10, "history_labels": [[1, 0, 1]] * 20, "label": [1, 0] * 10})
    rows = rows.with_columns(item=pl.Series(["3", "Casper"] * 10))
    data = prepared(rows, items=items)
    row = data.samples.filter(target="3").row(0, named=True)
    assert (row["history"], row["liked_titles"], row["disliked_titles"]) == (
        ["1", "2", "New"],
        ["Heat", "New"],
        ["Casper"],
    )
    assert (row["target_title"], row["target_genre"]) == ("Seven", "c")
    assert data.samples.filter(label=0)["target"].unique().to_list() == ["2"]
    assert data.catalogue.matches("New")[0].id == "New"


def test_a_title_of_several_items_is_an_item_without_an_id() -> None:
    items = pl.DataFrame({"id": ["1", "2", "3", "4"], "title": ["Heat", "Heat", "Up", "Up"], "genre": [*"abcd"]})
    histories = [["Heat", "3", "1", "Fargo"], ["Fargo", "Up", "3"]]
    rows = pl.DataFrame({"history": histories * 10, "history_labels": [[0, 1, 1, 0], [1, 0, 1]] * 10})
    rows = rows.with_columns(label=pl.Series([1, 0] * 10), title=pl.Series(["4", "Heat"] * 10))
    data = prepared(rows.with_columns(user=pl.lit("ann")), items=items)
    by_id = data.samples.filter(label=1).row(0, named=True)
    assert (by_id["target"], by_id["target_title"], by_id["target_genre"]) == ("4", "Up", "d")
    assert (by_id["history"], by_id["liked_titles"]) == (["", "3", "1", "Fargo"], ["Up", "Heat"])
    by_title = data.samples.filter(label=0).row(0, named=True)
    assert (by_title["target"], by_title["target_title"], by_title["target_genre"]) == ("", "Heat", None)
    assert (by_title["history"], by_title["disliked_titles"]) == (["Fargo", "", "3"], ["Up"])
    assert data.features.vocabularies["target"] == ["1", "3", "4", "Fargo"]
    query = make_query(data, user="ann", target="New")
    assert {Item("", "Heat"), Item("", "Up")} & {entry.item for entry in query.history}


def test_ready_rows_have_the_context_of_their_own_row() -> None:
    frame = pl.DataFrame(ROWS).with_columns(place=pl.int_range(pl.len()), review=pl.int_range(pl.len()).cast(pl.String))
    data = prepared(frame, features={"place": "number"})
    for place, review, user, title in data.samples.select("context_place", "review", "user", "target_title").rows():
        assert (str(int(place)), ROWS[int(place)]["user"], ROWS[int(place)]["target_title"]) == (review, user, title)


@pytest.mark.parametrize("times", [None, "rising", "falling"])
def test_the_newest_history_of_a_user_counts(times: str | None) -> None:
    """By its time, if rows have one, or else the last row of the table."""
    rows = pl.DataFrame(
        {"user": ["a", "b"] * 10, "liked": [[f"Film {i}"] for i in range(20)], "disliked": [[]] * 20, "target": "Up"},
        schema_overrides={"disliked": pl.List(pl.String)},
    )
    rows = rows.with_columns(label=pl.Series([1, 1, 0, 0] * 5))
    if times:
        rows = rows.with_columns(ts=1_700_000_000 + pl.int_range(20) * (1 if times == "rising" else -1))
    rated = prepared(rows).ratings_of(["a", "b"])
    assert sorted(rated["title"]) == (["Film 0", "Film 1"] if times == "falling" else ["Film 18", "Film 19"])


def test_a_title_that_is_an_id_of_another_item_is_what_most_names_are() -> None:
    """A film may be called 300, and an item may have that id."""
    items = pl.DataFrame({"id": ["300", "7", "8"], "title": ["Casper", "300", "Heat"]})
    rows = {"liked": [["Heat"]] * 20, "disliked": [["300"]] * 20, "target_title": ["300", "Heat"] * 10}
    data = prepared(pl.DataFrame(rows).with_columns(label=pl.Series([1, 1, 0, 0] * 5)), items=items)
    assert set(data.samples["target"]) == {"7", "8"}
    by_id = {"liked": [["8"]] * 20, "disliked": [["7"]] * 20, "target_title": ["7", "300"] * 10}
    data = prepared(pl.DataFrame(by_id).with_columns(label=pl.Series([1, 1, 0, 0] * 5)), items=items)
    assert set(data.samples["target"]) == {"7", "300"}


@pytest.mark.parametrize("kind", ["title", "id"])
def test_a_number_among_names_of_one_kind_is_of_that_kind(kind: str) -> None:
    """Whether the table has it as such, several times, or not: nothing of another item is taken for it."""
    numbers = {"id": ["90", "91", "1917"], "title": ["1984", "1984", "Nineteen Seventeen"]}
    items = pl.DataFrame({"id": [*map(str, range(80)), *numbers["id"]]})
    items = items.with_columns(title=pl.Series([*(f"Film {i}" for i in range(80)), *numbers["title"]]))
    items = pl.concat([items, pl.DataFrame({"id": ["1984"], "title": ["2001"]})])
    names = items[kind].to_list()[:80]
    odd = ["1917", "1984", "1905"] if kind == "title" else ["2001", "1905", "1906"]
    rows = [{"liked": [name], "disliked": [], "target": names[i - 1], "label": i % 2} for i, name in enumerate(names)]
    rows += [{"liked": [names[0]], "disliked": [], "target": name, "label": i % 2} for i, name in enumerate(odd)]
    data = prepared(pl.DataFrame(rows, schema_overrides={"disliked": pl.List(pl.String)}), items=items)
    found = dict(data.samples.filter(pl.col("target_title").is_in(odd)).select("target_title", "target").rows())
    assert found == {name: name if name in ("1905", "1906") else "" for name in odd}
    assert {"Nineteen Seventeen", "2001"}.isdisjoint(data.samples["target_title"]) or kind == "id"


def test_names_that_are_ids_and_titles_are_what_their_column_says() -> None:
    """As where items have numbers for names, too."""
    items = pl.DataFrame({"item_id": [str(k) for k in range(40)], "name": [str(7 * k % 40) for k in range(40)]})
    names = items["item_id"].to_list()
    rows = pl.DataFrame({"liked": [[names[i - 1]] for i in range(40)], "label": [0, 1] * 20}).with_columns(
        disliked=pl.lit([], pl.List(pl.String))
    )
    by_id = prepared(rows.with_columns(item_id=pl.Series(names)), items=items).samples
    assert sorted(by_id["target"]) == sorted(names)
    assert all(row["liked"] == [str((int(row["target"]) - 1) % 40)] for row in by_id.to_dicts())
    by_title = prepared(rows.with_columns(target_title=pl.Series(names)), items=items).samples
    assert all(row["target_title"] == str(7 * int(row["target"]) % 40) for row in by_title.to_dicts())
    assert all(row["liked_titles"] == [str((int(row["target_title"]) - 1) % 40)] for row in by_title.to_dicts())


@pytest.mark.parametrize(("wrong", "said_in"), [(0, None), (3, "counts"), (20, "doubts")])
def test_rows_whose_title_is_not_that_of_their_id_are_counted(wrong: int, said_in: str | None) -> None:
    items = pl.DataFrame({"item_id": [f"i{k}" for k in range(20)], "title": [f"Film {k}" for k in range(20)]})
    titles = [f"Film {(k + (k < wrong)) % 20}" for k in range(20)]
    rows = items.with_columns(target_title=pl.Series(titles)).drop("title").with_columns(label=pl.Series([0, 1] * 10))
    rows = rows.with_columns(liked=pl.lit(["Film 3"]), disliked=pl.lit(["Film 4"]))
    summary = prepared(rows, items=items).summary
    said = {
        name: [text for text in getattr(summary, name) if "another title than" in text] for name in ("counts", "doubts")
    }
    assert {name: len(texts) for name, texts in said.items()} == {name: int(name == said_in) for name in said}
    if said_in:
        assert said[said_in][0].startswith(f"{wrong} of 20 rows have another title than the item of their id")


def sliding(users: int = 10, length: int = 12) -> pl.DataFrame:
    """Each user's log as rows of the last four items and the next."""
    rows = [
        {
            "user": f"u{user}",
            "history": [f"Film {(user * 7 + i) % 97}" for i in range(at - 4, at)],
            "history_labels": [(user + i) % 2 for i in range(at - 4, at)],
            "title": f"Film {(user * 7 + at) % 97}",
            "label": (user + at) % 2,
            "ts": 1_700_000_000 + at * 3600,
        }
        for user in range(users)
        for at in range(4, length)
    ]
    return pl.DataFrame(rows)


def test_rows_with_times_are_split_by_time() -> None:
    data = prepared(sliding())
    last = {split: data.rows(split)["timestamp"].max() for split in ("train", "val", "test")}
    first = {split: data.rows(split)["timestamp"].min() for split in ("train", "val", "test")}
    assert last["train"] <= first["val"]
    assert last["val"] <= first["test"]
    assert data.summary.doubts == []


@pytest.mark.parametrize("column", ["time", "ts"])
def test_a_column_that_holds_no_times_splits_nothing(column: str) -> None:
    """As seconds on a page, beside the times or alone."""
    seconds = pl.int_range(pl.len()) * 7919 % 300
    data = prepared(sliding().rename({"ts": "created_at"}).with_columns(seconds.alias(column)))
    assert data.rows("train")["timestamp"].max() <= data.rows("test")["timestamp"].min()
    alone = prepared(sliding().with_columns(seconds.alias("ts")))
    assert any("timestamp = ts (not used: most are not from 1980 to 2100)" in note for note in alone.summary.notes)
    assert len(alone.summary.doubts) == 1  # as without times


def test_a_run_that_split_at_random_says_how_to_go_on() -> None:
    """As those of versions that did not use times."""
    random = SampleOptions(threshold=None, split="random")
    made, now = prepared(sliding(), samples=random), prepared(sliding())
    with pytest.raises(DataError) as refused:
        now.load_state_dict(made.state_dict())
    assert "--data.samples.split random" in refused.value.__notes__[0]
    prepared(sliding(), samples=random).load_state_dict(made.state_dict())


def test_a_random_order_splits_at_random() -> None:
    random = prepared(sliding(), samples=SampleOptions(threshold=None, split=None, order="shuffle"))
    assert random.rows("train")["timestamp"].max() > random.rows("test")["timestamp"].min()


def test_targets_that_training_histories_tell_are_doubted() -> None:
    data = prepared(sliding().drop("ts"))
    (doubt,) = data.summary.doubts
    assert re.match(r"\d+ of 16 validation and test targets stand in a history of a training row of the same", doubt)
    again = sliding().with_columns(title=pl.col("history").list.first())  # people take an item again
    assert prepared(again).summary.doubts == []
    by_user = SampleOptions(threshold=None, split="user", fractions=(0.6, 0.2, 0.2))
    assert prepared(sliding().drop("ts"), samples=by_user).summary.doubts == []


def test_a_history_does_not_hold_its_own_target() -> None:
    items = pl.DataFrame({"id": ["1", "2", "3"], "title": ["Heat", "Up", "Up"]})
    by_id = {"history": ["1", "Heat", "2", "3"], "history_labels": [1, 0, 1, 0], "title": "1", "label": 1}
    by_title = {"history": ["2", "Up", "Casper"], "history_labels": [1, 1, 0], "title": "Up", "label": 0}
    twin = {"history": ["2", "3", "Up"], "history_labels": [0, 1, 1], "title": "2", "label": 1}
    alone = {"history": ["New", "New"], "history_labels": [0, 1], "title": "New", "label": 0}
    options = SampleOptions(threshold=None, split=None, max_history=2)
    data = prepared(pl.DataFrame([by_id, by_title, twin, alone] * 10), items=items, samples=options)
    found = data.samples.select("target", pl.col("history").list.join("|")).unique().sort("target").rows()
    assert found == [("", "Casper"), ("1", "2|3"), ("2", "3")]
    assert "80 history entries were left out: they are the target of their own row" in data.summary.counts
    assert data.summary.samples_dropped == {"history shorter than min_history": 10}


def test_a_table_of_items_needs_no_titles() -> None:
    items = pl.DataFrame({"item": ["0", "1", "2"], "genre": ["a", "b", "c"]})
    rows = pl.DataFrame([{**row, "item": str(i % 3)} for i, row in enumerate(ROWS)])
    titled = prepared(rows.with_columns(target_title="T" + pl.col("item")), items=items)
    assert {*titled.samples.select("target_title", "target_genre").rows()} == {("T0", "a"), ("T1", "b"), ("T2", "c")}
    assert not titled.summary.no_titles
    plain = prepared(rows.drop("target_title"), items=items)
    assert {*plain.samples.select("target_title", "target_genre").rows()} == {("0", "a"), ("1", "b"), ("2", "c")}
    assert plain.summary.no_titles


@pytest.mark.parametrize("nothing", [None, "", "NULL"])
def test_an_item_without_a_title_is_called_as_its_rows_say(nothing: str | None) -> None:
    names = [f"i{k}" for k in range(8)]
    items = pl.DataFrame({"item_id": names, "title": [nothing, *(f"Film {k}" for k in range(1, 8))]})
    rows = pl.DataFrame(
        {"item_id": names * 3, "target_title": [f"Film {k}" for k in range(8)] * 3, "label": [0, 1] * 12}
    )
    rows = rows.with_columns(liked=pl.lit(["Film 3"]), disliked=pl.lit(["Film 4"]))
    data = prepared(rows, items=items)
    assert dict(data.samples.select("target", "target_title").rows())["i0"] == "Film 0"
    assert not [text for text in (*data.summary.counts, *data.summary.doubts) if "another title than" in text]


def test_a_target_is_named_by_its_title_where_its_id_is_missing() -> None:
    """By both in other rows, or by an id that nothing gives a title."""
    films = pl.DataFrame({"item_id": [f"i{k}" for k in range(8)], "target_title": [f"Film {k}" for k in range(8)]})
    odd = pl.DataFrame(
        {"item_id": [None, "NULL", "", "i9"], "target_title": ["Film 3", "film 4", "A film of no id", None]}
    )
    rows = pl.concat([films, films, odd, odd]).with_columns(
        label=pl.int_range(pl.len()) % 2, liked=pl.lit(["Film 1"]), disliked=pl.lit(["i2"])
    )
    for items in (None, films.rename({"target_title": "title"})):
        data = prepared(rows, items=items)
        assert data.samples.height == rows.height
        found = {*data.samples.select("target", "target_title").rows()}
        assert found >= {("i3", "Film 3"), ("i9", "i9"), ("A film of no id", "A film of no id")}
        assert not any(title.startswith("i") for title in data.samples["disliked_titles"].explode())
        assert "2 of 24 targets have no title, and prompts show the id ('i9')" in data.summary.counts
    with pytest.raises(DataError, match="no user or item id"):
        prepared(rows.with_columns(target_title=pl.lit(None, pl.String)))


def test_rows_of_which_some_have_no_time_are_said_to_be_split_at_random() -> None:
    rows = pl.DataFrame(ROWS).with_columns(ts=1_700_000_000 + pl.int_range(pl.len()))

    def doubts(rows: pl.DataFrame, split: Any = None) -> list[str]:
        samples = SampleOptions(threshold=None, split=split)
        return [text for text in prepared(rows, samples=samples).summary.doubts if "have no time" in text]

    some = rows.with_columns(ts=pl.when(pl.int_range(pl.len()) > 1).then("ts"))
    (found,) = doubts(some)
    assert found.startswith(f"2 of {rows.height} rows have no time, so all rows are split at random. Fix: ")
    assert not doubts(rows)
    assert not doubts(rows.drop("ts"))
    assert not doubts(some, split="random")


def test_titles_in_brackets_are_no_lists() -> None:
    rows = pl.DataFrame({"liked": ["[REC]", "[REC]|Heat", '["Heat", "M"]'], "disliked": "", "title": "Seven"})
    found = TableDataModule(rows.with_columns(label=1)).read().interactions.frame.select("history").collect()
    assert found["history"].to_list() == [["[REC]"], ["[REC]", "Heat"], ["Heat", "M"]]


def test_draws_do_not_depend_on_the_order_of_the_rows() -> None:
    frame = pl.DataFrame([row | {"user": f"p{i}"} for i, row in enumerate(ROWS)])
    options = SampleOptions(threshold=None, max_samples=20, split=None)
    expected = prepared(frame, samples=options).samples
    reversed_ = prepared(frame.reverse(), samples=options).samples
    assert reversed_.drop("timestamp").equals(expected.drop("timestamp"))  # without times, the row's number
    by_user = prepared(
        pl.DataFrame(ROWS), samples=SampleOptions(threshold=None, split="user", fractions=(0.5, 0.25, 0.25))
    ).samples
    assert by_user.group_by("user").agg(pl.col("split").n_unique())["split"].to_list() == [1] * 4


def test_explain_takes_a_user_and_titles() -> None:
    data = prepared(pl.DataFrame(ROWS))
    query = make_query(data, user="u1", target="Film 1")
    assert query.history
    assert make_query(data, liked="Heat|Film 2", target="Casper").rows.height == 3
    nobody = prepared(pl.DataFrame(ROWS).drop("user"))
    with pytest.raises(UserError, match="no sample is of user 'u1'"):
        make_query(nobody, user="u1", target="Film 1")


def test_a_history_without_matching_labels_is_a_bad_row() -> None:
    rows = pl.DataFrame(
        {"history": [["a", "b"], ["a"]], "history_labels": [[1], [2]], "title": ["c", "d"], "label": [1, 0]}
    )
    with pytest.raises(
        DataError, match=r"history and its labels do not match, data.interactions, row 1, column history_labels"
    ):
        prepared(rows)


@pytest.mark.parametrize("entry", [{"id": "a"}, ["a"]])
def test_a_history_of_objects_or_lists_is_refused(entry: object) -> None:
    rows = pl.DataFrame({"liked": [[entry]], "disliked": [["b"]], "title": ["c"], "label": [1]})
    with pytest.raises(
        DataError, match=r"column liked is of type List.*, which cannot be the liked\. Fix: write lists of"
    ):
        prepared(rows)


def test_options_that_ready_rows_cannot_have_are_refused() -> None:
    frame = pl.DataFrame(ROWS)
    with pytest.raises(UserError, match=r"data.samples.split: not all of these ready rows have a time"):
        prepared(frame, samples=SampleOptions(threshold=None, split="time"))
    with pytest.raises(UserError, match=r"data.samples.negatives: ready rows have labels of their own"):
        prepared(frame, samples=SampleOptions(threshold=None, negatives=2))
    with pytest.raises(DataError, match=r"which column is the label\?.*Fix: add --data\.columns\.label NAME"):
        prepared(frame.drop("label"))
    with pytest.raises(UserError, match="all 20 samples have the label 1"):
        prepared(frame.filter(label=1))


def test_the_target_is_not_in_its_history_however_it_is_written() -> None:
    row = {"user": "u", "liked": [" heat", "Sula"], "disliked": ["M"], "target_title": "Heat ", "label": 1}
    found = prepared(pl.DataFrame([row, row | {"label": 0}] * 20)).samples
    assert {*found["history"].list.join("|")} == {"Sula|M"}
    items = pl.DataFrame({"id": [1, 2, 3], "title": ["Heat", "Casper", "Heat"]})  # one title, two items
    rows = pl.DataFrame(
        {"liked": [[3.0, 1.0, 2.0]] * 20, "disliked": [[]] * 20, "item": [1] * 20, "label": [0, 1] * 10}
    )
    assert {*prepared(rows, items=items).samples["history"].list.join("|")} == {"3|2"}


@pytest.mark.parametrize(
    ("history", "labels"),
    [(["Heat", None, "M"], [1, 0]), (["Heat", "M"], [1, None]), ("Heat||M", "1|0|0"), ("Heat|M", "1|maybe")],
)
def test_entries_and_labels_that_are_missing_do_not_close_up(history: Any, labels: Any) -> None:
    good = {"history": type(history)(), "history_labels": type(labels)(), "title": "Seven", "label": 1}
    rows = pl.DataFrame([good, good | {"history": history, "history_labels": labels}])
    with pytest.raises(DataError, match=r"history and its labels do not match, data.interactions, row 2"):
        prepared(rows)


def test_titles_of_tallrec_may_have_quotes_and_commas_in_them() -> None:
    liked = ['"Crocodile" Dundee', 'Mr. "X", Jr', "10,000 BC", 'What\'s Up, "Doc"', "Vol. 2"]
    row = tallrec(ROWS[0] | {"liked": liked[:1] + liked[2:], "disliked": [], "target_title": 'Who is "K"'})
    frame = TableDataModule(pl.DataFrame([row])).read().interactions.frame
    found = frame.select("title", "history").collect().row(0)
    assert found == ('Who is "K"', liked[:1] + liked[2:])
    torn = tallrec(ROWS[0] | {"liked": [liked[1], "Heat"]})
    with pytest.raises(DataError, match=r"titles cannot be told apart, .*, row 1, column input"):
        prepared(pl.DataFrame([torn]))


def test_a_list_that_cannot_be_read_is_a_bad_row(tmp_path: Path) -> None:
    rows = [(f'"[""Heat"", ""Film {i}""]"', "[REC]", f"Film {i + 1}", i % 2) for i in range(20)]
    rows[7] = ("\"{Heat,'Up'}\"", "", "Seven", 1)
    rows[9] = ("Heat", "\"['Up' 'Big\"", "Seven", 1)
    text = "liked,disliked,title,label\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows)
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=r"list cannot be read, .*rows.csv, row 9, column liked.* Fix: .*Heat\|Fargo"):
        prepared(str(tmp_path / "rows.csv"), cache_dir=str(tmp_path / "cache"))
    options = SampleOptions(threshold=None, on_bad_row="skip")
    data = prepared(str(tmp_path / "rows.csv"), cache_dir=str(tmp_path / "cache"), samples=options)
    assert data.summary.dropped == {"rows.csv: list cannot be read": 2}
    assert {*data.samples["liked_titles"].explode()} == {"Heat", *(f"Film {i}" for i in range(20) if i not in (7, 9))}
    assert {*data.samples["disliked_titles"].explode()} == {"[REC]"}


def by_id(ids: list[str]) -> pl.DataFrame:
    """Rows about pairs of neighbours."""
    pairs = [*pairwise(ids)] * 4
    rows = [
        {"liked": [first], "disliked": [], "item": second, "label": i % 2} for i, (first, second) in enumerate(pairs)
    ]
    return pl.DataFrame(rows, schema_overrides={"disliked": pl.List(pl.String)})


def test_ids_that_the_table_of_items_does_not_have_are_said() -> None:
    """Ids of another form and other ids are findings, few are counted; without a table of items nothing is said."""
    ids = [f"{i:03}" for i in range(20)]
    items = pl.DataFrame({"id": ids, "title": [f"Film {i}" for i in ids]})
    cases = {
        "lost leading zeros": [*ids[:15], *(str(int(i)) for i in ids[15:])],
        "use the same ids": [f"x{i}" for i in ids],
        "upper and lower case": [*ids, "film 003"],
    }
    for reason, used in cases.items():
        (finding,) = prepared(by_id(used), items=items).summary.unmatched
        assert "ids of items of histories and targets are not in the rows of" in finding
        assert reason in finding
        assert not prepared(by_id(used)).summary.unmatched
    summary = prepared(by_id([*ids, "New", "Film 007", "Newer"]), items=items).summary
    assert not summary.unmatched
    assert [text for text in summary.counts if "are not in" in text] == [
        "2 of 22 items of histories and targets are not in the rows of data.items"
    ]
