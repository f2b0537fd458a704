"""Labels, numbers, ids and lists of tables of one's own, which people write in many ways."""

import ast
import json

import polars as pl

_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts in place of a number that is missing."""

TRUTHS = dict.fromkeys(("1", "1.0", "true", "t", "yes", "y", "yes."), 1.0) | dict.fromkeys(
    ("0", "0.0", "false", "f", "no", "n", "no."), 0.0
)


def as_id(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """An id as text. Whole numbers that a missing value turned into floats (28.0) lose their point."""
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        value = pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.fill_nan(None).cast(pl.String))
    value = value.cast(pl.String)
    return value.str.strip_chars() if dtype == pl.String else value


def as_label(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """1 or 0 as float32, null for what is neither."""
    if dtype == pl.String:
        text = value.str.strip_chars().str.to_lowercase()
        return text.replace_strict(TRUTHS, default=None, return_dtype=pl.Float32)
    number = value.cast(pl.Float32, strict=False)
    return pl.when(number.is_in([0.0, 1.0])).then(number)


def as_number(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A number as float64, null for what is none; of dates and times, seconds."""
    if dtype == pl.String:
        value = value.str.strip_chars()
    elif dtype.is_temporal():
        value = value.cast(pl.Datetime("us") if isinstance(dtype, pl.Date | pl.Datetime) else pl.Duration("us"))
        return value.cast(pl.Int64).cast(pl.Float64) / 10**6
    number = value.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def is_missing(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether there is no number, or a text that says so."""
    if dtype == pl.String:
        return value.is_null() | value.str.strip_chars().is_in(_MISSING)
    return value.is_null() | value.is_nan() if dtype.is_float() else value.is_null()


def as_list(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A list of texts, of a list, of text that is a list in JSON or Python, or of text separated by `|`.

    A missing list is empty.
    """
    if isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    if dtype == pl.String:
        text = value.str.strip_chars()
        quoted = (
            pl.when(is_json_list(text))
            .then(text)
            .map_batches(_parsed_lists, return_dtype=pl.List(pl.String), is_elementwise=True)
        )
        parts = text.str.split("|").list.eval(pl.element().str.strip_chars())
        value = pl.when(is_json_list(text)).then(quoted).otherwise(parts)
    texts = value.cast(pl.List(pl.String)).list.drop_nulls()
    return texts.list.filter(pl.element() != "").fill_null(pl.lit([], pl.List(pl.String)))


def is_json_list(text: pl.Expr) -> pl.Expr:
    """Whether a text looks like a list of JSON or Python."""
    return text.str.contains(r"""^\[\s*(["'\d\]-]|true|false|null)""") & text.str.ends_with("]")  # "[REC]" is a title


def _parsed_lists(texts: pl.Series) -> pl.Series:
    lists = (None if text is None else _parsed_list(text) for text in texts)
    return pl.Series(texts.name, [*lists], pl.List(pl.String))


def _parsed_list(text: str) -> list[str]:
    """The values of a list in JSON or Python; of any other text, its parts between `|`."""
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
    if not isinstance(found, list):
        return [part.strip() for part in text.split("|")]
    return [part if isinstance(part, str) else json.dumps(part) for part in found if part is not None]
