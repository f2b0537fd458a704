"""Metrics of click probabilities with bootstrap intervals, calibration and temperature, ROC, and p-values.

Intervals resample users, each with all of their rows (a cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and
their Application", 1997, section 3.8), because a result should hold for other users. To resample rows independently
would give intervals that are too narrow wherever users have several rows.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import mean_absolute_error, mean_squared_error
from torchmetrics.functional.classification import binary_auroc

from expctr.systems import METRICS, Bin, Estimate

UNDEFINED = Estimate(math.nan, math.nan, math.nan)


BINS = 10
"""Of the reliability diagram and of ECE."""
HOTTEST = 100.0
"""Bound of a fitted temperature; its inverse is the other one."""


def ctr_metrics(scores: Tensor, labels: Tensor, users: Tensor | None = None) -> dict[str, float]:
    """The metrics of the paper's Table 1, and four more.

    - `mse`: mean squared error.
    - `gauc`, group AUC: the mean of the users' own AUCs, weighted by their rows. Users whose labels are all the same
      are left out (Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017). It asks how well a
      system ranks one user's items, where AUC also rewards knowing which users like more.
    - `ne`, normalised entropy: LogLoss over that of a constant at these rows' own rate; below 1 it beats the constant
      (He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014).
    - `ece`, expected calibration error: `calibration_error` of `calibration`.

    Args:
        scores: click probabilities `[rows]`.
        labels: 0 or 1, `[rows]`.
        users: the user of each row, integers `[rows]`, for `gauc`.

    Returns:
        By the keys of `METRICS`. AUC is NaN, with a warning, and NE is NaN where all labels are the same. GAUC is NaN
        without users, and where no user has both labels. All are NaN without rows.

    Raises:
        ValueError: the shapes differ, a score is outside [0, 1], or a label is neither 0 nor 1.
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
    gauc = float(user_aucs(scores, labels, users).nanmean()) if users is not None else math.nan
    ne = logloss / label_entropy(rate) if 0 < rate < 1 else math.nan
    ece = calibration_error(calibration(scores.cpu(), labels.cpu()))
    values = (auc, logloss, mae, math.sqrt(mse), mse, gauc, ne, ece)
    return dict(zip(METRICS, values, strict=True))


def user_aucs(scores: Tensor, labels: Tensor, users: Tensor) -> Tensor:
    """The AUC of each row's user, `[rows]`; NaN for users whose labels are all the same. Equal scores count half.

    The mean over the rows that have one is the group AUC of `ctr_metrics`.
    """
    owner = _owners(users, len(scores))
    positive = labels.detach().cpu().double()
    rank = scores.detach().cpu().unique(return_inverse=True)[1]
    groups, tie = (owner * len(scores) + rank).unique(return_inverse=True)  # rows of one user with equal scores
    ones, zeros = (torch.bincount(tie, chosen) for chosen in (positive, 1 - positive))
    wins = ones * (zeros.cumsum(0) - zeros / 2)  # over all rows of this user and of those before
    of = groups // len(scores)
    liked, disliked, won = (torch.bincount(of, per_group) for per_group in (ones, zeros, wins))
    aucs = (won - liked * (disliked.cumsum(0) - disliked)) / (liked * disliked)  # 0 / 0 where a label is missing
    return aucs[owner]


def with_intervals(values: Mapping[str, float], draws: Tensor, level: float = 0.95) -> dict[str, Estimate]:
    """Metrics with their percentile bootstrap intervals, by the keys of `METRICS`.

    A resample with a single class has no AUC and is left out of the AUC's interval, which is NaN where every resample
    is such. All bounds are NaN where there is a single user.

    Args:
        values: of all rows.
        draws: what `bootstrap` returns for the same rows, or a difference of two such results, `[n, metrics]`.
        level: probability mass of the intervals.
    """
    return {name: estimate(values[name], draws[:, i], level) for i, name in enumerate(METRICS)}


def estimate(value: float, resampled: Tensor, level: float = 0.95) -> Estimate:
    """A value with its percentile bootstrap interval; `resampled` `[n]` is NaN where the value is undefined."""
    tail = (1 - level) / 2
    bounds = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    return Estimate(value, *resampled.double().nanquantile(bounds).tolist())


