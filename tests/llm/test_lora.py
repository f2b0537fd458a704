"""The adapter's layer against PEFT's, and layers that cannot have one."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from plain_forward import load
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from expctr.errors import UserError
from expctr.llm.loading import LLMOptions
from expctr.llm.lora import LoraLinear, add_adapter
from expctr.llm.model import LanguageModel

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


SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
EXPERTS = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 8, "mlp_only_layers": [0], "head_dim": 8},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8},
    "phimoe": {"num_local_experts": 4},
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_all_linear_leaves_out_router_and_experts(kind: str) -> None:
    """And what PEFT would take for experts: the dense layer of this Qwen3, but not the shared expert of Qwen2."""
    config = AutoConfig.for_model(kind, **SMALL, **EXPERTS[kind])
    base = AutoModelForCausalLM.from_config(config)
    model = add_adapter(base, LLMOptions(lora_r=2), quantized=False)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    adapted = {".".join(name.partition(".lora_")[0].split(".")[-2:]) for name in trained}
    shared = {f"shared_expert.{name}" for name in ("gate_proj", "up_proj", "down_proj") if kind == "qwen2_moe"}
    assert adapted == {f"self_attn.{name}" for name in ATTENTION} | shared
    assert len(trained) == 2 * len(adapted) * 2  # layers, A and B
    assert not model.peft_config["default"].target_parameters  # type: ignore[attr-defined]


def test_all_linear_of_a_dense_model_is_all(bare: LLMOptions) -> None:
    base: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(bare.path))
    model = add_adapter(base, bare, quantized=False)
    adapted = {
        name.rpartition(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad
    }
    assert adapted == {*ATTENTION, "gate_proj", "up_proj", "down_proj"}


def test_layers_that_are_no_linear_layers_are_refused_in_one_line(bare: LLMOptions) -> None:
    """PEFT would print the whole model."""
    base: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(bare.path))
    with pytest.raises(UserError, match=r"llm\.lora_targets: .*Fix: name some of .*q_proj") as refused:
        add_adapter(base, replace(bare, lora_targets=["self_attn"]), quantized=False)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("pattern", ["+", "(q_proj", "[a"])
def test_a_text_that_is_no_pattern_is_refused(llm_folder: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=r"llm\.lora_targets: .* is no pattern: .*Fix: name some of "):
        LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32", lora_targets=pattern))
