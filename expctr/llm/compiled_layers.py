"""Compiled decoder layers: fewer and larger kernels in passes without a cache."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from expctr.llm.architecture import decoder_layers
from expctr.llm.compiled_decoding import prepare_compiler


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer at its first call without a cache.

    The layers run the same code, so they share a few graphs. With a cache each would need its own, because a layer
    updates the cache under its number.

    Raises:
        UserError: the base has no list of layers.
    """
    prepare_compiler()
    for layer in decoder_layers(model, "set llm.compile_layers to false"):
        layer.forward = partial(_forward, layer.forward, torch.compile(layer.forward, dynamic=True))


def _forward(plain: Callable[..., Any], compiled: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return (compiled if options.get("past_key_values") is None else plain)(*args, **options)
