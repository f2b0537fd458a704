"""What sharding asks of the language model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from expctr.llm.base import LanguageModel


def shard(model: LanguageModel, value_head: nn.Module, mesh: DeviceMesh) -> None:
    """Shard each decoder layer, then the rest of the language model, and the critic, over a mesh.

    The rest (embeddings, output layer) belongs to the `LanguageModel`, whose `hidden` and `logits` are what is called:
    in a group of the causal model it would never be gathered, for its forward is not run. And the critic too, or ranks
    drift apart.
    """
    for layer in cast(nn.ModuleList, model.causal.base_model.layers):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for method in ("hidden", "logits"):
        register_fsdp_forward_method(model, method)
    fully_shard(value_head, mesh=mesh, reshard_after_forward=True)


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Gather every sharded group once, so that the forwards inside need no communication: ranks may then decode
    different numbers of tokens. Does nothing on one device.
    """
    groups = [m for m in module.modules() if isinstance(m, FSDPModule)]
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    try:
        yield
    finally:
        for group in groups:
            group.reshard()
            group.set_reshard_after_forward(True, recurse=False)
