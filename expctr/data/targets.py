"""Targets: which interactions samples are about, and the split of each."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expctr.data.interactions import is_liked
from expctr.data.options import SampleOptions
from expctr.data.random_draws import Ints, draws_of_ids, redraw
from expctr.data.summary import BEYOND_MAX_SAMPLES, BEYOND_TARGETS


class Targets(NamedTuple):
    """What samples are made of."""

    events: pl.DataFrame
    """`user`, `item`, `rating`, `timestamp`: the rows of targets and of histories."""
    rows: Ints
    """The rows of the targets, in the order of the samples."""
    split: NDArray[np.int8]
    """The split of each target, as its position in `SPLITS`."""
    entries: pl.DataFrame
    """The entries of the histories, oldest first: `sample` (position in `rows`) and `row` of events."""


def draw_targets(events: pl.DataFrame, lengths: Ints, options: SampleOptions, dropped: Counter[str]) -> Ints:
    """The rows of the targets: those with the lowest draws per user, of which `keep_subset` keeps some."""
    eligible = events.select("user", "draw", row=pl.int_range(pl.len())).filter(lengths >= options.min_history)
    lowest = pl.col("row").bottom_k_by("draw", options.targets_per_user)  # a sort would copy the whole table
    by_user = eligible.group_by("user").agg(lowest)
    dropped["user with too few ratings for min_history"] += events["user"].n_unique() - by_user.height
    row = by_user["row"].explode().sort()
    dropped[BEYOND_TARGETS] += eligible.height - row.len()
    drawn = events[row].select("user", "draw", is_liked(options).alias("label"), row=row)
    return keep_subset(drawn, options, dropped)


def keep_subset(drawn: pl.DataFrame, options: SampleOptions, dropped: Counter[str]) -> Ints:
    """The rows of the targets (`row`, `user`, `draw`, `label`) that `balance` and `max_samples` keep.

    `max_samples` keeps all targets of some users, drawn at random: one target of each of many users would teach a model
    nothing about any of them. With `balance` both labels are drawn from all users: if one label were that of a few
    users, their ids would tell it.
    """
    # The lowest of many draws is lower than the lowest of few. So a second draw decides whose targets are kept; the
    # first one would favour users with many ratings.
    chosen_by = pl.col("draw") if options.balance else pl.min("draw").over("user")
    second = redraw(drawn.select(chosen_by)["draw"].to_numpy(), 1)
    drawn = drawn.with_columns(second=second).sort("second", "draw")
    if options.balance:
        likes = int(drawn["label"].sum())
        smaller = min(likes, drawn.height - likes)
        dropped["surplus of one label (balance)"] += drawn.height - 2 * smaller
        drawn = drawn.with_columns(turn=pl.int_range(pl.len()).over("label"))
        drawn = drawn.filter(pl.col("turn") < smaller).sort("turn", "second")
    most = drawn.height if options.max_samples is None else options.max_samples // (1 + options.negatives)
    kept = drawn.head(most)
    dropped[BEYOND_MAX_SAMPLES] += drawn.height - kept.height
    return kept["row"].to_numpy().astype(np.int64)


def draw_splits(targets: pl.DataFrame, options: SampleOptions) -> NDArray[np.int8]:
    """The split of each target, as its position in `SPLITS`."""
    val, test = (round(targets.height * share) for share in options.fractions[1:])
    bounds = np.array([targets.height - val - test, targets.height - test])
    if options.split_rule == "time":
        order = np.lexsort((targets["tie"].to_numpy(), targets["timestamp"].to_numpy()))
    else:
        by_user = options.split_rule == "user"
        draw = draws_of_ids(targets["user"], options.seed) if by_user else targets["draw"].to_numpy()
        order = np.argsort(redraw(draw, 2), kind="stable")
    place = np.empty(targets.height, dtype=np.int64)
    place[order] = np.arange(targets.height)
    if options.split_rule == "user":
        place = targets.with_columns(pl.Series("place", place)).select(pl.min("place").over("user"))["place"].to_numpy()
    return np.searchsorted(bounds, place, side="right").astype(np.int8)
