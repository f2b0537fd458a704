"""What sharding asks of the language model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from expctr.errors import UserError
from expctr.llm.base import LanguageModel


def shard(model: LanguageModel, value_head: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the decoder layers, and the critic, over a mesh; embeddings and output layer stay whole on each rank.

    The root is the `LanguageModel`, whose `hidden` is what is called: a group of the causal model would never be
    gathered, for its forward is not run. The output layer is whole because ranks ask for different numbers of logits,
    in the backward pass too, and would wait for each other in vain. And the critic is sharded, or ranks drift apart.
    Weights of 4 and 8 bits are whole on each rank, too: torch cannot gather them together with their scales.

    Raises:
        UserError: an adapter outside the decoder layers, whose gradients would not be averaged; or compiled decoding.
    """
    if model.options.compile_decoding:
        raise UserError("llm.compile_decoding: a base whose layers are sharded cannot be compiled: set it to false")
    from bitsandbytes.nn.modules import Int8Params, Params4bit  # not at the top: slow, and --help can do without

    layers = cast(nn.ModuleList, model.causal.base_model.layers)
    for layer in layers:
        packed: set[nn.Parameter] = {p for p in layer.parameters() if isinstance(p, Int8Params | Params4bit)}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=packed)
    rest = {p for p in model.parameters() if not isinstance(p, DTensor)}
    if any(p.requires_grad for p in rest):
        raise UserError("llm.lora_targets: on several devices only layers of the decoder can have adapters")
    fully_shard(model, mesh=mesh, ignored_params=rest)
    register_fsdp_forward_method(model, "hidden")
    fully_shard(value_head, mesh=mesh, reshard_after_forward=True)


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
