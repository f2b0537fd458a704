"""The memory forecast of a small Llama, worked by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, BartConfig, CLIPConfig, PreTrainedConfig, RwkvConfig

from expctr.errors import UserError
from expctr.llm.cpu.attention import grouped_attention
from expctr.llm.loading import LLMOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.memory import Sizes, forecast_memory, parse_memory, peak_bytes
from expctr.planning.trace import CHUNKED
from tools.architectures import tiny_config


@pytest.fixture(scope="module")
def blueprint(bare: LLMOptions) -> Blueprint:
    return Blueprint(bare, torch.bfloat16, on_cpu=False)


def test_what_it_holds_at_rest(blueprint: Blueprint) -> None:
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64  # q and o, k and v, the MLP
    assert blueprint.decoder_size == 2 * layer
    assert blueprint.base_size == 100 * 32 + 2 * (layer + 2 * 32) + 32
    assert blueprint.base_bytes == 2 * blueprint.base_size
    assert blueprint.cache_bytes == 2 * 2 * 2 * 8 * 2  # keys and values, layers, heads, width, bytes
    assert blueprint.read_bytes == blueprint.base_bytes + 4 * blueprint.adapter_size  # the embeddings are the output's
    assert blueprint.adapter_size == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96)


@pytest.mark.cli
def test_more_devices_hold_less_and_more_rows_hold_more(bare: LLMOptions, blueprint: Blueprint) -> None:
    explainer = PPOExplainerModule(llm=bare)
    one = forecast_memory(blueprint, explainer, Sizes(1, 16, 4, 2, 40, 10))
    four = forecast_memory(blueprint, explainer, Sizes(4, 16, 4, 2, 40, 10))
    assert one["lc"]["train"]["optimizer"] == 2 * 4 * (blueprint.adapter_size + blueprint.critic_size)
    assert four["lc"]["train"]["optimizer"] == one["lc"]["train"]["optimizer"] // 4
    assert peak_bytes(four) < peak_bytes(one)
    more = forecast_memory(blueprint, explainer, Sizes(1, 16, 4, 4, 40, 10))
    assert more["lc"]["train"]["activations"] > one["lc"]["train"]["activations"]
    whole = forecast_memory(blueprint, explainer, Sizes(4, 16, 4, 2, 40, 10, replicated=True))
    held = ("weights", "adapter", "gradients", "optimizer")
    assert [whole["lc"]["train"][name] for name in held] == [one["lc"]["train"][name] for name in held]


def test_the_cache_of_compiled_decoding_is_held_in_every_phase(bare: LLMOptions, blueprint: Blueprint) -> None:
    """16 rows of 128 positions, of 128 bytes each."""
    plain = PPOExplainerModule(llm=bare)
    compiled = PPOExplainerModule(llm=replace(bare, compile_decoding=True))
    size = Sizes(1, 16, 4, 2, 40, 10)
    before, after = (forecast_memory(blueprint, explainer, size) for explainer in (plain, compiled))
    for stage, phases in after.items():
        for phase, found in phases.items():
            more = found["prompt cache"] - before[stage][phase]["prompt cache"]
            assert more == 16 * 128 * 128, f"{stage}, {phase}"


def test_memory_has_a_known_unit() -> None:
    assert (parse_memory("80GB"), parse_memory("2 GiB")) == (80 * 10**9, 2**31)
    with pytest.raises(UserError, match="must be like 80GB"):
        parse_memory("80 gigs")


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        Blueprint(LLMOptions(path=str(tmp_path)), torch.bfloat16, on_cpu=False)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BartConfig(), r"\(bart\) is an encoder-decoder"),
        (CLIPConfig(), r"\(clip\) is no causal language model"),
        (
            RwkvConfig(hidden_size=8, num_hidden_layers=1, vocab_size=9),
            "RwkvForCausalLM, because some layers keep",
        ),
    ],
)
def test_a_base_that_fit_refuses_has_no_plan(tmp_path: Path, config: PreTrainedConfig, reason: str) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=reason):
        Blueprint(LLMOptions(path=str(tmp_path)), torch.bfloat16, on_cpu=False)


def test_each_layer_of_the_base_starts_its_kernels(bare: LLMOptions, blueprint: Blueprint, tmp_path: Path) -> None:
    """At least its 7 products and twice as many of the adapter."""
    config = json.loads((Path(bare.path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4, "tie_word_embeddings": False}))
    deeper = Blueprint(replace(bare, path=str(tmp_path)), torch.bfloat16, on_cpu=False)
    assert 2 * 21 <= deeper.launches - blueprint.launches < 2 * 200
    assert deeper.read_bytes == deeper.base_bytes + 4 * deeper.adapter_size - 2 * 100 * 32  # without the embeddings


def test_layers_computed_again_hold_less(bare: LLMOptions) -> None:
    blueprint = Blueprint(bare, torch.float32, on_cpu=True)
    plain, recomputed = (blueprint.learn(4, 60, 20, False, False, recompute) for recompute in (False, True))
    assert recomputed["activations"] < plain["activations"] / 1.3


def test_two_traces_of_one_thing_agree(bare: LLMOptions, blueprint: Blueprint) -> None:
    first, second = blueprint, Blueprint(bare, torch.bfloat16, on_cpu=False)
    assert first.prefill(3, 40, True) == second.prefill(3, 40, True)
    assert first.decode(3, 40, 8, True, False) == second.decode(3, 40, 8, True, False)


@pytest.mark.parametrize(("quantization", "bits_per_weight"), [("nf4", 4 + 8 / 64 + 32 / (64 * 256)), ("int8", 8)])
def test_a_quantized_base_counts_by_its_bits(
    bare: LLMOptions, blueprint: Blueprint, quantization: Any, bits_per_weight: float
) -> None:
    """Only the decoder's matrices are quantized; int8 has a float32 scale per row of a matrix."""
    whole = blueprint
    quantized = Blueprint(replace(bare, quantization=quantization), torch.bfloat16, on_cpu=False)
    assert quantized.base_size == whole.base_size
    scales = 4 * 2 * (32 + 16 + 16 + 32 + 64 + 64 + 32) if quantization == "int8" else 0
    saved = whole.base_bytes - quantized.base_bytes
    assert saved == pytest.approx(whole.decoder_size * (2 - bits_per_weight / 8) - scales, rel=0.01)


