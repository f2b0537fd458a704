"""What a table of click scores is worth: AUC, LogLoss, MAE, RMSE, MSE, calibration, and how sure one can be of them.

A user's rows go together, so what is resampled are users, each with all of its rows (a cluster bootstrap: Davison and
Hinkley, "Bootstrap Methods and their Application", 1997, 3.8): other users, with other tastes, are what a result is to
hold for. Rows taken for independent would make intervals too narrow wherever users have several.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import mean_absolute_error, mean_squared_error
from torchmetrics.functional.classification import binary_auroc

METRICS = ("auc", "logloss", "mae", "rmse", "mse")
"""The keys of `ctr_metrics`, in the order of the paper's Table 1; MSE is named in its text only."""


class Estimate(NamedTuple):
    """A metric and the bounds of its interval; nan where undefined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


def ctr_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics of Table 1, and MSE.

    Args:
        scores: click probabilities `[rows]`.
        labels: 0 or 1, `[rows]`.

    Returns:
        By the names in `METRICS`. AUC is nan, with a warning, where all labels are the same. All are nan without rows.

    Raises:
        ValueError: the shapes differ, a score is no probability, or a label is neither 0 nor 1.
    """
    _check(scores, labels)
    if len(scores) == 0:
        return dict.fromkeys(METRICS, math.nan)
    rate = float(labels.double().mean())
    if 0 < rate < 1:
        auc = float(binary_auroc(scores, labels.long()))
    else:
        warnings.warn(f"AUC is undefined: all {len(labels)} labels are {rate:.0f}", stacklevel=2)
        auc = math.nan
    logloss, score, label = float(_logloss(scores, labels).mean()), scores.double(), labels.double()
    mse = float(mean_squared_error(score, label))
    mae = float(mean_absolute_error(score, label))
    return {"auc": auc, "logloss": logloss, "mae": mae, "rmse": math.sqrt(mse), "mse": mse}


def bootstrap_intervals(
    scores: Tensor,
    labels: Tensor,
    users: Tensor | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of `ctr_metrics`, over resampled users.

    Args:
        scores: click probabilities `[rows]`.
        labels: 0 or 1, `[rows]`.
        users: whose rows they are, as `bootstrap` has it.
        n: resamples.
        seed: of the resampling, as `bootstrap` has it.
        level: probability mass between the bounds.

    Returns:
        `(low, high)` by the names in `METRICS`. A resample with one class has no AUC and is left out of AUC's interval,
        which is nan where none has one. All are nan where there is a single user.
    """
    _check(scores, labels)
    if len(scores) == 0:
        return dict.fromkeys(METRICS, (math.nan, math.nan))
    low, high = bootstrap(scores, labels, users, n, seed).nanquantile(_bounds(level), dim=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(METRICS)}


def estimate(value: float, resampled: Tensor, level: float = 0.95) -> Estimate:
    """A value with its percentile bootstrap interval.

    Args:
        value: of all rows.
        resampled: the same of each resample, `[n]`; nan where it is undefined.
        level: probability mass between the bounds.
    """
    low, high = resampled.double().nanquantile(_bounds(level)).tolist()
    return Estimate(value, low, high)


def mean_estimates(
    columns: Mapping[str, Tensor], users: Tensor | None = None, n: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Means with their 95% percentile bootstrap intervals, over resampled users.

    Args:
        columns: by name, a value a row, `[rows]`; a row that has none (nan) is no part of that column's mean.
        users: whose rows they are, as `bootstrap` has it.
        n: resamples.
        seed: of the resampling, as `bootstrap` has it.
    """
    if not columns or not len(next(iter(columns.values()))):
        return dict.fromkeys(columns, UNDEFINED)
    values = torch.stack([column.detach().cpu().double() for column in columns.values()], 1)
    known = (~values.isnan()).double()
    whole = torch.cat([values.nan_to_num() * known, known], 1)
    sums = torch.cat([weight @ whole for weight in _resamples(len(values), users, n, seed)])
    resampled, means = (s[:, : len(columns)] / s[:, len(columns) :] for s in (sums, whole.sum(0, keepdim=True)))
    return {
        name: estimate(float(mean), draws) for name, mean, draws in zip(columns, means[0], resampled.T, strict=True)
    }


def bootstrap(scores: Tensor, labels: Tensor, users: Tensor | None = None, n: int = 1000, seed: int = 0) -> Tensor:
    """`ctr_metrics` of resampled users, as many as there are, each with all of its rows.

    Args:
        scores: click probabilities `[rows]`, at least one.
        labels: 0 or 1, `[rows]`.
        users: whose rows they are, integers `[rows]`, which tell users apart and no more; `None`: each row has its own.
        n: resamples.
        seed: of the resampling; the same seed and users draw the same rows, so two systems' are paired.

    Returns:
        float64 `[n, metrics]`, in the order of `METRICS`; the AUC of a resample with one class is nan, and all are
        where there is a single user, who does not tell how another would differ.
    """
    _check(scores, labels)
    scores, labels = scores.detach().cpu(), labels.detach().cpu()
    error = scores.double() - labels.double()
    per_row = torch.stack([_logloss(scores, labels), error.abs(), error.square()], dim=1)
    order = scores.argsort()
    _, tie = scores[order].unique_consecutive(return_inverse=True)
    positive = labels[order].double()

    parts: list[Tensor] = []
    for weight in _resamples(len(scores), users, n, seed):
        logloss, mae, mse = (weight @ per_row / weight.sum(1, keepdim=True)).unbind(1)
        parts.append(torch.stack([_weighted_auc(weight[:, order], positive, tie), logloss, mae, mse.sqrt(), mse], 1))
    return torch.cat(parts)


def paired_p_value(differences: Tensor) -> float:
    """How often chance alone makes two systems differ so: two-sided, from the bootstrap of their difference.

    Args:
        differences: of the metric in each resample, `bootstrap(a, ...) - bootstrap(b, ...)` on the same draws, `[n]`;
            nan where it is undefined.

    Returns:
        Twice the share of resamples on zero's other side, the one that was seen counted among them (Davison and
        Hinkley, "Bootstrap Methods and their Application", 1997, 4.2.3); at most 1.
    """
    known = differences[~differences.isnan()]
    if len(known) == 0:
        return math.nan
    fewer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(known) + 1))


