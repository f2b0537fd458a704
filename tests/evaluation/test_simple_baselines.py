"""Baselines that count: hand-worked inputs, no label of a test row, and splits where nothing can be counted."""

import math

import polars as pl
import pytest
import torch
from torch import Tensor

from expctr.evaluation.simple_baselines import (
    logistic_regression,
    other_training_rows,
    simple_scores,
    smoothed_log_odds,
)
from expctr.metrics import ctr_metrics
from expctr.systems import SHARE, SHARE_ITEM

SPLITS = ["train"] * 300 + ["val"] * 50 + ["test"] * 50


def samples(
    splits: list[str] = SPLITS, taste: float = 0.0, quality: float = 0.0, labels: list[int] | None = None
) -> pl.DataFrame:
    """Histories of up to 10 titles; labels follow the share of liked ones (`taste`) and the item (`quality`)."""
    draw, n = torch.Generator().manual_seed(0), len(splits)
    count = torch.randint(0, 11, (n,), generator=draw)
    liked = (torch.rand(n, generator=draw) * (count + 1)).long()
    items = torch.randint(0, 20, (n,), generator=draw)
    logits = taste * (liked - count / 2) + quality * (items - 9.5)
    drawn = (torch.rand(n, generator=draw) < torch.sigmoid(logits)).long().tolist()
    return pl.DataFrame(
        {
            "split": splits,
            "target": [f"i{item}" for item in items.tolist()],
            "liked": [["t"] * k for k in liked.tolist()],
            "disliked": [["t"] * k for k in (count - liked).tolist()],
            "label": drawn if labels is None else labels,
        },
        schema_overrides={"label": pl.Int8, "liked": pl.List(pl.String), "disliked": pl.List(pl.String)},
    )


def auc(scores: Tensor, frame: pl.DataFrame) -> float:
    test = (frame["split"] == "test").to_torch()
    return ctr_metrics(scores[test], frame["label"].to_torch()[test])["auc"]


def test_smoothing_is_worked_out_by_hand() -> None:
    found = smoothed_log_odds(torch.tensor([3.0, 0.0, 0.0]), torch.tensor([4.0, 2.0, 0.0]), rate=0.6, strength=5)
    # (3 + 3) / (4 + 5), (0 + 3) / (2 + 5), and the rate itself
    assert found.tolist() == pytest.approx([math.log(2), math.log(3 / 4), math.log(0.6 / 0.4)])


def test_an_item_s_rows_are_training_rows_without_the_row_itself() -> None:
    items = torch.tensor([0, 0, 0, 1, 1, 2, 0])
    labels = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    train = torch.tensor([True, True, True, True, False, False, False])
    liked, rows = other_training_rows(items, labels, train)
    assert liked.tolist() == [1, 2, 1, 0, 1, 0, 2]
    assert rows.tolist() == [2, 2, 2, 0, 1, 0, 3]


def test_the_regression_finds_the_log_odds_of_two_groups() -> None:
    """Of the rows with input 1, 3 in 4 are liked; of those with 0, 1 in 4. One row is no training row."""
    inputs = torch.tensor([[0.0], [1.0]] * 4000, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1] * 1000)
    train = torch.ones(8000, dtype=torch.bool)
    train[-1] = False
    inputs[-1] = 1e6
    scores = logistic_regression(inputs, labels, train)
    assert scores[:2].tolist() == pytest.approx([0.25, 0.75], abs=2e-3)


def test_each_baseline_knows_what_it_counts_and_nothing_else() -> None:
    taste = samples(taste=1.0)
    found = simple_scores(taste)
    assert list(found) == [SHARE.name, SHARE_ITEM.name]
    assert auc(found[SHARE.name], taste) > 0.75
    quality = samples(quality=0.5)
    found = simple_scores(quality)
    assert auc(found[SHARE_ITEM.name], quality) > 0.75 > 0.65 > auc(found[SHARE.name], quality)
    assert all(scores.dtype == torch.float64 and scores.shape == (400,) for scores in found.values())


def test_labels_of_test_rows_have_no_effect() -> None:
    frame = samples(taste=0.5, quality=0.3)
    is_test = pl.col("split") == "test"
    changed = frame.with_columns(label=pl.when(is_test).then(1 - pl.col("label")).otherwise(pl.col("label")))
    for name, scores in simple_scores(frame).items():
        assert torch.equal(simple_scores(changed)[name], scores)


def test_a_training_row_does_not_see_its_own_label() -> None:
    """Items of one row each: with its own label as input, training rows would seem certain."""
    frame = samples(taste=0.5).with_columns(target=pl.int_range(pl.len()).cast(pl.String))
    found = simple_scores(frame)
    torch.testing.assert_close(found[SHARE_ITEM.name], found[SHARE.name], rtol=0, atol=2e-3)


@pytest.mark.parametrize("splits", [["train"] * 40 + ["test"] * 9, ["train"] * 2 + ["val"] * 3 + ["test"] * 4])
def test_few_rows_and_no_validation_rows_give_scores(splits: list[str]) -> None:
    labels = [i % 2 for i in range(len(splits))]
    for scores in simple_scores(samples(splits, labels=labels)).values():
        assert bool(((scores > 0) & (scores < 1)).all())


@pytest.mark.parametrize(
    ("splits", "labels", "score"),
    [
        (["train"] * 3 + ["val"] * 2 + ["test"] * 2, [1] * 5 + [0, 1], 1.0),
        (["train"] * 3 + ["test"] * 2, [0] * 3 + [0, 1], 0.0),
        (["val"] * 2 + ["test"] * 2, [0, 1, 0, 1], 0.5),
    ],
)
def test_training_rows_of_one_label_give_it_and_no_training_rows_a_half(
    splits: list[str], labels: list[int], score: float
) -> None:
    for scores in simple_scores(samples(splits, labels=labels)).values():
        assert scores.tolist() == [score] * len(splits)


def test_empty_histories_and_new_items_get_the_training_rate() -> None:
    """Alone, an empty history says nothing; the regression then gives what it gives at the training rows' rate."""
    frame = samples(taste=0.5)
    new = frame.tail(2).with_columns(
        target=pl.Series(["new", "newer"]),
        liked=pl.lit([], pl.List(pl.String)),
        disliked=pl.lit([], pl.List(pl.String)),
    )
    for scores in simple_scores(pl.concat([frame.head(-2), new])).values():
        assert float(scores[-1]) == float(scores[-2])
        assert 0.3 < float(scores[-1]) < 0.7
