"""The adapter's layer against PEFT's, and layers that cannot have one."""

import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from plain_forward import load
from torch import nn

from expctr.errors import UserError
from expctr.llm.lora import LoraLinear

LAYERS = "name some of down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; or choose all-linear"


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["c_attn"], "LlamaForCausalLM has no layer c_attn"),
        (["q_proj", "v_pro"], "LlamaForCausalLM has no layer v_pro"),
        ([], "no layer is named"),
        ("query|key", "Target modules"),
        (["norm"], "Target module LlamaRMSNorm"),
    ],
)
def test_layers_that_cannot_get_an_adapter_are_named(llm_folder: Path, targets: str | list[str], said: str) -> None:
    with pytest.raises(UserError, match=rf"^llm\.lora_targets: {re.escape(said)}.*Fix: {LAYERS}$"):
        load(llm_folder, lora_targets=targets)


def layers(dtype: torch.dtype) -> list[Linear]:
    """PEFT's layer and ours, of the same weights."""
    made = []
    for kind in (Linear, LoraLinear):
        torch.manual_seed(0)
        base = nn.Linear(12, 7).to(dtype).requires_grad_(False)
        layer = kind(base, "default", LoraConfig(r=3, lora_alpha=6), r=3, lora_alpha=6)
        nn.init.normal_(layer.lora_B["default"].weight)
        for factor in (layer.lora_A, layer.lora_B):
            factor.float()  # as get_peft_model does
        made.append(layer)
    return made


def test_in_float32_it_is_pefts_with_its_gradients() -> None:
    results = []
    for layer in layers(torch.float32):
        x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = layer(x)
        wanted = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        results.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_no_rows_give_no_rows_as_pefts_does() -> None:
    theirs, ours = layers(torch.float32)
    assert ours(torch.zeros(0, 5, 12)).shape == theirs(torch.zeros(0, 5, 12)).shape == (0, 5, 7)


def test_over_a_bfloat16_base_weights_and_gradients_stay_float32() -> None:
    theirs, ours = layers(torch.bfloat16)
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(1)).bfloat16()
    out = ours(x)
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    for weight in (ours.lora_A["default"].weight, ours.lora_B["default"].weight):
        assert weight.dtype == torch.float32
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(out, theirs(x), atol=0.1, rtol=0.02)


@pytest.mark.parametrize("off", [True, False])
def test_without_its_adapter_it_is_the_base(off: bool) -> None:
    ours = layers(torch.float32)[1]
    x = torch.randn(4, 12)
    ours.enable_adapters(not off)
    assert torch.equal(ours(x), ours.base_layer(x)) == off
