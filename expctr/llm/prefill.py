"""Prompts, computed once each: their common head once a run, the rest in batches of like length."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from expctr.llm.model import LanguageModel

TOKENS = 1024, 2**15
"""Of a batch, on a processor and on a GPU: from there on, more of them compute no faster a token."""
MOST_HEADS = 8


class Padded(NamedTuple):
    """Prompts as rows of one length: their common head, padding, and the rest of each."""

    ids: Tensor
    """`[batch, prompt]`."""
    mask: Tensor
    """bool `[batch, prompt]`."""


class Part(NamedTuple):
    """Some prompts after their last token."""

    rows: list[int]
    head: int
    """Tokens of the common head."""
    width: int
    """Tokens of the longest rest, to which the others are padded on the left."""
    last: Tensor
    """Hidden state of the last token, `[rows, hidden]`."""
    cache: DynamicCache
    """Keys and values of the head, then of the rest."""


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, head: int = 0) -> Padded:
    """Rows of one length, padded left of all but the first `head` tokens.

    Masks come from lengths, for the padding token may be one that prompts use.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[*p[:head], *[pad_id] * (longest - len(p)), *p[head:]] for p in prompts], device=device)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    place = torch.arange(longest, device=device)
    return Padded(ids, (place < head) | (place >= head + longest - lengths[:, None]))


def common_head(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; at least one token is left of each.

    None for a model with local attention, for which padding after the head would move it out of sight.
    """
    if model.local:
        return 0
    in_order = sorted(map(list, prompts))
    first, last = in_order[0], in_order[-1]
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(same, min(map(len, prompts)) - 1)


@torch.no_grad()
def parts(model: LanguageModel, prompts: Sequence[Sequence[int]], adapter: bool) -> Iterator[Part]:
    """Compute prompts, the shortest first.

    Args:
        model: the language model.
        prompts: token ids, at least one each.
        adapter: the policy, or the frozen base.
    """
    if not prompts:
        return
    head = common_head(model, prompts) if len(prompts) > 1 else 0  # one alone has nothing to share, or to keep
    start = _head(model, tuple(prompts[0][:head]), adapter) if head else None
    budget = TOKENS[model.device.type != "cpu"]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    while order:
        count = 1
        while count < len(order) and (count + 1) * (len(prompts[order[count]]) - head) <= budget:
            count += 1
        rows, order = order[:count], order[count:]
        rest, mask = pad_left([prompts[i][head:] for i in rows], model.pad_id, model.device)
        seen = torch.cat([torch.ones(len(rows), head, dtype=torch.bool, device=mask.device), mask], 1)
        cache = DynamicCache() if start is None else expanded(start, len(rows))
        hidden = model.hidden(rest, seen, adapter, cache)
        yield Part(rows, head, rest.shape[1], hidden.states[:, -1], cache)


def _head(model: LanguageModel, ids: tuple[int, ...], adapter: bool) -> DynamicCache:
    """Keys and values of a common head, of one row; those of the frozen base are kept."""
    key = (model.device, ids)
    cache = None if adapter else model.heads.pop(key, None)
    if cache is None:
        tokens = torch.tensor([ids], device=model.device)
        cache = DynamicCache()
        model.hidden(tokens, torch.ones_like(tokens), adapter, cache)
    if not adapter:
        model.heads[key] = cache
        if len(model.heads) > MOST_HEADS:  # the one that was not used for longest
            del model.heads[next(iter(model.heads))]
    return cache


@torch.no_grad()
def prefill(
    model: LanguageModel, prompts: Sequence[Sequence[int]], adapter: bool, room: int = 0
) -> tuple[Padded, DynamicCache]:
    """The prompts as rows of one length, and the keys and values of all their tokens but the last.

    Equal prompts are computed once.

    Args:
        model: the language model.
        prompts: token ids, at least two each.
        adapter: the policy, or the frozen base.
        room: positions to leave free in the cache, which `Roomy` layers then fill without copying.
    """
    copies: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        copies.setdefault(tuple(prompt[:-1]), []).append(row)
    texts = list(copies)
    total = max(map(len, texts))
    whole = DynamicCache()
    for part in parts(model, texts, adapter):
        source = [i for i, text in enumerate(part.rows) for _ in copies[texts[text]]]
        target = [row for text in part.rows for row in copies[texts[text]]]
        for number, (keys, values) in enumerate(contents(part.cache)):
            if number == len(whole.layers):
                whole.layers.append(Roomy(keys, values, len(prompts), total, room))
            layer = cast(Roomy, whole.layers[number])
            layer.put(target, keys[source], values[source], part.head, part.width)
    return pad_left(prompts, model.pad_id, model.device, part.head), whole


class Roomy(DynamicLayer):
    """A cache layer with room for what is to come: adding a token writes it, where the base class copies all of them.

    Attention gets the room along, which its causal mask covers: a part of the storage would be copied to multiply it.

    Args:
        keys: some, for their shape and type.
        values: likewise.
        batch: rows.
        length: positions filled from the start.
        room: positions left free.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, batch: int, length: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = (x.new_zeros(batch, x.shape[1], length + room, x.shape[3]) for x in (keys, values))
        self._length = length

    def put(self, rows: Sequence[int], keys: Tensor, values: Tensor, head: int, width: int) -> None:
        """Write rows: a head on the left, the rest of `width` positions on the right."""
        where, end = torch.tensor(rows, device=keys.device), self._length
        for mine, theirs in ((self.keys, keys), (self.values, values)):
            mine[where, :, :head] = theirs[:, :, :head]
            mine[where, :, end - width : end] = theirs[:, :, head:]

    def filled(self) -> tuple[Tensor, Tensor]:
        """Keys and values without the room; what is added later leaves them as they are."""
        return self.keys[:, :, : self._length], self.values[:, :, : self._length]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new positions into the room, of which there must be enough, and without gradient."""
        start, self._length = self._length, self._length + key_states.shape[2]
        self.keys[:, :, start : self._length] = key_states
        self.values[:, :, start : self._length] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Positions filled."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """What attention gets to see: everything, from position 0."""
        return self.keys.shape[2], 0


def contents(cache: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values of each layer."""
    for layer in cast(list[DynamicLayer], cache.layers):
        yield layer.filled() if isinstance(layer, Roomy) else (cast(Tensor, layer.keys), cast(Tensor, layer.values))


def cache_of(pairs: Iterator[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache of these keys and values, which are not copied, and which extending it leaves as they are."""
    cache = DynamicCache()
    for keys, values in pairs:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def twin(cache: DynamicCache) -> DynamicCache:
    """The same keys and values in layers of their own: one cache may be extended, the other keeps what was filled.

    Nothing is copied. Twins share their room too, which only one of them can use at a time.
    """
    other = DynamicCache()
    other.layers = [copy(layer) for layer in cache.layers]
    return other


def expanded(cache: DynamicCache, rows: int) -> DynamicCache:
    """A cache of one row as one of several."""
    return cache_of(
        (keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in contents(cache)
    )
