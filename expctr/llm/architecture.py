"""What bases of different architectures have in different places: their decoder, their windows, changes of logits."""

from math import inf
from typing import cast

from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from expctr.errors import UserError

WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "attention_window_size",
    "local_attention",
    "keep_window_size",
    "index_topk",
)
"""What configs call the number of tokens that some layers see."""


def decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The language model that computes hidden states: without output layer, images and sounds."""
    return cast(PreTrainedModel, cast(PreTrainedModel, model.base_model).get_decoder())


def decoder_layers(model: PreTrainedModel, fix: str) -> nn.ModuleList:
    """The decoder's layers, with or without adapters; if there are none, a `UserError` with this fix."""
    layers = getattr(decoder(model), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"llm.path: {type(model).__name__} has no list of decoder layers. Fix: {fix}")
    return layers


def has_windows(config: PreTrainedConfig) -> bool:
    """Do some layers see the latest tokens only? Such windows are counted in columns, padding included."""
    return any(getattr(config, name, None) for name in WINDOWS)


KEEPS_STATE = "some layers keep a state in place of each token's keys and values"


def keeps_state(config: PreTrainedConfig) -> bool:
    """Do some layers keep a state in place of each token's keys and values, as those of Mamba?"""
    return any(DynamicCache(config=config).is_linear)


def selects_keys(config: PreTrainedConfig) -> bool:
    """Do some layers see only the most relevant tokens, as DeepSeek-V3.2's? Only eager attention is told which."""
    return bool(getattr(config, "index_topk", None))


def context_length(config: PreTrainedConfig) -> float:
    """The most tokens of a row; infinite if the config does not say.

    Beyond a length of its own, longrope computes all rows of a batch with other frequencies, also those in a cache.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    ropes = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # or one for each type of layers
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len")]
    limits += [part.get("original_max_position_embeddings") for part in ropes if part.get("rope_type") == "longrope"]
    return min((float(limit) for limit in limits if limit), default=inf)


def logit_changes(config: PreTrainedConfig) -> tuple[float, float | None]:
    """The factor c and the cap d of a base whose logits are d tanh(c x / d), or c x without a cap.

    x is what the output layer computes. Cohere and Falcon-H1 multiply, Granite and MiniCPM3 divide; Gemma caps.
    """
    scale = None if config.model_type == "mpt" else getattr(config, "logit_scale", None)  # MPT has it, and ignores it
    factor = scale or getattr(config, "lm_head_multiplier", None) or 1.0
    if scaling := getattr(config, "logits_scaling", None):
        factor = scaling if config.model_type == "hyperclovax" else 1 / scaling
    caps = (getattr(config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap"))
    return float(factor), next((float(cap) for cap in caps if cap), None)