def label_entropy(rate: float) -> float:
    """LogLoss, in nats, of the best constant score for labels of which the share `rate` is 1."""
    return -sum(p * math.log(p) for p in (rate, 1 - rate) if p > 0)


def constant_logloss(constant: float, labels: Tensor) -> float:
    """LogLoss, in nats, of scoring every row by the same `constant`; with the training rows' base rate, what any model
    has to beat. nan where that rate is nan, of no training rows.
    """
    if math.isnan(constant):
        return math.nan
    return float(_logloss(torch.full((len(labels),), constant), labels).mean())


class Calibration(NamedTuple):
    """How far scores are from rates, in bins of equal width over [0, 1]."""

    ece: float
    """Expected calibration error: the mean over rows of their bin's |mean score - share of ones|."""
    rows: Tensor
    """Rows in each bin, `[bins]`."""
    score: Tensor
    """Mean score of each bin, nan where empty, `[bins]`."""
    rate: Tensor
    """Share of ones in each bin, nan where empty, `[bins]`."""


def calibration(scores: Tensor, labels: Tensor, bins: int = 10) -> Calibration:
    """The calibration of click scores (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    Args:
        scores: click probabilities `[rows]`.
        labels: 0 or 1, `[rows]`.
        bins: how many; a score on a bound belongs to the bin above, 1 to the last.
    """
    _check(scores, labels)
    scores, labels = scores.double(), labels.double()
    index = (scores * bins).long().clamp_max(bins - 1)
    count = torch.bincount(index, minlength=bins)
    score, rate = (torch.bincount(index, values, minlength=bins) / count for values in (scores, labels))
    gap = ((score - rate).abs() * count).nansum() / max(len(scores), 1)
    return Calibration(float(gap), count, score, rate)


def _bounds(level: float) -> Tensor:
    tail = (1 - level) / 2
    return torch.tensor([tail, 1 - tail], dtype=torch.float64)


def _resamples(rows: int, users: Tensor | None, n: int, seed: int) -> Iterator[Tensor]:
    """How often each of `n` resamples has each row: float64 `[some of n, rows]`, in parts that bound the memory.

    Users are drawn by their place among the users, in the order of their first rows: what they are called does not
    matter, and where each row has its own the draws are those of rows.
    """
    if users is not None and users.shape != (rows,):
        raise ValueError(f"users {tuple(users.shape)} must be [rows], as the {rows} rows that they are of")
    owner = torch.arange(rows) if users is None else _places(users.detach().cpu())
    there = int(owner.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < n:
        count = min(n - done, max(1, 4_000_000 // rows))
        done += count
        drawn = torch.randint(there, (count, there), generator=generator)
        weight = torch.zeros(count, there, dtype=torch.float64)
        weight.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        yield weight.index_select(1, owner) if there > 1 else torch.full((count, rows), math.nan, dtype=torch.float64)


def _places(users: Tensor) -> Tensor:
    """Users numbered 0, 1, ... in the order in which they first appear, `[rows]`."""
    ids, number = users.unique(return_inverse=True)
    first = torch.full((len(ids),), len(users)).scatter_reduce_(0, number, torch.arange(len(users)), "amin")
    return first.argsort().argsort()[number]


def _logloss(scores: Tensor, labels: Tensor) -> Tensor:
    """LogLoss of each row in nats, float64 `[rows]`; like scikit-learn's of float32 scores, off 0 and 1 by their eps.

    Scores are computed in float32 and kept in float64: a 1 costs as much in a file as where it was made.
    """
    eps = torch.finfo(torch.float32).eps
    return F.binary_cross_entropy(scores.double().clamp(eps, 1 - eps), labels.double(), reduction="none")


def _weighted_auc(weight: Tensor, positive: Tensor, tie: Tensor) -> Tensor:
    """AUC under many weightings of the same rows: the share of (positive, negative) pairs in the right order.

    Args:
        weight: float64 `[weightings, rows]`, in the order of rising scores.
        positive: the labels in that order, float64 `[rows]`.
        tie: the number of each row's distinct score, rising, `[rows]`; pairs of equal scores count half.

    Returns:
        float64 `[weightings]`, nan where either class has no weight.
    """
    groups = int(tie[-1]) + 1
    ones, zeros = (
        torch.zeros(len(weight), groups, dtype=weight.dtype).index_add_(1, tie, weight * chosen)
        for chosen in (positive, 1 - positive)
    )
    below = zeros.cumsum(1) - zeros
    return (ones * (below + 0.5 * zeros)).sum(1) / (ones.sum(1) * zeros.sum(1))


def _check(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} must both be [rows]")
    if not bool(((scores >= 0) & (scores <= 1)).all()):  # false for nan too
        raise ValueError("a score lies outside [0, 1] or is nan")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError("a label is neither 0 nor 1")
