"""Labels, numbers, ids and lists of tables of one's own, which people write in many ways."""

import ast
import json
import re

import polars as pl

from expctr.untrusted import replace_surrogates

MISSING_TEXTS = (
    *("", "NA", "N/A", "NaN", "nan", "NaT", "null", "NULL", "Null", "None", "none", "(null)", "undefined"),
    *("n/a", "\\N", "<NA>", "NAN", "NONE", "[NULL]", "<null>", "<NULL>"),
    *("#N/A", "#NULL!", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!"),
)
"""Texts in place of a number, an id or a category that is missing, as databases, pandas and spreadsheets write them."""

_INFINITE = tuple(sign + text for sign in ("", "+", "-") for text in ("inf", "Inf", "infinity", "Infinity"))

MAX_TITLE = 2048
"""Characters of a title that are kept: 64 for each of the 32 tokens that prompts show of it. Samples repeat titles."""

TRUTHS = dict.fromkeys(("1", "1.0", "true", "t", "yes", "y", "yes."), 1.0) | dict.fromkeys(
    ("0", "0.0", "false", "f", "no", "n", "no."), 0.0
)


def as_id(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """An id as text. Whole numbers that are floats (28.0) or decimals (28.00) lose their point."""
    if dtype.is_float():
        whole = value.cast(pl.Int64, strict=False)
        value = pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.fill_nan(None).cast(pl.String))
    value = value.cast(pl.String)
    if isinstance(dtype, pl.Decimal) and dtype.scale:
        return value.str.strip_chars_end("0").str.strip_chars_end(".")
    return value.str.strip_chars() if dtype == pl.String else value


def as_key(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """An id or a category as text; null if it is missing, or a text that says so."""
    text = as_id(value, dtype)
    return pl.when(~text.is_in(MISSING_TEXTS)).then(text)


def as_title(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A title as text, at most `MAX_TITLE` long; null where it says that there is none. A film may be called Na."""
    text = as_key(value, dtype).str.slice(0, MAX_TITLE)
    return pl.when(text != "-").then(text)


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
    """Whether there is no finite number, or a text that says so."""
    if dtype == pl.String:
        return value.is_null() | value.str.strip_chars().is_in([*MISSING_TEXTS, *_INFINITE])
    return value.is_null() | ~value.is_finite() if dtype.is_float() else value.is_null()


def as_list(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A list of texts, of a list, of text that is a list in JSON or Python, or of text separated by `|`.

    A missing list is empty, and missing entries are left out.
    """
    return as_entries(value, dtype).list.drop_nulls()


def as_keys(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A list as `as_list` reads it, without texts that say that there is nothing."""
    return as_list(value, dtype).list.eval(pl.element().filter(~pl.element().is_in(MISSING_TEXTS)))


def as_titles(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A list of titles, of which each is as `as_title` reads it."""
    return as_list(value, dtype).list.eval(as_title(pl.element(), pl.String()).drop_nulls())


def as_entries(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A list as `as_list` reads it, in which an entry that is missing or empty is null."""
    inner: pl.DataType = pl.String()
    if dtype == pl.Null:
        value = value.cast(pl.List(pl.String))
    if isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    if isinstance(dtype, pl.List | pl.Array) and isinstance(dtype.inner, pl.DataType):
        inner = dtype.inner
    if dtype == pl.String:
        text = value.str.strip_chars()
        quoted = (
            pl.when(is_json_list(text))
            .then(text)
            .map_batches(_parsed_lists, return_dtype=pl.List(pl.String), is_elementwise=True)
        )
        parts = pl.when(text != "").then(text).str.split("|")
        value = pl.when(is_json_list(text)).then(quoted).otherwise(parts)
    text = as_id(pl.element(), inner)
    return value.list.eval(pl.when(text != "").then(text)).fill_null(pl.lit([], pl.List(pl.String)))


def is_json_list(text: pl.Expr) -> pl.Expr:
    """Whether a text looks like a list of JSON or Python."""
    starts = r"""^\[\s*(["'\d\]-]|(true|false|null|None|nan|NaN)\b)"""  # "[REC]" is a title
    return text.str.contains(starts) & text.str.ends_with("]")


def is_bad_list(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether a text is meant as a list but cannot be read as one, such as a set, an array, or a list that was cut off.

    A title may be in brackets. It is no list, because neither quoted text nor a comma follows its bracket.
    """
    if dtype != pl.String:
        return pl.lit(False)
    text = value.str.strip_chars()
    tried = pl.when(is_json_list(text)).then(text)
    unread = tried.map_batches(_are_unread, return_dtype=pl.Boolean, is_elementwise=True)
    return (text.str.contains("|".join(_MEANT)) & (unread | ~is_json_list(text))).fill_null(False)


_QUOTED = r"""\s*("[^"]*"|'[^']*')"""
_MEANT = (
    r"^\[" + _QUOTED,  # to any end: a spreadsheet cuts a long list off
    r"^\[\s*[-+\d.eE]+(,|\s+[-+\d.eE]+\s)",
    r"""^\[\s*[\[({]\s*["'\d]""",
    r"(?s)^[({]" + _QUOTED + r".*[)}]$",
    r"^(\[[^|\]]*,[^|\]]*\]|\([^|)]*,[^|)]*\)|\{[^|}]*,[^|}]*\})$",
    r"(?s)^(array|c|list|set|frozenset|tuple|deque|Index|Series|WrappedArray|ArraySeq|ArrayBuffer|Vector|List)\(.*\)$",
    r"(?s)^<\w*Array>",
)
"""What is meant as a list, of JSON, Python, numpy, pandas, R, Spark or Postgres, whether or not it can be read."""


def _parsed_lists(texts: pl.Series) -> pl.Series:
    lists = (None if text is None else _parsed_list(text) for text in texts)
    return pl.Series(texts.name, [*lists], pl.List(pl.String))


def _are_unread(texts: pl.Series) -> pl.Series:
    return pl.Series(texts.name, [text is not None and _parsed(text) is None for text in texts], pl.Boolean)


def _parsed_list(text: str) -> list[str | None]:
    """The values of a list in JSON, Python or numpy; of any other text, its parts between `|`."""
    found = _parsed(text)
    try:
        return [*text.split("|")] if found is None else [*map(_text, found)]
    except (TypeError, RecursionError):  # of a value that is nested too deep, or has keys that are no texts
        return [*text.split("|")]


def _parsed(text: str) -> list[object] | None:
    """The values of a list; None if it cannot be read, or only its ends were written."""
    for parse in (_json, _python_list):
        try:
            found = parse(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list) and ... not in found:
            return found
    return None


def _json(text: str) -> object:
    return json.loads(text, strict=False)  # half of a surrogate pair may have become a NUL byte


def _python_list(text: str) -> object:
    text = _MISSING_NAME.sub(lambda match: match[1] or "None", text)
    number = r"[-+.]*\d[-+.\deE]*"
    if re.fullmatch(rf"\[\s*{number}(\s+{number})*\s*\]", text):  # numpy writes no commas
        return [part.removesuffix(".") for part in text[1:-1].split()]
    if _TEXTS.fullmatch(text):  # Python would join the texts
        text = _IN_QUOTES.sub(r"\g<0>,", text)
    return ast.literal_eval(text)


_IN_QUOTES = re.compile(r"""(?s:"(?:\\.|[^"\\\n])*+"|'(?:\\.|[^'\\\n])*+')""")
_TEXTS = re.compile(rf"\[\s*+{_IN_QUOTES.pattern}(?:\s++{_IN_QUOTES.pattern})++\s*+\]")
"""Texts as numpy writes them, without commas."""
_MISSING_NAME = re.compile(r"""("(?:\\.|[^"\\])*+"?|'(?:\\.|[^'\\])*+'?)|\b(?:nan|NaN|NaT|null)\b""", re.DOTALL)
"""A value that is missing, outside of quotes; or a text in quotes, up to the end if it is not closed."""


def _text(value: object) -> str | None:
    """A value as text, whole numbers without a point; None if it is missing."""
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return replace_surrogates(text.replace("\0", "\ufffd"))
