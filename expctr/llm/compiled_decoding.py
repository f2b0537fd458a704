"""Compiled decoding: one token per row and step, with a cache of fixed size."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import StaticLayer

from expctr.data.cache import cache_folder

WIDTH = 128
"""Cache widths are multiples of this. Each width, and each number of rows, needs a graph of its own."""
MAX_GRAPHS = 64
"""Number of graphs of one function that are compiled. Further shapes run uncompiled."""


def compile_step(step: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Compile a decoding step at its first call; on a GPU, it is recorded as a CUDA graph."""
    prepare_compiler()
    compiled = torch.compile(step, mode="reduce-overhead" if device.type == "cuda" else "default")

    def run(*args: Any) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the previous step's result may be overwritten
        return compiled(*args)

    return run


def prepare_compiler() -> None:
    """Allow `MAX_GRAPHS`, and keep compiled code in `$TORCHINDUCTOR_CACHE_DIR` or, unless that is set, with this user.

    torch's own default is in the shared `/tmp`, where anyone could put pickles for it to load.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((cache_folder() or Path(mkdtemp())) / "compiled")


def static_width(tokens: int) -> int:
    """Positions of the cache for so many tokens."""
    return -(-tokens // WIDTH) * WIDTH


class StaticCaches:
    """Caches of fixed size for compiled decoding, in the storage of the largest one; only one is in use at a time.

    A CUDA graph is bound to memory addresses: new ones would need another recording, which would be kept.
    """

    def __init__(self) -> None:
        self._storage: list[Tensor] = []  # of the keys and of the values of each layer, in turn
        self._caches: dict[tuple[object, ...], Cache] = {}

    def fill(self, cache: Cache, filled: int) -> Cache:
        """Copy a cache with free positions on the right of `filled` ones into one of its size."""
        layers = cast(list[Any], cache.layers)
        given = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        if not _holds(self._storage, given):
            self._caches.clear()
            self._storage.clear()  # before more is allocated
            self._storage += [x.new_empty(x.numel()) for x in given]
        shape = layers[0].keys.shape
        if shape not in self._caches:
            views = [store[: x.numel()].view(x.shape) for store, x in zip(self._storage, given, strict=True)]
            self._caches[shape] = Cache(layers=[*map(_static_layer, views[::2], views[1::2])])
        found = self._caches[shape]
        for mine, layer in zip(cast(list[Any], found.layers), layers, strict=True):
            mine.keys.copy_(layer.keys)
            mine.values.copy_(layer.values)
            mine.cumulative_length.fill_(filled)
        return found


def _holds(storage: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    return len(storage) == len(given) and all(
        (store.dtype, store.device) == (x.dtype, x.device) and store.numel() >= x.numel()
        for store, x in zip(storage, given, strict=True)
    )


def _static_layer(keys: Tensor, values: Tensor) -> StaticLayer:
    """A layer with these keys and values in place of new ones."""
    layer = StaticLayer(keys.shape[2])
    layer.dtype, layer.device = keys.dtype, keys.device
    layer.batch_size, layer.num_heads = keys.shape[:2]
    layer.k_head_dim, layer.v_head_dim = keys.shape[3], values.shape[3]
    layer.keys, layer.values, layer.is_initialized = keys, values, True
    layer.cumulative_length = layer.cumulative_length.to(keys.device)
    for tensor in (keys, values, layer.cumulative_length):
        torch._dynamo.mark_static_address(tensor)
    return layer
