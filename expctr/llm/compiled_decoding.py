"""Compiled decoding: one token per row and step, with a cache of fixed size."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, StaticLayer

WIDTH = 128
"""Cache widths are multiples of this. Each width, and each number of rows, needs a graph of its own."""
MAX_GRAPHS = 64
"""Number of graphs that are compiled. Further shapes run uncompiled."""
MAX_CACHES = 4
"""Number of cache sizes that are kept for later batches."""


def compile_step(step: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Compile a decoding step at its first call; on a GPU, it is recorded as a CUDA graph."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    compiled = torch.compile(step, mode="reduce-overhead" if device.type == "cuda" else "default")

    def run(*args: Any) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the previous step's result may be overwritten
        return compiled(*args)

    return run


def free_positions(filled: int, new: int) -> int:
    """Number of free positions after `filled` ones: at least `new`, and up to a multiple of `WIDTH` in total."""
    return -(-(filled + new) // WIDTH) * WIDTH - filled


def to_static(cache: Cache, filled: int, known: dict[tuple[object, ...], Cache]) -> Cache:
    """Copy a cache into one of fixed size.

    Args:
        cache: its layers have free positions on the right.
        filled: number of filled positions.
        known: caches of earlier batches, the latest used last. One of the same size is overwritten, because a CUDA
            graph is bound to memory addresses: new addresses would need another recording, which would be kept.
    """
    layers = [cast(DynamicLayer, layer) for layer in cache.layers]
    keys = cast(Tensor, layers[0].keys)
    size = (keys.device, keys.dtype, keys.shape)
    found = known.pop(size, None) or Cache(layers=[FixedLayer(layer) for layer in layers])
    known[size] = found
    if len(known) > MAX_CACHES:
        del known[next(iter(known))]
    for mine, layer in zip(cast(list[FixedLayer], found.layers), layers, strict=True):
        mine.write(layer, filled)
    return found


class FixedLayer(StaticLayer):
    """transformers' layer of fixed size, which can be refilled.

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
            torch._dynamo.mark_static_address(tensor)  # they change: no CUDA graph is recorded without

    def write(self, layer: DynamicLayer, filled: int) -> None:
        """Copy another layer of the same size, of which `filled` positions are filled."""
        self.keys.copy_(cast(Tensor, layer.keys))
        self.values.copy_(cast(Tensor, layer.values))
        self.cumulative_length.fill_(filled)
