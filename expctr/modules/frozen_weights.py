"""Frozen weights, which checkpoints do not hold: what tells those that a run was made with from others."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from expctr.errors import UserError

_COUNT = 32
_ROUNDING = 2**-7
"""Of bfloat16, twice: the same base may be loaded in another precision."""


def first_numbers(weights: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
    """The first numbers of each weight, for a checkpoint; of those that are neither sharded nor quantized.

    Returns:
        `names`, and `numbers`, float32 `[weights, 32]`, with zeros behind weights of fewer.
    """
    kept = {name: w.detach() for name, w in weights if w.is_floating_point() and not isinstance(w, DTensor)}
    numbers = torch.zeros(len(kept), _COUNT)
    for row, weight in zip(numbers, kept.values(), strict=True):
        first = weight.flatten()[:_COUNT]
        row[: len(first)] = first
    return {"names": [*kept], "numbers": numbers}


def check_first_numbers(now: Mapping[str, Any], then: Mapping[str, Any], named: str) -> None:
    """Refuse other weights than those of a checkpoint, by the `first_numbers` of both.

    Raises:
        UserError: it begins with what the model is `named`.
    """
    made = dict(zip(then["names"], then["numbers"], strict=True))
    for name, numbers in zip(now["names"], now["numbers"], strict=True):
        if name in made and not torch.allclose(numbers, made[name], rtol=_ROUNDING, atol=1e-5):
            raise UserError(
                f"{named} has other weights than the run was made with, such as {name}. Fix: put the former files "
                "back, or name their revision; or start a run in another folder"
            )
