"""Amazon reviews of any category, as published in 2014, 2018 and 2023: JSON lines, plain or gzip.

The three releases use different keys, but no key has two meanings. So one reader accepts the keys of all of them.
"""

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
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'"}


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
    frame = read_json_lines(path, _REVIEWS).frame.with_columns(_without_nul("review"))
    return RawTable(typed_ratings(frame, low=1, high=5), path)


def _read_meta(path: Path) -> RawTable:
    frame = read_json_lines(path, _ITEMS).frame.with_columns(_without_nul("title", "brand", "categories"))
    title = pl.col("title").str.replace_many(_ENTITIES).str.replace_all(r"\s+", " ").str.strip_chars()
    scraped = pl.col("title").str.contains(r"^var |<\w+[^>]*>")  # scripts and tags in the titles of 2018
    names = pl.col("categories").str.extract_all(r'"(?:[^"\\]|\\.)*"')  # a list of strings; in 2014 a list of lists
    names = names.list.eval(pl.element().str.strip_chars('"').str.replace_many(_ENTITIES))
    names = names.list.unique(maintain_order=True)
    frame = mark(frame, *bad_ids("item")).with_columns(
        pl.when((title != "") & ~scraped).then(title).alias("title"),
        pl.col("brand").str.replace_many(_ENTITIES).str.strip_chars().replace("", None),
        names.fill_null(pl.lit([], pl.List(pl.String))).alias("categories"),
    )
    return RawTable(frame, path)


def _without_nul(*names: str) -> pl.Expr:
    """Texts with a question mark for each NUL byte, which is what half of a surrogate pair became."""
    return pl.col(names).str.replace_all("\0", "?", literal=True)
