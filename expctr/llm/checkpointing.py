"""Gradient checkpointing: less memory for more time (Chen et al. 2016)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from expctr.errors import UserError
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import cache_of, contents


@contextmanager
def recomputed(model: LanguageModel) -> Iterator[None]:
    """Of forwards inside, decoder layers keep their inputs only; the backward pass computes the rest again.

    transformers' own checkpointing wants the model in training mode, where dropout is on, and takes caches away. Here a
    cache is read and not extended, or the second time would extend it again.

    Raises:
        UserError: the base has no layers of which transformers says that they can be computed again.
    """
    layers = [m for m in model.causal.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"ppo.gradient_checkpointing: {type(model.causal).__name__} cannot do it; leave it off")
    for layer in layers:  # not their __call__, whose hooks are FSDP's: it gathers weights once for both passes
        layer.forward = partial(_twice, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _twice(forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    def again(*args: Any) -> Any:
        return forward(*map(_own, args), **{name: _own(value) for name, value in options.items()})

    return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False)


def _own(value: Any) -> Any:
    return cache_of(contents(value)) if isinstance(value, DynamicCache) else value
