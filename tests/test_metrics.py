"""Metrics: numbers worked by hand, agreement with scikit-learn and torchmetrics, and intervals that cover."""

import math
import time

import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from expctr.metrics import (
    HOTTEST,
    apply_temperature,
    bootstrap,
    calibration,
    calibration_error,
    constant_logloss,
    ctr_metrics,
    fit_temperature,
    holm,
    label_entropy,
    mean_estimates,
    paired_p_value,
    roc,
    user_aucs,
    wilson,
    with_intervals,
)
from expctr.systems import METRICS

AUC, MAE, GAUC, NE, ECE = (list(METRICS).index(name) for name in ("auc", "mae", "gauc", "ne", "ece"))
PLAIN = [name for name in METRICS if name not in ("gauc", "ece")]
"""Metrics that need no users, and whose intervals are percentiles."""


def random_rows(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Informative scores with ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.rand(rows, generator=generator) * 50).round() / 50
    return scores, (torch.rand(rows, generator=generator) < 0.3 + 0.4 * scores).float()


def bootstrap_intervals(
    scores: Tensor, labels: Tensor, users: Tensor | None = None, level: float = 0.95, **more: int
) -> dict[str, tuple[float, float]]:
    """The bounds of each metric's interval."""
    found = with_intervals(dict.fromkeys(METRICS, 0.5), bootstrap(scores, labels, users, **more), level)
    return {name: (estimate.low, estimate.high) for name, estimate in found.items()}


def test_by_hand():
    out = ctr_metrics(torch.tensor([0.8, 0.5, 0.5, 0.1]), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    # pairs: (0.8, 0.5) right, (0.8, 0.1) right, (0.5, 0.5) half, (0.5, 0.1) right
    assert out["auc"] == pytest.approx(3.5 / 4)
    assert out["logloss"] == pytest.approx(-(math.log(0.8) + 2 * math.log(0.5) + math.log(0.9)) / 4)
    assert out["mae"] == pytest.approx(1.3 / 4)
    assert out["mse"] == pytest.approx((0.04 + 0.25 + 0.25 + 0.01) / 4)
    assert out["rmse"] == pytest.approx(math.sqrt(0.1375))
    assert out["ne"] == pytest.approx(out["logloss"] / math.log(2))
    assert out["ece"] == pytest.approx((0.2 + 2 * 0 + 0.1) / 4)  # in the bins of 0.8, 0.5 (twice) and 0.1
    assert math.isnan(out["gauc"])
    assert list(out) == list(METRICS)


def test_group_auc_by_hand():
    """User 5 has 2 of 3 pairs right (0.4 and 0.4 count half each), user 2 has none right, user 9 has one label only."""
    users = torch.tensor([5, 2, 5, 9, 5, 2, 5, 9])
    scores = torch.tensor([0.9, 0.2, 0.4, 0.1, 0.4, 0.8, 0.3, 0.7])
    labels = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 1])
    # user 5: likes 0.9 and 0.4, dislikes 0.4 and 0.3: 1 + 1 + 0.5 + 1 of 4 pairs
    five, two = 3.5 / 4, 0.0
    found = user_aucs(scores, labels, users).tolist()
    assert [found[i] for i in (0, 1, 2, 4, 5, 6)] == [five, two, five, five, two, five]
    assert all(math.isnan(found[i]) for i in (3, 7))
    assert ctr_metrics(scores, labels, users)["gauc"] == pytest.approx((4 * five + 2 * two) / 6)
    drawn = bootstrap(scores, labels, users, n=300)[:, GAUC]  # users are drawn whole, so their own AUCs stay
    possible = {round((4 * a * five + 2 * b * two) / (4 * a + 2 * b), 6) for a in range(4) for b in range(4) if a + b}
    assert {round(value, 6) for value in drawn[~drawn.isnan()].tolist()} <= possible
    assert drawn.isnan().any()  # three times user 9


def test_group_auc_agrees_with_scikit_learn_per_user():
    scores, labels = random_rows(300)
    users = torch.arange(300) % 37 * 3
    parts = [users == user for user in users.unique()]
    whole = [part for part in parts if 0 < float(labels[part].mean()) < 1]
    aucs = [sklearn_metrics.roc_auc_score(labels[part], scores[part]) for part in whole]
    counts = [int(part.sum()) for part in whole]
    expected = sum(a * n for a, n in zip(aucs, counts, strict=True)) / sum(counts)
    assert ctr_metrics(scores, labels, users)["gauc"] == pytest.approx(expected)


