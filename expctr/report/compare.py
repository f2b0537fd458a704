"""Are two systems told apart? AUC with paired intervals, ROC and calibration, in numpy: the report starts at once,
without the seconds that importing torch takes.

Users are resampled, each with all of its rows, as in `expctr.metrics`; where these are not known, each row is one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_Z = 1.959964  # the normal quantile of a 95% interval


class Estimate(NamedTuple):
    """A number and the bounds of its interval; nan where undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


class Bin(NamedTuple):
    """Scores of about the same height."""

    score: float
    """Their mean."""
    rate: Estimate
    """The share of ones among them, with Wilson's interval."""
    rows: int


def auc(scores: Floats, labels: Floats) -> float:
    """The share of (positive, negative) pairs in the right order, ties half; nan where a class is missing."""
    return float(_aucs(scores, labels, np.ones((1, len(labels))))[0])


def auc_gain(
    first: Floats, second: Floats, labels: Floats, users: Ints | None = None, n: int = 1000, seed: int = 0
) -> Estimate:
    """How much higher the AUC of `second` is, with a 95% bootstrap interval.

    Both systems are scored on the same resampled users, so what rows they find hard together does not widen it.

    Args:
        first: scores `[rows]`.
        second: the other system's, `[rows]`.
        labels: 0 or 1, `[rows]`.
        users: whose rows they are, `[rows]`; `None`: each row has its own.
        n: resamples; one with a single class is left out.
        seed: of the resampling.
    """
    gains = [
        _aucs(second, labels, weight) - _aucs(first, labels, weight)
        for weight in _resamples(len(labels), users, n, seed)
    ]
    return _estimate(auc(second, labels) - auc(first, labels), np.concatenate(gains))


def mean(values: Floats, users: Ints | None = None, n: int = 1000, seed: int = 0) -> Estimate:
    """A mean with its 95% bootstrap interval.

    Args:
        values: one a row, `[rows]`, at least one.
        users: whose rows they are, `[rows]`; `None`: each row has its own.
        n: resamples.
        seed: of the resampling.
    """
    means = [weight @ values / weight.sum(1) for weight in _resamples(len(values), users, n, seed)]
    return _estimate(float(values.mean()), np.concatenate(means))


def overlap_gain(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two numbers of which only intervals are known; it leaves out 0 only where these are apart."""
    return Estimate(second.value - first.value, second.low - first.high, second.high - first.low)


def share(hits: int, rows: int) -> Estimate:
    """A share with its 95% interval (Wilson, JASA 1927), which holds near 0 and 1 and in few rows."""
    if rows == 0:
        return Estimate(float("nan"))
    p = hits / rows
    middle = (p + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    reach = _Z / (1 + _Z**2 / rows) * float(np.sqrt(p * (1 - p) / rows + _Z**2 / (4 * rows**2)))
    return Estimate(p, max(0.0, middle - reach), min(1.0, middle + reach))


def calibration(scores: Floats, labels: Floats, bins: int = 10) -> list[Bin]:
    """The bins that have rows, of equal width over [0, 1]; as `expctr.metrics.calibration` makes them."""
    index = np.minimum((scores * bins).astype(int), bins - 1)
    made = []
    for b in range(bins):
        here = index == b
        rows = int(here.sum())
        if rows:
            made.append(Bin(float(scores[here].mean()), share(int(labels[here].sum()), rows), rows))
    return made


def ece(bins: list[Bin]) -> float:
    """Expected calibration error: the mean over rows of |mean score - share of ones| of their bin."""
    rows = sum(b.rows for b in bins)
    return sum(b.rows * abs(b.score - b.rate.value) for b in bins) / rows if rows else float("nan")


def roc(scores: Floats, labels: Floats, points: int = 200) -> list[tuple[float, float]]:
    """(false, true positive rate) at falling thresholds, from (0, 0) to (1, 1); of many, about `points` are kept."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores pass the threshold at once
    hits = np.cumsum(labels[order])[ends]
    false = ends + 1 - hits
    if not hits[-1] or not false[-1]:
        return []
    curve = np.column_stack([false / false[-1], hits / hits[-1]])
    kept = np.unique(np.linspace(0, len(curve) - 1, points).astype(int)) if len(curve) > points else slice(None)
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in curve[kept])]


def _resamples(rows: int, users: Ints | None, n: int, seed: int) -> Iterator[Floats]:
    """How often each of `n` resamples has each row, `[some of n, rows]`; all nan where there is a single user."""
    _, first, number = np.unique(np.arange(rows) if users is None else users, return_index=True, return_inverse=True)
    random, there, owner = np.random.default_rng(seed), len(first), first.argsort().argsort()[number]
    for start in range(0, n, 50):  # 50 weightings of 20,000 rows are 8 MB
        draws = random.integers(0, there, (min(50, n - start), there))
        weight = np.stack([np.bincount(draw, minlength=there) for draw in draws]).astype(float)
        yield weight[:, owner] if there > 1 else np.full((len(draws), rows), np.nan)


def _estimate(value: float, resampled: Floats) -> Estimate:
    """A value with the bounds of 95% of what resamples say, those left out that say nothing."""
    known = resampled[np.isfinite(resampled)]
    return Estimate(value, *map(float, np.quantile(known, [0.025, 0.975]))) if len(known) else Estimate(value)


def _aucs(scores: Floats, labels: Floats, weight: Floats) -> Floats:
    """AUC under many weightings `[weightings, rows]` of the same rows."""
    order = np.argsort(scores, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(scores[order])) + 1])
    ones = np.add.reduceat((weight * labels)[:, order], starts, axis=1)
    zeros = np.add.reduceat((weight * (1 - labels))[:, order], starts, axis=1)
    below = np.cumsum(zeros, axis=1) - zeros
    with np.errstate(invalid="ignore"):
        found: Floats = (ones * (below + zeros / 2)).sum(1) / (ones.sum(1) * zeros.sum(1))
    return found
