"""Samples from interactions: a target, the items before it, a label, a split (paper, section 5.1.1).

Interactions are sorted by user and time once. A history is then a range of rows that ends before its target, so nothing
at or after the target can be in it.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expctr.data.interactions import is_liked, load_interactions, titled_items
from expctr.data.options import IGNORED_WITH_SPLITS, SPLITS, SampleOptions
from expctr.data.random_draws import Ints, draws_of_ids, redraw
from expctr.data.readers.base import RawTable, RawTables
from expctr.data.summary import DataSummary
from expctr.data.unmatched_ids import explain_unmatched
from expctr.errors import DataError


def make_samples(
    tables: RawTables, options: SampleOptions, splits: Mapping[str, RawTable] | None = None
) -> tuple[pl.DataFrame, DataSummary]:
    """Draws the samples of a dataset.

    Args:
        tables: the raw tables.
        options: how to draw.
        splits: ratings tables named train, val and test, in place of `tables.interactions`. All their rows are targets,
            and histories hold earlier rows of train only. `IGNORED_WITH_SPLITS` have no effect.

    Returns:
        One row per sample, in the order train, val, test, and what became of the raw rows. Columns: `sample` int64 from
        0, `split`, `user`, `target`, `target_title`, `liked`, `disliked`, `liked_titles`, `disliked_titles` (lists,
        oldest first), `history` and `history_liked` (ids of both lists in one, and which of them are liked), `label`
        int8, `rating`, `timestamp`, `review`, and side features as `user_*` and `target_*`.

    Raises:
        DataError: a bad row (`on_bad_row: error`), no timestamps to order by, or a split without samples.
    """
    sign = ">=" if options.threshold_op == "ge" else ">"
    zeros = "" if options.zero_ratings == "keep" else ", zeros dropped"
    summary = DataSummary(rule=f"liked when rating {sign} {options.threshold:g}{zeros}")
    summary.notes = [*tables.notes, *(f"not used: {columns}" for columns in tables.unused_columns)]
    if splits:
        names, summary.own_splits = ", ".join({table.path.name: 0 for table in splits.values()}), True
        summary.notes.append(f"not used, because {names} are the splits: data.samples.{', '.join(IGNORED_WITH_SPLITS)}")
    side_dropped = Counter[str]()
    items = titled_items(tables, options, side_dropped, summary.files)
    sources = splits or {"": tables.interactions}
    events = load_interactions(sources, items["item"], options, summary)

    lengths, starts = _history_lengths(events)
    dropped = Counter[str]()
    if splits:
        rows = np.flatnonzero(lengths >= options.min_history)
        dropped["history shorter than min_history"] += events.height - rows.size
        split = events["split"].to_numpy()[rows]
    else:
        rows = _draw_targets(events, lengths, options, dropped)
        split = _draw_splits(events[rows], options)
    order = np.lexsort((redraw(events["draw"].to_numpy()[rows], 3), split))
    rows, split = rows[order], split[order]

    entries, summary.withheld = _histories(events, rows, split, starts, lengths, options.max_history)
    enough = np.bincount(entries["sample"].to_numpy(), minlength=rows.size) >= options.min_history
    dropped["history shorter than min_history after withholding later targets"] += int((~enough).sum())
    summary.samples_dropped = {reason: count for reason, count in dropped.items() if count}

    samples = _assemble(events, rows, split, entries, items, options).filter(pl.Series(enough))
    samples = samples.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("sample"))
    samples = _add_reviews(samples, sources)
    if tables.users is not None:
        users = tables.users.collect_unique("user", options.on_bad_row, side_dropped, summary.files)
        about = f"the rows of {tables.users.path.name}"
        if unmatched := explain_unmatched(samples["user"], users["user"], "users with samples", about):
            summary.unmatched.append(unmatched)
        users = users.rename({c: f"user_{c}" for c in users.columns if c != "user"})
        samples = samples.join(users, on="user", how="left", maintain_order="left")
    summary.side_dropped = dict(side_dropped)
    summary.count_samples(samples)
    for name, share in zip(SPLITS, options.fractions, strict=True):
        if not summary.splits[name]["samples"] and (splits or share):
            raise _empty_split(name, samples.height, summary, own=bool(splits))
    return samples, summary


def _empty_split(name: str, samples: int, summary: DataSummary, own: bool) -> DataError:
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in summary.samples_dropped.items())
    fix = "raise data.samples.targets_per_user or the share in data.samples.fractions"
    if own:
        fix = f"check that the users of data.splits.{name} have earlier rows in data.splits.train"
    return DataError(
        f"the {name} split is empty: {samples} samples from {summary.users} users in all"
        f"{f', not used: {reasons}' if reasons else ''}. Fix: {fix}, or lower data.samples.min_ratings or "
        "data.samples.min_history"
    )


def _history_lengths(events: pl.DataFrame) -> tuple[Ints, Ints]:
    """Per interaction, how many training interactions its user has before it, and where among all these start."""
    user = events["user"].to_physical().to_numpy()
    usable = events["split"].to_numpy() == 0
    before = np.cumsum(usable) - usable
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    starts = np.repeat(before[first], np.diff(np.r_[first, user.size]))
    return before - starts, starts


def _draw_targets(events: pl.DataFrame, lengths: Ints, options: SampleOptions, dropped: Counter[str]) -> Ints:
    """The rows of the targets: those with the lowest draws per user, then a random subset over all users."""
    eligible = events.select("user", "draw", row=pl.int_range(pl.len())).filter(lengths >= options.min_history)
    lowest = pl.col("row").bottom_k_by("draw", options.targets_per_user)  # a sort would copy the whole table
    by_user = eligible.group_by("user").agg(lowest)
    dropped["user with too few ratings for min_history"] += events["user"].n_unique() - by_user.height
    row = by_user["row"].explode().sort()
    drawn = events[row].select("draw", is_liked(options).alias("label"), row=row)

    # The lowest of many draws is lower than the lowest of few. So a second draw decides whose targets are kept; the
    # first one would favour users with many ratings.
    turn = pl.col("second").rank("ordinal")
    drawn = drawn.with_columns(second=redraw(drawn["draw"].to_numpy(), 1)).with_columns(
        turn=turn.over("label") if options.balance else turn
    )
    if options.balance:
        likes = int(drawn["label"].sum())
        smaller = min(likes, drawn.height - likes)
        dropped["surplus of one label (balance)"] += drawn.height - 2 * smaller
        drawn = drawn.filter(pl.col("turn") <= smaller)
    kept = drawn.sort("turn", "second").head(drawn.height if options.max_samples is None else options.max_samples)
    dropped["beyond max_samples"] += drawn.height - kept.height
    return kept["row"].to_numpy().astype(np.int64)


def _draw_splits(targets: pl.DataFrame, options: SampleOptions) -> NDArray[np.int8]:
    """The split of each target, as its position in `SPLITS`."""
    val, test = (round(targets.height * share) for share in options.fractions[1:])
    bounds = np.array([targets.height - val - test, targets.height - test])
    if options.split == "time":
        order = np.lexsort((targets["tie"].to_numpy(), targets["timestamp"].to_numpy()))
    else:
        by_user = options.split == "user"
        draw = draws_of_ids(targets["user"], options.seed) if by_user else targets["draw"].to_numpy()
        order = np.argsort(redraw(draw, 2), kind="stable")
    place = np.empty(targets.height, dtype=np.int64)
    place[order] = np.arange(targets.height)
    if options.split == "user":
        place = targets.with_columns(pl.Series("place", place)).select(pl.min("place").over("user"))["place"].to_numpy()
    return np.searchsorted(bounds, place, side="right").astype(np.int8)


def _histories(
    events: pl.DataFrame, rows: Ints, split: NDArray[np.int8], starts: Ints, lengths: Ints, longest: int
) -> tuple[pl.DataFrame, int]:
    """The history entries of all targets, oldest first: `sample` (position in `rows`) and `row` of events.

    Entries that are targets of a later split are withheld, because they would reveal its labels, and counted.
    """
    count = np.minimum(lengths[rows], longest)
    last = starts[rows] + lengths[rows]
    sample = np.repeat(np.arange(rows.size), count)
    within = np.arange(sample.size) - np.repeat(np.cumsum(count) - count, count)
    entry = np.flatnonzero(events["split"].to_numpy() == 0)[(last - count)[sample] + within]
    target_of = np.zeros(events.height, dtype=np.int8)
    target_of[rows] = split
    allowed = target_of[entry] <= split[sample]
    return pl.DataFrame({"sample": sample[allowed], "row": entry[allowed]}), int((~allowed).sum())


def _assemble(
    events: pl.DataFrame,
    rows: Ints,
    split: NDArray[np.int8],
    entries: pl.DataFrame,
    items: pl.DataFrame,
    options: SampleOptions,
) -> pl.DataFrame:
    """One row per target, with its history as lists of ids and of titles, and side features."""
    titles = items.select("item", "title")
    history = events[entries["row"]].select(
        entries["sample"], pl.col("item").cast(pl.String), is_liked(options).alias("is_liked")
    )
    history = history.join(titles, on="item", how="left", maintain_order="left")
    targets = events[rows].select(
        sample=pl.int_range(pl.len()),
        split=pl.Series(split).replace_strict(dict(enumerate(SPLITS)), return_dtype=pl.String),
        user=pl.col("user").cast(pl.String),
        target=pl.col("item").cast(pl.String),
    )
    side = items.rename({"item": "target"} | {c: f"target_{c}" for c in items.columns if c != "item"})
    targets = targets.join(side.select("target", "target_title"), on="target", how="left", maintain_order="left")
    liked = pl.col("is_liked")
    lists = history.group_by("sample").agg(
        pl.col("item").filter(liked).alias("liked"),
        pl.col("title").filter(liked).alias("liked_titles"),
        pl.col("item").filter(~liked).alias("disliked"),
        pl.col("title").filter(~liked).alias("disliked_titles"),
        pl.col("item").alias("history"),
        liked.alias("history_liked"),
    )
    targets = targets.join(lists, on="sample", how="left", maintain_order="left")
    targets = targets.with_columns(pl.col(pl.List(pl.String), pl.List(pl.Boolean)).fill_null([]))
    outcome = events[rows].select(is_liked(options).cast(pl.Int8).alias("label"), "rating", "timestamp")
    targets = pl.concat([targets, outcome], how="horizontal")
    return targets.join(side.drop("target_title"), on="target", how="left", maintain_order="left")


def _add_reviews(samples: pl.DataFrame, sources: Mapping[str, RawTable]) -> pl.DataFrame:
    """Adds the target's review. A separate pass reads it, so that the texts of all reviews need not fit in memory."""
    key = ["user", "target", "timestamp"]
    wanted = samples.lazy().select(key)
    found = [
        table.frame.filter(pl.col("problem").is_null())
        .select("user", pl.col("item").alias("target"), "timestamp", "review")
        .join(wanted, on=key, how="semi", nulls_equal=True)
        for table in sources.values()
        if "review" in table.frame.collect_schema()
    ]
    if not found:
        return samples.with_columns(review=pl.lit(None, pl.String))
    reviews = pl.concat(found).collect(engine="streaming").unique(key, keep="last", maintain_order=True)
    return samples.join(reviews, on=key, how="left", nulls_equal=True, maintain_order="left")
