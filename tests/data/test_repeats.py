"""Repeated impressions: with `repeats: keep` all are targets, and histories show each other item once."""

import random
from dataclasses import replace

import polars as pl
import pytest
from tiny import make_tables

from expctr.data.findings import findings
from expctr.data.options import SPLITS, SampleOptions
from expctr.data.samples import make_samples
from expctr.data.summary import REPEATED

ALL = SampleOptions(threshold=None, repeats="keep", targets_per_user=100, fractions=(1, 0, 0))


def test_a_history_shows_each_item_as_last_seen_and_never_the_target() -> None:
    rows = [
        ("u", "a", 0.0, 1),
        ("u", "b", 0.0, 2),
        ("u", "a", 1.0, 3),
        ("u", "b", 1.0, 4),
        ("u", "c", 0.0, 5),
        ("u", "a", 0.0, 6),
    ]
    samples, summary = make_samples(make_tables([*rows]), ALL)
    found = {
        time: (target, [*zip(history, liked, strict=True)], label)
        for time, target, history, liked, label in samples.select(
            "timestamp", "target", "history", "history_liked", "label"
        ).rows()
    }
    assert found == {
        2: ("b", [("a", False)], 0),
        3: ("a", [("b", False)], 1),
        4: ("b", [("a", True)], 1),
        5: ("c", [("a", True), ("b", True)], 0),
        6: ("a", [("b", True), ("c", False)], 0),
    }
    assert summary.interactions == 6
    latest, _ = make_samples(
        make_tables([*rows]), SampleOptions(threshold=None, targets_per_user=9, fractions=(1, 0, 0))
    )
    assert sorted(latest["timestamp"].to_list()) == [5, 6]


def test_a_history_has_max_history_items_though_rows_repeat() -> None:
    rows = [("u", f"i{i % 5}", float(i % 2), i) for i in range(20)] + [("u", "t", 1.0, 99)]
    samples, _ = make_samples(
        make_tables([*rows]),
        SampleOptions(threshold=None, repeats="keep", max_history=4, targets_per_user=100, fractions=(1, 0, 0)),
    )
    (last,) = samples.filter(target="t").select("history", "history_liked").rows()
    assert last == (["i1", "i2", "i3", "i4"], [False, True, False, True])


def test_the_order_of_the_rows_does_not_matter() -> None:
    draw = random.Random(0)
    rows = [
        (f"u{draw.randrange(5)}", f"i{draw.randrange(4)}", float(draw.random() < 0.5), draw.randrange(9))
        for _ in range(80)
    ]
    options = SampleOptions(threshold=None, repeats="keep", targets_per_user=5, max_samples=20)
    expected, _ = make_samples(make_tables([*rows]), options)
    assert expected.height == 20
    draw.shuffle(rows)
    assert make_samples(make_tables([*rows]), options)[0].equals(expected)


def test_rows_alike_in_all_but_their_label_are_drawn_apart() -> None:
    rows = [(f"u{user}", item, rating, 5) for user in range(200) for item in "ab" for rating in (0.0, 1.0)]
    samples, _ = make_samples(make_tables([*rows]), SampleOptions(threshold=None, repeats="keep", fractions=(1, 0, 0)))
    assert 0.3 < float(pl.Series(samples["label"]).mean() or 0) < 0.8  # type: ignore[arg-type]


