"""Trace the memory of code by running it on tensors without storage."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask

from expctr.llm.cpu.attention import MAX_SCORES, grouped_attention

FUSED, FLASH, CHUNKED = "counted_sdpa", "counted_without_repeats", "counted_grouped"
"""Names of two stand-ins for fused attention, which keeps no scores: with keys repeated per head, and without; and of
one for `grouped_attention`.

transformers would look for a kernel of its own under any name with "flash" in it.
"""


class Trace(TorchDispatchMode):
    """Counts the bytes of tensors that are created inside; a view counts as its base.

    Tensors from before (weights, inputs) do not count. A tensor whose last dimension is `vocab_size` counts as logits.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: Counter[str] = Counter()
        """Bytes by label at the moment of the highest total."""
        self.kernels = 0
        """Number of operators that compute or copy; views do neither."""
        self._vocab_size, self._label = vocab_size, "activations"
        self._now: Counter[str] = Counter()
        self._alive: set[int] = set()

    @contextmanager
    def label(self, name: str) -> Iterator[None]:
        """Label the tensors that are created inside."""
        before, self._label = self._label, name
        yield
        self._label = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and count its results."""
        for tensor in _tensors((args, kwargs)):
            self._add(tensor.untyped_storage(), self._label, 0)
        self.kernels += not func.is_view and func is not torch.ops.aten._unsafe_view.default
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            wide = tensor.ndim > 0 and tensor.shape[-1] == self._vocab_size
            storage = tensor.untyped_storage()
            self._add(storage, "logits" if wide else self._label, storage.nbytes())
            if self._now.total() > self.peak.total():
                self.peak = self._now.copy()
        return result

    def _add(self, storage: torch.UntypedStorage, label: str, size: int) -> None:
        """Count a storage until it is freed, after which its address may be reused."""
        if storage._cdata in self._alive:
            return
        self._alive.add(storage._cdata)
        self._now[label] += size
        weakref.finalize(storage, self._drop, storage._cdata, label, size).atexit = False

    def _drop(self, storage: int, label: str, size: int) -> None:
        self._alive.discard(storage)
        self._now[label] -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def remove_storage(module: nn.Module, fake: FakeTensorMode) -> None:
    """Replace a module's parameters and buffers by fake tensors on the CPU; shared ones stay shared."""
    made: dict[int, Any] = {}
    for child in module.modules():
        for table in (child._parameters, child._buffers):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in made:
                    new = FakeTensor(fake, torch.empty_like(tensor.detach(), device="meta"), torch.device("cpu"))
                    parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if parameter else new
                table[name] = made.get(id(tensor))


class _Fused(torch.autograd.Function):
    """Stands for a fused kernel, which keeps its inputs, its output, and a normaliser per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _fused(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    """Fused attention of padded rows. transformers repeats keys per head where there are several new tokens."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1 and query.shape[2] > 1:
        key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    return _flash(module, query, key, value, attention_mask)


def _flash(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    out: Tensor = _Fused.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def _chunked(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Grouped attention. Of many rows only the first chunk is computed: to trace each of a million would take hours."""
    batch, heads, new, _ = query.shape
    rows = max(1, MAX_SCORES // (heads * new * key.shape[2]))
    if rows >= batch or torch.is_grad_enabled():
        return grouped_attention(module, query, key, value, attention_mask, scaling, **others)
    scaled = query * 1.0  # as long as the results of all chunks, which wait for the last one
    waiting = value.new_empty(batch, heads, new, value.shape[-1])
    mask = None if attention_mask is None else attention_mask[:rows]
    grouped_attention(module, query[:rows], key[:rows], value[:rows], mask, scaling, **others)
    out = torch.empty_like(waiting).transpose(1, 2).contiguous()
    del scaled, waiting
    return out, None


for _name, _attention in ((FUSED, _fused), (FLASH, _flash)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, sdpa_mask)
AttentionInterface.register(CHUNKED, _chunked)
AttentionMaskInterface.register(CHUNKED, eager_mask)
