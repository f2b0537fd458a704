"""Ready rows: tables in which each row is a target with its history and its label, such as TALLRec's JSON."""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from expctr.data.readers.bad_rows import BAD_HISTORY
from expctr.data.readers.base import RawTable
from expctr.data.readers.sources import Source, column_of, raw
from expctr.data.readers.values import TRUTHS, as_list

_TALLREC = {"input", "output"}
_PARTS = {
    "liked": r"(?is)User Preference:(.*?)User Unpreference:",
    "disliked": r"(?is)User Unpreference:(.*?)Whether the user ",
}
_TARGET = r'(?is)Whether the user.*?"+([^"]+)"'


def is_ready(found: Mapping[str, str]) -> bool:
    """Whether a table with these columns (role -> name) holds ready rows."""
    return "liked" in found or "history" in found


def with_tallrec(source: Source) -> Source:
    """A source, with TALLRec's texts (`input`, `output`) as the columns `liked`, `disliked`, `title` and `label`."""
    if not (source.schema.keys() >= _TALLREC and source.schema["input"] == pl.String):
        return source
    first = source.table.frame.select(raw("input")).drop_nulls().head(1).collect()
    if first.is_empty() or "user preference:" not in first.item().lower():
        return source
    quoted = r'"[^"]+"'
    lists = {name: raw("input").str.extract(part).str.extract_all(quoted) for name, part in _PARTS.items()}
    new = {name: texts.list.eval(pl.element().str.strip_chars('"')) for name, texts in lists.items()}
    new |= {"title": raw("input").str.extract(_TARGET), "label": raw("output")}
    schema = {"liked": pl.List(pl.String), "disliked": pl.List(pl.String), "title": pl.String(), "label": pl.String()}
    frame = source.table.frame.with_columns(value.alias(column_of(name)) for name, value in new.items())
    hidden = {name: dtype for name, dtype in source.schema.items() if name not in {*_TALLREC, "instruction", *schema}}
    return replace(source, table=replace(source.table, frame=frame), schema={**hidden, **schema})


def history_columns(source: Source, found: Mapping[str, str]) -> tuple[dict[str, pl.Expr], tuple[pl.Expr, str, str]]:
    """The columns `history` (titles or ids, oldest first) and `history_liked`, and the check of a row for `mark`.

    Without a common order, disliked entries count as later than liked ones, as they do for new users.
    """
    lists = {role: as_list(raw(name), source.schema[name]) for role, name in found.items() if role in _ROLES}
    if "history" in lists:
        marks = lists["history_labels"].list.eval(
            pl.element().str.to_lowercase().replace_strict(TRUTHS, default=None, return_dtype=pl.Float64) == 1
        )
        columns = {"history": lists["history"], "history_liked": marks}
    else:
        liked, disliked = lists["liked"], lists["disliked"]
        marks = pl.concat_list(liked.list.eval(pl.element().is_not_null()), disliked.list.eval(pl.element().is_null()))
        columns = {"history": pl.concat_list(liked, disliked), "history_liked": marks}
    marks = pl.col("history_liked")
    bad = (marks.list.len() != pl.col("history").list.len()) | (marks.list.drop_nulls().list.len() != marks.list.len())
    return columns, (bad, BAD_HISTORY, found.get("history_labels", found.get("disliked", "")))


_ROLES = ("liked", "disliked", "history", "history_labels")


def all_items(tables: list[RawTable], given: RawTable | None) -> RawTable:
    """The items of ready rows: the given ones, those of the targets, and each title of a history that is neither's.

    A title that no item has is an item of its own, with the title as its id.
    """
    frames = [table.frame.filter(pl.col("problem").is_null()) for table in tables]
    targets, values = [], [frame.select(pl.col("history").explode().alias("item")) for frame in frames]
    for frame in frames:
        columns = frame.collect_schema().names()
        if "item" in columns and "title" in columns:
            targets.append(frame.select("item", pl.coalesce("title", "item").alias("title")))
        else:
            values.append(frame.select(pl.coalesce(*(c for c in ("item", "title") if c in columns)).alias("item")))
    known = []
    if targets:
        pairs = pl.concat(targets).unique().sort("item", "title")
        known.append(pairs.unique("item", keep="first", maintain_order=True))
    if given is not None:
        items = given.frame
        if "title" not in items.collect_schema():
            titles = known[0] if known else pl.LazyFrame(schema={"item": pl.String, "title": pl.String})
            items = items.join(titles, on="item", how="left", maintain_order="left")
        others = [pairs.join(items.select("item"), on="item", how="anti") for pairs in known]
        known = [items.with_columns(pl.coalesce("title", "item").alias("title")), *others]
    rest = pl.concat(values).drop_nulls().unique().sort("item")
    for frame in known:
        rest = rest.join(frame.select("item"), on="item", how="anti")
        rest = rest.join(frame.select(item="title"), on="item", how="anti")
    frame = pl.concat([*known, rest.with_columns(title="item")], how="diagonal_relaxed")
    if given is None:
        frame = frame.with_columns(problem=pl.lit(None, pl.String))
    return replace(given or tables[0], frame=frame, may_be_empty=given is None)
