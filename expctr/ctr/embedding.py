"""Embedding of fields: from indices and numbers to one vector per field."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.data.features import FIRST, PADDING, UNSEEN

_PRIME = 2_654_435_761  # Knuth's multiplicative hash: 2**32 over the golden ratio


class FieldEmbeddings(nn.Module):
    """One embedding vector per field; fields with several values (genres, histories) are mean-pooled.

    All fields share one table, which a single lookup reads: this is faster than many small lookups. Padding gives zeros
    and gets no gradient. A row without a value in a field gets zeros there.

    While training, each index is replaced by the field's OOV index with probability `oov_rate`. So the OOV row, which
    stands for new users and items at inference, is trained. The draws come from torch's global generator.

    A number stands for the index 2 of its field, whose vector is multiplied by it. NaN, a missing number, stands for
    the index 3, or for OOV if the field has no index 3.

    A field of more values than `max_rows` keeps that many rows, which its values share by a hash ("feature hashing",
    Weinberger et al., ICML 2009). Tables, gradients and Adam's moments then do not grow with the vocabulary. Padding
    and OOV keep rows of their own.

    Args:
        sizes: rows of each field's table, among them 0 (padding) and 1 (OOV).
        shares: fields that read another field's rows, such as `{"liked": "target"}`. Each is still a field of its own
            in the output. It may be left out of `sizes`.
        dim: length of a vector.
        oov_rate: probability in [0, 1) of replacing an index while training.
        max_rows: limit of the rows per field, at least 3; `None` for one row per value.

    Raises:
        ValueError: a field shares the table of an unknown field, or its size differs from that table's.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        shares: Mapping[str, str],
        dim: int,
        oov_rate: float = 0.02,
        max_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.names: tuple[str, ...] = (*sizes, *(name for name in shares if name not in sizes))
        self.oov_rate, self.max_rows = oov_rate, max_rows
        start = 1  # row 0 is the padding of all fields
        starts: dict[str, int] = {}
        for name, size in sizes.items():
            if name not in shares:
                starts[name] = start - 1  # index 1 of the field is the row `start`
                start += min(size, max_rows or size) - 1
        for name, owner in shares.items():
            if owner not in starts:
                raise ValueError(f"field {name!r} shares the table of {owner!r}, which has none: {sorted(starts)}")
            if sizes.get(name, sizes[owner]) != sizes[owner]:
                raise ValueError(f"field {name!r} has {sizes[name]} rows, but shares {owner!r} with {sizes[owner]}")
        self._start = {name: starts[shares.get(name, name)] for name in self.names}
        self._size = {name: sizes[shares.get(name, name)] for name in self.names}
        self._known: dict[tuple[tuple[int, ...], torch.device], _Columns] = {}
        self.weight = nn.Parameter(torch.empty(start, dim))
        nn.init.xavier_normal_(self.weight)  # as in RecBole
        with torch.no_grad():
            self.weight[PADDING].zero_()

    def layout(self) -> dict[str, dict[str, int]]:
        """Where each field's rows are, for readers of the table that do not use this class.

        By field: `size`, its number of indices; `rows`, the number of rows that these share; and `start`: an index i of
        1 or more (hashed first, where `size` is above `rows`) reads the row `start` + i.
        """
        return {
            name: {"start": self._start[name], "size": size, "rows": min(size, self.max_rows or size)}
            for name, size in self._size.items()
        }

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Look up and pool: `[batch, fields, dim]`, fields in the order of `names`.

        Args:
            features: int64 `[batch]`, or `[batch, values]` with 0 as padding, or numbers `[batch]`, for every field;
                others are ignored.

        Raises:
            KeyError: a field is missing.
            IndexError: an index lies outside its field's table.
        """
        if missing := [name for name in self.names if name not in features]:
            raise KeyError(f"the batch lacks the fields {missing}; it has {sorted(features)}")
        parts = [self._indices(name, features[name]) for name in self.names]
        index = torch.cat(parts, dim=1)
        columns = self._columns(tuple(part.shape[1] for part in parts), index.device)
        self._check(index, columns)

        there = (index != PADDING).flatten().nonzero()[:, 0]  # most columns of a history are padding
        shown = self._hide(index)
        row = self._hashed(shown, columns.size) + columns.start
        bag = columns.field + len(self.names) * torch.arange(len(index), device=index.device)[:, None]
        row, bag = row.flatten().index_select(0, there), bag.flatten().index_select(0, there)
        vectors = self.weight.index_select(0, row)
        if any(features[name].is_floating_point() for name in self.names):
            vectors = vectors * self._factors(features, parts, shown).flatten().index_select(0, there)[:, None]
        # twice as fast as embedding_bag, whose backward pass sorts
        bags, dim = len(index) * len(self.names), self.weight.shape[1]
        summed = self.weight.new_zeros(bags, dim).index_add(0, bag, vectors)
        count = self.weight.new_zeros(bags, 1).index_add(0, bag, self.weight.new_ones(len(bag), 1))
        return (summed / count.clamp_min(1)).view(len(index), len(self.names), dim)

    def look_up(self, name: str, index: Tensor) -> Tensor:
        """Vectors of one field's values, without pooling; int64 `[...]` -> `[..., dim]`, zeros at padding (index 0).

        Raises:
            IndexError: an index lies outside the field's table.
        """
        limit = self._size[name]
        if bool(((index < 0) | (index >= limit)).any()):
            raise IndexError(f"field {name!r} holds index {int(index.max())}, but its table has {limit} rows")
        index = self._hashed(self._hide(index), limit)
        rows = torch.where(index == PADDING, PADDING, index + self._start[name])
        return F.embedding(rows, self.weight, padding_idx=PADDING)

    def _indices(self, name: str, values: Tensor) -> Tensor:
        """The indices of a field's values, `[batch, values]`."""
        if values.is_floating_point():
            values = torch.where(values.isnan(), FIRST + 1 if self._size[name] > FIRST + 1 else UNSEEN, FIRST)
        return values if values.ndim == 2 else values[:, None]

    def _factors(self, features: Mapping[str, Tensor], parts: list[Tensor], shown: Tensor) -> Tensor:
        """What each vector is multiplied by, `[batch, columns]`: the number where one is shown, 1 elsewhere."""
        given = [features[name] for name in self.names]
        factors = [
            values[:, None] if values.is_floating_point() else torch.ones_like(part, dtype=self.weight.dtype)
            for values, part in zip(given, parts, strict=True)
        ]
        return torch.cat(factors, dim=1).to(self.weight.dtype).where(shown == FIRST, 1)

    def _hide(self, index: Tensor) -> Tensor:
        if not self.training or self.oov_rate == 0:
            return index
        hidden = (torch.rand(index.shape, device=index.device) < self.oov_rate) & (index != PADDING)
        return index.masked_fill(hidden, UNSEEN)

    def _hashed(self, index: Tensor, size: Tensor | int) -> Tensor:
        if self.max_rows is None:
            return index
        spread = FIRST + (index * _PRIME & 0xFFFFFFFF) % (self.max_rows - FIRST)
        return torch.where((index >= FIRST) & (size > self.max_rows), spread, index)

    def _columns(self, widths: tuple[int, ...], device: torch.device) -> "_Columns":
        if (widths, device) not in self._known:
            field = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
            start, size = (torch.tensor([of[name] for name in self.names])[field] for of in (self._start, self._size))
            self._known[widths, device] = _Columns(field.to(device), start.to(device), size.to(device))
        return self._known[widths, device]

    def _check(self, index: Tensor, columns: "_Columns") -> None:
        """Refuse an index outside its field's table: it would read another field's rows."""
        wrong = (index < 0) | (index >= columns.size)
        if bool(wrong.any()):
            column = int(wrong.any(0).nonzero()[0])
            name, found = self.names[int(columns.field[column])], int(index[:, column][wrong[:, column]][0])
            raise IndexError(f"field {name!r} holds index {found}, but its table has {self._size[name]} rows")


class _Columns(NamedTuple):
    """The columns of a batch's fields, side by side; each tensor is `[columns]`."""

    field: Tensor  # the number of its field
    start: Tensor  # what is added to an index to get its row in the table
    size: Tensor  # the number of indices of its field


class HistoryVectors(nn.Module):
    """A history in its order: each item's vector, plus a mark that says whether it was liked (zeros at first)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.marks = nn.Embedding(3, dim, padding_idx=PADDING)
        nn.init.zeros_(self.marks.weight)

    def forward(self, fields: FieldEmbeddings, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors `[batch, history, dim]`, zeros at padding, and the lengths `[batch]`.

        Args:
            fields: holds the items' vectors, as its field `target`.
            features: with `history` (items, oldest first, padded with 0 at the end) and `history_liked` (1 for
                disliked, 2 for liked), int64 `[batch, history]`.
        """
        items = features["history"]
        return fields.look_up("target", items) + self.marks(features["history_liked"]), (items != PADDING).sum(1)
