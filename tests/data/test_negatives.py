"""Negatives: drawn items that their users never had, the same for any order of the rows."""

import random
from collections import Counter
from dataclasses import replace

import polars as pl
import pytest
from tiny import make_tables

from expctr.data.options import SampleOptions
from expctr.data.readers.bad_rows import NO_TIME, marked
from expctr.data.samples import make_samples
from expctr.errors import DataError

OPTIONS = SampleOptions(threshold=None, negatives=3, targets_per_user=2, split=None)


def positives(users: int = 30, items: int = 12, seed: int = 0) -> list[tuple[str, str, float, int | None]]:
    """Six items per user, the first item more often than the others."""
    draw = random.Random(seed)
    rows: list[tuple[str, str, float, int | None]] = []
    for user in range(users):
        had = {0, *draw.sample(range(items), 5)}
        rows += [(f"u{user}", f"i{item}", 1.0, 100 * user + place) for place, item in enumerate(sorted(had))]
    return rows


def test_each_target_is_followed_by_negatives_with_its_history() -> None:
    rows = positives()
    had = {(user, item) for user, item, _, _ in rows}
    samples, summary = make_samples(make_tables(rows), OPTIONS)
    groups = [samples[i : i + 4] for i in range(0, samples.height, 4)]
    assert len(groups) == 60
    for group in groups:
        assert group["label"].to_list() == [1, 0, 0, 0]
        assert group["target"].n_unique() == 4
        for same in ("user", "split", "timestamp", "history", "liked_titles"):
            assert group[same].n_unique() == 1
        pairs = {*group.select("user", "target").rows()}
        assert len(pairs & had) == 1  # the positive alone: no negative was had before, and none is had later
    assert samples["target_title"].to_list() == [f"Title {item}" for item in samples["target"]]
    assert all(split["base_rate"] == 0.25 for split in summary.splits.values())
    assert samples["disliked"].list.len().sum() == 0
    assert samples["sample"].to_list() == [*range(samples.height)]
    assert "3 drawn as disliked, uniform" in summary.rule


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = positives()
    expected, _ = make_samples(make_tables(rows), OPTIONS)
    random.Random(1).shuffle(rows)
    assert make_samples(make_tables(rows), OPTIONS)[0].equals(expected)


def test_popular_items_are_drawn_as_often_as_they_occur() -> None:
    rows = [(f"u{user}", item, 1.0, place) for user in range(400) for place, item in enumerate((f"a{user % 2}", "b"))]
    rows += [(f"v{user}", item, 1.0, place) for user in range(40) for place, item in enumerate(("c", "d"))]
    rows += [(f"v{user}", "e", 1.0, 9) for user in range(10)]
    drawn = {}
    for by in ("uniform", "popularity"):
        options = SampleOptions(threshold=None, negatives=1, negatives_by=by, split=None)  # type: ignore[arg-type]
        samples, _ = make_samples(make_tables(rows), options)
        of_u = samples.filter(pl.col("user").str.starts_with("u") & (pl.col("label") == 0))
        drawn[by] = Counter(of_u["target"].to_list())
    # a user u has b and one of a0 and a1: c, d, e and the other one are left
    assert drawn["uniform"]["e"] == pytest.approx(100, abs=40)
    assert drawn["uniform"]["c"] == pytest.approx(100, abs=40)
    assert drawn["popularity"]["e"] == pytest.approx(400 * 10 / 290, abs=10)
    assert drawn["popularity"]["c"] == pytest.approx(400 * 40 / 290, abs=35)


def test_a_user_with_all_items_gets_fewer_and_it_is_said() -> None:
    rows = [("all", f"i{item}", 1.0, item) for item in range(5)] + [("two", f"i{item}", 1.0, item) for item in range(2)]
    samples, summary = make_samples(make_tables(rows), SampleOptions(threshold=None, negatives=4, fractions=(1, 0, 0)))
    count = Counter(samples.filter(label=0)["user"].to_list())
    assert count == {"two": 3}
    assert summary.counts == ["5 negatives were not drawn: their users had nearly all items"]


def test_max_samples_counts_negatives() -> None:
    samples, _ = make_samples(
        make_tables(positives()), SampleOptions(threshold=None, negatives=3, max_samples=40, fractions=(1, 0, 0))
    )
    assert samples["label"].to_list() == [1, 0, 0, 0] * 10


def test_features_of_a_negative_are_its_own_and_the_context_is_the_positives() -> None:
    rows = positives()
    items = make_tables(rows).items.frame.collect().select("item", "title", colour="item")
    interactions = pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row")
    interactions = interactions.with_columns(pl.col("rating").cast(pl.Float32), context_place=pl.col("timestamp") % 7)
    tables = make_tables(rows, items=items, interactions=interactions, users=pl.DataFrame({"user": ["u1"], "age": [3]}))
    samples, _ = make_samples(tables, OPTIONS)
    assert samples["target_colour"].to_list() == samples["target"].to_list()
    assert samples["context_place"].to_list() == [time % 7 for time in samples["timestamp"]]
    assert samples.filter(user="u1")["user_age"].to_list() == [3] * 8


def test_an_item_of_a_row_that_was_skipped_is_no_negative() -> None:
    """Perhaps its time alone was bad: its user had it all the same."""
    rows = positives(items=8)
    tables = make_tables([(user, item, 1.0, None if item == "i0" else time) for user, item, _, time in rows])
    problem = pl.when(pl.col("timestamp").is_null()).then(marked(NO_TIME))
    interactions = replace(tables.interactions, frame=tables.interactions.frame.with_columns(problem=problem))
    options = replace(OPTIONS, on_bad_row="skip")
    samples, summary = make_samples(replace(tables, interactions=interactions), options)
    assert summary.dropped
    drawn = {*samples.filter(label=0).select("user", "target").rows()}
    assert drawn
    assert not drawn & {(user, item) for user, item, _, _ in rows}


def test_data_with_dislikes_are_refused() -> None:
    rows = [*positives(), ("u0", "i11", 0.0, 999)]
    with pytest.raises(DataError, match=r"data.samples.negatives .* 0\.\d% of the rows are dislikes"):
        make_samples(make_tables(rows), OPTIONS)
