"""Vocabularies of the CTR models' fields: fitted on training rows, saved in the checkpoint, ready for the unseen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from expctr.errors import UserError

PADDING, UNSEEN, FIRST = 0, 1, 2
"""Index 0 pads lists, 1 stands for every value that training rows do not hold, values start at 2."""

_SHARES = {"liked": "target", "disliked": "target"}
_BUCKET = 5  # integers (year, age) are counted in fives: "1995" is 1995 to 1999


class Features:
    """Turns samples into index tensors.

    Fields are `user`, `target`, the histories `liked` and `disliked` (lists, which share the vocabulary of `target`),
    and the side features `user_*` and `target_*` that hold a value in some training row; or some of these.
    """

    def __init__(self, vocabularies: Mapping[str, list[str]], lists: list[str]) -> None:
        """Takes fitted vocabularies; see `fit`.

        Args:
            vocabularies: by field, its values in the order of their indices.
            lists: the fields that hold several values a row.
        """
        self.vocabularies = dict(vocabularies)
        self.lists = list(lists)

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
        kept = [*vocabularies, *_SHARES] if fields is None else fields
        if wrong := [name for name in kept if _SHARES.get(name, name) not in vocabularies.keys() & {*kept}]:
            known = ", ".join([*vocabularies, *_SHARES])
            raise UserError(
                f"data.fields: {', '.join(wrong)} cannot be used. There are {known}; the histories need target"
            )
        lists = [*_SHARES, *(c for c in vocabularies if samples[c].dtype == pl.List(pl.String))]
        return cls({c: v for c, v in vocabularies.items() if c in kept}, [c for c in lists if c in kept])

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Features":
        """The features of a checkpoint.

        Args:
            state: what `state_dict` gave.
        """
        return cls(state["vocabularies"], state["lists"])

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

    def encode(self, samples: pl.DataFrame) -> dict[str, Tensor]:
        """Looks all fields up.

        Args:
            samples: rows of the table of `samples.make_samples`.

        Returns:
            By field int64 `[rows]`, or `[rows, values]` for lists, padded with 0 to the longest.
        """
        return {name: self._encode(name, samples[name]) for name in self.fields}

    def encode_unknown(self, rows: int) -> dict[str, Tensor]:
        """The fields of people and items that are known by their titles alone: all unseen.

        Args:
            rows: how many.

        Returns:
            As `encode`; lists have one value.
        """
        return {name: torch.full((rows, 1) if name in self.lists else (rows,), UNSEEN) for name in self.fields}

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
        return {"vocabularies": {k: list(v) for k, v in self.vocabularies.items()}, "lists": list(self.lists)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the vocabularies of a checkpoint.

        Args:
            state: what `state_dict` gave.
        """
        self.vocabularies, self.lists = dict(state["vocabularies"]), list(state["lists"])

    def _encode(self, name: str, values: pl.Series) -> Tensor:
        index = _index(self.vocabularies[_SHARES.get(name, name)])
        if name not in self.lists:
            return torch.from_numpy(_look_up(values, index))
        length = values.list.len().fill_null(0).to_numpy().astype(np.int64)
        padded = np.full((values.len(), max(1, length.max(initial=0))), PADDING, dtype=np.int64)
        row = np.repeat(np.arange(values.len()), length)
        column = np.arange(row.size) - np.repeat(np.cumsum(length) - length, length)
        padded[row, column] = _look_up(values.explode(empty_as_null=False, keep_nulls=False), index)
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


def _look_up(values: pl.Series, index: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    found = (
        _strings(values)
        .cast(pl.String)
        .rename("value")
        .to_frame()
        .join(index, on="value", how="left", maintain_order="left")
    )
    return found["index"].fill_null(UNSEEN).to_numpy().copy()
