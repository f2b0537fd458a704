"""Decoding by a compiled graph: one token a row, over keys and values whose size does not change."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, StaticLayer

WIDTH = 128
"""Caches are a multiple of so many positions wide: each width, and each number of rows, is a graph of its own."""
GRAPHS = 64
"""More of them than that are not compiled: what comes after runs as it is written."""


def compiled(step: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """The step, compiled at its first call; on a GPU recorded as a CUDA graph, which is launched in one piece."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    fast = torch.compile(step, mode="reduce-overhead" if device.type == "cuda" else "default")

    def run(*args: Any) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the last step's result may be overwritten
        return fast(*args)

    return run


def room(longest: int, new: int) -> int:
    """Positions to leave free behind `longest` of them, for at least `new` and up to a full width."""
    return -(-(longest + new) // WIDTH) * WIDTH - longest


def fixed(cache: Cache, filled: int) -> Cache:
    """A cache with room as one of fixed size; they share their storage.

    Args:
        cache: of layers with room to the right.
        filled: how many positions are filled.
    """
    return Cache(layers=[Fixed(cast(DynamicLayer, layer), filled) for layer in cache.layers])


class Fixed(StaticLayer):
    """transformers' layer of fixed size, begun with what another one holds."""

    def __init__(self, layer: DynamicLayer, filled: int) -> None:
        keys, values = cast(Tensor, layer.keys), cast(Tensor, layer.values)
        super().__init__(keys.shape[2])
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.cumulative_length = torch.tensor(filled, device=self.device)
        self.is_initialized = True
        for tensor in (keys, values, self.cumulative_length):
            torch._dynamo.mark_static_address(tensor)  # they change: else no CUDA graph is recorded