@pytest.mark.cli
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash_attention_2", "grouped"])
def test_every_attention_can_be_counted(bare: LLMOptions, attention: Any) -> None:
    """Only eager and grouped attention keep scores, which grow with the square of the length."""
    blueprint = Blueprint(replace(bare, attention=attention), torch.bfloat16, on_cpu=attention == "grouped")
    short, long = (blueprint.learn(1, tokens, 1, critic=False, entropy=False)["activations"] for tokens in (64, 256))
    assert (long > 6 * short) == (attention in ("eager", "grouped"))


@pytest.mark.parametrize("scores", [2**12, 2**14, 2**30])
def test_chunks_of_attention_count_as_if_each_were_computed(
    bare: LLMOptions, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("planning.trace", "llm.cpu.attention"):
        monkeypatch.setattr(f"expctr.{module}.MAX_SCORES", scores)
    blueprint = Blueprint(replace(bare, attention="grouped"), torch.bfloat16, on_cpu=True)
    assert blueprint.model.attention == CHUNKED

    def peaks() -> list[int]:
        phases = (
            blueprint.prefill(24, 40, True),
            blueprint.decode(24, 40, 10, True, False),
            blueprint.score(24, 40),
        )
        return [phase.total() for phase in phases]

    counted = peaks()
    monkeypatch.setitem(AttentionInterface._global_mapping, CHUNKED, grouped_attention)
    assert counted == pytest.approx(peaks(), rel=0.02)


@pytest.mark.parametrize(
    ("model_type", "said"),
    [("gemma2", None), ("lfm2", r"cannot count the memory of Lfm2ForCausalLM, because some layers")],
)
def test_bases_that_need_another_attention_or_cache(tmp_path: Path, model_type: str, said: str | None) -> None:
    """Gemma 2 caps attention scores, so `auto` counts eager attention, as the probe at load would choose it."""
    tiny_config(model_type).save_pretrained(tmp_path)
    options = LLMOptions(path=str(tmp_path), lora_r=4)
    if said is None:
        assert Blueprint(options, torch.float32, on_cpu=True).model.attention == "eager"
    else:
        with pytest.raises(UserError, match=said):
            Blueprint(options, torch.float32, on_cpu=True)
