"""Losses of PPO on token sequences (Eq. 7): tensors in, tensors out.

Everything is `[batch, response]`, right padded; `mask` is true from the first generated token up to and including the
last (the EOS where there is one), and comes from lengths, never from a comparison with the pad token. Losses are sums
over tokens: the caller divides by the token count of the whole optimizer step, so that they do not depend on how the
step is cut into micro-batches.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from expctr.distributed import all_mean_std

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator = "k1") -> Tensor:
    """Per-token estimate of KL(policy || reference) from samples of the policy (Schulman 2020, "Approximating KL").

    `k1` is the log ratio (unbiased, may be negative), `k2` half its square (biased, low variance), `k3` is
    exp(-k1) - 1 + k1 (unbiased and never negative).
    """
    log_ratio = logprobs - ref_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio**2
    return torch.expm1(-log_ratio) + log_ratio


def token_rewards(rewards: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The reward on the last generated token, minus `beta` times the KL on every token (Eq. 7).

    Args:
        rewards: `[batch]`.
        kl: per token, `[batch, response]`.
        mask: `[batch, response]`, each row with at least one true entry.
        beta: the KL penalty.

    Returns:
        `[batch, response]`, zero on padding.
    """
    per_token = -beta * kl * mask
    last = mask.sum(1).long() - 1
    return per_token.scatter_add(1, last[:, None], rewards[:, None].to(per_token.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, Eq. 16); with zero values and lam 1, the returns.

    Args:
        rewards: per token, `[batch, response]`.
        values: the critic's value of the state before each token, `[batch, response]`.
        mask: `[batch, response]`.
        gamma: discount.
        lam: trade of bias against variance.

    Returns:
        Advantages `[batch, response]`, zero on padding. Returns are advantages + values.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    deltas = (rewards + gamma * following - values) * mask
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = (deltas[:, t] + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages with mean 0 and deviation 1 over the tokens of the whole rollout on all ranks; 0 on padding."""
    mean, std = all_mean_std(advantages, mask)
    return (advantages - mean) / (std + 1e-8) * mask


class PolicyLoss(NamedTuple):
    """Sums over the tokens of a micro-batch; `loss` carries the gradient."""

    loss: Tensor
    clipped: Tensor
    """Tokens whose ratio was clipped against the gradient."""
    approx_kl: Tensor
    """Sum of k3 between the sampling policy and this one."""
    ratio: Tensor
    """Sum of the ratios."""


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> PolicyLoss:
    """PPO's clipped surrogate (Schulman et al. 2017, Eq. 7), summed over tokens.

    Args:
        logprobs: of the policy being trained, `[batch, response]`.
        old_logprobs: of the policy that sampled, `[batch, response]`.
        advantages: `[batch, response]`.
        mask: `[batch, response]`.
        clip: the ratio stays within 1 +- clip.
    """
    log_ratio = (logprobs - old_logprobs) * mask
    ratio = log_ratio.exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    with torch.no_grad():
        worse = ((clipped > unclipped) * mask).sum()
        # k3 of the sampling policy from this one, whose log ratio is -log_ratio
        approx_kl = ((ratio - 1 - log_ratio) * mask).sum()
    return PolicyLoss((torch.max(unclipped, clipped) * mask).sum(), worse, approx_kl, (ratio * mask).sum().detach())


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error of the critic, its step clipped as in PPO's reference code; summed over tokens."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * (torch.max((values - returns) ** 2, (near - returns) ** 2) * mask).sum()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant, below 0 for a harmful one."""
    _, residual = all_mean_std(returns - values, mask)
    _, spread = all_mean_std(returns, mask)
    return 1 - residual**2 / spread.clamp_min(1e-8) ** 2


def adapt_beta(beta: float, kl: float, target: float, horizon: float) -> float:
    """The next KL penalty (Ziegler et al. 2019, Eq. 4): up where the KL is over target, by at most 20%/horizon."""
    error = max(-0.2, min(0.2, kl / target - 1))
    return beta * (1 + error / horizon)
