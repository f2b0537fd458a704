"""The probe of a base: what is right is computed the fastest way, what is wrong is refused with a way out."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_forward import load
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    LlamaConfig,
    MptConfig,
    PreTrainedConfig,
    T5Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from expctr.data.batches import Nouns
from expctr.errors import UserError
from expctr.llm.architecture import context_length, decoder_layers, logit_changes
from expctr.llm.loading import LLMOptions, load_base, locate
from expctr.llm.logprobs import token_logprobs
from expctr.llm.probe import check_prompts, difference, load_model, probe, short_rows
from expctr.llm.prompts import PromptOptions, Prompts
from tools.architectures import check_all, long_rows, read_table, sampling_error, tiny_config, tiny_model

DOCS = Path(__file__).parents[2] / "docs"


def test_a_llama_is_computed_the_fastest_way(llm_folder: Path) -> None:
    model = load_model(LLMOptions(path=str(llm_folder), dtype="float32", lora_r=4))
    assert (model.attention, model.caching) == ("grouped", "shared")


def test_a_difference_is_in_units_of_the_logits_spread() -> None:
    """Logits 3 and 1 have log-probabilities -0.127 and -2.127; 2 and 2 have -0.693 twice: 0.566 and 1.434 apart."""
    plain = torch.tensor([[3.0, 1.0]])
    assert difference(plain + 7, plain) == pytest.approx(0, abs=1e-6), "a constant changes no probability"
    rms = ((0.566**2 + 1.434**2) / 2) ** 0.5
    assert difference(torch.tensor([[2.0, 2.0]]), plain) == pytest.approx(rms / 2**0.5, abs=1e-3)
    assert not difference(torch.tensor([[float("nan"), 1.0]]), plain) <= 1


@pytest.mark.parametrize(
    ("model_type", "attention", "caching"),
    [
        ("gemma2", "eager", "shared"),  # caps its attention scores, which grouped cannot
        ("gpt_neo", "eager", "separate"),  # its window counts columns, free ones too
        ("mpt", "eager", "separate"),  # its position bias counts columns
        ("deepseek_v2", "grouped", "separate"),  # cannot read results that are stored by columns
        ("lfm2", "grouped", "native"),  # keeps the latest inputs of a convolution
    ],
)
def test_a_base_is_computed_the_way_that_is_right(model_type: str, attention: str, caching: str) -> None:
    model = tiny_model(model_type)
    probe(model, long_rows())
    assert (model.attention, model.caching) == (attention, caching)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, 0.0, 0.1)
    assert sampling_error(model) < 1e-2


def test_a_window_is_found_that_no_prompt_of_the_probe_reaches() -> None:
    model = tiny_model("gpt_neo", window_size=256)
    probe(model)
    assert model.caching == "separate"


@pytest.mark.parametrize(
    ("model_type", "options", "said"),
    [
        ("lfm2", {"adapter_scope": "response"}, r"keep a state .*Fix: set llm\.adapter_scope to all"),
        ("gemma2", {"attention": "grouped"}, r"no softcap.*Fix: set llm\.attention to eager"),
        ("bert", {}, r"\(BertLMHeadModel\) is not supported: it is not causal, .*Fix: choose another base"),
        ("mamba", {}, r"not supported: some layers keep a state .*, and \w+Error: .*Fix: choose another base"),
        ("rwkv", {}, r"\(RwkvForCausalLM\) is not supported: .*cache"),
        ("mpt", {"compile_decoding": True}, r"Fix: set llm\.compile_decoding to false"),
        (
            "gpt_neo",
            {"compile_decoding": True},
            r"count the free positions .*Fix: set llm\.compile_decoding to false",
        ),
    ],
)
def test_a_refusal_says_why_and_what_to_choose(model_type: str, options: dict[str, object], said: str) -> None:
    model = tiny_model(model_type)
    model.options = replace(model.options, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"llm\.path: nano .*{said}"):
        probe(model, long_rows())


def test_an_attention_that_a_base_has_not_is_named(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(tiny_config("gemma2")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(locate("nano", "")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"llm\.attention: .*Gemma2ForCausalLM does not support .*Fix: set it to auto"):
        load(tmp_path, attention="sdpa")


@pytest.mark.parametrize(
    ("model_type", "config", "factor", "cap"),
    [
        ("cohere", {"logit_scale": 0.25}, 0.25, None),
        ("granite", {"logits_scaling": 8.0}, 0.125, None),
        ("hyperclovax", {"logits_scaling": 8.0}, 8.0, None),
        ("gemma2", {"final_logit_softcapping": 30.0}, 1.0, 30.0),
        ("recurrent_gemma", {"logits_soft_cap": 5.0}, 1.0, 5.0),
        ("llama", {}, 1.0, None),
    ],
)
def test_changes_of_logits_are_read_from_the_config(
    model_type: str, config: dict[str, float], factor: float, cap: float | None
) -> None:
    found = tiny_config(model_type)
    for name, value in config.items():
        setattr(found, name, value)
    assert logit_changes(found) == (factor, cap)


def test_a_capped_base_has_its_own_logits_and_their_gradient() -> None:
    """d/dx of d tanh(c x / d) is c (1 - tanh^2), which the log-probabilities' own derivative must pass on."""
    model = tiny_model("gemma2")
    model.logit_factor, model.logit_cap = 0.5, 2.0
    hidden = torch.randn(1, 3, model.hidden_size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    head = model.causal.get_output_embeddings().weight
    tokens = torch.tensor([[5, 6, 7]])
    expected = (2 * torch.tanh(0.5 * hidden @ head.T / 2)).log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    found, _ = token_logprobs(model, hidden, tokens, 1.0)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(x.sum(), hidden, retain_graph=True)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)
    some = model.logits(hidden, [6, 9])
    torch.testing.assert_close(some, model.logits(hidden)[..., [6, 9]])


