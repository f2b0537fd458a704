"""Features of the CTR models: vocabularies fitted on training rows, and samples as index tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from expctr.data.random_draws import Ints
from expctr.errors import UserError

PADDING, UNSEEN, FIRST = 0, 1, 2
"""Index 0 pads lists, 1 stands for every value that is not in the training rows, values start at 2."""

_SHARES = {"liked": "target", "disliked": "target"}
_HISTORY = "history"
_COUNTS = ("history_count", "history_liked_count", "history_liked_share")
_STEPS = 20  # the share of liked titles is rounded to multiples of 1 / 20
_BUCKET = 5  # width for integers (year, age): "1995" stands for 1995 to 1999


@dataclass(frozen=True)
class Vocabulary:
    """The fields and sizes that a CTR model is built for."""

    sizes: Mapping[str, int]
    """Field -> rows of its embedding table, with those for padding and unseen values."""
    shares: Mapping[str, str] = field(default_factory=dict)
    """Field -> the field whose embedding table it shares."""
    history: int = 0
    """Length of the longest history, the width of `history` and `history_liked` in batches; 0 if batches have none."""


class Features:
    """Turns samples into index tensors.

    Fields are `user`, `target`, the histories `liked` and `disliked` (lists, which share the vocabulary of `target`),
    and the side features `user_*` and `target_*` that have a value in some training row; or a selection of these. The
    numbers of `history_counts` may join them. For sequential models there is also the history in its order: `history`
    holds item indices as in `target`, oldest first, and `history_liked` whether each was liked.
    """

    def __init__(self, vocabularies: Mapping[str, list[str]], lists: list[str], history: int = 0) -> None:
        """Takes what `fit` finds: each field's values in the order of their indices, the fields that hold several
        values per row, and the length of the longest history (0 for none).
        """
        self.vocabularies = dict(vocabularies)
        self.lists = list(lists)
        self.history = history

    @classmethod
    def fit(cls, samples: pl.DataFrame, fields: Sequence[str] | None = None, with_counts: bool = False) -> "Features":
        """Collects the values of the training rows of `samples.make_samples`, for some fields or all.

        Args:
            samples: the samples of all splits.
            fields: names of the fields; `None` for all.
            with_counts: add the numbers of `history_counts`.

        Raises:
            UserError: no such field, or the field whose vocabulary it shares is not kept.
        """
        train = samples.filter(split="train")
        side = [c for c in samples.columns if c.startswith(("user_", "target_")) and c != "target_title"]
        vocabularies = {
            "user": _distinct(train["user"]),
            "target": _distinct(train["target"], train["liked"], train["disliked"]),
        }
        vocabularies |= {c: values for c in side if (values := _distinct(train[c]))}
        owners = {**_SHARES, _HISTORY: "target"}
        kept = [*vocabularies, *owners] if fields is None else fields
        if not kept:
            raise UserError("data.fields is empty. Fix: name at least one field, or set it to null, which keeps all")
        if wrong := [name for name in kept if owners.get(name, name) not in vocabularies.keys() & {*kept}]:
            known = ", ".join([*vocabularies, *owners])
            raise UserError(
                f"data.fields: {', '.join(wrong)} cannot be used. Fix: choose from {known}; liked, disliked and "
                "history need target"
            )
        lists = [*_SHARES, *(c for c in vocabularies if samples[c].dtype == pl.List(pl.String))]
        longest = int(train[_HISTORY].list.len().max() or 0) if _HISTORY in kept else 0  # type: ignore[arg-type]
        chosen = {c: v for c, v in vocabularies.items() if c in kept}
        if with_counts:
            chosen |= {name: _distinct_numbers(numbers) for name, numbers in history_counts(train).items()}
        return cls(chosen, [c for c in lists if c in kept], longest)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Features":
        """Restores the features of a checkpoint."""
        return cls(state["vocabularies"], state["lists"], state.get("history", 0))

    @property
    def fields(self) -> list[str]:
        """All field names: those with a vocabulary, then those that share one."""
        return [*self.vocabularies, *self.shares]

    @property
    def sizes(self) -> dict[str, int]:
        return {name: FIRST + len(self.vocabularies[_SHARES.get(name, name)]) for name in self.fields}

    @property
    def shares(self) -> dict[str, str]:
        return {name: owner for name, owner in _SHARES.items() if name in self.lists}

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.sizes, self.shares, self.history)

    def encode(self, samples: pl.DataFrame) -> dict[str, Tensor]:
        """Looks up the index of every value.

        Returns:
            Field -> int64 `[rows]`, or `[rows, values]` for lists, padded with 0. If `history` is above 0, also
            `history` and `history_liked` `[rows, history]`: the latest items, padded with 0 at the end;
            `history_liked` is 2 for liked and 1 for disliked.
        """
        counts = history_counts(samples)
        encoded = {
            name: _nearest(counts[name], self.vocabularies[name])
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
        """Raises UserError if the vocabularies of the data differ from those of a checkpoint (`other`)."""
        mine, theirs = self.vocabularies, other.vocabularies
        different = [
            f"{name} ({len(mine.get(name, []))} in the data, {len(theirs.get(name, []))} in the checkpoint)"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]
        if different:
            raise UserError(
                f"the vocabularies of the data and of the checkpoint differ in values: {', '.join(different)}. Fix: "
                "use the data.path, data.samples, data.fields and data.history_counts with which the checkpoint was "
                "trained"
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for a checkpoint that is loaded with `weights_only`."""
        return {"vocabularies": self.vocabularies, "lists": self.lists, "history": self.history}

    def _encode(self, name: str, values: pl.Series) -> Tensor:
        vocabulary = self.vocabularies[_SHARES.get(name, name)]
        if name not in self.lists:
            return torch.from_numpy(_look_up(values, vocabulary))
        lengths = values.list.len().fill_null(0).to_numpy()
        found = _look_up(values.explode(empty_as_null=False, keep_nulls=False), vocabulary)
        return _padded(found, lengths, int(lengths.max(initial=1)))


