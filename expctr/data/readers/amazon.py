"""Amazon reviews of any category, as published in 2014, 2018 and 2023: JSON lines, or CSV of ratings only.

The three releases use different keys, but no key has two meanings. So one reader accepts the keys of all of them.
"""

import html
import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from expctr.data.readers.amazon_csv import KAGGLE, SCALE, read_kaggle, read_ratings_csv
from expctr.data.readers.bad_rows import bad_ids, mark
from expctr.data.readers.base import RawTable, RawTables
from expctr.data.readers.files import Layout, find_layout
from expctr.data.readers.json_lines import read_json_lines
from expctr.data.readers.ratings import described, typed_ratings
from expctr.data.readers.values import as_title

_REVIEWS = {
    "user": ("reviewerID", "user_id"),
    "item": ("parent_asin", "asin"),  # in 2023 asin is a variant of the product; the metadata have the parent only
    "rating": ("overall", "rating"),
    "timestamp": ("unixReviewTime", "timestamp"),
    "review": ("reviewText", "text"),
}
_ITEMS = {
    "item": ("parent_asin", "asin"),
    "title": ("title",),
    "brand": ("brand", "store"),
    "categories": ("categories", "category"),
}
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]\w{1,31});")  # "R&D" and "Cats &c" are none
_TAGS = (
    "a|b|body|br|button|center|code|div|em|font|form|h[1-6]|head|hr|html|i|iframe|img|input|label|li|link|meta|noscript"
    "|ol|option|p|script|select|small|span|strong|style|sub|sup|table|tbody|td|th|title|tr|u|ul"
)
_SCRAPED = rf"^var |(?i:<(?:{_TAGS})(?:\s[^>]*)?/?>)"
"""What marks a title of 2018 that is a script or part of a page. Other words in angle brackets belong to a title."""


def find_category(folder: Path) -> str:
    """The only category in a folder, else Books."""
    names = _categories(folder)
    return names[0] if len(names) == 1 else "Books"


def _categories(folder: Path) -> list[str]:
    """The categories that have a file of metadata."""
    named = (re.fullmatch(r"meta_(.+)\.jsonl?(?:\.gz|\.zst)?", path.name) for path in folder.glob("meta_*"))
    return sorted({match[1] for match in named if match})


def read(folder: Path, category: str | None = None) -> RawTables:
    """Reads one category.

    Items have `brand` (the author, for Books of 2018) and `categories` (list). There is no file about users.

    Args:
        folder: with the reviews and the metadata.
        category: as in the file names; by default the only one in the folder, else Books.
    """
    c = category or find_category(folder)
    meta = f"meta_{c}.json|meta_{c}.jsonl"
    reviews = f"{c}.json|{c}.jsonl|{c}_[0-9]*.json|reviews_{c}.json|reviews_{c}_[0-9]*.json|ratings_{c}.csv|{c}.csv"
    layouts = {
        "splits of 2023": Layout((f"{c}.train.csv", f"{c}.valid.csv", f"{c}.test.csv"), meta),
        "2014, 2018 or 2023": Layout((reviews,), meta),
        "Kaggle": KAGGLE,
    }
    files = find_layout(folder, layouts)
    if files.layout == "Kaggle":
        return read_kaggle(files)
    tables = files.tables([read_interactions(path) for path in files.ratings], _read_meta(files.items), None)
    if others := [name for name in _categories(folder) if name != c]:
        note = f"category {c}; data.category chooses another one: {', '.join(others)}"
        tables = replace(tables, notes=(*tables.notes, note))
    return tables


def read_interactions(path: Path) -> RawTable:
    """Reads one file of reviews, or a CSV of ratings."""
    if ".json" not in path.name:
        return read_ratings_csv(path)
    table = read_json_lines(path, _REVIEWS)
    frame = table.frame.with_columns(_without_nul("review"))
    typed = typed_ratings(frame, *SCALE[:2])
    return replace(table, frame=typed, scale=described(SCALE), has_single_times=True, has_variants=True)


def _read_meta(path: Path) -> RawTable:
    frame = read_json_lines(path, _ITEMS).frame.with_columns(_without_nul("title", "brand", "categories"))
    title = as_title(_plain_text(pl.col("title")).str.replace_all(r"\s+", " "), pl.String())
    brand = _plain_text(pl.col("brand")).str.strip_chars().str.replace(r"^Visit Amazon's (.+) Page$", "$1")
    names = pl.col("categories").str.extract_all(r'"(?:[^"\\]|\\.)*"')  # in 2014 a list of lists
    name = pl.element().str.strip_prefix('"').str.strip_suffix('"').str.replace_many({r"\"": '"', r"\\": "\\"})
    names = names.list.eval(_plain_text(name)).list.unique(maintain_order=True)
    frame = mark(frame, *bad_ids("item")).with_columns(
        pl.when((title != "") & ~pl.col("title").str.contains(_SCRAPED)).then(title).alias("title"),
        brand.replace("", None),
        names.fill_null(pl.lit([], pl.List(pl.String))).alias("categories"),
    )
    return RawTable(frame, path)


def _plain_text(text: pl.Expr) -> pl.Expr:
    """A text without the entities of HTML; some are doubled, such as `&amp;quot;`."""
    return text.map_batches(_unescape, return_dtype=pl.String, is_elementwise=True)


def _unescape(texts: pl.Series) -> pl.Series:
    changed = texts.str.contains("&", literal=True).fill_null(False)
    plain = [_ENTITY.sub(_character, _ENTITY.sub(_character, text)) for text in texts.filter(changed)]
    return texts.scatter(changed.arg_true(), plain) if plain else texts


def _character(entity: re.Match[str]) -> str:
    return html.unescape(entity[0])


def _without_nul(*names: str) -> pl.Expr:
    """Texts with a question mark for each NUL byte, which is what half of a surrogate pair became."""
    return pl.col(names).str.replace_all("\0", "?", literal=True)
