"""Targets, histories, labels, splits, and that nothing leaks between splits."""

import math
import random
from dataclasses import replace

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tiny import make_tables

from expctr.data.features import Features
from expctr.data.options import SampleOptions
from expctr.data.readers.base import RawTable
from expctr.data.samples import make_samples
from expctr.data.summary import SUPERSEDED
from expctr.errors import DataError

Rating = tuple[str, str, float, int | None]


ITEMS = pl.DataFrame({"item": [f"{i}" for i in range(10)], "title": [f"Title {i}" for i in range(10)]})


def world(users: int = 40, items: int = 30, seed: int = 0) -> list[Rating]:
    """Users with 2 to 25 ratings, many at the same second, in random order."""
    draw = random.Random(seed)
    rows: list[Rating] = []
    for user in range(users):
        rated = draw.sample(range(items), draw.randint(2, 25))
        rows += [(f"u{user}", f"i{item}", float(draw.randint(1, 5)), draw.randint(0, 9)) for item in rated]
    draw.shuffle(rows)
    return rows


def split_tables(**files: list[Rating]) -> dict[str, RawTable]:
    return {name: make_tables(rows).interactions for name, rows in files.items()}


def one_user(*ratings: float) -> list[Rating]:
    """User u rates item 0, 1, 2, ... at time 0, 1, 2, ..., and so do nine others, so that no split is empty."""
    return [(f"u{user}", f"{item}", rating, item) for user in range(10) for item, rating in enumerate(ratings)]


@pytest.mark.parametrize("targets", [1, 4])
def test_histories_are_the_latest_earlier_items(targets: int) -> None:
    ratings = world()
    options = SampleOptions(targets_per_user=targets, max_history=5, split="user")
    samples, summary = make_samples(make_tables(ratings), options)
    assert summary.withheld == 0
    for sample in samples.iter_rows(named=True):
        own = {item: (rating, time) for user, item, rating, time in ratings if user == sample["user"]}
        rating, time = own[sample["target"]]
        assert sample["label"] == (rating >= 4)
        assert (sample["rating"], sample["timestamp"]) == (rating, time)
        history = [*sample["liked"], *sample["disliked"]]
        assert sample["target"] not in history
        assert all(own[item][0] >= 4 for item in sample["liked"])
        assert all(own[item][0] < 4 for item in sample["disliked"])
        assert sample["liked_titles"] == [f"Title {item}" for item in sample["liked"]]
        assert sample["target_title"] == f"Title {sample['target']}"
        for titles in (sample["liked"], sample["disliked"]):
            assert [own[item][1] for item in titles] == sorted(own[item][1] for item in titles)
        # Everything strictly older than the oldest entry is left out only because the history is full.
        assert all(own[item][1] <= time for item in history)
        older = [item for item, (_, at) in own.items() if at < time and item not in history]
        assert not older or (len(history) == 5 and max(own[i][1] for i in older) <= min(own[i][1] for i in history))


def test_hand_worked() -> None:
    ratings = one_user(5, 1, 4, 3, 2)
    samples, summary = make_samples(
        make_tables(ratings), SampleOptions(targets_per_user=9, max_history=3, split="user")
    )
    of_one = {row["target"]: row for row in samples.filter(user="u0").iter_rows(named=True)}
    assert {t: (row["liked"], row["disliked"], row["label"]) for t, row in of_one.items()} == {
        "1": (["0"], [], 0),
        "2": (["0"], ["1"], 1),
        "3": (["0", "2"], ["1"], 0),
        "4": (["2"], ["1", "3"], 0),
    }
    assert summary.history == {"min": 1, "25%": 2, "median": 3, "75%": 3, "max": 3}
    train = summary.splits["train"]
    assert (train["samples"], train["base_rate"]) == (32, 0.25)
    assert train["entropy"] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


def test_draws_do_not_depend_on_the_order_of_rows() -> None:
    ratings = world()
    first, _ = make_samples(make_tables(ratings), SampleOptions(targets_per_user=3))
    again, _ = make_samples(make_tables(sorted(ratings, reverse=True)), SampleOptions(targets_per_user=3))
    assert_frame_equal(first, again)
    other, _ = make_samples(make_tables(ratings), SampleOptions(targets_per_user=3, seed=1))
    assert first["target"].to_list() != other["target"].to_list()
    assert first["sample"].to_list() == list(range(first.height))


