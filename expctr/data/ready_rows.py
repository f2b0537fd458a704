"""Targets of ready rows, which bring their histories and labels with them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from expctr.data.interactions import is_liked
from expctr.data.options import SPLITS, SampleOptions
from expctr.data.random_draws import Ints, draws_of_ids, redraw
from expctr.data.readers.bad_rows import take_missing
from expctr.data.readers.base import RawTable
from expctr.data.summary import DataSummary
from expctr.data.targets import Targets, draw_splits, keep_subset
from expctr.data.unmatched_ids import check_spellings, doubtful_spellings
from expctr.errors import UserError

_FEW = 0.05
"""Share of names of the rarer kind, ids or titles, below which nearly all are of the other kind."""


def ready_targets(
    sources: Mapping[str, RawTable],
    items: pl.DataFrame,
    options: SampleOptions,
    summary: DataSummary,
    dropped: Counter[str],
) -> Targets:
    """Every row is a target, with the newest `max_history` entries of its own history.

    Without splits of their own, rows that all have times are split by time, and others at random.

    Args:
        sources: tables by split, or one under an empty name, whose splits are drawn: by time, by users, or at random.
        items: all of them, see `readers.ready.all_items`; rows name them by id or by title.
        options: how samples are made. `targets_per_user` does not matter; `order` only decides whether times are used.
        summary: gets the counts.
        dropped: likewise, of rows that are no samples.

    Raises:
        UserError: the options ask for negatives, or for splits by time of rows without times.
    """
    if options.negatives:
        raise UserError("data.samples.negatives: ready rows have labels of their own. Fix: set it to 0")
    targets, entries = _read(sources, options, summary)
    untimed = targets["timestamp"].null_count()
    is_timed = options.order == "time" and not untimed
    if options.order == "time" and "" in sources and not options.split and 0 < untimed < targets.height:
        summary.doubts.append(
            f"{untimed:,} of {targets.height:,} rows have no time, so all rows are split at random. Fix: give all of "
            "them a time, and they are split by time; or choose a split (data.samples.split)"
        )
    if options.split == "time" and "" in sources and not is_timed:
        raise UserError(
            "data.samples.split: not all of these ready rows have a time, or data.samples.order is not time. Fix: set "
            "it to random or user, or name the column of times in data.columns.timestamp"
        )
    # without times, the last row of a user is the newest
    place = pl.int_range(pl.len(), dtype=pl.Int64)
    targets = targets.with_columns(pl.coalesce("timestamp", place).alias("timestamp"), tie=place)
    # where names may be either, those of a column of ids are ids, and those of histories are what the targets' are
    kind = "item" if any("item" in table.frame.collect_schema() for table in sources.values()) else "title"
    targets, entries = (_identified(rows, items, kind) for rows in (targets, entries))
    _compare_titles(targets, summary)
    if kind == "item" and not summary.no_titles:
        _count_untitled(targets, summary)
    entries = _without_targets(entries, targets, summary)
    summary.interactions, summary.users = targets.height, targets["user"].n_unique()
    summary.items = pl.concat([targets["item"], entries["item"]]).n_unique()

    events = pl.concat([targets, entries], how="diagonal").drop("name", "own_title", "split", "content", "of", "tie")
    events = events.with_columns(pl.col("user", "item").cast(pl.Categorical))
    draw = draws_of_ids(targets["content"].cast(pl.Categorical), options.seed)
    if "" in sources:
        label, row = is_liked(options).alias("label"), pl.int_range(pl.len())
        drawn = targets.select("user", label, row=row, draw=pl.Series(draw))
        rows = keep_subset(drawn, options, dropped)
        drawn = events[rows].with_columns(draw=pl.Series(draw[rows]), tie=targets["tie"][rows])
        rule = options.split or ("time" if is_timed else "random")
        split = draw_splits(drawn, replace(options, split=rule))
        if rule == "random":
            marked = [frame.with_columns(label) for frame in (targets[rows], entries)]
            summary.doubts += _revealed(marked[0].with_columns(split=pl.Series(split)), marked[1], rows[split == 0])
    else:
        rows, split = np.arange(targets.height), targets["split"].to_numpy()
    order = np.lexsort((redraw(draw[rows], 3), split))
    rows, split = rows[order], split[order]
    sample = np.full(targets.height, -1)
    sample[rows] = np.arange(rows.size)
    places = {"sample": sample[entries["of"].to_numpy()], "row": targets.height + np.arange(entries.height)}
    kept = pl.DataFrame(places).filter(pl.col("sample") >= 0)
    kept = kept.filter(pl.int_range(pl.len()).reverse().over("sample") < options.max_history)
    return Targets(events, rows, split, kept)


def _revealed(targets: pl.DataFrame, entries: pl.DataFrame, train: Ints) -> list[str]:
    """What looks wrong if histories of training rows hold validation and test targets, with their labels."""
    told = ["user", "title", "label"]
    known = entries.filter(pl.col("of").is_in(train.tolist()) & (pl.col("user") != "")).select(told)
    later = targets.filter(pl.col("split") > 0)
    count = later.join(known.unique(), on=told, how="semi").height
    if count <= later.height / 10:
        return []
    return [
        f"{count:,} of {later.height:,} validation and test targets stand in a history of a training row of the same "
        "user, which tells their labels. Fix: give rows times (data.columns.timestamp), so that they are split by "
        "time, or splits of their own (data.splits); or split by user (data.samples.split: user)"
    ]


def _compare_titles(targets: pl.DataFrame, summary: DataSummary) -> None:
    """Says how many rows call their target otherwise than the table of items does."""
    own, known = (targets[name].str.to_lowercase() for name in ("own_title", "title"))
    if not (count := int((own != known).sum())):
        return
    said = f"{count:,} of {targets.height:,} rows have another title than the item of their id, whose title is used"
    if 2 * count > targets.height:
        summary.doubts.append(f"{said}. Fix: check that ids and titles of a row belong together")
    else:
        summary.counts.append(said)


def _count_untitled(targets: pl.DataFrame, summary: DataSummary) -> None:
    """Says of how many targets nothing but the id is known."""
    is_untitled = (targets["title"] == targets["name"]) & targets["own_title"].is_null()
    if count := int(is_untitled.sum()):
        first = targets["name"].filter(is_untitled)[0]
        summary.counts.append(
            f"{count:,} of {targets.height:,} targets have no title, and prompts show the id ({first!r})"
        )


def _identified(rows: pl.DataFrame, items: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Rows with `item` and `title` for `name`. A title that several items have is an item without an id.

    A name that is an id and a title, as 300 may be, is what more of the names are. And where nearly all names are of
    one kind, a number is of that kind, too: 1917 is a title, even if the table has an item 1917 and not that film.

    Args:
        rows: with `name`.
        items: all of them.
        kind: of names, `item` or `title`, where they may all be either.
    """
    names = {
        "title": items.select("item", "title", name="title").filter(~pl.col("name").is_duplicated()),
        "item": items.select("item", "title", name="item"),
    }
    is_id, is_title = (rows["name"].is_in(items[column].implode()) for column in ("item", "title"))
    count = {"item": int((is_id & ~is_title).sum()), "title": int((is_title & ~is_id).sum())}
    rarer, other = sorted(names, key=lambda name: (count[name], name == kind))
    if count[rarer] < _FEW * count[other]:
        names[rarer] = names[rarer].filter(~pl.col("name").str.contains(r"^\d+$"))
    known = pl.concat([names[other], names[rarer]]).unique("name", keep="first", maintain_order=True)
    rows = rows.join(known, on="name", how="left", maintain_order="left")
    return rows.with_columns(pl.col("item").fill_null(""), pl.coalesce("title", "name"))


