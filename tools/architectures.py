"""Which bases work: a probe of every causal architecture of transformers that can be made tiny.

    python -m tools.architectures docs/bases.md       # writes the page's table anew; 5 minutes on two cores
    python -m tools.architectures - qwen3_next mpt    # prints the rows of some
"""

import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from expctr.errors import UserError
from expctr.llm.loading import LLMOptions, check_config, choose_attention, load_tokenizer
from expctr.llm.logprobs import score_responses
from expctr.llm.lora import add_adapter
from expctr.llm.model import LanguageModel
from expctr.llm.probe import Rows, Scope, find_problem, plain_logits, probe
from expctr.llm.rollout import RolloutOptions, draw_noise, generate

SMALL: dict[str, Any] = {
    "vocab_size": 3072,  # of the tokenizer of nano
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 3,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    # windows, shorter than the prompts
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "window_size": 8,
    "attention_window_size": 8,
    "local_attention": 8,
    # experts
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # compressed keys and values
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 8,
    # layers with a state
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "lru_width": 32,
    "state_size": 8,
    "n_groups": 1,
    "chunk_size": 8,
    "time_step_rank": 4,
    "n_mamba_heads": 4,
    # other names
    "ffn_dim": 64,
    "n_inner": 64,
    "d_model": 32,
    "word_embed_proj_dim": 32,
    "embedding_size": 32,
    "decoder_layers": 4,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 3072,
}
"""Options of configs, by the names of transformers."""

SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"head_dim": 16},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "llama4": {"no_rope_layer_interval": 4},
    "mamba2": {"num_heads": 8},
    "zamba": {"num_hidden_layers": 8, "attn_layer_period": 4, "attn_layer_offset": 2, "num_key_value_heads": 4, "head_dim": 16},
    "zamba2": {"layer_types": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
"""Further options of some."""
MAX_WEIGHTS = 20_000_000
SECONDS = 60
"""Per architecture."""


class Row(NamedTuple):
    """A row of the table."""

    architecture: str
    result: str


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """A config with the smallest sizes that its class accepts."""
    return _shrink(CONFIG_MAPPING[model_type], SMALL | SPECIAL.get(model_type, {}) | changes)


def _shrink(kind: type[PreTrainedConfig], sizes: dict[str, Any]) -> PreTrainedConfig:
    default = kind()
    known = default.to_dict()
    mapped = {kind.attribute_map.get(name, name): value for name, value in sizes.items()}
    parts = {name: _shrink(part, sizes) for name, part in kind.sub_configs.items() if isinstance(known.get(name), dict)}
    return kind(**{name: value for name, value in mapped.items() if name in known} | parts)


def tiny_model(model_type: str, scope: Scope) -> LanguageModel:
    """A random base with a fresh adapter, as `LanguageModel.load` would make it from a folder."""
    options = LLMOptions(dtype="float32", lora_r=4, adapter_scope=scope)
    config = tiny_config(model_type)
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > MAX_WEIGHTS:
        raise NotTinyError(f"{weights:,} weights")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).eval()
    check_config(base.config, options)
    for parameter in base.parameters():  # some classes draw no weights, or all of one value
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 0.2)
    choose_attention(base, options, torch.device("cpu"))
    base.requires_grad_(False)
    return LanguageModel(add_adapter(base, options, quantized=False), load_tokenizer(options), options)


def long_rows(vocabulary: int) -> Rows:
    """Prompts beyond the windows of the tiny configs, three of them, with a common head."""
    generator = torch.Generator().manual_seed(1)
    head, *rest = (torch.randint(5, vocabulary, (count,), generator=generator).tolist() for count in (9, 26, 11, 17, 6, 4, 5))
    return Rows([head + part for part in rest[:3]], rest[3:])


class NotTinyError(Exception):
    """An architecture cannot be made tiny by its config alone."""


def check(model_type: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for scope in ("all", "response"):
        model = tiny_model(model_type, scope)
        rows = long_rows(3072)
        found["class"] = type(model.causal).__name__
        try:
            probe(model, rows)
        except UserError as error:
            found[scope] = str(error).split(" is not supported: ")[-1]
            continue
        found[scope] = f"{model.attention} {model.caching}"
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    def alarm(*_): raise TimeoutError("too slow")
    signal.signal(signal.SIGALRM, alarm)
    for name in sys.argv[1:] or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        signal.alarm(SECONDS)
        start = time.time()
        try:
            print(name, check(name), f"{time.time() - start:.1f}", flush=True)
        except Exception as e:
            print(name, "NOT MADE", type(e).__name__, str(e)[:200].replace(chr(10), " "), flush=True)
        signal.alarm(0)