def test_draws_are_the_same_in_every_version() -> None:
    samples, _ = make_samples(make_tables(one_user(5, 1, 4, 3, 2)), SampleOptions())
    drawn = " ".join(f"{user}:{target}" for user, target in samples.select("user", "target").iter_rows())
    assert drawn == "u8:4 u4:1 u7:1 u0:1 u5:2 u3:3 u6:2 u9:1 u1:4 u2:4"


@pytest.mark.parametrize(("op", "label"), [("ge", 1), ("gt", 0)])
def test_threshold_at_equality(op: str, label: int) -> None:
    options = SampleOptions(threshold=3.5, threshold_op=op, targets_per_user=1)  # type: ignore[arg-type]
    samples, summary = make_samples(make_tables(one_user(3.5, 3.5)), options)
    assert samples["label"].unique().to_list() == [label]
    assert set(samples["liked" if label else "disliked"].list.len()) == {1}
    assert summary.rule == f"liked when rating {'>=' if label else '>'} 3.5"


def test_zero_ratings() -> None:
    ratings = one_user(0, 5, 0, 3)
    kept, _ = make_samples(make_tables(ratings), SampleOptions(targets_per_user=9))
    assert "0" in kept["disliked"].explode().to_list()
    dropped, summary = make_samples(make_tables(ratings), SampleOptions(targets_per_user=9, zero_ratings="drop"))
    assert dropped["target"].unique().to_list() == ["3"]
    assert summary.dropped == {"rating 0": 20}


def test_the_target_s_rating_and_later_ratings_change_only_label_and_rating() -> None:
    ratings = world()
    options = SampleOptions(split="user")
    samples, _ = make_samples(make_tables(ratings), options)
    for sample in samples.head(10).iter_rows(named=True):
        # The rating of the target is inverted, and later ratings change: only label and rating may change.
        changed = [
            (user, item, 6 - rating, time)
            if user == sample["user"] and (item == sample["target"] or (time or 0) > sample["timestamp"])
            else (user, item, rating, time)
            for user, item, rating, time in ratings
        ]
        again, _ = make_samples(make_tables(changed), options)
        row = again.row(by_predicate=pl.col("sample") == sample["sample"], named=True)
        outcome = {"label", "rating"}
        assert {k: v for k, v in row.items() if k not in outcome} == {
            k: v for k, v in sample.items() if k not in outcome
        }
        assert row["rating"] == 6 - sample["rating"]


def test_the_history_s_counts_say_nothing_of_the_target_or_of_later_ratings() -> None:
    ratings = world()
    options = SampleOptions(split="user", targets_per_user=2)
    samples, _ = make_samples(make_tables(ratings), options)
    features = Features.fit(samples, ["target"], with_counts=True)
    encoded = features.encode(samples)
    names = ["history_count", "history_liked_count", "history_liked_share"]
    own = {(user, item): (rating, time) for user, item, rating, time in ratings}
    for sample in samples.iter_rows(named=True):
        before = [own[sample["user"], item] for item in sample["history"]]
        assert all((time or 0) <= sample["timestamp"] for _, time in before)
        count, liked = len(before), sum(rating >= 4 for rating, _ in before)
        expected = [count, liked, round(20 * liked / count) / 20]
        found = [features.vocabularies[name][encoded[name][sample["sample"]] - 2] for name in names]
        if sample["split"] == "train":
            assert [float(value) for value in found] == expected
    for sample in samples.head(5).iter_rows(named=True):
        # The target's rating is inverted, and so are later ones: the counts of the row stay.
        changed = [
            (user, item, 6 - rating, time)
            if user == sample["user"] and (item == sample["target"] or (time or 0) > sample["timestamp"])
            else (user, item, rating, time)
            for user, item, rating, time in ratings
        ]
        again = features.encode(make_samples(make_tables(changed), options)[0])
        assert all(again[name][sample["sample"]] == encoded[name][sample["sample"]] for name in names)


def test_reviews_are_the_targets_own_and_stand_in_one_column() -> None:
    ratings = world()
    tables = make_tables(ratings)
    frame = tables.interactions.frame.with_columns(review=pl.format("{} on {}", "user", "item"))
    samples, _ = make_samples(
        make_tables(ratings, interactions=frame.select("user", "item", "rating", "timestamp", "review").collect()),
        SampleOptions(),
    )
    for sample in samples.iter_rows(named=True):
        text = f"{sample['user']} on {sample['target']}"
        assert [name for name, value in sample.items() if text in str(value)] == ["review"]


