"""Frozen models, which checkpoints do not hold: what tells the one that a run was made with from others."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from expctr.errors import UserError
from expctr.llm.loading import vocabulary_of

_COUNT = 32
_ROUNDING = 2**-7
"""Of bfloat16, twice: the same base may be loaded in another precision."""
_UNRELATED = re.compile(r"use_cache|return_dict|output_.*|initializer_range|.*_token_id|_.*")
"""Numbers of a config that change nothing that is computed here."""


def traits(
    weights: Iterable[tuple[str, Tensor]], config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """What tells a model from others, for a checkpoint.

    Returns:
        `names` of weights, and `numbers`, float32 `[weights, 32]`: the first of each, with zeros behind fewer; of those
        that are neither sharded nor quantized. `settings`: numbers and activations of the config. `vocabulary`: a hash.
    """
    kept = {name: w.detach() for name, w in weights if w.is_floating_point() and not isinstance(w, DTensor)}
    numbers = torch.zeros(len(kept), _COUNT)
    for row, weight in zip(numbers, kept.values(), strict=True):
        first = weight.flatten()[:_COUNT]
        row[: len(first)] = first
    return {
        "names": [*kept],
        "numbers": numbers,
        "settings": dict(_settings(config.get_text_config().to_dict())),
        "vocabulary": hashlib.sha256(vocabulary_of(tokenizer)).hexdigest(),
    }


def check_traits(now: Mapping[str, Any], then: Mapping[str, Any], named: str) -> None:
    """Refuse another model than a checkpoint's, by the `traits` of both. What only one of them has does not count.

    Raises:
        UserError: it begins with what the model is `named`.
    """
    fix = "Fix: put the former files back, or name their revision; or start a run in another folder"
    made = dict(zip(then["names"], then["numbers"], strict=True))
    for name, numbers in zip(now["names"], now["numbers"], strict=True):
        if name in made and not torch.allclose(numbers, made[name], rtol=_ROUNDING, atol=1e-5):
            raise UserError(f"{named} has other weights than the run was made with, such as {name}. {fix}")
    for name, value in now["settings"].items():
        if value != (before := then.get("settings", {}).get(name, value)):
            raise UserError(f"{named} has {name} {value} in its config.json, and the run was made with {before}. {fix}")
    if now["vocabulary"] != then.get("vocabulary", now["vocabulary"]):
        raise UserError(f"{named} has another vocabulary than the run was made with. {fix}")


def _settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        elif (isinstance(value, int | float) or "act" in str(name)) and not _UNRELATED.fullmatch(str(name)):
            yield f"{prefix}{name}", value if isinstance(value, int | float) else str(value)
