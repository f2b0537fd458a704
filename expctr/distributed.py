"""Sums and gathers over however many ranks there are; the only place that asks for the world size.

Each function also works without a process group, where it is the identity on one rank's data.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many ranks train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_sum(x: Tensor) -> Tensor:
    """The elementwise sum of `x` over all ranks, detached, on every rank."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def all_sum_with_gradient(x: Tensor) -> Tensor:
    """As `all_sum`, but what a rank's `x` did to every rank's loss comes back as its gradient."""
    total: Tensor = _AllSum.apply(x)  # type: ignore[no-untyped-call]
    return total


def all_mean_std(x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and (biased) standard deviation of every rank's values together, as float64 scalars.

    Args:
        x: values of any shape, which may differ between ranks.
        mask: 1 where a value counts, 0 where not, like `x`; all count without it.
    """
    values = x.detach().double()
    weight = torch.ones_like(values) if mask is None else mask.double()
    count = all_sum(weight.sum()).clamp_min(1)
    mean = all_sum((weight * values).sum()) / count
    # From the deviations, not from E[x^2] - mean^2: that difference cancels when the spread is small.
    variance = all_sum((weight * (values - mean) ** 2).sum()) / count
    return mean, variance.sqrt()


def all_gather_objects(obj: Any) -> list[Any]:
    """Every rank's `obj`, in rank order, on every rank."""
    if world_size() == 1:
        return [obj]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, obj)
    return parts


def all_gather_rows(x: Tensor) -> Tensor:
    """Every rank's rows below each other, in rank order; the first dimension may differ between ranks.

    Args:
        x: `[rows, ...]`, of one dtype and one shape after the first dimension on all ranks.

    Returns:
        `[sum of rows, ...]`, detached, on every rank.
    """
    x = x.detach()
    if world_size() == 1:
        return x
    sizes = all_gather_objects(len(x))
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _AllSum(torch.autograd.Function):
    """The sum is its own derivative: every rank's loss depends on every rank's `x` alike."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient)
