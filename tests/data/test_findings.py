"""What looks wrong: each kind is found where it is, and nowhere else."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from expctr.data.findings import findings
from expctr.data.interactions import load_interactions
from expctr.data.options import SampleOptions
from expctr.data.readers.bad_rows import PROBLEM
from expctr.data.readers.base import RawTable
from expctr.data.summary import COPIES, REPEATED, SUPERSEDED, DataSummary

OPTIONS = SampleOptions(targets_per_user=2)


def split(samples: int, base_rate: float, warm_users: float = 1.0) -> dict[str, float]:
    return {"samples": samples, "base_rate": base_rate, "warm_users": warm_users}


SOUND = DataSummary(
    rows=1000,
    dropped={"item without a title": 100},
    interactions=900,
    untitled=0.5,
    tied=0.5,
    splits={"train": split(800, 0.5), "val": split(100, 0.4), "test": split(100, 0.1, warm_users=0.51)},
    history={"median": 1.0},
)
"""On the sound side of each limit."""


USER_0 = {"busiest": "0", "busiest_share": 0.2, "users": 50}
TITLES = "another title of an item in the interactions, such as 'Fargo' of 12, 'Heat'"


def test_sound_data_have_no_findings() -> None:
    assert findings(SOUND, OPTIONS) == []


WRONG = {
    "rows dropped": ({"interactions": 899, "dropped": {"rating 0": 1, "no title": 100}}, "no title: 100; rating 0: 1"),
    "doubtful times": ({"doubts": ["most times are within 1970. Fix: name the column"]}, "within 1970"),
    "ids for titles": ({"no_titles": True}, "the language model reads the ids of the items"),
    "no titles": ({"untitled": 0.51}, "51% of the rated items have no title"),
    "few of a label": ({"splits": {**SOUND.splits, "test": split(100, 0.91)}}, "test has 91 liked and 9 disliked."),
    "none of a label": ({"splits": {**SOUND.splits, "test": split(100, 0)}}, "test has 0 liked and 100 disliked."),
    "two splits": (
        {"splits": {**SOUND.splits, "val": split(10, 0.5), "test": split(9, 0)}},
        "val has 5 liked and 5 disliked, test has 0 liked and 9 disliked.",
    ),
    "drift": ({"splits": {**SOUND.splits, "val": split(100, 0.29)}}, "29% of the validation rows are liked"),
    "unknown users": ({"splits": {**SOUND.splits, "test": split(100, 0.5, 0.0)}}, "every user of the test rows"),
    "mostly unknown users": (
        {"splits": {**SOUND.splits, "test": split(100, 0.5, 0.08)}},
        "92% of the test rows are of users who are unknown to training",
    ),
    "a test account": (USER_0 | {"busiest_share": 0.21}, "user '0' has 21% of all rows"),
    "two titles": ({"side_dropped": {TITLES: 3}}, f"some items have several titles ({TITLES}: 3 in all)"),
    "ties": ({"tied": 0.51}, "51% of the interactions share their time"),
    "no histories": ({"history": {"median": 0.0}}, "most histories are empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_kind_is_found_alone_and_comes_with_a_way_out(name: str) -> None:
    changes, expected = WRONG[name]
    (found,) = findings(replace(SOUND, **changes), OPTIONS)
    assert expected in found
    assert ". Fix: " in found


def test_of_few_users_one_may_have_many_rows() -> None:
    """Less than ten times the average."""
    for changes in (USER_0, USER_0 | {"busiest_share": 0.3, "users": 33}):
        assert findings(replace(SOUND, **changes), OPTIONS) == []  # type: ignore[arg-type]


def test_drawn_negatives_are_not_doubted() -> None:
    few = replace(SOUND, splits={**SOUND.splits, "test": split(9, 0.5)})
    assert findings(few, OPTIONS)[0].endswith("or give more rows")
    few = replace(few, samples_dropped={"beyond targets_per_user": 1})
    (found,) = findings(few, replace(OPTIONS, threshold=None, negatives=4))
    assert found.endswith("there is none. Fix: raise data.samples.targets_per_user")


def test_where_the_number_of_samples_is_limited_the_limit_is_what_to_raise() -> None:
    few = replace(SOUND, splits={**SOUND.splits, "test": split(9, 0.5)}, samples_dropped={"beyond max_samples": 1})
    (found,) = findings(few, OPTIONS)
    assert found.endswith("or raise data.samples.max_samples")


def test_copies_are_no_loss() -> None:
    for reason in (COPIES, REPEATED):
        copied = replace(SOUND, interactions=500, dropped={reason: 400, "item without a title": 100})
        assert findings(copied, OPTIONS) == []


def test_repeated_impressions_come_with_the_option_that_keeps_them() -> None:
    repeated = replace(SOUND, interactions=500, dropped={SUPERSEDED: 400, "item without a title": 100})
    assert "data.samples.repeats: keep" in findings(repeated, OPTIONS)[0]
    other = replace(SOUND, interactions=500, dropped={SUPERSEDED: 100, "item without a title": 400})
    assert "data.samples.repeats" not in findings(other, OPTIONS)[0]


def test_few_rows_may_differ_by_chance() -> None:
    """A rate of 1/2 in 16 rows has a standard error of 1/8: four of them are 1/2."""
    found = findings(replace(SOUND, splits={**SOUND.splits, "val": split(16, 0.0)}), OPTIONS)
    assert not [text for text in found if "validation rows are liked" in text]


def test_the_papers_one_target_per_user_is_named() -> None:
    cold = replace(SOUND, splits={**SOUND.splits, "test": split(100, 0.5, 0.0)})
    assert "as in the paper" in findings(cold, SampleOptions())[0]
    assert findings(cold, replace(OPTIONS, split="user")) == []  # it was asked for


def test_the_order_of_a_shuffle_is_no_finding() -> None:
    assert findings(replace(SOUND, tied=1.0), replace(OPTIONS, order="shuffle")) == []


def test_fixes_of_own_splits_name_no_option_that_has_no_effect() -> None:
    few = replace(SOUND, own_splits=True, splits={**SOUND.splits, "test": split(9, 0.5, 0.0)})
    text = " ".join(findings(few, OPTIONS))
    assert "data.splits" in text
    assert "targets_per_user" not in text


def test_ties_are_interactions_of_one_user_at_one_time(tmp_path: object) -> None:
    """User a: 1 and 1 are a tie, 2 is not; user b's 2 is another person's."""
    frame = pl.DataFrame(
        {
            "user": ["a", "a", "a", "b", "b"],
            "item": ["1", "2", "3", "1", "2"],
            "rating": np.ones(5, dtype=np.float32),
            "timestamp": [1, 1, 2, 2, 3],
            "problem": pl.Series([None] * 5, dtype=PROBLEM),
        }
    )
    summary = DataSummary()
    load_interactions({"": RawTable(frame.lazy(), tmp_path)}, pl.Series(["1", "2", "3"]), OPTIONS, summary)  # type: ignore[arg-type]
    assert summary.tied == pytest.approx(2 / 5)
    assert (summary.busiest, summary.busiest_share) == ("a", 3 / 5)