def test_the_critic_reads_as_many_numbers_as_the_output_layer() -> None:
    """OPT-350m's states are narrower at the end than within."""
    model = tiny_model("opt", word_embed_proj_dim=16)
    assert model.hidden_size == 16
    probe(model, short_rows(model))


def test_an_encoder_decoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"llm\.path: .*\(t5\) is an encoder-decoder\. Fix: choose a decoder-only base"):
        load_base(LLMOptions(path=str(tmp_path)))


def test_a_context_shorter_than_the_prompts_is_refused(llm_folder: Path) -> None:
    model = load(llm_folder)
    prompts = Prompts(model.tokenizer, PromptOptions(), Nouns())
    check_prompts(model, prompts, 2048, "prompts.prompt_tokens")
    with pytest.raises(UserError, match=r"prompts\.prompt_tokens allow 2049 tokens, .* a context of 2048\. Fix: lower"):
        check_prompts(model, prompts, 2049, "prompts.prompt_tokens")


def test_a_chat_template_that_writes_a_token_without_an_embedding_is_refused(llm_folder: Path) -> None:
    """Some bases have more added tokens than embeddings; a prompt would end in an IndexError."""
    model = load(llm_folder)
    model.tokenizer.add_tokens(["<|said|>"], special_tokens=True)
    model.tokenizer.chat_template = "<|said|>{{ messages[0]['content'] }}"
    prompts = Prompts(model.tokenizer, PromptOptions(), Nouns())
    with pytest.raises(UserError, match=r"its chat template writes the token \d+ \(<\|said\|>\)\. Fix: give it the"):
        check_prompts(model, prompts, 100, "prompts.prompt_tokens")


def longrope(original: int, pairs: int) -> dict[str, Any]:
    factors = {"short_factor": [1.0] * pairs, "long_factor": [2.0] * pairs}
    return {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": original, **factors}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (LlamaConfig(max_position_embeddings=64), 64),
        (LlamaConfig(max_position_embeddings=64, rope_parameters=longrope(32, 4)), 32),
        (MptConfig(max_seq_len=48, logit_scale="inv_sqrt_d_model"), 48),
        (BloomConfig(), inf),
    ],
)
def test_a_context_ends_where_longrope_changes_its_frequencies(config: PreTrainedConfig, length: float) -> None:
    """Phi-3 has 131,072 positions, and beyond 4,096 of them one long row would change all others."""
    assert context_length(config) == length
    assert logit_changes(config) == (1.0, None)


def test_rounding_cannot_hide_a_base_that_counts_padding() -> None:
    """MPT's ALiBi counts it. In bfloat16 that differs by no more than what rounding is allowed."""
    exact, rounded = tiny_model("mpt"), tiny_model("mpt")
    rounded.causal.to(torch.bfloat16)
    for model in (exact, rounded):
        probe(model)
        assert model.caching == "separate"


def test_attention_that_selects_keys_is_eager() -> None:
    """The probe's prompts are shorter than what DeepSeek-V3.2 selects of them: 2,048 tokens."""
    model = tiny_model("deepseek_v32", index_topk=2048)
    probe(model, short_rows(model))
    assert model.attention == "eager"


def test_only_the_language_model_of_a_multimodal_base_gets_adapters() -> None:
    model = tiny_model("gemma3")
    assert any("vision_tower" in name for name, _ in model.named_modules())
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapted) == 4 * 7, "seven linear layers in each of four decoder layers"
    assert all("language_model.layers" in name for name in adapted)
    assert len(decoder_layers(model.causal, "")) == 4
    probe(model, short_rows(model))


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_the_tool_finds() -> None:
    """The full form, over every causal architecture of transformers; several minutes."""
    assert list(check_all(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)) == read_table(DOCS / "bases.md")