def test_one_review_under_several_items_counts_once() -> None:
    rows = [
        ("1", 5.0, 7, "fine"),
        ("2", 5.0, 7, "fine"),
        ("3", 5.0, 7, "fine"),
        ("4", 5.0, 8, "fine"),  # another time
        ("5", 5.0, 8, "good"),  # another text
        ("6", 5.0, 9, ""),  # no text
        ("7", 5.0, 9, ""),
        ("8", 5.0, 9, None),
    ]
    schema = {"user": pl.String, "item": pl.String, "rating": pl.Float32, "timestamp": pl.Int64, "review": pl.String}
    frame = pl.DataFrame([(f"u{user}", *row) for user in range(10) for row in rows], schema=schema, orient="row")
    for given in (frame, frame.reverse()):  # which one stays does not depend on the order of the rows
        tables = make_tables([], interactions=given, items=ITEMS)
        listed = replace(tables, interactions=replace(tables.interactions, has_variants=True))
        samples, summary = make_samples(listed, SampleOptions())
        assert summary.dropped == {"same review (user, text, time) under another item": 20}
        assert not make_samples(tables, SampleOptions())[1].dropped
        used = pl.concat([samples["target"], samples["history"].explode()]).unique()
        assert not {"1", "2"} & set(used)
        assert samples.filter(target="3")["review"].to_list() in ([], ["fine"])


def test_entries_of_the_target_s_own_time_can_stay_out_of_its_history() -> None:
    ratings = world()
    options = SampleOptions(targets_per_user=4, max_history=5, split="user", same_time="drop")
    samples, summary = make_samples(make_tables(ratings), options)
    for sample in samples.iter_rows(named=True):
        own = {item: time for user, item, _, time in ratings if user == sample["user"]}
        earlier = sorted((time for time in own.values() if time < sample["timestamp"]), reverse=True)
        assert 1 <= len(sample["history"]) == min(5, len(earlier))
        assert [own[item] for item in reversed(sample["history"])] == earlier[:5]
    kept, kept_summary = make_samples(make_tables(ratings), replace(options, same_time="keep"))
    tied = [
        any(
            user == sample["user"] and time == sample["timestamp"] and item in sample["history"]
            for user, item, _, time in ratings
        )
        for sample in kept.iter_rows(named=True)
    ]
    assert kept_summary.same_time == pytest.approx(sum(tied) / len(tied))
    assert (kept_summary.same_time_option, summary.same_time_option) == ("keep", "drop")
    assert 0 < summary.same_time < 1


def test_without_an_order_in_time_no_time_is_the_same() -> None:
    for ratings in (world(), [(user, item, rating, None) for user, item, rating, _ in world()]):
        options = SampleOptions(order="shuffle", same_time="drop")
        samples, summary = make_samples(make_tables(ratings), options)
        assert summary.same_time == 0
        assert_frame_equal(samples, make_samples(make_tables(ratings), SampleOptions(order="shuffle"))[0])


def test_a_history_does_not_reveal_the_label_of_a_later_split() -> None:
    samples, summary = make_samples(make_tables(world()), SampleOptions(targets_per_user=8))
    assert summary.withheld > 0
    held = {"train": ("val", "test"), "val": ("test",), "test": ()}
    for sample in samples.iter_rows(named=True):
        others = samples.filter(pl.col("split").is_in(held[sample["split"]]), user=sample["user"])["target"]
        assert not set(others) & {*sample["liked"], *sample["disliked"]}


def test_duplicates_keep_the_latest() -> None:
    ratings = [*one_user(5, 1), *[(f"u{user}", "0", 2.0, -5) for user in range(10)], ("u0", "1", 4.0, 1)]
    samples, summary = make_samples(make_tables(ratings), SampleOptions())
    assert summary.dropped == {SUPERSEDED: 11}
    assert samples.filter(user="u1").select("liked", "label").row(0) == (["0"], 0)
    assert samples.filter(user="u0")["rating"].item() == 4


