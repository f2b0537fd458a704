import math

import numpy as np
import pytest
import torch

from expctr import metrics
from expctr.report.compare import Estimate, auc, auc_gain, calibration, ece, mean, overlap_gain, roc, share

SCORES = np.array([0.1, 0.4, 0.35, 0.8])
LABELS = np.array([0.0, 0.0, 1.0, 1.0])


def noisy(rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    random = np.random.default_rng(1)
    labels = (random.random(rows) > 0.4).astype(float)
    weak, strong = (np.clip(0.3 + gain * labels + 0.4 * random.random(rows), 0, 1) for gain in (0.05, 0.2))
    return weak, strong, labels


def test_auc_counts_pairs_in_order_and_ties_half() -> None:
    assert auc(SCORES, LABELS) == 0.75  # three of the four pairs
    assert auc(np.full(4, 0.5), LABELS) == 0.5
    assert math.isnan(auc(SCORES, np.ones(4)))


def test_auc_and_calibration_are_those_of_the_metrics() -> None:
    weak, _, labels = noisy()
    scores, ones = torch.from_numpy(weak), torch.from_numpy(labels)
    assert auc(weak, labels) == pytest.approx(metrics.ctr_metrics(scores, ones)["auc"], abs=1e-6)
    bins, theirs = calibration(weak, labels), metrics.calibration(scores, ones)
    assert ece(bins) == pytest.approx(theirs.ece)
    assert [b.rows for b in bins] == [rows for rows in theirs.rows.tolist() if rows]


def test_a_better_system_is_told_apart_and_the_same_one_is_not() -> None:
    weak, strong, labels = noisy()
    gain = auc_gain(weak, strong, labels)
    assert gain.value == auc(strong, labels) - auc(weak, labels)
    assert 0 < gain.low < gain.value < gain.high
    assert auc_gain(weak, weak, labels) == Estimate(0, 0, 0)
    assert auc_gain(strong, weak, labels) == pytest.approx((-gain.value, -gain.high, -gain.low))


def test_pairs_are_told_apart_where_their_own_intervals_overlap() -> None:
    """What is hard for both does not count: that is what pairing is for."""
    random = np.random.default_rng(0)
    labels = (np.arange(400) % 2).astype(float)
    shared = random.random(400)
    first, second = np.clip(shared, 0, 1), np.clip(shared * 0.9 + 0.05 * labels, 0, 1)
    assert auc_gain(first, second, labels).low > 0
    tensors = (torch.from_numpy(scores) for scores in (first, second))
    (_, high), (low, _) = (metrics.bootstrap_intervals(t, torch.from_numpy(labels))["auc"] for t in tensors)
    assert low < high


def test_a_gain_is_drawn_over_users() -> None:
    """Each row as its own user's is drawn as rows are; twice each, it is no surer, but for a bootstrap of rows."""
    weak, strong, labels = noisy()
    once = auc_gain(weak, strong, labels)
    rows = np.arange(400)
    assert auc_gain(weak, strong, labels, np.random.default_rng(0).permutation(rows)) == once
    twice = np.repeat(rows, 2)
    assert auc_gain(weak[twice], strong[twice], labels[twice], twice) == pytest.approx(once)
    narrow = auc_gain(weak[twice], strong[twice], labels[twice])
    assert narrow.high - narrow.low < 0.85 * (once.high - once.low)
    alone = auc_gain(weak, strong, labels, np.zeros(400, int))
    assert alone.value == once.value
    assert math.isnan(alone.low)


def test_a_mean_is_of_the_rows_that_were_drawn() -> None:
    """Of users with 3 rows and with 1: the mean may be all the one's, or all the other's."""
    assert mean(np.array([0.0, 0.0, 1.0, 0.0]), np.array([4, 4, 2, 4])) == (0.25, 0, 1)
    found = mean(LABELS)
    assert found == mean(LABELS, np.arange(4)[::-1])
    assert found.value == 0.5
    assert mean(np.ones(5)) == (1, 1, 1)


def test_without_rows_a_difference_leaves_out_0_where_the_intervals_are_apart() -> None:
    assert overlap_gain(Estimate(0.5, 0.4, 0.6), Estimate(0.7, 0.625, 0.75)).low > 0
    assert overlap_gain(Estimate(0.5, 0.4, 0.6), Estimate(0.7, 0.575, 0.8)).low < 0


def test_wilsons_interval_is_the_one_of_the_tables() -> None:
    """5 of 10: 0.2366 to 0.7634 (Newcombe, Statistics in Medicine 1998, method 3)."""
    assert share(5, 10) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    assert share(0, 10).low == 0 < share(0, 10).high
    assert math.isnan(share(0, 0).value)


def test_roc_walks_from_corner_to_corner() -> None:
    assert roc(SCORES, LABELS) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert roc(np.full(4, 0.5), LABELS) == [(0, 0), (1, 1)]
    assert roc(SCORES, np.ones(4)) == []
    long = roc(*(np.tile(v, 500) + shift for v, shift in ((SCORES, np.arange(2000) / 1e5), (LABELS, 0))))
    assert len(long) <= 202
    assert (long[0], long[-1]) == ((0, 0), (1, 1))
