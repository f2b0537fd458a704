"""Compiled decoding: one token per row and step, with a cache of fixed size."""

import os
from collections.abc import Callable
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
MAX_CACHES = 4
"""Number of cache sizes that are kept for later batches."""


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


def to_static(cache: Cache, filled: int, known: dict[tuple[object, ...], Cache]) -> Cache:
    """Copy a cache with free positions on the right of `filled` ones into one of fixed size.

    `known` are caches of earlier batches, the latest used last. One of the same size is overwritten, because a CUDA
    graph is bound to memory addresses: new addresses would need another recording, which would be kept.
    """
    layers = cast(list[Any], cache.layers)
    keys = layers[0].keys
    size = (keys.device, keys.dtype, keys.shape)
    found = known.pop(size, None) or Cache(layers=[StaticLayer(keys.shape[2]) for _ in layers])
    known[size] = found
    if len(known) > MAX_CACHES:
        del known[next(iter(known))]
    for mine, layer in zip(cast(list[Any], found.layers), layers, strict=True):
        if not mine.is_initialized:
            mine.lazy_initialization(layer.keys, layer.values)
        mine.keys.copy_(layer.keys)
        mine.values.copy_(layer.values)
        mine.cumulative_length.fill_(filled)
    return found