def _without_targets(entries: pl.DataFrame, targets: pl.DataFrame, summary: DataSummary) -> pl.DataFrame:
    """The entries that are not the row's own target, whose label they would tell; the others are counted.

    Without an id, on either side, the title decides, in upper or lower case. A title is no id.
    """
    own = targets[entries["of"]]
    titles = [frame["title"].str.to_lowercase() for frame in (entries, own)]
    unnamed = [frame["item"].is_in(["", None]) | (frame["item"] == frame["title"]) for frame in (entries, own)]
    is_target = (entries["item"] == own["item"]) & (entries["item"] != "")
    is_target |= (unnamed[0] | unnamed[1]) & (titles[0] == titles[1])
    if count := int(is_target.sum()):
        summary.counts.append(f"{count:,} history entries were left out: they are the target of their own row")
    return entries.filter(~is_target)


def _read(
    sources: Mapping[str, RawTable], options: SampleOptions, summary: DataSummary
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows, and all entries of their histories (`of`: the row's number); `name` is an item's id or title."""
    frames, skipped = [], Counter[str]()
    for split, table in sources.items():
        there = table.frame.collect_schema()
        target = pl.coalesce(*(name for name in ("item", "title") if name in there)).alias("name")
        own = (pl.col("title") if {"item", "title"} <= {*there} else pl.lit(None, pl.String)).alias("own_title")
        others = ["user", "rating", "timestamp", "history", "history_liked", *(["place"] if table.own_texts else [])]
        frame = table.collect([target, own, *others], options.on_bad_row, skipped, summary.files)
        frames.append(frame.with_columns(split=pl.lit(SPLITS.index(split) if split else 0, pl.Int8)))
    rows = pl.concat(frames, how="diagonal")
    summary.counts += take_missing(skipped)
    paths = [table.path for table in sources.values()]
    for column, name in (("user", "user"), ("name", "item")):
        check_spellings(rows[column], name, paths)
        summary.unmatched += doubtful_spellings(rows[column], name, paths)
    summary.rows, summary.dropped = rows.height + skipped.total(), dict(skipped)
    if len({*paths}) == 1:  # splits by a column
        summary.files[str(paths[0])] = summary.rows
    content = pl.concat_str("user", "name", pl.col("history").list.join("|"), separator="/")
    middle = options.threshold or 0.0
    entries = rows.select("user", "timestamp", "history", "history_liked", of=pl.int_range(pl.len()))
    entries = entries.explode("history", "history_liked").drop_nulls("history")
    rating = pl.when("history_liked").then(middle + 1).otherwise(middle - 1).cast(rows.schema["rating"])
    entries = entries.select("user", "timestamp", "of", rating.alias("rating"), name="history")
    return rows.with_columns(content.alias("content")).drop("history", "history_liked"), entries
