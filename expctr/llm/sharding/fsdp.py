"""FSDP2 for the language model and the critic."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from expctr.errors import UserError
from expctr.llm.architecture import decoder_layers
from expctr.llm.model import LanguageModel
from expctr.llm.probe import probe
from expctr.llm.sharding.loading import NOT_SHARDED


def shard(model: LanguageModel, value_head: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the decoder layers and the critic over a mesh; each rank holds the embeddings and the output layer whole.

    - The root is the `LanguageModel`, because its method `hidden` is called; the causal model's forward is not, so a
      root there would never be gathered.
    - The output layer is whole because ranks compute different numbers of logits, in the backward pass too, and would
      deadlock.
    - The critic is sharded, because otherwise the ranks' copies would drift apart.
    - Weights in 4 or 8 bits are whole, because torch cannot gather them together with their scales.
    - Other weights may have been loaded as shards already (`load_shards`).

    Raises:
        UserError: an adapter is outside the decoder layers, where gradients would not be averaged.
    """
    from bitsandbytes.nn.modules import Int8Params, Params4bit  # not at the top: slow, and --help does not need it

    was_sharded = model.is_sharded
    for layer in decoder_layers(model.causal, NOT_SHARDED):
        packed: set[nn.Parameter] = {p for p in layer.parameters() if isinstance(p, Int8Params | Params4bit)}
        shards = _take_shards(layer)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=packed)
        _put_shards(layer, shards)
    rest = {p for p in model.parameters() if not isinstance(p, DTensor)}
    if any(p.requires_grad for p in rest):
        raise UserError(
            "llm.lora_targets: only decoder layers of a sharded model can have adapters. Fix: name some of these, or "
            + NOT_SHARDED
        )
    fully_shard(model, mesh=mesh, ignored_params=rest)
    register_fsdp_forward_method(model, "hidden")
    fully_shard(value_head, mesh=mesh, reshard_after_forward=True)
    if was_sharded:  # could not compute before
        token = torch.tensor([[model.pad_id]], device=model.device)
        with torch.no_grad():
            model.hidden(token, torch.ones_like(token), False)  # FSDP wants its root to be called before the layers
        probe(model)


def _take_shards(layer: nn.Module) -> dict[str, Tensor]:
    """Take this rank's shards out of a layer, by name, and leave empty weights of the meta device."""
    shards = {name: weight for name, weight in layer.named_parameters() if isinstance(weight, DTensor)}
    empty = {name: torch.empty(shard.shape, dtype=shard.dtype, device="meta") for name, shard in shards.items()}
    layer.load_state_dict(empty, strict=False, assign=True)
    return {name: shard.to_local() for name, shard in shards.items()}


def _put_shards(layer: nn.Module, shards: dict[str, Tensor]) -> None:
    """The inverse of `_take_shards`, for a layer that is sharded now."""
    weights = {}
    for name, shard in shards.items():
        place = cast(DTensor, layer.get_parameter(name))
        weights[name] = DTensor.from_local(
            shard, place.device_mesh, place.placements, run_check=False, shape=place.shape, stride=place.stride()
        )
    layer.load_state_dict(weights, strict=False, assign=True)


@contextmanager
def unsharded(model: LanguageModel) -> Iterator[None]:
    """Gather all weights once, so that forward passes inside need no communication.

    Ranks may then decode different numbers of tokens, or none. Does nothing on one device.
    """
    groups = [m for m in model.modules() if isinstance(m, FSDPModule)]
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    try:
        yield
    finally:
        for group in groups:
            group.reshard()
            group.set_reshard_after_forward(True, recurse=False)
