"""Each piece of PPO against numbers worked out by hand, and what must hold for any numbers."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from expctr.rl import losses

INF_PAD = 1e6
"""What stands on padding: a number that would be seen if it leaked."""


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values)


def lengths(*counts: int) -> Tensor:
    return torch.arange(max(counts)) < torch.tensor(counts)[:, None]


def close(actual: Tensor, expected: object, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # log ratios ln 2, -ln 2 and 0
        ("k1", [0.693147, -0.693147, 0.0]),
        ("k2", [0.240227, 0.240227, 0.0]),
        ("k3", [0.193147, 0.306853, 0.0]),  # 1/2 - 1 + 0.693147; 2 - 1 - 0.693147
    ],
)
def test_kl_estimators_by_hand(estimator: str, expected: list[float]) -> None:
    policy, reference = rows([0.5, 0.25, 0.3]).log(), rows([0.25, 0.5, 0.3]).log()
    close(losses.kl_estimate(policy, reference, estimator), [expected])


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative() -> None:
    """Three tokens enumerated: KL = 0.5 ln 2 + 0.3 ln 1.2 + 0.2 ln 0.4 = 0.346574 + 0.054696 - 0.183258."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.25, 0.25, 0.5])
    mean = {k: float((p * losses.kl_estimate(p.log(), q.log(), k)).sum()) for k in ("k1", "k2", "k3")}
    assert mean["k1"] == pytest.approx(0.218012, abs=1e-5)
    assert mean["k3"] == pytest.approx(0.218012, abs=1e-5)
    assert abs(mean["k2"] - 0.218012) > 0.005  # 0.209058
    generator = torch.Generator().manual_seed(0)
    policy, reference = (-5 * torch.rand(1000, generator=generator) for _ in range(2))
    assert (losses.kl_estimate(policy, reference, "k3") >= 0).all()


def test_the_reward_lands_on_the_last_generated_token() -> None:
    kl = rows([0.1, 0.2, 0.3], [0.4, INF_PAD, INF_PAD])
    result = losses.token_rewards(torch.tensor([2.0, -1.0]), kl, lengths(3, 1), beta=0.5)
    close(result, [[-0.05, -0.1, 1.85], [-1.2, 0.0, 0.0]])


def test_gae_by_hand() -> None:
    """With gamma = lambda = 1/2 the errors are 1 + 0.5 - 0.5, 0 - 0.5 - 1, 2 + 0 + 1; a quarter carries over."""
    rewards, values = rows([1.0, 0.0, 2.0, INF_PAD]), rows([0.5, 1.0, -1.0, INF_PAD])
    result = losses.gae(rewards, values, rows([1, 1, 1, 0]).bool(), 0.5, 0.5)
    close(result, [[0.8125, -0.75, 3.0, 0.0]])


def test_gae_without_a_critic_is_the_returns_to_go() -> None:
    rewards = rows([1.0, 0.0, 2.0], [-1.0, 4.0, INF_PAD])
    result = losses.gae(rewards, torch.zeros(2, 3), lengths(3, 2), 1.0, 1.0)
    close(result, [[3.0, 2.0, 2.0], [3.0, 4.0, 0.0]])


def test_gae_with_lambda_0_is_the_one_step_error() -> None:
    rewards, values = rows([1.0, 0.0, 2.0]), rows([0.5, 1.0, -1.0])
    close(losses.gae(rewards, values, lengths(3), 1.0, 0.0), [[1.5, -2.0, 3.0]])


def test_padding_changes_no_advantage() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(3, 4, generator=generator) for _ in range(2))
    mask = lengths(4, 2, 1)
    plain = losses.gae(rewards, values, mask, 0.9, 0.8)
    junk = torch.full((3, 3), INF_PAD)
    wider = torch.cat([mask, junk < 0], 1)
    padded = losses.gae(torch.cat([rewards, junk], 1), torch.cat([values, junk], 1), wider, 0.9, 0.8)
    close(padded[:, :4], plain)
    assert not padded[:, 4:].any()
    close(losses.whiten(padded, wider)[:, :4], losses.whiten(plain, mask))
    for row, length in enumerate((4, 2, 1)):  # and each row alone, without its padding
        one = (rewards[row : row + 1, :length], values[row : row + 1, :length], lengths(length))
        close(plain[row : row + 1, :length], losses.gae(*one, 0.9, 0.8))


def test_whitening_by_hand() -> None:
    """1, 3 and 5: mean 3, deviation sqrt(8/3) = 1.632993."""
    result = losses.whiten(rows([1.0, 3.0], [5.0, INF_PAD]), lengths(2, 1))
    close(result, [[-1.224745, 0.0], [1.224745, 0.0]])


def test_whitened_advantages_have_mean_0_and_deviation_1_whatever_shift_and_scale() -> None:
    advantages = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) + 3
    mask = lengths(5, 4, 3, 2, 1, 5)
    result = losses.whiten(advantages, mask)
    tokens = result[mask].tolist()
    assert statistics.fmean(tokens) == pytest.approx(0, abs=1e-6)
    assert statistics.pstdev(tokens) == pytest.approx(1, abs=1e-5)
    assert not result[~mask].any()
    close(losses.whiten(7 * advantages - 100, mask), result, atol=1e-4)


def test_whitening_nothing_gives_zeros() -> None:
    assert torch.equal(losses.whiten(torch.full((2, 2), 0.3), lengths(2, 1)), torch.zeros(2, 2))
    assert torch.equal(losses.whiten(torch.ones(2, 2), torch.zeros(2, 2).bool()), torch.zeros(2, 2))


