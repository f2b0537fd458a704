"""Distributed sums and gathers, over all ranks; the only file that reads the world size.

Without a process group, each function returns the single rank's own data.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
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
    """As `all_sum`, with the gradient of all ranks' losses with respect to this rank's `x`."""
    total: Tensor = _AllSum.apply(x)  # type: ignore[no-untyped-call]
    return total


def all_mean_std(x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and (biased) standard deviation over the values of all ranks, as float64 scalars.

    Shapes may differ between ranks. The mask has the shape of `x`, and is 1 where a value counts.
    """
    values = x.detach().double()
    weight = torch.ones_like(values) if mask is None else mask.double()
    count = all_sum(weight.sum()).clamp_min(1)
    mean = all_sum((weight * values).sum()) / count
    # from deviations, because E[x^2] - mean^2 loses precision if the spread is small
    variance = all_sum((weight * (values - mean) ** 2).sum()) / count
    return mean, variance.sqrt()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of these parameters over all ranks, by one reduction.

    Parameters without a gradient must be the same on all ranks. Sharded ones are left alone: their backward pass has
    averaged them already.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p, DTensor)]
    if world_size() > 1 and gradients:
        mean = all_sum(nn.utils.parameters_to_vector(gradients)) / world_size()
        nn.utils.vector_to_parameters(mean, gradients)


def all_gather_objects(obj: Any) -> list[Any]:
    """Every rank's `obj`, in rank order, on every rank."""
    if world_size() == 1:
        return [obj]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, obj)
    return parts


def all_gather_columns(parts: list[Mapping[str, list[Any]]], order: str) -> dict[str, list[Any]]:
    """Join columns of the parts of all ranks, in rising order of the column `order`; empty without parts."""
    found = [part for ranks in all_gather_objects(parts) for part in ranks]
    columns = {name: [value for part in found for value in part[name]] for name in (found[0] if found else ())}
    rows = sorted(range(len(columns.get(order, ()))), key=lambda i: columns[order][i])
    return {name: [values[i] for i in rows] for name, values in columns.items()}


def all_gather_rows(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, in rank order: `[rows, ...]` -> `[sum of rows, ...]`, detached.

    Ranks may have different numbers of rows; dtype and further dimensions are the same on all ranks.
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
    """The backward pass is a sum too: every rank's loss depends equally on every rank's `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient)


def is_of_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process has ended, or did not answer for half an hour.

    The backends' types do not: gloo's is a RuntimeError.
    """
    words = "Connection (closed|reset) by peer|remote process exited|Broken pipe|Timed out waiting .* for .* operation"
    return bool(re.search(words, str(error)))
