"""Counts of a sample's own history, as fields of the CTR models."""

import numpy as np
import polars as pl

from expctr.data.random_draws import Ints

_COUNTS = ("history_count", "history_liked_count", "history_liked_share")
_STEPS = 20  # the share of liked titles is rounded to multiples of 1 / 20


def history_counts(samples: pl.DataFrame) -> dict[str, pl.Series]:
    """Numbers that describe each row's own history, as the prompt shows it; nothing of the target or of later rows.

    Returns:
        float64 `[rows]`: `history_count`, the number of its titles; `history_liked_count`, the number of liked ones;
        `history_liked_share`, the share of liked ones in steps of 0.05, NaN for an empty history.
    """
    liked, disliked = (samples[name].list.len().fill_null(0).cast(pl.Float64) for name in ("liked", "disliked"))
    count = liked + disliked
    share = (liked / count * _STEPS).round() / _STEPS
    return dict(zip(_COUNTS, (count, liked, share), strict=True))


def different_counts(numbers: pl.Series) -> list[str]:
    """The different numbers of the training rows as strings, in rising order; NaN is the last."""
    return [f"{number:g}" for number in np.unique(numbers.to_numpy())]


def nearest_count(numbers: pl.Series, known: list[str]) -> Ints:
    """The place of the nearest known number; of two equally near ones, the lower. NaN has only itself; -1 for none.

    Unlike ages and years, these numbers are few, so each keeps a place of its own.
    """
    found, places = numbers.to_numpy(), np.array(known, dtype=np.float64)
    finite = places[~np.isnan(places)]
    index = np.full(found.size, -1, dtype=np.int64)
    if finite.size:
        index = np.searchsorted((finite[1:] + finite[:-1]) / 2, found)
    index[np.isnan(found)] = finite.size if finite.size < places.size else -1
    return index
