"""What sharding asks of the language model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from expctr.errors import UserError
from expctr.llm.model import LanguageModel
from expctr.llm.sharding.loading import decoder_layers


def shard(model: LanguageModel, value_head: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the decoder layers, and the critic, over a mesh; embeddings and output layer stay whole on each rank.

    The root is the `LanguageModel`, whose `hidden` is what is called: a group of the causal model would never be
    gathered, for its forward is not run. The output layer is whole because ranks ask for different numbers of logits,
    in the backward pass too, and would wait for each other in vain. And the critic is sharded, or ranks drift apart.
    Weights of 4 and 8 bits are whole on each rank, too: torch cannot gather them together with their scales. Of other
    weights a rank may have read its part alone (`parts.read_parts`).

    Raises:
        UserError: an adapter outside the decoder layers, whose gradients would not be averaged; or compiled decoding.
    """
    if model.options.compile_decoding:
        raise UserError("llm.compile_decoding: a base whose layers are sharded cannot be compiled: set it to false")
    from bitsandbytes.nn.modules import Int8Params, Params4bit  # not at the top: slow, and --help can do without

    in_parts = model.in_parts
    for layer in decoder_layers(model.causal):
        packed: set[nn.Parameter] = {p for p in layer.parameters() if isinstance(p, Int8Params | Params4bit)}
        parts = _taken_out(layer)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=packed)
        _put_in(layer, parts)
    rest = {p for p in model.parameters() if not isinstance(p, DTensor)}
    if any(p.requires_grad for p in rest):
        raise UserError("llm.lora_targets: on several devices only layers of the decoder can have adapters")
    fully_shard(model, mesh=mesh, ignored_params=rest)
    register_fsdp_forward_method(model, "hidden")
    fully_shard(value_head, mesh=mesh, reshard_after_forward=True)
    if in_parts:
        model.check_head()


def _taken_out(layer: nn.Module) -> dict[str, Tensor]:
    """The parts of weights that this rank has read, by their names; the layer keeps what has no numbers."""
    parts = {name: weight for name, weight in layer.named_parameters() if isinstance(weight, DTensor)}
    empty = {name: torch.empty(part.shape, dtype=part.dtype, device="meta") for name, part in parts.items()}
    layer.load_state_dict(empty, strict=False, assign=True)
    return {name: part.to_local() for name, part in parts.items()}


def _put_in(layer: nn.Module, parts: dict[str, Tensor]) -> None:
    """The inverse of `_taken_out`, of a layer that is sharded now."""
    weights = {}
    for name, part in parts.items():
        place = cast(DTensor, layer.get_parameter(name))
        weights[name] = DTensor.from_local(
            part, place.device_mesh, place.placements, run_check=False, shape=place.shape, stride=place.stride()
        )
    layer.load_state_dict(weights, strict=False, assign=True)


@contextmanager
def unsharded(model: LanguageModel) -> Iterator[None]:
    """Gather every sharded group once, so that the forwards inside need no communication: ranks may then decode
    different numbers of tokens, or none. Does nothing on one device.
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