def test_what_was_delivered_twice_is_one_impression() -> None:
    """Unless times are days, in which something may be shown twice."""
    rows = [(f"u{i % 20}", f"i{i // 20}", float(i % 3 == 0), 100 * i) for i in range(160)]
    expected, _ = make_samples(make_tables([*rows]), ALL)
    twice, summary = make_samples(make_tables([*rows, *rows[:50], ("u0", "i0", 0.0, 0), rows[0]]), ALL)
    assert summary.dropped == {REPEATED: 51}
    assert twice.filter((pl.col("timestamp") > 0) | (pl.col("label") == 1)).height == expected.height == 140
    assert not findings(summary, ALL) or not any("rows are dropped" in text for text in findings(summary, ALL))
    for unit, midnight in ((1, 0), (1, -19_800), (10**6, 82_800)):  # UTC, India, Berlin in winter
        start = 1_700_006_400 + midnight
        days = [(user, item, label, unit * (start + 86_400 * (time // 1000))) for user, item, label, time in rows]
        days[7] = (*days[7][:3], unit * (start + 4321))  # one with a time
        assert not make_samples(make_tables([*days, *days]), ALL)[1].dropped


def test_of_rows_at_one_time_the_positive_is_the_latest() -> None:
    rows = [(f"u{i % 20}", f"i{i // 20}", float(i % 3 == 0), i // 40) for i in range(160)]
    clicked = [(user, item, 1.0, time) for user, item, label, time in rows if label]
    options = SampleOptions(threshold=None, targets_per_user=99, min_history=0, fractions=(1, 0, 0))
    for repeats in ("latest", "keep"):
        kept = replace(options, repeats=repeats)
        expected, _ = make_samples(make_tables([*rows, *[(u, i, 0.0, t) for u, i, _, t in clicked]]), kept)
        turned, _ = make_samples(make_tables([*[(u, i, 0.0, t) for u, i, _, t in clicked], *rows][::-1]), kept)
        assert turned.equals(expected)
        assert int(expected["label"].sum()) == len(clicked)
    latest, _ = make_samples(make_tables([*clicked, *rows]), options)
    assert latest.select("user", "target", "label").sort("user", "target").rows() == sorted(
        (user, item, int(label)) for user, item, label, _ in rows
    )


def test_a_history_is_full_however_often_one_item_is_shown() -> None:
    rows = [("u", f"i{i}", 1.0, i) for i in range(12)]
    rows += [("u", "spam", 0.0, 100 + i) for i in range(400)] + [("u", "t", 1.0, 999)]
    samples, _ = make_samples(make_tables(rows), replace(ALL, targets_per_user=500))
    (history,) = samples.filter(timestamp=999)["history"]
    assert history.to_list() == [f"i{i}" for i in range(3, 12)] + ["spam"]


def test_likes_that_a_later_row_overrules_are_counted() -> None:
    """Of u's likes a and b, a is overruled; v's like comes last."""
    rows = [("u", "a", 1.0, 1), ("u", "b", 1.0, 2), ("u", "c", 0.0, 3), ("u", "a", 0.0, 4)]
    rows += [("v", "a", 0.0, 1), ("v", "b", 0.0, 2), ("v", "a", 1.0, 3)]
    options = SampleOptions(threshold=None, fractions=(1, 0, 0))
    _, summary = make_samples(make_tables(rows), options)
    assert summary.overruled == 1 / 3
    assert any("33% of the items that somebody liked" in text for text in findings(summary, options))
    assert make_samples(make_tables(rows), replace(options, repeats="keep"))[1].overruled == 0


@pytest.mark.parametrize(("items", "longest"), [(3, 2), (6, 10), (30, 4), (60, 1)])
def test_histories_are_those_of_the_definition(items: int, longest: int) -> None:
    """The latest items before the target, each as last seen, without the target and without targets of later splits."""
    draw = random.Random(items)
    rows = [(f"u{draw.randrange(3)}", f"i{draw.randrange(items)}", float(time % 2), time) for time in range(300)]
    options = SampleOptions(threshold=None, repeats="keep", max_history=longest, min_history=0, targets_per_user=60)
    samples, summary = make_samples(make_tables([*rows]), options)
    split = {time: SPLITS.index(name) for time, name in samples.select("timestamp", "split").rows()}
    withheld = 0
    for user, target, now, history, liked in samples.select(
        "user", "target", "timestamp", "history", "history_liked"
    ).rows():
        expected: dict[str, bool] = {}
        for other, item, rating, time in reversed(rows[:now]):
            if other == user and len(expected) < longest:
                if split.get(time, 0) > split[now]:
                    withheld += 1
                elif item != target:
                    expected.setdefault(item, rating > 0)
        assert [*zip(history, liked, strict=True)] == [*expected.items()][::-1]
    assert summary.withheld == withheld > 0


def test_few_items_shown_very_often_take_neither_all_memory_nor_hours() -> None:
    """20 GB if the past of each of 60,000 targets were listed."""
    rows = [("u", f"i{i % 7}", float(i % 3 == 0), i) for i in range(60_000)]
    options = replace(ALL, targets_per_user=len(rows), max_samples=None)
    samples, _ = make_samples(make_tables(rows), options)
    assert samples.height == len(rows) - 1
    assert samples["history"].list.len().tail(1000).unique().to_list() == [6]
