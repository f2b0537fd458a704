"""Normalised rewards (Eq. 10): tensors in, tensors out.

Means and deviations are taken over the rollout batch of all ranks, so that a run on two devices equals a run on one.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from expctr.distributed import all_mean_std, all_sum

Norm = Literal["batch", "group", "running", "none"]
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


def normalise(
    rewards: Tensor,
    norm: Norm = "batch",
    delta: float = 1.0,
    *,
    labels: Tensor | None = None,
    group_size: int = 1,
    running: Moments | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalised and clipped rewards (Eq. 10).

    Args:
        rewards: `[batch]`.
        norm: which mean and deviation: of the rollout `batch` (the paper), of the `group` of responses to one prompt,
            of all batches so far (`running`), or `none` (the reward as it is, clipped).
        delta: bound of the result.
        labels: where given, the mean is taken per label (`[batch]`).
        group_size: responses per prompt, for `group`.
        running: moments of all rewards so far, for `running`.

    Returns:
        The rewards within [-delta, delta], and which of them were clipped (bool), both `[batch]`.
    """
    mean, std = all_mean_std(rewards)
    if norm == "none":
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    elif norm == "running" and running is not None:
        mean, std = rewards.new_tensor(running.mean), rewards.new_tensor((running.squares / running.number) ** 0.5)
    elif norm == "group":
        mean = mean_by_prompt(rewards, group_size)
        std = mean_by_prompt((rewards - mean) ** 2, group_size).sqrt()
    if labels is not None:
        mean = mean_by_label(rewards, labels)
        std = all_mean_std(rewards - mean)[1]
    scaled = (rewards - mean) / (std + EPS)
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
