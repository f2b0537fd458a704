"""Kinds of side features: which one a column has, and what it makes of values, worked by hand."""

from datetime import date
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest

from expctr.data.feature_kinds import (
    FARTHEST,
    MOST_BINS,
    FeatureKind,
    as_kind,
    bin_of,
    has_no_value,
    kinds_of,
    lower_bounds,
    mean_and_deviation,
    standardised,
    vocabulary_of,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pl.Series([1, 2], dtype=pl.UInt8), None),
        (pl.Series(["a"]), None),
        (pl.Series([["a"]]), None),
        (pl.Series([None]), None),
        (pl.Series([1.5], dtype=pl.Float32), "quantiles"),
        (pl.Series([Decimal("1.50")]), "quantiles"),
        (pl.Series([date(2024, 5, 1)]), "quantiles"),
        (pl.Series([True]), "boolean"),
        (pl.Series(["a"], dtype=pl.Categorical), "category"),
        (pl.Series([[1, 2]]), "list"),
        (pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)), "list"),
    ],
)
def test_the_kind_of_a_column_is_that_of_its_type(values: pl.Series, kind: FeatureKind | None) -> None:
    assert kinds_of(pl.DataFrame({"target_x": values}), {}) == {"target_x": kind}


def test_a_chosen_kind_goes_before_the_type() -> None:
    columns = pl.DataFrame({"target_x": [1, 2], "user_x": [0.5, 1.5]})
    assert kinds_of(columns, {"target_x": "category"}) == {"target_x": "category", "user_x": "quantiles"}


def test_a_column_that_no_kind_can_read_is_left_out_and_named() -> None:
    with pytest.warns(UserWarning, match=r"no kind of feature can read target_x of type Struct"):
        assert kinds_of(pl.DataFrame({"target_x": [{"a": 1}], "target_y": ["b"]}), {}) == {"target_y": None}


@pytest.mark.parametrize(
    ("kind", "values", "read"),
    [
        (None, pl.Series([0, 1, 24, 1999]), ["0", "0", "20", "1995"]),
        ("number", pl.Series([1.5, None, NAN]), [1.5, None, None]),
        ("quantiles", pl.Series([date(1970, 1, 3), None]), [2.0, None]),
        ("category", pl.Series(["a", "", None]), ["a", None, None]),
        ("category", pl.Series([7, None]), ["7", None]),
        ("boolean", pl.Series([True, False, None]), ["true", "false", None]),
        ("list", pl.Series([[1, None, 2], [], None]), [["1", "2"], [], None]),
        ("list", pl.Series([[0.5, NAN]]), [["0.5"]]),
        ("list", pl.Series([[True, False]]), [["true", "false"]]),
    ],
)
def test_values_as_a_kind_reads_them(kind: FeatureKind | None, values: pl.Series, read: list[Any]) -> None:
    assert as_kind(values, kind).to_list() == read


def test_null_and_an_empty_list_are_missing_values() -> None:
    assert has_no_value(as_kind(pl.Series([[1], [], [None], None]), "list")).to_list() == [False, True, True, True]
    assert has_no_value(as_kind(pl.Series([0.0, NAN, None]), "number")).to_list() == [False, True, True]


def test_numbers_are_standardised() -> None:
    # mean of 1 3 5 7 is 4, and their squared distances 9 1 1 9 have the mean 5
    known = mean_and_deviation(pl.Series([1.0, 3.0, None, 5.0, 7.0]))
    assert known == [4.0, pytest.approx(5**0.5)]
    found = standardised(pl.Series([4.0, 9.0, None, -1.0]), *known)
    np.testing.assert_allclose(found, [0.0, 5**0.5, NAN, -(5**0.5)], rtol=1e-6)


def test_an_outlier_counts_as_five_deviations_and_one_that_no_float32_holds_does_not_move_the_mean() -> None:
    known = mean_and_deviation(pl.Series([0.0, 2.0, INF, -INF, 1e300]))
    assert known == [1.0, 1.0]
    assert standardised(pl.Series([1e9, -1e300, INF, -INF]), *known).tolist() == [FARTHEST, -FARTHEST] * 2


def test_the_order_of_the_rows_does_not_change_the_mean() -> None:
    values = [10.0 ** Random(i).uniform(-8, 8) for i in range(500)]
    shuffled = Random(0).sample(values, len(values))
    assert mean_and_deviation(pl.Series(values)) == mean_and_deviation(pl.Series(shuffled))


def test_a_constant_has_nothing_to_say_whatever_comes_later() -> None:
    known = mean_and_deviation(pl.Series([0.1] * 10))
    assert known[1] == 0
    np.testing.assert_array_equal(standardised(pl.Series([0.1, 7.0, INF, None]), *known), [0, 0, 0, NAN])
    assert vocabulary_of(pl.Series([0.1] * 10), "quantiles") == ["0.1"]


def test_nothing_is_learnt_of_numbers_that_are_all_missing_or_infinite() -> None:
    assert mean_and_deviation(pl.Series([None, INF], dtype=pl.Float64)) == []
    assert vocabulary_of(pl.Series([None, INF], dtype=pl.Float64), "quantiles") == []


def test_bins_hold_as_many_rows_each() -> None:
    numbers = np.arange(100.0)
    assert lower_bounds(numbers) == [5.0 * i for i in range(20)]
    places = bin_of(
        pl.Series([0.0, 4.9, 5.0, 99.0, 1e9, INF, -3.0, -INF]), vocabulary_of(pl.Series(numbers), "quantiles")
    )
    assert places.tolist() == [0, 0, 1, 19, 19, 19, 0, 0]


def test_few_numbers_have_a_bin_each() -> None:
    assert vocabulary_of(pl.Series([1.0, 0.0, 1.0, None]), "quantiles") == ["0.0", "1.0"]
    uneven = np.repeat(np.arange(MOST_BINS, dtype=float), [1000, *([1] * (MOST_BINS - 1))])
    assert lower_bounds(uneven) == [float(i) for i in range(MOST_BINS)]


def test_a_number_of_most_rows_leaves_the_other_bins_to_the_others() -> None:
    # 970 zeros fill one bin, and 19 bins divide 38 different numbers: two each
    numbers = np.concatenate([np.zeros(970), np.arange(1.0, 39.0)])
    assert lower_bounds(numbers) == [0.0, *(1.0 + 2 * i for i in range(19))]
    # three numbers below the zeros do not join them
    assert lower_bounds(np.concatenate([numbers, [-3.0, -2.0, -1.0]]))[:2] == [-3.0, 0.0]


def test_there_are_never_more_bins_than_allowed() -> None:
    for seed in range(20):
        draws = np.random.default_rng(seed).zipf(1.5, size=400).astype(float)
        bounds = lower_bounds(draws)
        assert len(bounds) <= MOST_BINS
        assert bounds == sorted(set(bounds))
        assert bounds[0] == draws.min()
