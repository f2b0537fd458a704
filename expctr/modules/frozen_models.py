"""Frozen models, which checkpoints do not hold: what tells the one that a run was made with from others."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from expctr.errors import UserError
from expctr.llm.identity import settings_of, tokenizer_state

_COUNT = 32
_TOLERANCE, _ROUNDING = 2**-12, 2**-8
"""Mean difference between numbers of a weight, in parts of their mean size, up to which they are the same: read by
other code, which may round one of them otherwise; and loaded in another precision, such as bfloat16."""
_QUANTIZED = 0.75
"""Share of quantized numbers that are equal, above which they are the same: other devices round some otherwise."""


def traits(
    weights: Iterable[tuple[str, Tensor]],
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    eos_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """What tells a model from others, for a checkpoint.

    Args:
        weights: by name.
        config: the model's.
        tokenizer: likewise.
        eos_ids: tokens that end a sentence.

    Returns:
        `names` and `dtypes` of the weights, and `sampled`, float32 `[weights, 32]`: numbers of each, at places that its
        size decides. `settings` of the config, and `tokens`, a hash of the vocabulary. All ranks call this if weights
        are sharded.
    """
    kept = {name: weight.detach() for name, weight in weights if weight.numel()}
    return {
        "names": [*kept],
        "dtypes": [str(weight.dtype) for weight in kept.values()],
        "sampled": torch.stack([_sampled(w) for w in kept.values()]) if kept else torch.zeros(0, _COUNT),
        "settings": settings_of(config) | {"eos_token_id": str([*eos_ids])},
        "tokens": hashlib.sha256(tokenizer_state(tokenizer)).hexdigest(),
    }


def check_traits(now: Mapping[str, Any], then: Mapping[str, Any], named: str) -> None:
    """Refuse another model than a checkpoint's, by the `traits` of both. What only one of them has does not count.

    Raises:
        UserError: it begins with what the model is `named`.
    """
    fix = "Fix: put the former files back, or name their revision; or start a run in another folder"
    made = _weights(then) if "sampled" in then else {}  # older checkpoints have other numbers
    for name, (dtype, numbers) in _weights(now).items():
        if name in made and not _are_alike(dtype, numbers, *made[name]):
            raise UserError(f"{named} has other weights than the run was made with, such as {name}. {fix}")
    for name, value in now["settings"].items():
        before = then.get("settings", {}).get(name, value)
        if value != before and repr(value) != repr(before):  # NaN is no other than itself
            raise UserError(f"{named} has {name} {value}, and the run was made with {before}. {fix}")
    if now["tokens"] != then.get("tokens", now["tokens"]):
        raise UserError(
            f"{named} has another tokenizer (vocabulary, merges or normalizer) than the run was made with. {fix}"
        )


def _are_alike(dtype: str, numbers: Tensor, dtype_then: str, numbers_then: Tensor) -> bool:
    """Whether numbers of a weight are the same. Quantized ones, whole numbers, may round some to the next one."""
    if "int" in dtype or "int" in dtype_then:
        return dtype != dtype_then or bool((numbers == numbers_then).float().mean() > _QUANTIZED)
    tolerance = _TOLERANCE if dtype == dtype_then else _ROUNDING
    return bool((numbers - numbers_then).abs().mean() <= tolerance * numbers_then.abs().mean())


def _sampled(weight: Tensor) -> Tensor:
    """`[32]` numbers of a weight."""
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    places = torch.randint(weight.numel(), (_COUNT,), generator=torch.Generator().manual_seed(0))
    return weight.flatten()[places.to(weight.device)].float().cpu()


def _weights(traits: Mapping[str, Any]) -> dict[str, tuple[str, Tensor]]:
    """Name -> dtype and numbers."""
    values = zip(traits["dtypes"], traits["sampled"], strict=True)
    return dict(zip(traits["names"], values, strict=True))