def test_a_users_mean_rate_helps_auc_and_not_group_auc():
    users = torch.arange(40) // 4
    scores = (users % 2) * 0.5 + 0.25
    labels = ((torch.arange(40) % 4 == 0) | (scores > 0.5) & (torch.arange(40) % 4 < 3)).float()
    out = ctr_metrics(scores, labels, users)
    assert out["auc"] > 0.7
    assert out["gauc"] == 0.5


def test_a_constant_at_the_rows_rate_has_a_normalised_entropy_of_one():
    labels = torch.tensor([1.0, 1, 1, 0])
    assert ctr_metrics(torch.full((4,), 0.75), labels)["ne"] == pytest.approx(1)
    assert ctr_metrics(torch.full((4,), 0.5), labels)["ne"] == pytest.approx(math.log(2) / label_entropy(0.75))
    drawn = bootstrap(torch.full((4,), 0.5), labels, n=200)[:, NE]
    possible = [math.log(2) / label_entropy(k / 4) for k in (1, 2, 3)]  # a resample of one class has none
    assert sorted({round(v, 6) for v in drawn.tolist() if v == v}) == sorted({round(v, 6) for v in possible})


def test_the_interval_of_a_calibration_error_reaches_0_where_there_is_none():
    """Plain percentiles would not: noise alone gives resamples an error above that of the rows."""
    generator, reached = torch.Generator().manual_seed(0), 0
    for seed in range(20):
        scores = torch.rand(400, generator=generator)
        labels = (torch.rand(400, generator=generator) < scores).float()
        low, high = bootstrap_intervals(scores, labels, n=100, seed=seed)["ece"]
        reached += low < 0.005
        assert 0 <= low <= high
    assert reached >= 8  # of plain percentiles, none
    wrong = (torch.rand(400, generator=generator) < 0.5).float()
    low, high = bootstrap_intervals(torch.full((400,), 0.8), wrong, n=100)["ece"]
    assert 0.2 < low < ctr_metrics(torch.full((400,), 0.8), wrong)["ece"] < high < 0.4


