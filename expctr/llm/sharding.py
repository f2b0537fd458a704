"""What sharding asks of the language model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from expctr.llm.base import LanguageModel


def shard(model: LanguageModel, value_head: nn.Module, mesh: DeviceMesh) -> None:
    """Shard each decoder layer, then the causal model, and the critic, over a mesh.

    Not the PEFT wrapper, on which generation fails with mixed tensors; and the critic too, or ranks drift apart.
    """
    for layer in cast(nn.ModuleList, model.causal.base_model.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model.causal, mesh=mesh)
    fully_shard(value_head, mesh=mesh)


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
