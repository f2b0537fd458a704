"""Attention for CPUs, and for compiled decoding: batched products over groups of heads that share keys."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from expctr.errors import UserError
from expctr.llm.kv_cache import SharedPrompt

GROUPED = "grouped"
"""The name under which it is registered with transformers."""
MAX_SCORES = 2**21
"""Number of attention scores computed at a time, so that they and their softmax fit in the CPU's cache."""


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor | SharedPrompt,
    value: Tensor | SharedPrompt,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Softmax attention with the signature that transformers expects; the softmax is in float32.

    torch's CPU kernel computes bfloat16 products without the CPU's instructions for them, and needs keys repeated for
    every head. This one reads each key once for its whole group of heads.

    - `query`: `[batch, heads, new, head_dim]`.
    - `key`: `[batch, groups, cached + new, head_dim]`, where `groups` divides `heads`; that of `value` may differ.
      Or both are `SharedPrompt`, for one new token.
    - `attention_mask`: added to the scores, `[batch, 1, new, cached + new]`.
    - `scaling`: factor of the scores; 1 / sqrt(head_dim) if not given.

    Returns:
        `[batch, new, heads, head_dim]`, and None in place of the attention weights.

    Raises:
        UserError: the model needs a feature that this function lacks.
    """
    needed = [name for name in ("softcap", "position_bias", "s_aux") if others.get(name) is not None]
    if needed or dropout:
        raise UserError(f"llm.attention: grouped has no {' or '.join(needed or ['dropout'])}. Fix: set it to auto")
    if isinstance(key, SharedPrompt) or isinstance(value, SharedPrompt):
        shared = cast(SharedPrompt, key), cast(SharedPrompt, value)
        return _shared_attention(query, *shared, attention_mask, scaling), None
    batch, heads, new, head_dim = query.shape
    groups, seen = key.shape[1:3]
    query = (query * (scaling if scaling is not None else head_dim**-0.5)).reshape(batch, groups, -1, head_dim)
    rows = max(1, MAX_SCORES // (heads * new * seen))
    chunks = []
    for start in range(0, batch, rows):
        chunk = slice(start, start + rows)
        scores = query[chunk] @ key[chunk].mT  # [rows, groups, heads / groups * new, seen]
        if attention_mask is not None:  # not in place: autograd would copy each gradient of the view
            scores = (scores.view(-1, heads, new, seen) + attention_mask[chunk]).view_as(scores)
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        chunks.append(weights @ value[chunk])
    out = chunks[0] if len(chunks) == 1 else torch.cat(chunks)
    return out.view(batch, heads, new, -1).transpose(1, 2).contiguous(), None


def _shared_attention(
    query: Tensor, key: SharedPrompt, value: SharedPrompt, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """`grouped_attention` of one new token per response, which reads each prompt once for all its responses."""
    rows, heads, _, head_dim = query.shape
    query = (query * (scaling if scaling is not None else head_dim**-0.5)).view(rows, key.own.shape[1], -1, head_dim)
    scores = torch.cat([_per_prompt(query, key, key.prompt.mT), query @ key.own.mT], -1)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(value.own.dtype)
    of_prompt, of_own = weights.split([key.prompt.shape[2], key.own.shape[2]], -1)
    out: Tensor = _per_prompt(of_prompt, value, value.prompt) + of_own @ value.own
    return out.view(rows, 1, heads, -1)


def _per_prompt(x: Tensor, shared: SharedPrompt, matrix: Tensor) -> Tensor:
    """Multiply rows of responses, `[rows, groups, m, n]`, by their prompt's matrix, `[prompts, groups, n, k]`.

    The responses of a prompt are the rows of one product; those that have ended are rows of zeros.
    """
    prompts, count = len(matrix), shared.responses
    padded = x.new_zeros(prompts * count, *x.shape[1:]).index_copy_(0, shared.slots, x)
    stacked = padded.unflatten(0, (prompts, count)).transpose(1, 2).flatten(2, 3)
    product: Tensor = (stacked @ matrix).unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)
    return product[shared.slots]


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
