"""Gradient checkpointing: less memory, more time (Chen et al. 2016)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from expctr.errors import UserError
from expctr.llm.kv_cache import keys_and_values, make_cache
from expctr.llm.model import LanguageModel


@contextmanager
def recompute_activations(model: LanguageModel) -> Iterator[None]:
    """Let decoder layers keep only their inputs in forward passes; the backward pass computes the rest again.

    transformers' own checkpointing needs training mode, where dropout is on, and removes caches. Here each of the two
    forward passes gets its own copy of a cache, because both extend it.

    Raises:
        UserError: the base has no layers that transformers marks as fit for checkpointing.
    """
    layers = [m for m in model.causal.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"ppo.gradient_checkpointing: {type(model.causal).__name__} does not support it; set it to false"
        )
    with ExitStack() as stack:
        for layer in layers:  # not __call__, where FSDP's hooks are: it gathers weights once for both passes
            stack.enter_context(_replaced(layer, partial(_checkpointed, layer.forward)))
        yield


@contextmanager
def _replaced(layer: GradientCheckpointingLayer, forward: Callable[..., Any]) -> Iterator[None]:
    before = vars(layer).get("forward")  # of a compiled layer
    layer.forward = forward
    try:
        yield
    finally:
        if before is None:
            del layer.forward
        else:
            layer.forward = before


def _checkpointed(forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    def run(*args: Any) -> Any:
        return forward(*map(_own_cache, args), **{name: _own_cache(value) for name, value in options.items()})

    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)


def _own_cache(value: Any) -> Any:
    return make_cache(keys_and_values(value)) if isinstance(value, DynamicCache) else value