def test_agrees_with_scikit_learn():
    scores, labels = random_rows(500)
    scores[0], scores[1] = 0, 1  # the clamp of LogLoss
    out, p, y = ctr_metrics(scores, labels), scores.numpy(), labels.numpy()
    assert out["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(y, p))
    assert out["logloss"] == pytest.approx(sklearn_metrics.log_loss(y, p), rel=1e-5)
    assert out["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(y, p))
    assert out["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(y, p))


def test_a_certain_and_wrong_score_costs_much_but_is_finite():
    out = ctr_metrics(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert out["logloss"] == pytest.approx(-math.log(torch.finfo(torch.float32).eps), rel=1e-3)
    assert out["auc"] == 0


def test_a_score_costs_the_same_in_a_file_as_where_it_was_made():
    scores, labels = torch.tensor([1.0, 0.0, 1e-9, 0.3]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert ctr_metrics(scores.double(), labels)["logloss"] == pytest.approx(ctr_metrics(scores, labels)["logloss"])


def test_one_class_has_no_auc():
    with pytest.warns(UserWarning, match="all 2 labels are 1"):
        out = ctr_metrics(torch.tensor([0.5, 0.75]), torch.ones(2))
    assert math.isnan(out["auc"])
    assert out["mae"] == pytest.approx(0.375)
    low, high = bootstrap_intervals(torch.tensor([0.5, 0.75]), torch.ones(2), n=20)["auc"]
    assert math.isnan(low)
    assert math.isnan(high)


def test_no_rows():
    assert all(math.isnan(value) for value in ctr_metrics(torch.zeros(0), torch.zeros(0)).values())
    assert set(bootstrap_intervals(torch.zeros(0), torch.zeros(0))) == set(METRICS)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [([0.5, 1.5], [0, 1], "outside"), ([0.5, math.nan], [0, 1], "NaN"), ([0.5, 0.5], [0, 2], "neither")],
)
def test_what_is_no_probability_or_label_is_refused(scores: list[float], labels: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        ctr_metrics(torch.tensor(scores), torch.tensor(labels))
    with pytest.raises(ValueError, match="must both be"):
        ctr_metrics(torch.tensor(scores), torch.zeros(3))


def test_intervals_are_those_of_resampled_rows():
    scores, labels = random_rows(80)
    generator = torch.Generator().manual_seed(3)
    draws = torch.randint(80, (200, 80), generator=generator)
    slow = [ctr_metrics(scores[rows], labels[rows]) for rows in draws]
    fast = bootstrap_intervals(scores, labels, n=200, seed=3, level=0.9)
    for name in PLAIN:
        values = torch.tensor([row[name] for row in slow], dtype=torch.float64)
        low, high = values.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64))
        assert fast[name] == pytest.approx((float(low), float(high)), rel=1e-5)


def test_intervals_surround_the_estimate_and_narrow_with_rows_and_level():
    few, many = random_rows(100), random_rows(2500)
    wide, narrow = bootstrap_intervals(*few), bootstrap_intervals(*many)
    half = bootstrap_intervals(*few, level=0.5)
    for name, value in ctr_metrics(*few).items():
        if name not in PLAIN:
            continue
        assert wide[name][0] < half[name][0] < value < half[name][1] < wide[name][1]
        assert narrow[name][1] - narrow[name][0] < 0.5 * (wide[name][1] - wide[name][0])


def test_intervals_repeat_under_a_seed_and_cover_a_known_truth():
    first, second = (bootstrap(*random_rows(50), torch.arange(50) // 3, seed=1) for _ in range(2))
    assert torch.equal(first, second)
    covered = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        scores, labels = torch.rand(200, generator=generator), (torch.rand(200, generator=generator) < 0.5).float()
        low, high = bootstrap_intervals(scores, labels, n=200, seed=seed)["auc"]
        covered += low < 0.5 < high  # scores that know nothing
    assert covered >= 51


def test_users_of_a_row_each_are_drawn_as_rows_are():
    scores, labels = random_rows(300)
    rows = bootstrap(scores, labels, n=50, seed=2)
    for users in (torch.arange(300), torch.randperm(300) * 5 - 7):  # whatever they are called
        torch.testing.assert_close(bootstrap(scores, labels, users, n=50, seed=2), rows, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("together", [True, False], ids=["in a row", "apart"])
def test_rows_twice_tell_no_more_of_users_than_once(together: bool):
    """That they do is the mistake of a bootstrap over rows, whose intervals get narrower by the root of two."""
    scores, labels = random_rows(300)
    once = bootstrap(scores, labels, n=300, seed=4)
    place = torch.arange(300).repeat_interleave(2) if together else torch.arange(300).repeat(2)
    twice = bootstrap(scores[place], labels[place], place, n=300, seed=4)
    alone = [i for i in range(len(METRICS)) if i != GAUC]  # a user of one row has no AUC of its own
    torch.testing.assert_close(twice[:, alone], once[:, alone], rtol=0, atol=1e-12, equal_nan=True)
    over_users = bootstrap_intervals(scores[place], labels[place], place, n=300, seed=4)
    over_rows = bootstrap_intervals(scores[place], labels[place], n=300, seed=4)
    for name, (low, high) in bootstrap_intervals(scores, labels, n=300, seed=4).items():
        if name not in PLAIN:
            continue
        assert over_users[name] == pytest.approx((low, high))
        assert 0.6 < (over_rows[name][1] - over_rows[name][0]) / (high - low) < 0.85
    mean = mean_estimates({"x": scores[place]}, place)["x"]
    assert mean == pytest.approx(mean_estimates({"x": scores})["x"])


def test_means_are_over_the_rows_that_were_drawn():
    """Users of 3 rows and of 1: drawn twice each or once both, their rows' mean is 0, 1 or a quarter."""
    errors = torch.tensor([0.0, 0.0, 0.0, 1.0])
    drawn = bootstrap(errors, torch.zeros(4), torch.tensor([8, 8, 8, 2]), n=100)[:, MAE]
    assert set(drawn.tolist()) == {0.0, 0.25, 1.0}
    mean = mean_estimates({"x": torch.tensor([0.0, math.nan, 0.0, 1.0])}, torch.tensor([8, 8, 8, 2]))["x"]
    assert mean == pytest.approx((1 / 3, 0, 1))


def test_users_are_drawn_with_all_of_their_rows():
    """One user's rows are the only ones with a high score: a resample has all three of them, or none."""
    scores = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.9])
    users = torch.tensor([1, 0, 1, 5, 1])
    share = bootstrap(scores, torch.zeros(5), users, n=200)[:, MAE]
    possible = [(2.7 * k + 0.1 * (3 - k)) / (3 * k + 3 - k) for k in range(4)]
    assert sorted({round(value, 6) for value in share.tolist()}) == pytest.approx(sorted(possible), abs=1e-6)


def test_a_single_user_does_not_tell_how_others_differ():
    scores, labels = random_rows(20)
    assert all(map(math.isnan, bootstrap_intervals(scores, labels, torch.zeros(20).long())["auc"]))
    value, low, high = mean_estimates({"x": scores}, torch.zeros(20).long())["x"]
    assert value == pytest.approx(float(scores.mean()))
    assert math.isnan(low)
    assert math.isnan(high)


def test_users_are_a_number_a_row():
    with pytest.raises(ValueError, match=r"users \(3,\) must be \[rows\], one for each of the 4 rows"):
        bootstrap(*random_rows(4), torch.arange(3))
    with pytest.raises(ValueError, match=r"one for each of the 4 rows"):
        ctr_metrics(*random_rows(4), torch.arange(5))


def test_intervals_over_users_cover_what_those_over_rows_miss():
    """40 users of 10 rows, of whom half like nine items in ten and half one in ten."""
    users, covered = torch.arange(40).repeat_interleave(10), {"users": 0, "rows": 0}
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        likes = 0.1 + 0.8 * (torch.rand(40, generator=generator) < 0.5).float()
        liked = (torch.rand(400, generator=generator) < likes[users]).float()
        for name, owners in (("users", users), ("rows", None)):
            found = mean_estimates({"liked": liked}, owners, n=200, seed=seed)["liked"]
            covered[name] += found.low < 0.5 < found.high
    assert covered["users"] >= 34
    assert covered["rows"] <= 28


def test_intervals_are_quick():
    scores, labels = random_rows(2000)
    start = time.perf_counter()
    bootstrap_intervals(scores, labels, n=1000)
    assert time.perf_counter() - start < 4  # half a second on an idle core


def test_entropy_is_the_best_constants_logloss():
    assert label_entropy(0.5) == pytest.approx(math.log(2))
    assert label_entropy(0) == label_entropy(1) == 0
    labels = torch.tensor([1.0, 1.0, 1.0, 0.0])
    best = constant_logloss(0.75, labels)
    assert best == pytest.approx(label_entropy(0.75), rel=1e-6)
    assert best < min(constant_logloss(0.7, labels), constant_logloss(0.8, labels))


def test_calibration_by_hand_and_against_torchmetrics():
    out = calibration(torch.tensor([0.1, 0.3, 0.9, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]), bins=2)
    assert [part.rows for part in out] == [2, 2]
    assert [part.score for part in out] == pytest.approx([0.2, 0.95])
    assert [part.rate.value for part in out] == pytest.approx([0.5, 1])
    assert calibration_error(out) == pytest.approx(0.5 * abs(0.2 - 0.5) + 0.5 * abs(0.95 - 1))
    assert [part.rows for part in calibration(torch.tensor([0.95]), torch.ones(1))] == [1]  # no bin without rows
    assert math.isnan(calibration_error(calibration(torch.zeros(0), torch.zeros(0))))
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(300, generator=generator)
    labels = (torch.rand(300, generator=generator) < scores**2).float()
    theirs = binary_calibration_error(scores, labels.long(), n_bins=10)
    assert calibration_error(calibration(scores, labels)) == pytest.approx(float(theirs), abs=1e-5)


def test_a_pairs_p_value_is_small_for_a_difference_and_large_for_none():
    scores, labels = random_rows(400)
    better = 0.7 * scores + 0.3 * labels  # moves every score towards its label
    gain = bootstrap(better, labels)[:, AUC] - bootstrap(scores, labels)[:, AUC]
    assert paired_p_value(gain) == pytest.approx(2 / 1001)
    assert paired_p_value(-gain) == paired_p_value(gain)
    assert paired_p_value(torch.zeros(100)) == 1
    # of four resamples one lies below zero and one is undefined: 2 * (1 + 1) / (3 + 1)
    assert paired_p_value(torch.tensor([0.1, -0.1, 0.2, float("nan")])) == 1
    assert math.isnan(paired_p_value(torch.full((3,), float("nan"))))


def test_holm_by_hand():
    """Holm's own order: 0.01 * 4, 0.02 * 3, then 0.03 * 2 and 0.04 * 1 are raised to the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.001, 0.4, 0.3]) == pytest.approx([0.003, 0.6, 0.6])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_does_not_count_what_was_not_tested():
    first, undefined, last = holm([0.02, math.nan, 0.03])
    assert (first, last) == pytest.approx((0.04, 0.04))
    assert math.isnan(undefined)


def test_holm_is_never_below_the_p_value_nor_above_bonferronis():
    p = torch.rand(20, generator=torch.Generator().manual_seed(0)).tolist()
    for raw, adjusted in zip(p, holm(p), strict=True):
        assert raw <= adjusted <= min(1, 20 * raw)
    assert sorted(holm(p)) == [adjusted for _, adjusted in sorted(zip(p, holm(p), strict=True))]


def test_the_temperature_of_scores_that_are_too_extreme_is_found_by_hand():
    """Of rows with score 0.9, two in three are liked, and those with 0.1 mirror them: 2/3 = sigmoid(log 9 / T)."""
    scores, labels = torch.tensor([0.9, 0.9, 0.9, 0.1, 0.1, 0.1]), torch.tensor([1.0, 1, 0, 0, 0, 1])
    t = fit_temperature(scores, labels)
    assert t == pytest.approx(math.log(9) / math.log(2), rel=1e-6)
    after = apply_temperature(scores, t)
    assert after.tolist() == pytest.approx([2 / 3] * 3 + [1 / 3] * 3)
    assert ctr_metrics(after, labels)["ece"] == pytest.approx(0, abs=1e-6)


def test_no_other_temperature_has_a_lower_logloss():
    scores, labels = random_rows(400)
    t = fit_temperature(scores, labels)
    best = ctr_metrics(apply_temperature(scores, t), labels)
    for other in (0.5, 0.95, 1.05, 2):
        assert ctr_metrics(apply_temperature(scores, t * other), labels)["logloss"] > best["logloss"]
    assert best["logloss"] <= ctr_metrics(scores, labels)["logloss"]
    assert best["auc"] == pytest.approx(ctr_metrics(scores, labels)["auc"], abs=0.005)  # scores of 0 and 1 are clamped


def test_a_temperature_is_bounded_where_scores_tell_nothing_or_everything():
    labels = torch.tensor([1.0, 0, 1, 0])
    right = torch.tensor([0.9, 0.2, 0.8, 0.1])
    assert fit_temperature(1 - right, labels) == pytest.approx(HOTTEST)
    assert fit_temperature(right, labels) == pytest.approx(1 / HOTTEST)
    assert fit_temperature(torch.full((4,), 0.5), labels) == pytest.approx(1)
    assert math.isnan(fit_temperature(torch.zeros(0), torch.zeros(0)))
    torch.testing.assert_close(apply_temperature(right, 1.0), right.double())
    assert apply_temperature(torch.tensor([0.0, 1.0]), 2.0).isfinite().all()


def test_pairs_of_users_are_drawn_alike():
    scores, labels = random_rows(200)
    users = torch.arange(200) // 4
    first, second = (bootstrap(values, labels, users, n=100, seed=1) for values in (scores, scores / 2))
    assert torch.equal(first[:, AUC], second[:, AUC])  # the same order of the same rows
    assert not torch.equal(first[:, MAE], second[:, MAE])


def test_a_gain_is_clear_where_the_systems_own_intervals_overlap():
    """Rows that are hard for both systems do not widen the interval of a paired difference."""
    labels = (torch.arange(400) % 2).float()
    shared = torch.rand(400, generator=torch.Generator().manual_seed(0))
    first, second = shared, (shared * 0.9 + 0.05 * labels).clamp(0, 1)
    differences = {
        name: value - ctr_metrics(first, labels)[name] for name, value in ctr_metrics(second, labels).items()
    }
    assert with_intervals(differences, bootstrap(second, labels) - bootstrap(first, labels))["auc"].low > 0
    (_, high), (low, _) = (bootstrap_intervals(scores, labels)["auc"] for scores in (first, second))
    assert low < high


def test_wilsons_interval_is_the_one_of_the_tables():
    """5 of 10: 0.2366 to 0.7634 (Newcombe, Statistics in Medicine 1998, method 3)."""
    assert wilson(5, 10) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10).low == 0 < wilson(0, 10).high
    assert math.isnan(wilson(0, 0).value)


def test_roc_walks_from_corner_to_corner():
    scores, labels = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert roc(scores, labels).tolist() == [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]]
    assert roc(torch.full((4,), 0.5), labels).tolist() == [[0, 0], [1, 1]]  # equal scores pass together
    assert roc(scores, torch.ones(4)).tolist() == []
    assert roc(torch.zeros(0), torch.zeros(0)).tolist() == []
    many = (scores.repeat(500).double() + torch.arange(2000) / 1e5).clamp(0, 1)
    long = roc(many, labels.repeat(500)).tolist()
    assert len(long) <= 202
    assert (long[0], long[-1]) == ([0, 0], [1, 1])


def test_the_area_under_the_roc_is_the_auc():
    scores, labels = random_rows(150)
    x, y = roc(scores, labels).unbind(1)
    assert float(torch.trapezoid(y, x)) == pytest.approx(ctr_metrics(scores, labels)["auc"], abs=1e-6)