def history_counts(samples: pl.DataFrame) -> dict[str, pl.Series]:
    """Numbers that describe each row's own history, as the prompt shows it; nothing of the target or of later rows.

    Returns:
        float64 `[rows]`: `history_count`, the number of its titles; `history_liked_count`, the number of liked ones;
        `history_liked_share`, the share of liked ones in steps of 0.05, NaN for an empty history.
    """
    liked, disliked = (samples[name].list.len().fill_null(0).cast(pl.Float64) for name in ("liked", "disliked"))
    count = liked + disliked
    share = (liked / count * _STEPS).round() / _STEPS
    return dict(zip(_COUNTS, (count, liked, share), strict=True))


def _padded(values: Ints, lengths: NDArray[np.uint32], width: int) -> Tensor:
    """Rows of different lengths, concatenated in `values`, as `[rows, width]` with 0 after the end of each."""
    padded = np.full((lengths.size, width), PADDING, dtype=np.int64)
    padded[np.arange(width) < lengths[:, None]] = values
    return torch.from_numpy(padded)


def _strings(values: pl.Series) -> pl.Series:
    if values.dtype == pl.List(pl.String):
        values = values.explode()
    return (values // _BUCKET * _BUCKET).cast(pl.String) if values.dtype.is_integer() else values


def _distinct(*columns: pl.Series) -> list[str]:
    values = pl.concat([_strings(column).rename("") for column in columns])
    return values.drop_nulls().unique().sort().to_list()


def _distinct_numbers(numbers: pl.Series) -> list[str]:
    """In rising order; NaN is the last."""
    return [f"{number:g}" for number in np.unique(numbers.to_numpy())]


def _nearest(numbers: pl.Series, vocabulary: list[str]) -> Tensor:
    """The index of the nearest known number; of two equally near ones, the lower. NaN has only itself.

    Unlike ages and years, these numbers are few, so each keeps a place of its own.
    """
    found, known = numbers.to_numpy(), np.array(vocabulary, dtype=np.float64)
    finite = known[~np.isnan(known)]
    index = np.full(found.size, UNSEEN, dtype=np.int64)
    if finite.size:
        index = FIRST + np.searchsorted((finite[1:] + finite[:-1]) / 2, found)
    index[np.isnan(found)] = FIRST + finite.size if finite.size < known.size else UNSEEN
    return torch.from_numpy(index)


def _look_up(values: pl.Series, vocabulary: list[str]) -> Ints:
    index = pl.int_range(FIRST, FIRST + len(vocabulary), eager=True)
    found = (
        _strings(values).cast(pl.String).replace_strict(pl.Series(vocabulary, dtype=pl.String), index, default=UNSEEN)
    )
    return found.to_numpy().copy()
