"""Baselines and normalisation of rewards (Eq. 10): pure functions, and a class that applies them by a run's options.

Means and deviations are taken over the rollout batch of all ranks, so that a run on two devices equals a run on one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expctr.distributed import all_mean_std, all_sum
from expctr.llm.rollout import Rollout, RolloutOptions
from expctr.rl.options import Baseline, Norm, PPOOptions, RewardOptions

EPS = 1e-6


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of all rewards so far."""

    number: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def updated(self, rewards: Tensor) -> "Moments":
        """With the rewards of another batch, of all ranks (Chan et al. 1979, parallel update)."""
        new = int(all_sum(torch.tensor(len(rewards), device=rewards.device)))
        batch_mean, batch_std = (float(x) for x in all_mean_std(rewards))
        total = self.number + new
        squares = self.squares + batch_std**2 * new + (batch_mean - self.mean) ** 2 * self.number * new / total
        return Moments(total, self.mean + (batch_mean - self.mean) * new / total, squares)


def subtract_baseline(
    rewards: Tensor,
    baseline: Baseline = "batch",
    *,
    labels: Tensor | None = None,
    group_size: int = 1,
    reference: Tensor | None = None,
) -> Tensor:
    """Rewards less a baseline that no action of the row changes, so that the policy gradient stays unbiased (up to the
    share of a row in its label's mean).

    Args:
        rewards: `[batch]`.
        baseline: `batch`: nothing is subtracted here, since Eq. 10 subtracts the batch's mean; `label`: the mean over
            the rows with the same label; `reference`: the reward of a reference explanation of the same row; `prompt`:
            the mean over the other responses to the same prompt (leave-one-out; Kool et al. 2019).
        labels: 0 or 1, `[batch]`, for `label`.
        group_size: responses per prompt, at least 2, for `prompt`.
        reference: `[batch]`, for `reference`.

    Returns:
        `[batch]`. Under `prompt` nothing that is added to all rewards of a prompt changes it.
    """
    if baseline == "label":
        assert labels is not None
        return rewards - mean_by_label(rewards, labels)
    if baseline == "prompt":  # equal to r - (sum of the others) / (K - 1), and exactly 0 where all are equal
        return (rewards - mean_by_prompt(rewards, group_size)) * (group_size / (group_size - 1))
    if baseline == "reference":
        assert reference is not None
        return rewards - reference
    return rewards


def normalise(
    gains: Tensor, norm: Norm = "batch", delta: float = 1.0, *, group_size: int = 1, running: Moments | None = None
) -> tuple[Tensor, Tensor]:
    """Normalised and clipped rewards (Eq. 10).

    The mean and the deviation are those of the gains, not of the rewards. Where a baseline removes noise, the deviation
    is smaller, so the same effect of a sentence weighs more.

    Args:
        gains: rewards less their baseline, `[batch]`.
        norm: which mean and deviation: of the rollout `batch` (the paper), of the `group` of responses to one prompt,
            of all batches so far (`running`), or `none` (the gain as it is, clipped).
        delta: bound of the result.
        group_size: responses per prompt, for `group`.
        running: moments of all gains so far, for `running`.

    Returns:
        The rewards within [-delta, delta], and which of them were clipped (bool), both `[batch]`.
    """
    mean, std = all_mean_std(gains)
    if norm == "none":
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    elif norm == "running" and running is not None:
        mean, std = gains.new_tensor(running.mean), gains.new_tensor((running.squares / running.number) ** 0.5)
    elif norm == "group":
        mean = mean_by_prompt(gains, group_size)
        std = mean_by_prompt((gains - mean) ** 2, group_size).sqrt()
    scaled = (gains - mean) / (std + EPS)
    return scaled.clamp(-delta, delta), scaled.abs() > delta


