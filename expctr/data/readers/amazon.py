"""Amazon reviews of any category, as published in 2014, 2018 and 2023: JSON lines, plain or gzip.

The three releases use different keys, but no key has two meanings. So one reader accepts the keys of all of them.
"""

import html
import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from expctr.data.readers.bad_rows import bad_ids, mark
from expctr.data.readers.base import RawTable, RawTables
from expctr.data.readers.files import find_layout
from expctr.data.readers.json_lines import read_json_lines
from expctr.data.readers.ratings import read_ratings, typed_ratings

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
    *("a", "b", "body", "br", "button", "center", "code", "div", "em", "font", "form", "h[1-6]", "head", "hr", "html"),
    *("i", "iframe", "img", "input", "label", "li", "link", "meta", "noscript", "ol", "option", "p", "script"),
    *(
        "select",
        "small",
        "span",
        "strong",
        "style",
        "sub",
        "sup",
        "table",
        "tbody",
        "td",
        "th",
        "title",
        "tr",
        "u",
        "ul",
    ),
)
_SCRAPED = rf"^var |(?i:<(?:{'|'.join(_TAGS)})(?:\s[^>]*)?/?>)"
"""What marks a title of 2018 that is a script or part of a page. Other words in angle brackets belong to a title."""


def find_category(folder: Path) -> str:
    """The only category in a folder, else Books."""
    names = {path.name.removeprefix("meta_").split(".json")[0] for path in folder.glob("meta_*.json*")}
    return names.pop() if len(names) == 1 else "Books"


def read(folder: Path, category: str | None = None) -> RawTables:
    """Reads one category.

    Items have `brand` (the author, for Books of 2018) and `categories` (list). There is no file about users.

    Args:
        folder: with the reviews and the metadata.
        category: as in the file names; by default the only one in the folder, else Books.
    """
    category = category or find_category(folder)
    layouts = {
        "2014": (f"reviews_{category}*.json*", f"meta_{category}.json*"),
        "2018 (5-core)": (f"{category}_5.json*", f"meta_{category}.json*"),
        "2018 or 2023": (f"{category}.json*", f"meta_{category}.json*"),
    }
    _, (reviews, meta) = find_layout(folder, layouts)
    return RawTables(read_interactions(reviews), _read_meta(meta))


def read_interactions(path: Path) -> RawTable:
    """Reads one file of reviews, or a CSV of ratings."""
    if ".json" not in path.name:
        return read_ratings(path, low=1, high=5)
    table = read_json_lines(path, _REVIEWS)
    frame = table.frame.with_columns(_without_nul("review"))
    return replace(table, frame=typed_ratings(frame, low=1, high=5))


def _read_meta(path: Path) -> RawTable:
    frame = read_json_lines(path, _ITEMS).frame.with_columns(_without_nul("title", "brand", "categories"))
    title = _plain_text(pl.col("title")).str.replace_all(r"\s+", " ").str.strip_chars()
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
