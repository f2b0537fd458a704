"""Prefill of prompts: their common prefix once per run, the rest in batches of similar length."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from expctr.llm.kv_cache import PreallocatedLayer, keys_and_values, make_cache
from expctr.llm.model import LanguageModel

BATCH_TOKENS = 1024, 2**15
"""Tokens of a batch, on a CPU and on a GPU. Larger batches take no less time per token."""
MAX_PREFIXES = 8
"""Number of common prefixes whose keys and values are kept."""


class PromptBatch(NamedTuple):
    """The state of some prompts after their last token."""

    rows: list[int]  # indices of the prompts
    prefix: int  # number of tokens of the common prefix
    width: int  # number of tokens after the prefix in the longest prompt; the others are padded to it on the left
    last: Tensor  # hidden state of the last token, [rows, hidden]
    cache: DynamicCache  # keys and values of the prefix, then of the rest


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, prefix: int = 0
) -> tuple[Tensor, Tensor]:
    """Pad prompts to one length, on the left of all but the first `prefix` tokens: ids and mask, `[batch, prompt]`.

    The mask comes from lengths, because prompts may contain the padding token.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[*p[:prefix], *[pad_id] * (longest - len(p)), *p[prefix:]] for p in prompts], device=device)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    position = torch.arange(longest, device=device)
    return ids, (position < prefix) | (position >= prefix + longest - lengths[:, None])


def common_prefix(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all prompts start with; each prompt keeps at least one token after it."""
    if model.has_windows or model.caching != "shared":  # a window would not reach across the padding
        return 0
    in_order = sorted(map(list, prompts))
    first, last = in_order[0], in_order[-1]
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(same, min(map(len, prompts)) - 1)


@torch.no_grad()
def prefill_batches(model: LanguageModel, prompts: Sequence[Sequence[int]], adapter: bool) -> Iterator[PromptBatch]:
    """Compute prompts, of at least one token each, in batches, the shortest prompts first."""
    if not prompts:
        return
    prefix = common_prefix(model, prompts) if len(prompts) > 1 else 0  # a single prompt shares nothing
    start = _prefix_cache(model, tuple(prompts[0][:prefix]), adapter) if prefix else None
    budget = BATCH_TOKENS[model.device.type != "cpu"]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    while order:
        count = 1
        while count < len(order) and (count + 1) * (len(prompts[order[count]]) - prefix) <= budget:
            count += 1
        rows, order = order[:count], order[count:]
        rest, mask = pad_left([prompts[i][prefix:] for i in rows], model.pad_id, model.device)
        seen = torch.cat([torch.ones(len(rows), prefix, dtype=torch.bool, device=mask.device), mask], 1)
        size = len(rows), -1, -1, -1
        if start is None:
            cache = empty_cache(model)
        else:
            cache = make_cache((k.expand(size), v.expand(size)) for k, v in keys_and_values(start))
        last = model.hidden(rest, seen, adapter, cache)[:, -1]
        yield PromptBatch(rows, prefix, rest.shape[1], last, cache)


def _prefix_cache(model: LanguageModel, ids: tuple[int, ...], adapter: bool) -> DynamicCache:
    """Keys and values of a prefix, in one row. Those of the frozen base are kept for later calls."""
    key = (model.device, ids)
    cache = None if adapter else model.prefix_caches.pop(key, None)
    if cache is None:
        tokens = torch.tensor([ids], device=model.device)
        cache = DynamicCache()
        model.hidden(tokens, torch.ones_like(tokens), adapter, cache)
    if not adapter:
        model.prefix_caches[key] = cache
        if len(model.prefix_caches) > MAX_PREFIXES:  # drop the least recently used
            del model.prefix_caches[next(iter(model.prefix_caches))]
    return cache


@torch.no_grad()
def prefill(
    model: LanguageModel, prompts: Sequence[Sequence[int]], adapter: bool, room: int = 0
) -> tuple[tuple[Tensor, Tensor], DynamicCache]:
    """Pad prompts of at least two tokens, and compute keys and values of all tokens but the last.

    If the model's caching is `shared`, equal prompts are computed once, and the cache has `room` free positions
    (`PreallocatedLayer`).
    """
    if model.caching == "native":
        ids, mask = pad_left(prompts, model.pad_id, model.device)
        cache = empty_cache(model)
        model.hidden(ids[:, :-1], mask[:, :-1], adapter, cache)
        return (ids, mask), cache
    if model.caching == "separate":
        room = 0
    copies: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        copies.setdefault(tuple(prompt[:-1]), []).append(row)
    unique = list(copies)
    total = max(map(len, unique))
    whole = DynamicCache()
    for batch in prefill_batches(model, unique, adapter):
        source = [i for i, text in enumerate(batch.rows) for _ in copies[unique[text]]]
        target = [row for text in batch.rows for row in copies[unique[text]]]
        for number, (keys, values) in enumerate(keys_and_values(batch.cache)):
            if number == len(whole.layers):
                whole.layers.append(PreallocatedLayer(keys, values, len(prompts), total, room))
            layer = cast(PreallocatedLayer, whole.layers[number])
            layer.put(target, keys[source], values[source], batch.prefix, batch.width)
    if model.caching == "separate":
        whole = make_cache(keys_and_values(whole))
    return pad_left(prompts, model.pad_id, model.device, batch.prefix), whole


def empty_cache(model: LanguageModel) -> DynamicCache:
    """A cache for all tokens, whatever a layer's window is; if the caching is `native`, one of the base's own kind."""
    return DynamicCache(config=model.causal.config) if model.caching == "native" else DynamicCache()
