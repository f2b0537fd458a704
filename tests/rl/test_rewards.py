"""Eq. 9, 10 and 13, against numbers worked out by hand."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from expctr.rl.normalise import all_equal, by_label, by_prompt, normalise
from expctr.rl.rewards import alignment, text_gain


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def close(actual: Tensor, *expected: float, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float32), atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("mae", (0.8, 0.2, 0.5)),  # errors 0.2, 0.8, 0.5
        ("brier", (0.96, 0.36, 0.75)),  # 1 - 0.04, 1 - 0.64, 1 - 0.25
        ("log", (0.776856, -0.609438, 0.306853)),  # 1 + ln 0.8, 1 + ln 0.2, 1 + ln 0.5
    ],
)
def test_alignment_by_hand(metric: str, expected: tuple[float, ...]) -> None:
    close(alignment(column(0.8, 0.8, 0.5), column(1, 0, 1), metric), *expected)


@pytest.mark.parametrize("metric", ["mae", "brier", "log"])
def test_alignment_is_one_for_a_perfect_score_and_finite_for_the_worst(metric: str) -> None:
    reward = alignment(column(1, 0, 0, 1), column(1, 0, 1, 0), metric)
    close(reward[:2], 1, 1)
    assert reward[2:].isfinite().all()
    assert (reward[2:] <= 0).all()


def test_the_proper_rewards_prefer_the_true_probability_and_the_papers_an_extreme_one() -> None:
    """A liking has probability 0.7: the expected reward of each constant score."""
    scores = torch.arange(1, 100) / 100
    best = {}
    for metric in ("mae", "brier", "log"):
        liked, disliked = (alignment(scores, torch.full_like(scores, label), metric) for label in (1, 0))
        best[metric] = float(scores[(0.7 * liked + 0.3 * disliked).argmax()])
    assert best == {"mae": pytest.approx(0.99), "brier": pytest.approx(0.7), "log": pytest.approx(0.7)}


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ("abs", (0.2, 0.2, 0.5, 0.3)),
        ("signed", (0.2, -0.2, 0.5, -0.3)),
        ("relu", (0.2, 0.0, 0.5, 0.0)),
    ],
)
def test_text_gain_by_hand(delta: str, expected: tuple[float, ...]) -> None:
    scores, without, labels = column(0.8, 0.8, 0.1, 0.4), column(0.6, 0.6, 0.6, 0.7), column(1, 0, 0, 1)
    close(text_gain(scores, without, labels, delta), *expected)


@pytest.mark.parametrize(("delta", "expected"), [("abs", (1.0, 0.4)), ("signed", (1.0, 0.0)), ("relu", (1.0, 0.2))])
def test_the_whole_of_eq_13_by_hand(delta: str, expected: tuple[float, ...]) -> None:
    """0.6 became 0.8: a help to the user who liked the item, a harm for the one who did not."""
    scores, without, labels = column(0.8, 0.8), column(0.6, 0.6), column(1, 0)
    close(alignment(scores, labels) + text_gain(scores, without, labels, delta), *expected)


def test_eq_13_pays_twice_for_help_and_nothing_for_harm() -> None:
    """The identity behind `ic.delta`: the score alone decides no more than how much better it is than s0."""
    grid = [i / 20 for i in range(21)]
    for label, score, without in itertools.product((0.0, 1.0), grid, grid):
        y, s, s0 = column(label), column(score), column(without)
        paper = float(alignment(s, y) + text_gain(s, s0, y, "abs"))
        helped = max(0.0, abs(label - without) - abs(label - score))
        assert paper == pytest.approx(1 - abs(label - without) + 2 * helped, abs=1e-6)


def test_batch_norm_by_hand() -> None:
    """Mean 0.5, squared deviations 0.25, 0, 0, 0.25: deviation sqrt(0.125) = 0.3535534."""
    rewards = column(0, 0.5, 0.5, 1)
    wide, none = normalise(rewards, "batch", 2.0)
    close(wide, -1.414214, 0, 0, 1.414214)
    assert not none.any()
    clipped, which = normalise(rewards, "batch", 1.0)
    close(clipped, -1, 0, 0, 1)
    assert which.tolist() == [True, False, False, True]


def test_group_norm_by_hand() -> None:
    rewards = column(0, 1, 0.2, 0.2, 0.1, 0.5)  # means 0.5, 0.2, 0.3 and deviations 0.5, 0, 0.2
    close(normalise(rewards, "group", 5.0, group_size=2)[0], -1, 1, 0, 0, -1, 1)
    close(by_prompt(rewards, 3), 0.4, 0.4, 0.4, 0.266667, 0.266667, 0.266667)


def test_label_baseline_by_hand() -> None:
    rewards, labels = column(0.2, 0.9, 0.4, 0.7), column(0, 1, 0, 1)  # means 0.3 and 0.8, deviation 0.1
    close(by_label(rewards, labels), 0.3, 0.8, 0.3, 0.8)
    close(normalise(rewards, "batch", 5.0, labels=labels)[0], -1, 1, 1, -1, atol=1e-4)


def test_running_norm_and_none_by_hand() -> None:
    rewards = column(0.25, 0.75, 1.25)
    close(normalise(rewards, "running", 5.0, running=(column(0.5)[0], column(0.25)[0]))[0], -1, 1, 3, atol=1e-4)
    values, which = normalise(column(0.3, -2.5), "none", 1.0)
    close(values, 0.3, -1)
    assert which.tolist() == [False, True]


@pytest.mark.parametrize("norm", ["batch", "group", "running", "none"])
@pytest.mark.parametrize("delta", [0.1, 1.0, 1.5])
def test_rewards_stay_within_delta(norm: str, delta: float) -> None:
    rewards = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 3
    running = (rewards.mean(), rewards.std())
    values, which = normalise(rewards, norm, delta, group_size=3, running=running)
    assert values.abs().max() <= delta
    assert torch.equal(which, values.abs() == torch.tensor(delta))


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize(("norm", "size"), [("batch", 1), ("group", 3), ("group", 5), ("group", 7)])
def test_equal_rewards_are_worth_nothing(norm: str, size: int, value: float) -> None:
    """No rounding of the mean may come out as a preference: advantages are whitened afterwards."""
    values, which = normalise(torch.full((105,), value), norm, group_size=size)
    assert torch.equal(values, torch.zeros(105))
    assert not which.any()


@pytest.mark.parametrize("labels", [(0, 0, 1, 1), (1, 1, 1, 1), (0, 0, 0, 0)])
def test_equal_rewards_are_worth_nothing_under_a_label_baseline(labels: tuple[int, ...]) -> None:
    values, _ = normalise(torch.full((4,), 0.1), labels=column(*labels))
    assert torch.equal(values, torch.zeros(4))


def test_rewards_keep_their_dtype() -> None:
    rewards, labels = column(0.2, 0.9, 0.4, 0.7), column(0, 1, 0, 1)
    for norm, baseline in (("batch", None), ("batch", labels), ("group", None), ("none", None)):
        assert normalise(rewards, norm, labels=baseline, group_size=2)[0].dtype == torch.float32
    assert math.isclose(float(normalise(rewards, "none")[0][1]), 0.9, abs_tol=1e-5)


def test_rewards_are_equal_as_far_as_what_they_are_compared_with() -> None:
    labels, rounding = column(1, 0, 1, 0), 1e-7
    assert all_equal(column(0.5, 0.5 + rounding, 0.5, 0.5))
    assert not all_equal(column(0.5, 0.5 + 1e-4, 0.5, 0.5))
    by_the_label = column(0.8, 0.2, 0.8 + rounding, 0.2)  # a score of 0.8 for everyone
    assert not all_equal(by_the_label)
    assert all_equal(by_the_label, labels)
    assert not all_equal(column(0.8, 0.2, 0.9, 0.2), labels)
    in_pairs = column(0.8, 0.8, 0.2, 0.2 + rounding)
    assert not all_equal(in_pairs)
    assert not all_equal(in_pairs, labels)
    assert all_equal(in_pairs, group_size=2)
    assert all_equal(column(0.7))
    cut = torch.tensor([True, False, True, True])
    assert all_equal(column(0.5, 0.9, 0.5, 0.5), counted=cut)
    assert not all_equal(column(0.5, 0.5, 0.9, 0.5), counted=cut)
    assert all_equal(column(0.8, 0.7, 0.8, 0.2), labels, counted=cut)
    assert not all_equal(column(0.8, 0.4, 0.2, 0.2), group_size=2, counted=cut)  # its prompt's mean counts what was cut
    assert all_equal(column(0.1, 0.9), counted=torch.zeros(2, dtype=torch.bool))