def mean_by_label(rewards: Tensor, labels: Tensor) -> Tensor:
    """Mean reward of the row's label over all ranks, `[batch]`.

    A baseline may depend on the label, which no action changes; it removes most of the label's noise.
    """
    positive = labels > 0.5
    means = [all_mean_std(rewards, mask)[0] for mask in (~positive, positive)]
    return torch.where(positive, means[1], means[0]).to(rewards.dtype)


def mean_by_prompt(rewards: Tensor, group_size: int) -> Tensor:
    """Mean reward of the responses to the same prompt, which are adjacent, `[batch]`."""
    means = rewards.view(-1, group_size).double().mean(1)  # in float32, equal rewards could differ from their mean
    return means.to(rewards.dtype).repeat_interleave(group_size)


def all_equal(
    rewards: Tensor, labels: Tensor | None = None, group_size: int | None = None, counted: Tensor | None = None
) -> bool:
    """Is every reward within rounding (`EPS`) of the mean that it is compared with, on all ranks?

    Normalised, such rewards would be rounding noise at the scale of real rewards.

    Args:
        rewards: raw, `[batch]`.
        labels: where given (`[batch]`), a reward is compared with its label's mean.
        group_size: where given, with the mean of its prompt's responses; otherwise with the batch's.
        counted: bool `[batch]`, the rows that are learnt from. The others are not compared, and count only in the mean
            of their prompt.
    """
    counted = torch.ones_like(rewards, dtype=torch.bool) if counted is None else counted
    if group_size is not None:
        mean = mean_by_prompt(rewards, group_size)[counted]
    elif labels is not None:
        mean = mean_by_label(rewards[counted], labels[counted])
    else:
        mean = all_mean_std(rewards, counted)[0]
    return not int(all_sum(((rewards[counted] - mean).abs() > EPS).sum()))


class Normaliser:
    """Eq. 10 with a run's options; it remembers the moments that `norm: running` needs.

    Args:
        reward: how rewards are normalised.
        rollout: how responses are sampled.
        ppo: whose advantages may be compared within the prompt.
    """

    def __init__(self, reward: RewardOptions, rollout: RolloutOptions, ppo: PPOOptions) -> None:
        self.options, self.rollout, self.ppo = reward, rollout, ppo
        self.running: dict[str, Moments] = {}
        """Moments of each reward so far, by its name."""

    def __call__(self, gains: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """The rewards within +-delta, and which of them were clipped, both `[rows]`.

        Args:
            gains: rewards less their baseline, `[rows]`.
            name: of the reward.
        """
        if self.options.norm == "running":
            self.running[name] = self.running.get(name, Moments()).updated(gains)
        return normalise(
            gains,
            self.options.norm,
            self.options.delta,
            group_size=self.rollout.group_size,
            running=self.running.get(name),
        )

    def nothing_to_learn(self, gains: Sequence[tuple[Tensor, Baseline]], labels: Tensor, rollout: Rollout) -> bool:
        """Is every raw reward equal to what its baseline, Eq. 10 and the advantages compare it with?

        That is the mean of the batch, of the label (`baseline: label`), of the prompt (`baseline: prompt`, `norm:
        group`, `advantage: group`), or one difference from the reference for all rows.

        Args:
            gains: of each reward, `[rows]`, with its baseline.
            labels: `[rows]`.
            rollout: what was rewarded; a truncated response may be penalised, or not count.
        """
        in_groups = "group" in (self.options.norm, self.ppo.advantage)
        counted = ~rollout.truncated if self.rollout.truncated == "mask" else None
        compared: list[tuple[Tensor, Baseline]] = list(gains)
        if self.rollout.truncated == "penalise":
            compared.append((rollout.truncated.float(), "batch"))
        return all(
            all_equal(
                values,
                labels if baseline == "label" else None,
                self.rollout.group_size if in_groups or baseline == "prompt" else None,
                counted,
            )
            for values, baseline in compared
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {name: tuple(moments) for name, moments in self.running.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.running = {name: Moments(*moments) for name, moments in state.items()}
