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
CACHES = 4
"""How many sizes of cache are kept for the next batch."""


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


def fixed(cache: Cache, filled: int, known: dict[tuple[object, ...], Cache]) -> Cache:
    """What a cache with room holds, in one of fixed size.

    Args:
        cache: of layers with room to the right.
        filled: how many positions are filled.
        known: those of earlier batches, the latest used last. One of this size is written over: a CUDA graph is bound
            to addresses, and in others would be recorded anew for each batch, and kept.
    """
    layers = [cast(DynamicLayer, layer) for layer in cache.layers]
    keys = cast(Tensor, layers[0].keys)
    size = (keys.device, keys.dtype, keys.shape)
    found = known.pop(size, None) or Cache(layers=[Fixed(layer) for layer in layers])
    known[size] = found
    if len(known) > CACHES:
        del known[next(iter(known))]
    for mine, layer in zip(cast(list[Fixed], found.layers), layers, strict=True):
        mine.write(layer, filled)
    return found


class Fixed(StaticLayer):
    """transformers' layer of fixed size.

    Args:
        like: a layer of that size.
    """

    keys: Tensor
    values: Tensor
    cumulative_length: Tensor

    def __init__(self, like: DynamicLayer) -> None:
        keys, values = cast(Tensor, like.keys), cast(Tensor, like.values)
        super().__init__(keys.shape[2])
        self.keys, self.values = torch.empty_like(keys), torch.empty_like(values)
        self.dtype, self.device = keys.dtype, keys.device
        self.cumulative_length = torch.tensor(0, device=self.device)
        self.is_initialized = True
        for tensor in (self.keys, self.values, self.cumulative_length):
            torch._dynamo.mark_static_address(tensor)  # they change: else no CUDA graph is recorded

    def write(self, layer: DynamicLayer, filled: int) -> None:
        """Take over what another one holds, `filled` positions of it."""
        self.keys.copy_(cast(Tensor, layer.keys))
        self.values.copy_(cast(Tensor, layer.values))
        self.cumulative_length.fill_(filled)