def test_counts_add_up() -> None:
    ratings = [*world(), ("lonely", "i1", 5.0, 1), ("u1", "i1", 5.0, 99), ("u1", "i1", 5.0, 98), ("u2", "?", 1.0, 1)]
    known = pl.DataFrame({"item": [f"i{i}" for i in range(30)], "title": ["T"] * 29 + [None]})
    options = SampleOptions(min_ratings=4, max_samples=20, min_history=2)
    samples, summary = make_samples(make_tables(ratings, items=known), options)
    assert summary.rows == len(ratings)
    assert summary.rows == summary.interactions + sum(summary.dropped.values())
    assert summary.untitled == pytest.approx(2 / 31)
    assert samples.height == 20
    assert sum(int(split["samples"]) for split in summary.splits.values()) == 20
    drawn = summary.users - summary.samples_dropped.get("user with too few ratings for min_history", 0)
    assert drawn - summary.samples_dropped["beyond max_samples"] == 20


def test_balance() -> None:
    ratings = [(f"u{user}", f"{item}", 1.0 if user % 5 == 0 else 5.0, item) for user in range(100) for item in range(3)]
    samples, summary = make_samples(make_tables(ratings), SampleOptions(balance=True))
    assert samples["label"].value_counts().sort("label")["count"].to_list() == [20, 20]
    assert summary.samples_dropped == {"beyond targets_per_user": 100, "surplus of one label (balance)": 60}
    fewer, _ = make_samples(make_tables(ratings), SampleOptions(balance=True, max_samples=10))
    assert fewer["label"].sum() == 5


@pytest.mark.parametrize("balance", [False, True])
def test_max_samples_does_not_favour_users_with_many_ratings(balance: bool) -> None:
    many = [(f"m{user}", f"{item}", 1.0 + 4 * (user % 2), item) for user in range(200) for item in range(40)]
    few = [(f"f{user}", f"{item}", 1.0 + 4 * (user % 2), item) for user in range(200) for item in range(2)]
    samples, _ = make_samples(make_tables(many + few), SampleOptions(max_samples=200, balance=balance))
    assert 80 < samples["user"].str.starts_with("m").sum() < 120
    first = samples.filter(split="train").head(80)
    assert 25 < first["user"].str.starts_with("m").sum() < 55


def test_balance_leaves_every_user_both_labels() -> None:
    ratings = [(f"u{u}", f"{i}", 5.0 if (7 * u + i) % 20 == 0 else 1.0, i) for u in range(300) for i in range(20)]
    options = SampleOptions(targets_per_user=20, balance=True, min_history=0)
    for most in (None, 200):
        kept = make_samples(make_tables(ratings), replace(options, max_samples=most))[0]
        liked, disliked = (set(kept.filter(label=label)["user"]) for label in (1, 0))
        assert len(disliked) > 0.55 * len(liked)


def test_max_samples_keeps_users_with_all_their_targets() -> None:
    ratings = [(f"u{user}", f"{item}", 1.0 + 4 * (item % 2), item) for user in range(50) for item in range(9)]
    all_of = make_samples(make_tables(ratings), SampleOptions(targets_per_user=6))[0]
    kept = make_samples(make_tables(ratings), SampleOptions(targets_per_user=6, max_samples=33))[0]
    assert sorted(kept.group_by("user").len()["len"]) == [3, 6, 6, 6, 6, 6]
    assert kept.join(all_of, on=["user", "target"], how="anti").is_empty()


def test_splits() -> None:
    ratings = world(users=60)
    by_user, _ = make_samples(make_tables(ratings), SampleOptions(targets_per_user=5, split="user"))
    assert by_user.group_by("user").agg(pl.col("split").n_unique())["split"].unique().to_list() == [1]
    by_time, _ = make_samples(make_tables(ratings), SampleOptions(targets_per_user=5, split="time"))
    newest = by_time.group_by("split").agg(pl.max("timestamp").alias("max"), pl.min("timestamp").alias("min"))
    span = {split: (low, high) for split, high, low in newest.iter_rows()}
    assert span["train"][1] <= span["val"][0] <= span["val"][1] <= span["test"][0]
    _, summary = make_samples(make_tables(ratings), SampleOptions(fractions=(0.5, 0.25, 0.25)))
    assert [split["samples"] for split in summary.splits.values()] == [30, 15, 15]
    assert summary.splits["test"]["warm_users"] == 0


def test_an_empty_split_is_an_error_unless_it_was_asked_for() -> None:
    tables = make_tables(world(users=3))
    with pytest.raises(DataError, match=r"the val split is empty: 3 samples from 3 users.*targets_per_user"):
        make_samples(tables, SampleOptions())
    samples, _ = make_samples(tables, SampleOptions(fractions=(0.67, 0.0, 0.33)))
    assert set(samples["split"]) == {"train", "test"}


