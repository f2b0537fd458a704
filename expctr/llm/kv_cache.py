"""KV caches (keys and values): one that can be extended without copying, and views of caches that share storage."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

BLOCK = 16
"""Free positions that responses to a shared prompt get at a time: attention reads them, too."""


class PreallocatedLayer(DynamicLayer):
    """A cache layer with free positions: a new token is written in place, where the base class copies all tokens.

    Attention gets the free positions too, and its causal mask hides them: a slice of the storage would be copied for
    the matrix product.

    Args:
        keys: any keys of the layer, for their shape and dtype; likewise `values`.
        batch: number of rows.
        length: number of positions that are filled first, before `room` free ones.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, batch: int, length: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = (x.new_zeros(batch, x.shape[1], length + room, x.shape[3]) for x in (keys, values))
        self._length = length

    def put(self, rows: Sequence[int], keys: Tensor, values: Tensor, prefix: int, width: int) -> None:
        """Write some rows: `prefix` positions on the left, and the other `width` positions on the right."""
        where, end = tensor(rows, device=keys.device), self._length
        for mine, theirs in ((self.keys, keys), (self.values, values)):
            mine[where, :, :prefix] = theirs[:, :, :prefix]
            mine[where, :, end - width : end] = theirs[:, :, prefix:]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new tokens into free positions, of which there must be enough; without gradient."""
        start, self._length = self._length, self._length + key_states.shape[2]
        self.keys[:, :, start : self._length] = key_states
        self.values[:, :, start : self._length] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0


class SharedPrompt(NamedTuple):
    """Keys, or values, of some responses: those of a prompt's tokens once for all its responses."""

    prompt: Tensor  # [prompts, groups, positions, head_dim]
    own: Tensor  # of each response's own tokens, [rows, groups, positions, head_dim]
    slots: Tensor  # of each response among all `prompts * responses`, [rows]
    responses: int  # per prompt


class SharedPromptLayer(DynamicLayer):
    """A cache layer for several responses per prompt, which holds each prompt once. `grouped_attention` can read it.

    Args:
        keys: of the prompts' tokens, `[prompts, groups, positions, head_dim]`; likewise `values`.
        responses: per prompt.
    """

    def __init__(self, keys: Tensor, values: Tensor, responses: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self._prompts, self._responses, self._length = [keys, values], responses, 0
        rows = len(keys) * responses
        self._own = [x.new_zeros(rows, x.shape[1], 0, x.shape[3]) for x in (keys, values)]
        self._slots = torch.arange(rows, device=keys.device)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Write new tokens into free positions, which are added in blocks; without gradient."""
        start, self._length = self._length, self._length + key_states.shape[2]
        if missing := max(0, _whole_blocks(self._length) - self._own[0].shape[2]):
            self._own = [F.pad(own, (0, 0, 0, missing)) for own in self._own]
        for own, new in zip(self._own, (key_states, value_states), strict=True):
            own[:, :, start : self._length] = new
        parts = zip(self._prompts, self._own, strict=True)
        return tuple(SharedPrompt(prompt, own, self._slots, self._responses) for prompt, own in parts)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some responses. Prompts without any are dropped once they are half of all, so that little is copied."""
        self._own, self._slots = [own[indices] for own in self._own], self._slots[indices]
        used, place = (self._slots // self._responses).unique(return_inverse=True)
        if 2 * len(used) <= len(self._prompts[0]):
            self._prompts = [prompt[used] for prompt in self._prompts]
            self._slots = place * self._responses + self._slots % self._responses

    def get_seq_length(self) -> int:
        return self._prompts[0].shape[2] + self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._prompts[0].shape[2] + _whole_blocks(self._length + query_length), 0


def _whole_blocks(positions: int) -> int:
    return -(-positions // BLOCK) * BLOCK


def keys_and_values(cache: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    """Filled keys and values of each layer, `[rows, heads, positions, head_dim]` each, without tokens added later."""
    for layer in cast(list[Any], cache.layers):
        filled = layer.get_seq_length()
        yield layer.keys[:, :, :filled], layer.values[:, :, :filled]


def make_cache(layers: Iterator[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache of given keys and values. They are not copied, and extending the cache does not change them."""
    cache = DynamicCache()
    for keys, values in layers:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def share_prompts(cache: DynamicCache, responses: int) -> DynamicCache:
    """A cache for several responses to each prompt of a cache, which is not copied."""
    shared = DynamicCache()
    shared.layers = [SharedPromptLayer(*layer, responses) for layer in keys_and_values(cache)]
    return shared


def share_cache(cache: DynamicCache) -> DynamicCache:
    """A second cache over the same storage: either may be extended, and the other keeps its length.

    Free positions are shared too, so only one of the two can use them at a time.
    """
    other = DynamicCache()
    other.layers = [copy(layer) for layer in cache.layers]
    return other


def select_rows(cache: Cache, rows: Tensor) -> None:
    """Keep some rows of a cache, in any of its layers."""
    for layer in cast(list[Any], cache.layers):
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            cast(Any, layer).reorder_cache(rows)  # it may drop rows, too
        else:
            layer.batch_select_indices(rows)
