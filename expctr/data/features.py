"""Features of the CTR models: vocabularies and numbers of the training rows, and samples as tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from expctr.data.feature_kinds import (
    FeatureKind,
    as_kind,
    bin_of,
    has_no_value,
    kinds_of,
    mean_and_deviation,
    standardised,
    vocabulary_of,
)
from expctr.data.history_counts import different_counts, history_counts, nearest_count
from expctr.data.random_draws import Ints
from expctr.errors import UserError
from expctr.untrusted import printable

PADDING, UNSEEN, FIRST = 0, 1, 2
"""Index 0 pads lists, 1 stands for every value that is not in the training rows, values start at 2."""

_SHARES = {"liked": "target", "disliked": "target"}
_HISTORY = "history"
_T = TypeVar("_T")
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Vocabulary:
    """The fields and sizes that a CTR model is built for."""

    sizes: Mapping[str, int]
    """Field -> rows of its embedding table: for padding, for unseen values, for each value (a `number` has one row for
    all of them), and for missing values if they have an index."""
    shares: Mapping[str, str] = field(default_factory=dict)
    """Field -> the field whose embedding table it shares."""
    history: int = 0
    """Length of the longest history, the width of `history` and `history_liked` in batches; 0 if batches have none."""


class Features:
    """Turns samples into tensors: of indices, and of numbers.

    Fields are `user`, `target`, the histories `liked` and `disliked` (lists, which share the vocabulary of `target`),
    and the side features `user_*` and `target_*` that have a value in some training row; or a selection of these. The
    numbers of `history_counts` may join them. For sequential models there is also the history in its order: `history`
    holds item indices as in `target`, oldest first, and `history_liked` whether each was liked.

    Missing values of a side feature with a kind (`feature_kinds`) have an index of their own, the last one, if training
    rows have some; otherwise they count as unseen. Side features without a kind are whole numbers, read in steps of
    five, strings, and lists of strings. Their missing values count as unseen, and missing lists as empty.
    """

    def __init__(
        self,
        vocabularies: Mapping[str, list[str]],
        lists: Sequence[str],
        history: int = 0,
        kinds: Mapping[str, FeatureKind] = _NONE,
        numbers: Mapping[str, list[float]] = _NONE,
        missing: Sequence[str] = (),
    ) -> None:
        """Takes what `fit` finds in the training rows.

        Args:
            vocabularies: each field's values in the order of their indices; of `quantiles`, the bins' lower bounds.
            lists: the fields that hold several values per row.
            history: the length of the longest history; 0 for none.
            kinds: the kinds of the side features that have one.
            numbers: mean and standard deviation of the fields of the kind `number`.
            missing: the fields whose missing values have an index.
        """
        self.vocabularies, self.numbers, self.kinds = dict(vocabularies), dict(numbers), dict(kinds)
        self.lists, self.missing, self.history = list(lists), list(missing), history

    @classmethod
    def fit(
        cls,
        samples: pl.DataFrame,
        fields: Sequence[str] | None = None,
        with_counts: bool = False,
        kinds: Mapping[str, FeatureKind] = _NONE,
    ) -> "Features":
        """Collects the values of the training rows of `samples.make_samples`, for some fields or all.

        Args:
            samples: the samples of all splits.
            fields: names of the fields; `None` for all.
            with_counts: add the numbers of `history_counts`.
            kinds: kinds of side features, by column (`target_price`), in place of those by type.

        Raises:
            UserError: no such field, or the field whose vocabulary it shares is not kept.
        """
        train = samples.filter(split="train")
        side = [c for c in samples.columns if c.startswith(("user_", "target_", "context_")) and c != "target_title"]
        items = pl.concat([train["target"], *(train[name].explode() for name in _SHARES)])
        items = items.replace("", None)  # a title that is no one item's: unseen, as typed titles are
        vocabularies = {"user": vocabulary_of(train["user"]), "target": vocabulary_of(items)}
        read_as = kinds_of(samples.select(side), kinds)
        columns = {name: as_kind(train[name], kind) for name, kind in read_as.items()}
        known_kinds = {name: kind for name, kind in read_as.items() if kind is not None}
        vocabularies |= {c: known for c, v in columns.items() if (known := vocabulary_of(v, read_as[c]))}
        numbers = {c: scale for c, v in columns.items() if read_as[c] == "number" and (scale := mean_and_deviation(v))}
        owners = {**_SHARES, _HISTORY: "target"}
        available = [*vocabularies, *numbers, *owners]
        if empty := [name for name in known_kinds if name not in available]:
            names = printable(", ".join(empty))
            rank_zero_warn(f"no training row has a value of {names}: the CTR models do not see it")
        kept = available if fields is None else fields
        if not kept:
            raise UserError("data.fields is empty. Fix: name at least one field, or set it to null, which keeps all")
        if wrong := [name for name in kept if owners.get(name, name) not in {*vocabularies, *numbers} & {*kept}]:
            raise UserError(
                f"data.fields: {', '.join(wrong)} cannot be used. Fix: choose from {', '.join(available)}; liked, "
                "disliked and history need target"
            )
        lists = [*_SHARES, *(name for name, values in columns.items() if values.dtype == pl.List(pl.String))]
        missing = [name for name in known_kinds if has_no_value(columns[name]).any()]
        counts = history_counts(train) if with_counts else {}
        return cls(
            _only(kept, vocabularies) | {name: different_counts(count) for name, count in counts.items()},
            [name for name in lists if name in kept],
            int(train[_HISTORY].list.len().max() or 0) if _HISTORY in kept else 0,  # type: ignore[arg-type]
            _only(kept, known_kinds),
            _only(kept, numbers),
            [name for name in missing if name in kept],
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Features":
        """Restores the features of a checkpoint."""
        since = {name: state[name] for name in ("history", "kinds", "numbers", "missing") if name in state}
        return cls(state["vocabularies"], state["lists"], **since)

    @property
    def fields(self) -> list[str]:
        """All field names: those with a vocabulary, numbers, then those that share a vocabulary."""
        return [*self.vocabularies, *self.numbers, *self.shares]

    @property
    def sizes(self) -> dict[str, int]:
        values = {name: len(known) for name, known in self.vocabularies.items()} | dict.fromkeys(self.numbers, 1)
        return {name: FIRST + values[_SHARES.get(name, name)] + (name in self.missing) for name in self.fields}

    def missing_index(self, name: str) -> int:
        """The index of a field's missing values."""
        return self.sizes[name] - 1 if name in self.missing else UNSEEN

    @property
    def shares(self) -> dict[str, str]:
        return {name: owner for name, owner in _SHARES.items() if name in self.lists}

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.sizes, self.shares, self.history)

    def encode(self, samples: pl.DataFrame) -> dict[str, Tensor]:
        """Looks up the index of every value, and standardises numbers.

        Returns:
            Field -> int64 `[rows]`, or `[rows, values]` for lists, padded with 0; float32 `[rows]` for numbers, NaN
            where they are missing. If `history` is above 0, also `history` and `history_liked` `[rows, history]`: the
            latest items, padded with 0 at the end; `history_liked` is 2 for liked and 1 for disliked.
        """
        counts = history_counts(samples)
        encoded = {
            name: torch.from_numpy(FIRST + nearest_count(counts[name], self.vocabularies[name]))  # -1: unseen
            if name in counts
            else self._encode(name, samples[name])
            for name in self.fields
        }
        if self.history:
            latest = samples.select(pl.col(_HISTORY, "history_liked").list.tail(self.history))
            items = _look_up(latest[_HISTORY].explode(empty_as_null=False), self.vocabularies["target"])
            marks = latest["history_liked"].explode(empty_as_null=False).to_numpy().astype(np.int64) + 1
            lengths = latest[_HISTORY].list.len().to_numpy()
            encoded[_HISTORY] = _padded(items, lengths, self.history)
            encoded["history_liked"] = _padded(marks, lengths, self.history)
        return encoded

    def check_same(self, other: "Features") -> None:
        """Raises UserError if the vocabularies or numbers of the data differ from those of a checkpoint (`other`)."""
        names = dict.fromkeys([*self.vocabularies, *self.numbers, *other.vocabularies, *other.numbers])
        different = [
            f"{name} ({self._described(name)} in the data, {other._described(name)} in the checkpoint)"
            for name in names
            if self._known_of(name) != other._known_of(name)
        ]
        if different:
            kinds = ", data.features" if self.kinds or other.kinds else ""
            raise UserError(
                f"the vocabularies of the data and of the checkpoint differ in values: {', '.join(different)}. Fix: "
                f"use the data.path, data.samples, data.fields{kinds} and data.history_counts with which the "
                "checkpoint was trained"
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, for a checkpoint that is loaded with `weights_only`."""
        fitted = {"kinds": self.kinds, "numbers": self.numbers, "missing": self.missing}
        return {"vocabularies": self.vocabularies, "lists": self.lists, "history": self.history, **fitted}

    def _known_of(self, name: str) -> tuple[object, ...]:
        """What the training rows have of a field."""
        return self.kinds.get(name), self.vocabularies.get(name), self.numbers.get(name), name in self.missing

    def _described(self, name: str) -> str:
        """The same in a few words, for messages."""
        kind = f"{self.kinds[name]}: " if name in self.kinds else ""
        size = str(len(self.vocabularies.get(name, [])))
        if name in self.numbers:
            size = "mean {:g}, standard deviation {:g}".format(*self.numbers[name])
        return f"{kind}{size}{', some missing' * (name in self.missing)}"

    def _encode(self, name: str, values: pl.Series) -> Tensor:
        kind = self.kinds.get(name)
        values = as_kind(values, kind)
        if kind == "number":
            return torch.from_numpy(standardised(values, *self.numbers[name]))
        vocabulary = self.vocabularies[_SHARES.get(name, name)]
        if name in self.lists:
            lengths = values.list.len().fill_null(0).to_numpy()
            found = _look_up(values.explode(empty_as_null=False, keep_nulls=False), vocabulary)
            index = _padded(found, lengths, int(lengths.max(initial=1)))
        else:
            place = FIRST + bin_of(values, vocabulary) if kind == "quantiles" else _look_up(values, vocabulary)
            index = torch.from_numpy(place)
        if kind:
            first = index if index.ndim == 1 else index[:, 0]
            first[has_no_value(values).to_torch()] = self.missing_index(name)
        return index


def _only(names: Sequence[str], values: Mapping[str, _T]) -> dict[str, _T]:
    return {name: value for name, value in values.items() if name in names}


def _padded(values: Ints, lengths: NDArray[np.uint32], width: int) -> Tensor:
    """Rows of different lengths, concatenated in `values`, as `[rows, width]` with 0 after the end of each."""
    padded = np.full((lengths.size, width), PADDING, dtype=np.int64)
    padded[np.arange(width) < lengths[:, None]] = values
    return torch.from_numpy(padded)


def _look_up(values: pl.Series, vocabulary: list[str]) -> Ints:
    index = pl.int_range(FIRST, FIRST + len(vocabulary), eager=True)
    found = values.cast(pl.String).replace_strict(pl.Series(vocabulary, dtype=pl.String), index, default=UNSEEN)
    return found.to_numpy().copy()