def test_without_timestamps() -> None:
    ratings: list[Rating] = [(user, item, rating, None) for user, item, rating, _ in world()]
    with pytest.raises(
        DataError, match=r"rows have no timestamp, memory, column timestamp. Fix: .* data.samples.order: shuffle"
    ):
        make_samples(make_tables(ratings), SampleOptions())
    first, _ = make_samples(make_tables(ratings), SampleOptions(order="shuffle"))
    again, _ = make_samples(make_tables(ratings[::-1]), SampleOptions(order="shuffle"))
    assert_frame_equal(first, again)
    # One order for all of a user's samples: an item before another one is not after it elsewhere.
    many, _ = make_samples(make_tables(ratings), SampleOptions(order="shuffle", targets_per_user=25, split="user"))
    before = {
        (row["user"], item, row["target"])
        for row in many.iter_rows(named=True)
        for item in row["liked"] + row["disliked"]
    }
    assert not any((user, target, item) in before for user, item, target in before)


def test_own_splits() -> None:
    train: list[Rating] = [("a", "1", 5.0, 1), ("a", "2", 1.0, 2), ("a", "3", 5.0, 9), ("b", "1", 4.0, 1)]
    val: list[Rating] = [("a", "4", 5.0, 3)]
    test: list[Rating] = [("a", "5", 2.0, 4), ("b", "2", 5.0, 8)]
    tables = make_tables([*train, *val, *test])
    samples, summary = make_samples(tables, SampleOptions(), split_tables(train=train, val=val, test=test))
    assert samples.sort("split", "user", "timestamp").select("split", "user", "target", "liked", "disliked").rows() == [
        ("test", "a", "5", ["1"], ["2"]),  # neither train's item 3, which is later, nor val's item 4
        ("test", "b", "2", ["1"], []),
        ("train", "a", "2", ["1"], []),
        ("train", "a", "3", ["1"], ["2"]),
        ("val", "a", "4", ["1"], ["2"]),
    ]
    in_order = samples.filter(split="test", user="a").select("history", "history_liked").row(0)
    assert in_order == (["1", "2"], [True, False])
    assert summary.rows == 7
    assert summary.samples_dropped == {"history shorter than min_history": 2}
    # A pair that is in train and in test is a test target, and no history entry.
    both = split_tables(train=[*train, ("a", "5", 2.0, 0)], val=val, test=test)
    samples, _ = make_samples(tables, SampleOptions(), both)
    assert "5" not in samples["disliked"].explode().to_list()
    with pytest.raises(DataError, match="the test split is empty"):
        make_samples(tables, SampleOptions(), split_tables(train=train, val=val, test=[("new", "1", 1.0, 1)]))


def test_side_features_belong_to_the_target_and_the_user() -> None:
    ratings = world()
    items = pl.DataFrame({"item": [f"i{i}" for i in range(30)]}).with_columns(
        title=pl.col("item"), year=pl.int_range(1990, 2020), genres=pl.concat_list("item", pl.lit("All"))
    )
    users = pl.DataFrame({"user": [f"u{i}" for i in range(0, 40, 2)], "age": range(20)})
    samples, _ = make_samples(make_tables(ratings, items=items, users=users), SampleOptions())
    for row in samples.iter_rows(named=True):
        assert row["target_year"] == 1990 + int(row["target"][1:])
        assert row["target_genres"] == [row["target"], "All"]
        assert row["user_age"] == (None if int(row["user"][1:]) % 2 else int(row["user"][1:]) // 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.8, 0.1, 0.2)}, "sum to 1"),
        ({"split": "time", "order": "shuffle"}, "needs data.samples.order: time"),
        ({"targets_per_user": 0}, "at least 1"),
        ({"max_samples": 0}, "at least 1"),
        ({"min_history": 5, "max_history": 3}, "more than data.samples.max_history 3"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleOptions(**options)  # type: ignore[arg-type]


def test_no_interaction_left() -> None:
    items = pl.DataFrame({"item": ["9"], "title": ["T"]})
    tables = make_tables([("a", "1", 1.0, 1), ("a", "2", 1.0, 1), ("b", "2", 1.0, 1)], items=items)
    with pytest.raises(DataError, match=r"no rating is left of 3 rows .*item without a title: 3.*Fix: check that"):
        make_samples(tables, SampleOptions())
