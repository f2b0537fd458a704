"""Columns of a source as a raw table: expressions of its values, and the rows that are bad."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import polars as pl

from expctr.data.feature_kinds import FeatureKind
from expctr.data.readers.bad_rows import BAD_FEATURE, NESTED_TITLE, UNDECODABLE, mark
from expctr.data.readers.base import POLARS_ERRORS, RawTable
from expctr.data.readers.sources import Source, raw
from expctr.data.readers.table_features import feature_name, typed_feature
from expctr.data.readers.values import as_number

_NESTED_TITLE = r"""(?s)^(\{\s*".*\}|\[\s*[{"].*\])$"""
"""An object of JSON, or a list of texts or of objects. `[REC]` and `[2020]` are titles."""
_CONTROL = r"[\x00-\x08\x0e-\x1f\x7f]"
"""What no text holds, and many numbers written as bytes do."""

Checks = list[tuple[pl.Expr, str, str]]
"""Conditions of bad rows, the problem and the column, for `mark`."""


def value_of(source: Source, name: str) -> tuple[pl.Expr, pl.DataType]:
    """A column and its type. Bytes are text; those that are none, such as UUIDs, are written in hexadecimal."""
    value, dtype = raw(name), source.schema[name]
    if dtype == pl.Binary:
        value, dtype = value.map_batches(_texts, return_dtype=pl.String, is_elementwise=True), pl.String()
    return value, dtype


def as_written(source: Source, name: str) -> pl.Expr:
    """A number as its text would be read: 0.7 as a float of 32 bits is less than 0.7, and stands for it."""
    value, dtype = value_of(source, name)
    number = as_number(value, dtype)
    short = number.cast(pl.Float32).cast(pl.String).cast(pl.Float64)
    if dtype == pl.Float32:
        return short
    in_short = pl.col("file").is_in(source.float32_in[name]) if name in source.float32_in else pl.lit(False)
    return pl.when(in_short).then(short).otherwise(number)


def lost_in_some_files(source: Source, name: str) -> pl.Expr:
    """Whether a number may have lost its last digits in a file in which it is a 32-bit float, as it is not in all."""
    if name not in source.float32_in:
        return pl.lit(False)
    size = raw(name).cast(pl.Float64, strict=False).abs()
    return pl.col("file").is_in(source.float32_in[name]) & (size >= 2**24).fill_null(False)


def title_checks(source: Source, name: str) -> Checks:
    """What is wrong with a title: bytes that are no text, and objects or lists among the texts of JSON lines."""
    checks: Checks = []
    if source.schema[name] == pl.Binary:
        undecodable = raw(name).map_batches(_are_undecodable, return_dtype=pl.Boolean, is_elementwise=True)
        checks.append((undecodable, UNDECODABLE, name))
    if name in source.json.plain and source.schema[name] == pl.String:
        checks.append((raw(name).str.contains(_NESTED_TITLE), NESTED_TITLE, name))
    return checks


def feature_columns(
    source: Source, kinds: Mapping[str, FeatureKind], checks: Checks, prefix: str
) -> dict[str, pl.Expr]:
    """The side features, and into `checks` the checks of their values. `prefix` begins their names."""
    columns = {}
    for name, kind in kinds.items():
        column = prefix + name if prefix else feature_name(name)
        columns[column], bad = typed_feature(raw(name), source.schema[name], kind, name)
        if bad is not None:
            checks.append((bad & pl.col(column).is_null(), BAD_FEATURE, name))
    return columns


def typed_table(source: Source, columns: Mapping[str, pl.Expr], checks: Checks) -> RawTable:
    """The columns of a source as a raw table, in which the rows that fail a check are marked."""
    table = source.table
    about = ["row", "problem", "column", "line", *(["file"] if table.parts else [])]
    frame = mark(table.frame.with_columns(**columns), *checks)
    if "line" not in frame.collect_schema():  # made last, so that filters come before this slow step
        values = pl.struct(raw(name).alias(name) for name, dtype in source.schema.items() if dtype != pl.Object)
        shown = values.map_batches(_shown, return_dtype=pl.String, is_elementwise=True)
        frame = frame.with_columns(line=shown)
    return replace(table, frame=frame.select(*about, *columns))


def _texts(values: pl.Series) -> pl.Series:
    with suppress(*POLARS_ERRORS):
        texts = values.cast(pl.String)
        if not texts.str.contains(_CONTROL).any():
            return texts
    return pl.Series(values.name, [None if value is None else _text(value) for value in values], pl.String)


def _text(value: bytes) -> str:
    text = _decoded(value)
    return value.hex() if text is None or re.search(_CONTROL, text) else text


def _are_undecodable(values: pl.Series) -> pl.Series:
    return pl.Series(values.name, [value is not None and _decoded(value) is None for value in values], pl.Boolean)


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _shown(rows: pl.Series) -> pl.Series:
    return pl.Series([str(row) for row in rows], dtype=pl.String)
