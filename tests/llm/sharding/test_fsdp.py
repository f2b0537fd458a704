"""Sharding over one rank changes nothing, and what cannot be sharded. Two ranks: `invariants/test_ranks.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import stir_adapter
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from expctr.errors import UserError
from expctr.llm.critic import ValueHead
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.probe import load_model
from expctr.llm.sharding.fsdp import shard, unsharded


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def test_over_one_rank_it_says_and_learns_the_same(llm_folder: Path, mesh: DeviceMesh) -> None:
    ids, found = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 7]]), []
    for sharded in (False, True):
        model = LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32", lora_r=4))
        stir_adapter(model)
        torch.manual_seed(0)
        critic = ValueHead(model.hidden_size)
        if sharded:
            shard(model, critic, mesh)
            assert model.is_sharded
            assert all(isinstance(weight, DTensor) for weight in critic.parameters())
        hidden = model.hidden(ids, torch.ones_like(ids), adapter=True)
        (model.logits(hidden).square().mean() + critic(hidden).square().mean()).backward()
        trained = {**dict(model.named_parameters()), **dict(critic.named_parameters())}
        gradients = {name: whole(weight.grad) for name, weight in trained.items() if weight.grad is not None}
        with unsharded(model), torch.no_grad():
            gathered = model.hidden(ids, torch.ones_like(ids), adapter=True)
        torch.testing.assert_close(gathered, hidden)  # without gradient, a CPU computes W x^T
        found.append((hidden, gradients))
    (plain, gradients), (other, others) = found
    torch.testing.assert_close(other, plain)
    assert gradients.keys() == others.keys() != set()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, msg=lambda message, name=name: f"{name}: {message}")


def test_adapters_outside_the_decoder_layers_are_refused(llm_folder: Path, mesh: DeviceMesh) -> None:
    options = LLMOptions(path=str(llm_folder), dtype="float32", lora_targets=["q_proj", "embed_tokens"])
    with pytest.raises(UserError, match=r"llm\.lora_targets: only decoder layers of a sharded model"):
        shard(LanguageModel.load(options), nn.Linear(1, 1), mesh)


@pytest.mark.parametrize("option", ["compile_decoding", "compile_layers"])
def test_a_sharded_base_cannot_be_compiled(llm_folder: Path, option: str) -> None:
    """Before anything is loaded."""
    options: dict[str, Any] = {option: True}
    mesh: Any = "not looked at"
    with pytest.raises(UserError, match=rf"llm\.{option}: a sharded model cannot be compiled"):
        load_model(LLMOptions(path="no/such-base", **options), mesh=mesh)