def mean_estimates(
    columns: Mapping[str, Tensor], users: Tensor | None = None, n: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Means with their 95% percentile bootstrap intervals, over resampled users as in `bootstrap`.

    Args:
        columns: by name, one value per row, `[rows]`. NaN marks a row without a value, which the column's mean skips.
        users: the user of each row.
        n: number of resamples.
        seed: of the resampling.
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
    """`ctr_metrics` of resampled users. Each resample draws as many users as there are, each with all of their rows.

    Args:
        scores: click probabilities `[rows]`.
        labels: 0 or 1, `[rows]`.
        users: the user of each row, integers `[rows]`, in any numbering. `None`: every row is its own user.
        n: number of resamples.
        seed: of the resampling. The same seed and users draw the same rows, so the draws of two systems are paired.

    Returns:
        float64 `[n, metrics]`, in the order of `METRICS`. AUC and NE of a resample with a single class are NaN. All
        metrics are NaN without rows, and where there is a single user, since one user says nothing about others.

        The values of ECE are reflected at the ECE of all rows, and at least 0, so that their percentiles are the basic
        interval (Davison and Hinkley, section 5.2.1). ECE is never below 0: noise raises it, and raises it once more in
        each resample. For a model without any calibration error, on 570 rows of 190 users, plain percentiles included
        0 in none of 200 trials, and these did in 129.
    """
    _check(scores, labels)
    if len(scores) == 0:
        return torch.full((n, len(METRICS)), math.nan, dtype=torch.float64)
    scores, labels = scores.detach().cpu(), labels.detach().cpu()
    error = scores.double() - labels.double()
    in_bin = F.one_hot(_bins(scores), BINS) * error[:, None]
    auc_of_user = torch.full_like(error, math.nan) if users is None else user_aucs(scores, labels, users)
    in_gauc = (~auc_of_user.isnan()).double()
    columns = [_logloss(scores, labels), error.abs(), error.square(), labels.double()]
    per_row = torch.cat([torch.stack([*columns, auc_of_user.nan_to_num(), in_gauc], 1), in_bin], 1)
    ece = in_bin.sum(0).abs().sum() / len(scores)
    order = scores.argsort()
    _, tie = scores[order].unique_consecutive(return_inverse=True)
    positive = labels[order].double()

    parts: list[Tensor] = []
    for weight in _resamples(len(scores), users, n, seed):
        logloss, mae, mse, rate, auc_sum, auc_rows, *bins = (weight @ per_row / weight.sum(1, keepdim=True)).unbind(1)
        auc, gauc = _weighted_auc(weight[:, order], positive, tie), auc_sum / auc_rows
        entropy = -torch.xlogy(rate, rate) - torch.xlogy(1 - rate, 1 - rate)
        ne = torch.where(entropy > 0, logloss / entropy, math.nan)
        reflected = (2 * ece - torch.stack(bins).abs().sum(0)).clamp_min(0)
        parts.append(torch.stack([auc, logloss, mae, mse.sqrt(), mse, gauc, ne, reflected], 1))
    return torch.cat(parts)


def paired_p_value(differences: Tensor) -> float:
    """Two-sided p-value of the difference between two systems, from its bootstrap.

    Args:
        differences: of the metric in each resample, `bootstrap(a, ...) - bootstrap(b, ...)` on the same draws, `[n]`;
            NaN where it is undefined.

    Returns:
        Twice the share of resamples on the rarer side of zero, where the observed difference counts as one more
        resample (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 4.2.3); at most 1.
    """
    known = differences[~differences.isnan()]
    if len(known) == 0:
        return math.nan
    fewer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(known) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of a family of tests, adjusted so that the chance of any false rejection stays below the level.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.

    Args:
        p_values: of all tests of the family, in any order. NaN stays NaN and does not count as a test.

    Returns:
        In the given order: the k-th smallest of m times m - k + 1, at least the adjusted value of the one before, and
        at most 1.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, least = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        adjusted[i] = least = max(least, min(1.0, p * (len(known) - rank)))
    return adjusted


def label_entropy(rate: float) -> float:
    """LogLoss, in nats, of the best constant score where the share `rate` of the labels is 1."""
    return -sum(p * math.log(p) for p in (rate, 1 - rate) if p > 0)


def constant_logloss(constant: float, labels: Tensor) -> float:
    """LogLoss, in nats, of giving every row the same score `constant`; NaN where the constant is NaN."""
    if math.isnan(constant):
        return math.nan
    return float(_logloss(torch.full((len(labels),), constant), labels).mean())


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """The T for which the scores sigmoid(logit / T) have the lowest LogLoss (Guo et al., ICML 2017, section 4.2).

    LogLoss is convex in 1 / T, so the root of its slope is found by bisection.

    Args:
        scores: click probabilities `[rows]`, of rows that are not tested.
        labels: 0 or 1, `[rows]`.

    Returns:
        Above 1 for a system that is too sure of itself, within `HOTTEST` and its inverse. The bounds mean that the
        scores tell nothing, or everything. NaN without rows.
    """
    _check(scores, labels)
    if len(scores) == 0:
        return math.nan
    logits, labels = _clamped(scores).logit(), labels.double()
    coldest, hottest = 1 / HOTTEST, HOTTEST
    for _ in range(60):
        middle = math.sqrt(coldest * hottest)
        slope = float(((logits / middle).sigmoid() - labels) @ logits)  # with respect to 1 / T
        if slope == 0:
            break
        coldest, hottest = (middle, hottest) if slope > 0 else (coldest, middle)
    return middle


def apply_temperature(scores: Tensor, temperature: float) -> Tensor:
    """sigmoid(logit / T) of click probabilities, float64 `[rows]`. A T above 1 moves them towards 0.5."""
    return (_clamped(scores).logit() / temperature).sigmoid()


def calibration(scores: Tensor, labels: Tensor, bins: int = BINS) -> list[Bin]:
    """A reliability diagram (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    The `bins` have equal widths over [0, 1]. A score on a bound belongs to the bin above; 1 to the last. Those that
    have rows are returned, by rising score.
    """
    _check(scores, labels)
    scores, labels = scores.double(), labels.double()
    index = _bins(scores, bins)
    count, total, ones = (torch.bincount(index, w, bins).tolist() for w in (torch.ones_like(scores), scores, labels))
    return [Bin(int(c), t / c, wilson(int(o), int(c))) for c, t, o in zip(count, total, ones, strict=True) if c]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean over rows of |mean score - share of ones| of their bin; NaN without rows."""
    rows = sum(b.rows for b in bins)
    return sum(b.rows * abs(b.score - b.rate.value) for b in bins) / rows if rows else math.nan


def wilson(hits: int, rows: int) -> Estimate:
    """A share with its 95% interval (Wilson, JASA 1927), which also holds near 0 and 1 and with few rows."""
    if rows == 0:
        return UNDEFINED
    p, z2 = hits / rows, 1.959964**2
    middle = (p + z2 / (2 * rows)) / (1 + z2 / rows)
    reach = math.sqrt(z2 * (p * (1 - p) / rows + z2 / (4 * rows**2))) / (1 + z2 / rows)
    return Estimate(p, max(0.0, middle - reach), min(1.0, middle + reach))


def roc(scores: Tensor, labels: Tensor, points: int = 200) -> Tensor:
    """The ROC curve; where there are more thresholds than `points`, as many evenly spaced ones.

    Returns:
        False and true positive rates at falling thresholds, from (0, 0) to (1, 1), float64 `[thresholds + 1, 2]`; empty
        where all labels are the same.
    """
    _check(scores, labels)
    order = scores.argsort(descending=True)
    _, ties = scores[order].unique_consecutive(return_counts=True)  # equal scores pass the threshold together
    ends = ties.cumsum(0) - 1
    hits = labels[order].double().cumsum(0)[ends]
    misses = ends + 1 - hits
    if not len(ends) or not hits[-1] or not misses[-1]:
        return torch.zeros(0, 2, dtype=torch.float64)
    curve = torch.stack([misses / misses[-1], hits / hits[-1]], 1)
    if len(curve) > points:
        curve = curve[torch.linspace(0, len(curve) - 1, points).long()]
    return torch.cat([torch.zeros(1, 2, dtype=torch.float64), curve])


def _resamples(rows: int, users: Tensor | None, n: int, seed: int) -> Iterator[Tensor]:
    """How often each of `n` resamples contains each row: float64 `[some of n, rows]`, in parts that bound the memory.

    Users are numbered in the order of their first rows, so their ids do not matter, and where every row is its own user
    the draws are those of rows.
    """
    owner = _owners(users, rows)
    user_count = int(owner.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < n:
        count = min(n - done, max(1, 4_000_000 // rows))
        done += count
        drawn = torch.randint(user_count, (count, user_count), generator=generator)
        weight = torch.zeros(count, user_count, dtype=torch.float64)
        weight.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        yield weight.index_select(1, owner) * (1 if user_count > 1 else math.nan)


def _owners(users: Tensor | None, rows: int) -> Tensor:
    """Users numbered 0, 1, ... in the order in which they first appear, `[rows]`; without users, the rows' numbers."""
    if users is None:
        return torch.arange(rows)
    if users.shape != (rows,):
        raise ValueError(f"users {tuple(users.shape)} must be [rows], one for each of the {rows} rows")
    users = users.detach().cpu()
    ids, number = users.unique(return_inverse=True)
    first = torch.full((len(ids),), len(users)).scatter_reduce_(0, number, torch.arange(len(users)), "amin")
    return first.argsort().argsort()[number]


def _logloss(scores: Tensor, labels: Tensor) -> Tensor:
    """LogLoss of each row in nats, float64 `[rows]`. Scores are clamped by float32's epsilon, as scikit-learn does.

    Models compute scores in float32 and files hold float64: with one epsilon, a score of 1 costs the same in both.
    """
    return F.binary_cross_entropy(_clamped(scores), labels.double(), reduction="none")


def _clamped(scores: Tensor) -> Tensor:
    eps = torch.finfo(torch.float32).eps
    return scores.double().clamp(eps, 1 - eps)


def _bins(scores: Tensor, bins: int = BINS) -> Tensor:
    """The number of each score's bin, from 0, `[rows]`."""
    return (scores.double() * bins).long().clamp_max(bins - 1)


def _weighted_auc(weight: Tensor, positive: Tensor, tie: Tensor) -> Tensor:
    """AUC under many weightings of the same rows: the share of (positive, negative) pairs in the right order.

    Args:
        weight: float64 `[weightings, rows]`, in the order of rising scores.
        positive: the labels in that order, float64 `[rows]`.
        tie: the rank of each row's score among the distinct scores, `[rows]`; pairs of equal scores count half.

    Returns:
        float64 `[weightings]`, NaN where either class has no weight.
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
    if not bool(((scores >= 0) & (scores <= 1)).all()):  # false for NaN, too
        raise ValueError("a score is outside [0, 1] or NaN")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError("a label is neither 0 nor 1")
