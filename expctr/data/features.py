"""Vocabularies of the CTR models' fields: fitted on training rows, saved in the checkpoint, ready for the unseen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from expctr.errors import UserError

Ints = NDArray[np.int64]
PADDING, UNSEEN, FIRST = 0, 1, 2
"""Index 0 pads lists, 1 stands for every value that training rows do not hold, values start at 2."""

_SHARES = {"liked": "target", "disliked": "target"}
_HISTORY = "history"
_BUCKET = 5  # integers (year, age) are counted in fives: "1995" is 1995 to 1999


@dataclass(frozen=True)
class Vocabulary:
    """What a CTR model has to know of the data that it is built for."""

    sizes: Mapping[str, int]
    """Rows of each field's embedding table, padding and unseen included."""
    shares: Mapping[str, str] = field(default_factory=dict)
    """Field -> the field whose table it shares; such a field is still one of its own."""
    history: int = 0
    """The longest history in order, the width of `history` and `history_liked` in batches; 0 where they have none."""


class Features:
    """Turns samples into index tensors.

    Fields are `user`, `target`, the histories `liked` and `disliked` (lists, which share the vocabulary of `target`),
    and the side features `user_*` and `target_*` that hold a value in some training row; or some of these. Beside the
    fields stands the history in its order, for models that read it so: `history` holds items as `target` does, oldest
    first, and `history_liked` says of each whether it was liked.
    """

    def __init__(self, vocabularies: Mapping[str, list[str]], lists: list[str], history: int = 0) -> None:
        """Takes fitted vocabularies; see `fit`.

        Args:
            vocabularies: by field, its values in the order of their indices.
            lists: the fields that hold several values a row.
            history: the longest history kept in order; 0 for none.
        """
        self.vocabularies = dict(vocabularies)
        self.lists = list(lists)
        self.history = history

    @classmethod
    def fit(cls, samples: pl.DataFrame, fields: Sequence[str] | None = None) -> "Features":
        """Collects the values of the rows whose `split` is train.

        Args:
            samples: the table of `samples.make_samples`.
            fields: which to keep; all without it.

        Raises:
            UserError: there is no such field, or one is kept without the one whose vocabulary it shares.
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
            raise UserError("data.fields is empty: name one field or more (null keeps all)")
        if wrong := [name for name in kept if owners.get(name, name) not in vocabularies.keys() & {*kept}]:
            known = ", ".join([*vocabularies, *owners])
            raise UserError(
                f"data.fields: {', '.join(wrong)} cannot be used. There are {known}; the histories need target"
            )
        lists = [*_SHARES, *(c for c in vocabularies if samples[c].dtype == pl.List(pl.String))]
        longest = int(train[_HISTORY].list.len().max() or 0) if _HISTORY in kept else 0  # type: ignore[arg-type]
        return cls({c: v for c, v in vocabularies.items() if c in kept}, [c for c in lists if c in kept], longest)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Features":
        """The features of a checkpoint.

        Args:
            state: what `state_dict` gave.
        """
        return cls(state["vocabularies"], state["lists"], state.get("history", 0))

    @property
    def fields(self) -> list[str]:
        """All field names: those with a vocabulary, then those that share one."""
        return [*self.vocabularies, *self.shares]

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each field's embedding table, padding and unseen included; sharing fields have the shared size."""
        return {name: FIRST + len(self.vocabularies[_SHARES.get(name, name)]) for name in self.fields}

    @property
    def shares(self) -> dict[str, str]:
        """Field -> the field whose embedding table it shares."""
        return {name: owner for name, owner in _SHARES.items() if name in self.lists}

    @property
    def vocabulary(self) -> Vocabulary:
        """What a CTR model is built for."""
        return Vocabulary(self.sizes, self.shares, self.history)

    def encode(self, samples: pl.DataFrame) -> dict[str, Tensor]:
        """Looks all fields up.

        Args:
            samples: rows of the table of `samples.make_samples`.

        Returns:
            By field int64 `[rows]`, or `[rows, values]` for lists, padded with 0 to the longest. Where there are
            histories in order, `history` and `history_liked` `[rows, longest]`, the latest `longest` items, padded
            with 0 at the end; `history_liked` is 2 for liked and 1 for disliked.
        """
        encoded = {name: self._encode(name, samples[name]) for name in self.fields}
        if self.history:
            latest = samples.select(pl.col(_HISTORY, "history_liked").list.tail(self.history))
            items = _look_up(latest[_HISTORY].explode(empty_as_null=False), _index(self.vocabularies["target"]))
            marks = latest["history_liked"].explode(empty_as_null=False).to_numpy().astype(np.int64) + 1
            lengths = latest[_HISTORY].list.len().to_numpy().astype(np.int64)
            encoded[_HISTORY] = _padded(items, lengths, self.history)
            encoded["history_liked"] = _padded(marks, lengths, self.history)
        return encoded

    def check_same(self, other: "Features") -> None:
        """Checks that two fits agree, as the data of a run and its checkpoint must.

        Raises:
            UserError: they differ; the message gives each differing field's size in both.
        """
        names = dict.fromkeys([*self.vocabularies, *other.vocabularies])
        different = [
            f"{name} ({len(self.vocabularies.get(name, []))} here, {len(other.vocabularies.get(name, []))} there)"
            for name in names
            if self.vocabularies.get(name) != other.vocabularies.get(name)
        ]
        if different:
            raise UserError(
                f"vocabularies differ in values: {', '.join(different)}. Mend: use the data.path and data.samples that "
                "the checkpoint was trained with"
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for a checkpoint that is loaded with `weights_only`."""
        vocabularies = {name: list(values) for name, values in self.vocabularies.items()}
        return {"vocabularies": vocabularies, "lists": list(self.lists), "history": self.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the vocabularies of a checkpoint.

        Args:
            state: what `state_dict` gave.
        """
        self.vocabularies, self.lists = dict(state["vocabularies"]), list(state["lists"])
        self.history = state.get("history", 0)

    def _encode(self, name: str, values: pl.Series) -> Tensor:
        index = _index(self.vocabularies[_SHARES.get(name, name)])
        if name not in self.lists:
            return torch.from_numpy(_look_up(values, index))
        lengths = values.list.len().fill_null(0).to_numpy().astype(np.int64)
        found = _look_up(values.explode(empty_as_null=False, keep_nulls=False), index)
        return _padded(found, lengths, max(1, lengths.max(initial=0)))


def _padded(values: Ints, lengths: Ints, width: int) -> Tensor:
    """Rows of different lengths, one after the other in `values`, as `[rows, width]` with 0 after each one's end."""
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


def _index(values: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"value": values, "index": np.arange(FIRST, FIRST + len(values))}, schema_overrides={"value": pl.String}
    )


def _look_up(values: pl.Series, index: pl.DataFrame) -> Ints:
    found = (
        _strings(values)
        .cast(pl.String)
        .rename("value")
        .to_frame()
        .join(index, on="value", how="left", maintain_order="left")
    )
    return found["index"].fill_null(UNSEEN).to_numpy().copy()
