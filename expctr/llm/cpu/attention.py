"""Attention for processors: batched products over grouped heads."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from expctr.errors import UserError

GROUPED = "grouped"
"""The name under which transformers knows it."""
SCORES = 2**21
"""How many scores exist at a time: they, and what the softmax makes of them, are to stay in the processor's cache."""


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Softmax attention as transformers calls it, the softmax in float32.

    torch's kernel for processors computes bfloat16 products without the processor's instructions for them, and wants
    each key once for every head that reads it. This one reads a key once for its whole group of heads.

    Args:
        module: the layer that asks.
        query: `[batch, heads, new, width]`.
        key: `[batch, groups, cached + new, width]`, where `groups` divides `heads`.
        value: as `key`; its width may differ.
        attention_mask: what is added to the scores, `[batch, 1, new, cached + new]`.
        scaling: of the scores; 1 / sqrt(width) where it is not given.
        dropout: must be 0.
        others: what some models ask for beyond that.

    Returns:
        `[batch, new, heads, width]`, and no weights.

    Raises:
        UserError: the model asks for what this does not do.
    """
    asked = [name for name in ("softcap", "position_bias", "s_aux") if others.get(name) is not None]
    if asked or dropout:
        raise UserError(f"llm.attention: grouped has no {' or '.join(asked or ['dropout'])}: choose sdpa or eager")
    batch, heads, new, width = query.shape
    groups, seen = key.shape[1:3]
    query = (query * (scaling if scaling is not None else width**-0.5)).reshape(batch, groups, -1, width)
    rows = max(1, SCORES // (heads * new * seen))
    parts = []
    for start in range(0, batch, rows):
        part = slice(start, start + rows)
        scores = query[part] @ key[part].mT  # [rows, groups, heads / groups * new, seen]
        if attention_mask is not None:  # not in place: of a view, autograd would copy each gradient
            scores = (scores.view(-1, heads, new, seen) + attention_mask[part]).view_as(scores)
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        parts.append(weights @ value[part])
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.view(batch, heads, new, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