def test_at_ratio_1_the_loss_is_the_negative_advantage_and_its_gradient_the_policy_gradient() -> None:
    old = rows([-1.0, -2.0, INF_PAD], [-0.5, INF_PAD, INF_PAD])
    advantages = rows([1.5, -2.0, INF_PAD], [0.25, INF_PAD, INF_PAD])
    logprobs = old.clone().requires_grad_()
    loss = losses.policy_loss(logprobs, old, advantages, lengths(3, 1) & (advantages < INF_PAD), clip=0.2)
    assert float(loss.loss.detach()) == pytest.approx(0.25)  # -(1.5 - 2 + 0.25)
    (gradient,) = torch.autograd.grad(loss.loss, logprobs)
    close(gradient, [[-1.5, 2.0, 0.0], [-0.25, 0.0, 0.0]])  # -A grad log p
    assert (float(loss.clipped), float(loss.approx_kl), float(loss.ratio)) == (0, 0, 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.5, 2.0, -2.4, 0.0, 1),  # already far enough up: held at 1.2
        (1.5, -2.0, 3.0, 3.0, 0),  # went up though it is bad: full gradient back
        (0.5, 2.0, -1.0, -1.0, 0),  # went down though it is good: full gradient back
        (0.5, -2.0, 1.6, 0.0, 1),  # already far enough down: held at 0.8
        (1.1, 2.0, -2.2, -2.2, 0),
        (0.9, -2.0, 1.8, 1.8, 0),
    ],
)
def test_the_clip_holds_only_what_went_far_enough(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: int
) -> None:
    old = rows([-1.0])
    logprobs = (old + math.log(ratio)).requires_grad_()
    result = losses.policy_loss(logprobs, old, rows([advantage]), lengths(1), clip=0.2)
    assert float(result.loss.detach()) == pytest.approx(loss, abs=1e-5)
    close(torch.autograd.grad(result.loss, logprobs)[0], [[gradient]])
    assert int(result.clipped) == clipped
    assert float(result.ratio) == pytest.approx(ratio, abs=1e-5)


def test_approximate_kl_by_hand() -> None:
    """Ratios 1.5 and 0.5: 0.5 - ln 1.5 = 0.094535, and -0.5 + ln 2 = 0.193147."""
    logprobs = rows([1.5, 0.5]).log()
    result = losses.policy_loss(logprobs, torch.zeros(1, 2), torch.ones(1, 2), lengths(2), 0.2)
    assert float(result.approx_kl) == pytest.approx(0.094535 + 0.193147, abs=1e-5)


def test_token_means_do_not_depend_on_the_cut_into_micro_batches() -> None:
    """Rows of 4, 1, 3 and 2 tokens: sums of any cut add up, where means of means would not."""
    generator = torch.Generator().manual_seed(0)
    logprobs, old, advantages, values, returns = (torch.randn(4, 4, generator=generator) for _ in range(5))
    mask = lengths(4, 1, 3, 2)
    results = []
    for cut in ([4], [1, 3], [2, 2], [1, 1, 1, 1]):
        parts = zip(*(x.split(cut) for x in (logprobs, old, advantages, values, returns, mask)), strict=True)
        total = torch.zeros(2)
        for lp, ol, ad, va, re, ma in parts:
            policy, critic = losses.policy_loss(lp, ol, ad, ma, 0.2).loss, losses.value_loss(va, va - 0.1, re, ma, 0.2)
            total += torch.stack([policy, critic]) / mask.sum()
        results.append(total)
    for other in results[1:]:
        close(other, results[0])


def test_value_loss_by_hand() -> None:
    """From an old value of 0, clip 0.2. The worse of the two errors counts, so that a far step gains nothing."""
    values = rows([0.5, 0.5, 0.1, INF_PAD]).requires_grad_()
    returns = rows([1.0, 0.0, 1.0, 0.0])
    mask = rows([1, 1, 1, 0]).bool()
    loss = losses.value_loss(values, torch.zeros(1, 4), returns, mask, clip=0.2)
    # (1 - 0.2)^2 / 2 = 0.32; 0.5^2 / 2 = 0.125; 0.9^2 / 2 = 0.405
    assert float(loss.detach()) == pytest.approx(0.85, abs=1e-5)
    close(torch.autograd.grad(loss, values)[0], [[0.0, 0.5, -0.9, 0.0]])


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 2.0, 3.0], 1.0), ([5.0, 5.0, 5.0], 0.0), ([3.0, 2.0, 1.0], -3.0)]
)
def test_explained_variance_by_hand(values: list[float], expected: float) -> None:
    """Returns 1, 2, 3 have variance 2/3; reversed values leave residuals -2, 0, 2 of variance 8/3."""
    returns, mask = rows([1.0, 2.0, 3.0, INF_PAD]), rows([1, 1, 1, 0]).bool()
    assert float(losses.explained_variance(rows([*values, 0.0]), returns, mask)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("kl", "expected"), [(12.0, 0.101), (0.0, 0.099), (-3.0, 0.099), (6.6, 0.1005), (6.0, 0.1)])
def test_beta_follows_the_kl_slowly(kl: float, expected: float) -> None:
    """Target 6 and horizon 20: an error of at most 20%, a twentieth of which is applied."""
    assert losses.adapt_beta(0.1, kl, target=6.0, horizon=20.0) == pytest.approx(expected)
