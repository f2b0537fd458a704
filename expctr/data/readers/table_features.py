"""Side features of tables of one's own: which columns they are, and of which kind."""

from collections.abc import Sequence
from typing import get_args

import polars as pl

from expctr.data.feature_kinds import FeatureKind, kind_of
from expctr.data.readers.snapshots import SNAPSHOT, SNAPSHOT_TEXT
from expctr.data.readers.sources import Source, raw
from expctr.data.readers.values import as_key, as_keys, as_label, as_number, is_bad_list, is_json_list, is_missing
from expctr.errors import DataError

_RESERVED = {
    *("user", "item", "title", "rating", "timestamp", "review", "split"),
    *("row", "line", "problem", "column", "file", "place", "seen", "other_titles", SNAPSHOT, SNAPSHOT_TEXT, "*"),
}
_FEW = 100  # rows, of which each may well have another value


def feature_name(column: str) -> str:
    """What a column is called as a feature: a name that means something else to samples or to polars gets a `_`."""
    is_pattern = column.startswith("^") and column.endswith("$")
    return f"{column}_" if column in _RESERVED or is_pattern else column


def find_kinds(
    source: Source, names: Sequence[str], skipped: dict[str, str], remarks: dict[str, str]
) -> dict[str, FeatureKind]:
    """The kind of each column, by type, and for texts by content.

    Texts are numbers or booleans only in text files, and lists in any file.

    Args:
        source: the table.
        names: the columns.
        skipped: gets the columns that are left out, with the reason.
        remarks: gets the columns of numbers in which something is written otherwise (`$1.99`, `1,50`), with an example.
    """
    kinds = {name: kind for name in names if (kind := kind_of(source.schema[name]))}
    skipped.update({name: f"of type {source.schema[name]}"[:120] for name in names if name not in kinds})
    texts = [name for name in kinds if source.schema[name] == pl.String]
    if not texts:
        return kinds
    about = {name: _content(raw(name), f"{i} ") for i, name in enumerate(texts)}
    counts = source.table.frame.select(*(expr for found in about.values() for expr in found))
    found = counts.collect(engine="streaming").row(0, named=True)
    for i, name in enumerate(texts):
        filled, numbers, truths, lists, different, alike, odd = (found[f"{i} {what}"] for what in _ABOUT)
        if source.is_text and alike > filled / 2 and numbers < filled:
            remarks[name] = f"; not a number: {odd[:60]!r}"
        if not filled:
            skipped[name] = "empty"
        elif source.is_text and truths == filled:
            kinds[name] = "boolean"
        elif source.is_text and numbers == filled:
            kinds[name] = "quantiles"
        elif lists > filled / 2:
            kinds[name] = "list"
        elif filled > _FEW and different > filled / 2:
            skipped[name] = f"most rows have a value of their own{remarks.get(name, '')}"
    return {name: kind for name, kind in kinds.items() if name not in skipped}


def typed_feature(value: pl.Expr, dtype: pl.DataType, kind: FeatureKind, name: str) -> tuple[pl.Expr, pl.Expr | None]:
    """The values of a feature; and which rows have a value, if it may be one that is not of this kind and becomes null.

    Raises:
        DataError: there is no such kind, or no value of this type can be of it.
    """
    if kind not in get_args(FeatureKind):
        raise DataError(
            f"data.features.{name}: no kind is called {kind!r}. Fix: choose from {', '.join(get_args(FeatureKind))}"
        )
    is_list = isinstance(dtype, pl.List | pl.Array)
    if (is_list != (kind == "list") and not (kind == "list" and dtype == pl.String)) or kind_of(dtype) is None:
        raise DataError(
            f"data.features.{name}: a column of type {dtype} cannot be of the kind {kind}. Fix: choose another kind, "
            "or leave the column out"
        )
    if kind == "list":
        bad = is_bad_list(value, dtype)
        return pl.when(~bad).then(as_keys(value, dtype)), bad
    if kind == "category":
        key = as_key(value, dtype)
        # pandas writes a whole number as 3.0 where one of the column is missing, perhaps in one file of several
        return key.str.replace(r"^(-?\d+)\.0$", "$1") if dtype == pl.String else key, None
    typed = as_label(value, dtype) == 1 if kind == "boolean" else as_number(value, dtype)
    return typed, ~is_missing(value, dtype)


_ABOUT = ("filled", "numbers", "truths", "lists", "different", "alike", "odd")
_LIKE_A_NUMBER = r"^[^\w.,-]?\s?-?\d[\d.,' ]*\s?[^\w.,-]?$"  # perhaps with a currency, or with commas


def _content(value: pl.Expr, prefix: str) -> list[pl.Expr]:
    text = pl.when(~is_missing(value, pl.String())).then(value.str.strip_chars())
    number = as_number(text, pl.String())
    counted = (
        text.count(),
        number.count(),
        text.str.to_lowercase().is_in(["true", "false"]).sum(),
        (text.str.contains("|", literal=True) | is_json_list(text)).sum(),
        text.approx_n_unique(),
        text.str.contains(_LIKE_A_NUMBER).sum(),
        text.filter(number.is_null() & text.is_not_null()).first().str.slice(0, 20),
    )
    return [found.alias(prefix + what) for what, found in zip(_ABOUT, counted, strict=True)]
