"""Eq. 10, against numbers worked out by hand."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from expctr.rl.normalise import Moments, all_equal, mean_by_label, mean_by_prompt, normalise, subtract_baseline


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def close(actual: Tensor, *expected: float, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float32), atol=atol, rtol=0)


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
    close(mean_by_prompt(rewards, 3), 0.4, 0.4, 0.4, 0.266667, 0.266667, 0.266667)


def test_each_baseline_by_hand() -> None:
    rewards, labels = column(0.2, 0.9, 0.4, 0.7), column(0, 1, 0, 1)  # means by label 0.3 and 0.8, deviation 0.1
    assert subtract_baseline(rewards) is rewards
    close(mean_by_label(rewards, labels), 0.3, 0.8, 0.3, 0.8)
    by_label = subtract_baseline(rewards, "label", labels=labels)
    close(by_label, -0.1, 0.1, 0.1, -0.1)
    close(normalise(by_label, "batch", 5.0)[0], -1, 1, 1, -1, atol=1e-4)
    close(subtract_baseline(rewards, "reference", reference=column(0.5, 0.5, 0.4, 0.1)), -0.3, 0.4, 0, 0.6)
    # of three responses to a prompt, each less the mean of the other two
    close(subtract_baseline(column(0, 0.3, 0.6, 1, 1, 1), "prompt", group_size=3), -0.45, 0, 0.45, 0, 0, 0)


def test_what_is_added_to_a_row_counts_for_nothing_beside_other_responses_to_it() -> None:
    """`prompt`: any function of the row, added to the reward, leaves the normalised rewards as they are."""
    draw = torch.Generator().manual_seed(0)
    rewards = torch.rand(24, generator=draw)
    of_row = (torch.randn(6, generator=draw) * 5).repeat_interleave(4)

    def normalised(values: Tensor, baseline: str) -> Tensor:
        return normalise(subtract_baseline(values, baseline, group_size=4))[0]

    torch.testing.assert_close(normalised(rewards + of_row, "prompt"), normalised(rewards, "prompt"), atol=1e-4, rtol=0)
    assert (normalised(rewards + of_row, "batch") - normalised(rewards, "batch")).abs().max() > 0.5


@pytest.mark.parametrize("baseline", ["batch", "reference", "prompt"])
def test_no_baseline_changes_the_expected_policy_gradient(baseline: str) -> None:
    """Two rows, two responses each, three actions: the expectation over all 3^4 outcomes, computed exactly."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, generator=draw, dtype=torch.float64)
    payoff = torch.rand(2, 3, generator=draw, dtype=torch.float64) + torch.tensor([[0.0], [9.0]])  # the rows' noise
    reference = torch.tensor([0.7, 9.2], dtype=torch.float64).repeat_interleave(2)
    policy, row = logits.softmax(-1), torch.tensor([0, 0, 1, 1])
    expected, plain = torch.zeros_like(logits), torch.zeros_like(logits)
    for actions in map(torch.tensor, itertools.product(range(3), repeat=4)):
        rewards, chance = payoff[row, actions], policy[row, actions].prod()
        gains = subtract_baseline(rewards, baseline, group_size=2, reference=reference)
        scores = torch.nn.functional.one_hot(actions, 3) - policy[row]  # of each response: the gradient of log p
        for total, weights in ((expected, gains), (plain, rewards)):
            total.index_add_(0, row, chance * weights[:, None] * scores)
    torch.testing.assert_close(expected, plain, atol=1e-12, rtol=0)
    assert plain.abs().max() > 0.01


def test_running_norm_and_none_by_hand() -> None:
    rewards = column(0.25, 0.75, 1.25)
    close(normalise(rewards, "running", 5.0, running=Moments(4, 0.5, 0.25))[0], -1, 1, 3, atol=1e-4)
    values, which = normalise(column(0.3, -2.5), "none", 1.0)
    close(values, 0.3, -1)
    assert which.tolist() == [False, True]


@pytest.mark.parametrize("norm", ["batch", "group", "running", "none"])
@pytest.mark.parametrize("delta", [0.1, 1.0, 1.5])
def test_rewards_stay_within_delta(norm: str, delta: float) -> None:
    rewards = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 3
    running = Moments().updated(rewards)
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
@pytest.mark.parametrize(("baseline", "size"), [("label", 1), ("reference", 1), ("prompt", 2), ("prompt", 4)])
def test_equal_rewards_are_worth_nothing_under_any_baseline(baseline: str, size: int, labels: tuple[int, ...]) -> None:
    equal = torch.full((4,), 0.1)
    gains = subtract_baseline(equal, baseline, labels=column(*labels), group_size=size, reference=equal.clone())
    assert torch.equal(normalise(gains)[0], torch.zeros(4))


def test_rewards_keep_their_dtype() -> None:
    rewards, labels = column(0.2, 0.9, 0.4, 0.7), column(0, 1, 0, 1)
    for baseline in ("batch", "label", "reference", "prompt"):
        gains = subtract_baseline(rewards, baseline, labels=labels, group_size=2, reference=rewards.flip(0))
        assert gains.dtype == torch.float32
    for norm in ("batch", "group", "none"):
        assert normalise(rewards, norm, group_size=2)[0].dtype == torch.float32
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
