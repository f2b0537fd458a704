"""Ready rows: tables in which each row is a target with its history and its label, such as TALLRec's JSON."""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from expctr.data.readers.bad_rows import BAD_HISTORY, BAD_LIST, BAD_TITLES, has_row, mark
from expctr.data.readers.base import RawTable
from expctr.data.readers.columns import LISTS, USUAL
from expctr.data.readers.delimited import plain_header
from expctr.data.readers.sources import Source, column_of, raw
from expctr.data.readers.values import MAX_TITLE, TRUTHS, as_entries, as_label, as_titles, is_bad_list

_TALLREC = {"input", "output"}
_PARTS = {
    "liked": r"(?is)User Preference:(.*?)User Unpreference:",
    "disliked": r"(?is)User Unpreference:(.*?)Whether the user ",
}
_TITLE = r'"(.+?)"(?: written by [^"]*)?\s*(?:[,.]|$)'  # a quote inside a title has neither of these after it
_TARGET = r'(?is)Whether the user.*?"(?:"(.+?)" written by [^"]*|(.+))"\s*\??\s*$'  # of books, of anything else
_FLAGS = {*USUAL["liked"], *USUAL["disliked"]}
"""Columns of this name may hold lists of titles, or 1 and 0 as in a click log."""


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
    parts = {name: raw("input").str.extract(part).str.strip_chars() for name, part in _PARTS.items()}
    title = pl.element().str.extract(f"^{_TITLE}$")
    new = {name: text.str.extract_all(_TITLE).list.eval(title) for name, text in parts.items()}
    new |= {"title": pl.coalesce(raw("input").str.extract(_TARGET, i) for i in (1, 2)), "label": raw("output")}
    rest = pl.concat_str(text.str.replace_all(_TITLE, "") for text in parts.values()).str.strip_chars()
    schema = {"liked": pl.List(pl.String), "disliked": pl.List(pl.String), "title": pl.String(), "label": pl.String()}
    frame = mark(source.table.frame, (rest.fill_null("?") != "", BAD_TITLES, "input"))
    frame = frame.with_columns(value.alias(column_of(name)) for name, value in new.items())
    hidden = {name: dtype for name, dtype in source.schema.items() if name not in {*_TALLREC, "instruction", *schema}}
    return replace(source, table=replace(source.table, frame=frame), schema={**hidden, **schema})


def with_flags(source: Source) -> Source:
    """A source, with columns such as `liked` that hold only 1 and 0 as numbers: they are labels, not lists."""
    texts = [name for name, dtype in source.schema.items() if dtype == pl.String and plain_header(name) in _FLAGS]
    flags = {name: as_label(raw(name), pl.String()) for name in texts}
    others = [flag.is_null() & (raw(name) != "") for name, flag in flags.items()]
    if not texts or source.table.frame.select(pl.any_horizontal(others).any()).collect(engine="streaming").item():
        return source
    frame = source.table.frame.with_columns(flag.alias(column_of(name)) for name, flag in flags.items())
    schema = {**source.schema, **dict.fromkeys(flags, pl.Float32())}
    return replace(source, table=replace(source.table, frame=frame), schema=schema)


def history_columns(
    source: Source, found: Mapping[str, str]
) -> tuple[dict[str, pl.Expr], list[tuple[pl.Expr, str, str]]]:
    """The columns `history` (titles or ids, oldest first) and `history_liked`, and the checks of a row for `mark`.

    Without a common order, disliked entries count as later than liked ones, as they do for new users.
    """
    names = {role: name for role, name in found.items() if role in LISTS}
    in_step = ("history", "history_labels")  # whose entries belong together, also those that are missing
    lists = {
        role: (as_entries if role in in_step else as_titles)(raw(name), source.schema[name]).list.eval(
            pl.element().str.slice(0, MAX_TITLE)
        )
        for role, name in names.items()
    }
    unread = [(is_bad_list(raw(name), source.schema[name]), BAD_LIST, name) for name in names.values()]
    if "history" in lists:
        marks = lists["history_labels"].list.eval(
            pl.element().str.to_lowercase().replace_strict(TRUTHS, default=None, return_dtype=pl.Float64) == 1
        )
        columns = {"history": lists["history"], "history_liked": marks}
    else:
        liked, disliked = lists["liked"], lists["disliked"]
        marks = pl.concat_list(liked.list.eval(pl.element().is_not_null()), disliked.list.eval(pl.element().is_null()))
        columns = {"history": pl.concat_list(liked, disliked), "history_liked": marks}
    filled = [pl.col(name).list.drop_nulls().list.len() for name in columns]
    bad = pl.any_horizontal(
        pl.col("history").list.len() != size for size in [pl.col("history_liked").list.len(), *filled]
    )
    return columns, [*unread, (bad, BAD_HISTORY, found.get("history_labels", found.get("disliked", "")))]


def all_items(tables: list[RawTable], given: RawTable | None) -> RawTable:
    """The items of ready rows: the given ones, those of the targets, and each title of a history that is neither's.

    A title that no item has is an item of its own, with the title as its id.
    """
    frames = [table.frame.filter(has_row()) for table in tables]
    targets, values = [], [frame.select(pl.col("history").explode().alias("item")) for frame in frames]
    for frame in frames:
        columns = frame.collect_schema().names()
        if "item" in columns and "title" in columns:
            titled = frame.select("item", pl.coalesce("title", "item").alias("title"))
            targets.append(titled.drop_nulls("item"))
            values.append(titled.filter(pl.col("item").is_null()).select(item="title"))
        else:
            values.append(frame.select(pl.coalesce(*(c for c in ("item", "title") if c in columns)).alias("item")))
    known = []
    if targets:
        pairs = pl.concat(targets).unique().sort("item", "title")
        known.append(pairs.unique("item", keep="first", maintain_order=True))
    if given is not None:
        items = given.frame
        if "title" not in items.collect_schema():
            items = items.with_columns(title=pl.lit(None, pl.String))
        titles = known[0] if known else pl.LazyFrame(schema={"item": pl.String, "title": pl.String})
        items = items.join(titles.rename({"title": "seen"}), on="item", how="left", maintain_order="left")
        own = pl.coalesce(pl.col("title").replace("", None), "seen", "item").alias("title")
        others = [pairs.join(items.select("item"), on="item", how="anti") for pairs in known]
        known = [items.with_columns(own).drop("seen"), *others]
    rest = pl.concat(values).drop_nulls().unique().sort("item")
    for frame in known:
        rest = rest.join(frame.select("item"), on="item", how="anti")
        rest = rest.join(frame.select(item="title"), on="item", how="anti")
    frame = pl.concat([*known, rest.with_columns(title="item")], how="diagonal_relaxed")
    if given is None:
        frame = frame.with_columns(problem=pl.lit(None, pl.String))
    return replace(given or tables[0], frame=frame, may_be_empty=given is None)
