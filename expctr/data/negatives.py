"""Negatives for data that has positives only: for each target, items that its user never had."""

from typing import NamedTuple

import numpy as np
import polars as pl

from expctr.data.interactions import is_liked
from expctr.data.options import SampleOptions
from expctr.data.random_draws import Draws, Ints, draws_of_ids, id_codes, mix, redraw
from expctr.data.sample_rows import target_features
from expctr.data.summary import DataSummary
from expctr.errors import DataError

_TRIES = 100  # draws per negative; a user who had nearly all items may get fewer negatives


def with_negatives(
    samples: pl.DataFrame,
    events: pl.DataFrame,
    items: pl.DataFrame,
    options: SampleOptions,
    summary: DataSummary,
    skipped: pl.DataFrame,
) -> pl.DataFrame:
    """Adds `options.negatives` samples after each one: same user, time, split, history and context, another target.

    The target is an item of the interactions that the user never had: not before, because that would be wrong, and not
    later, because what somebody takes tomorrow is no example of what they do not want. Nor in a row that was skipped,
    perhaps for its time: `skipped` has `user` and `item` of these.

    Raises:
        DataError: there are dislikes in the data.
    """
    liked = float(events.select(is_liked(options).mean()).item())
    if liked < 1:
        raise DataError(
            f"data.samples.negatives draws dislikes for data of positives only, and {1 - liked:.1%} of the rows are "
            "dislikes. Fix: set data.samples.negatives to 0, or remove these rows"
        )
    user = _codes(samples["user"], events["user"])
    had_by, had_item = (pl.concat([events[name], skipped[name].cast(events[name].dtype)]) for name in ("user", "item"))
    had = np.unique(_pairs(id_codes(had_by), id_codes(had_item)))
    drawn = _draw(user, had, _draws(samples, options), Pool.of(events, options), options.negatives)
    place, slot = np.nonzero(drawn >= 0)
    if missing := drawn.size - place.size:
        summary.counts.append(f"{missing:,} negatives were not drawn: their users had nearly all items")
    codes = events.select("item", code=pl.Series(id_codes(events["item"]))).unique("code")
    names = pl.DataFrame({"code": drawn[place, slot], "place": place}).join(
        codes, on="code", how="left", maintain_order="left"
    )
    side = target_features(items)
    negatives = samples[place].drop(column for column in side.columns if column in samples.columns)
    negatives = negatives.with_columns(names["item"].cast(pl.String).alias("target"))
    negatives = negatives.join(side, on="target", how="left", maintain_order="left").with_columns(
        label=pl.lit(0, pl.Int8), rating=pl.lit(None, pl.Float32), review=pl.lit(None, pl.String)
    )
    both = pl.concat([samples, negatives.select(samples.columns)])
    return both[np.argsort(np.append(np.arange(samples.height), place), kind="stable")]


class Pool(NamedTuple):
    """The items to draw from, in the order of their ids, so that a draw does not depend on the order of the rows."""

    codes: Ints
    """Their codes in the interactions."""
    upto: Ints
    """Chances of each item and those before it, in sum."""

    @classmethod
    def of(cls, events: pl.DataFrame, options: SampleOptions) -> "Pool":
        counted = events.select(pl.col("item").cast(pl.String).alias("id"), code=pl.Series(id_codes(events["item"])))
        counted = counted.group_by("id").agg(pl.first("code"), pl.len()).sort("id")
        chances = counted["len"].to_numpy() if options.negatives_by == "popularity" else np.ones(counted.height)
        return cls(counted["code"].to_numpy(), np.cumsum(chances).astype(np.int64))

    def pick(self, draws: Draws) -> Ints:
        """The code of an item for each draw."""
        return self.codes[np.searchsorted(self.upto, (draws % np.uint64(self.upto[-1])).astype(np.int64), side="right")]


def _draw(user: Ints, had: Ints, draws: Draws, pool: Pool, count: int) -> Ints:
    """Codes of items `[samples, count]`, all different in a row; -1 where none was found."""
    drawn = np.full((user.size, count), -1, dtype=np.int64)
    for slot in range(count):
        left = np.arange(user.size)
        for attempt in range(_TRIES):
            item = pool.pick(redraw(draws[left], 1 + slot * _TRIES + attempt))
            pair = _pairs(user[left], item)
            is_had = had[np.minimum(np.searchsorted(had, pair), had.size - 1)] == pair
            is_bad = is_had | (drawn[left, :slot] == item[:, None]).any(1)
            drawn[left[~is_bad], slot] = item[~is_bad]
            left = left[is_bad]
            if not left.size:
                break
    return drawn


def _pairs(user: Ints, item: Ints) -> Ints:
    return user << 32 | item


def _codes(ids: pl.Series, like: pl.Series) -> Ints:
    """The codes that ids have in a categorical column."""
    return id_codes(ids.cast(like.dtype))


def _draws(samples: pl.DataFrame, options: SampleOptions) -> Draws:
    """A draw per sample, of seed, user, target and time."""
    user, target = (draws_of_ids(samples[name].cast(pl.Categorical), options.seed) for name in ("user", "target"))
    time = samples["timestamp"].fill_null(0).to_numpy().astype(np.uint64)
    return mix(user ^ mix(target ^ mix(time)))
