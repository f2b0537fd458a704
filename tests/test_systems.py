"""The registry: numbers as text, and names that serve as keys."""

import math

from expctr.systems import ABLATIONS, COMPARISONS, GAINS, MEASURES, METRICS, SIMPLE, SOURCES, SYSTEMS, Estimate, Measure


def test_an_estimate_has_four_decimals_and_its_bounds_three() -> None:
    assert Estimate(0.58648, 0.4681, 0.6927).format() == "0.5865 (0.468–0.693)"
    assert Estimate(0.01, -0.0204, 0.04).format("{} ({} to {})", "+") == "+0.0100 (-0.020 to +0.040)"
    assert Estimate(0.5).format() == Estimate(0.5, 0.4, math.nan).format() == "0.5000"
    assert Estimate(math.nan).format(sign="+") == "-"


def test_measures_are_written_in_their_unit() -> None:
    assert [Measure("", unit).format(0.1234) for unit in ("share", "words", "score")] == ["12.3%", "0.1", "0.123"]
    assert Measure("").format(math.nan) == "-"


def test_keys_and_names_are_unique() -> None:
    known = (*SYSTEMS, *COMPARISONS, *SOURCES)
    for field in ("key", "name", "column"):
        assert len({getattr(system, field) for system in known}) == len(known)
    assert not {system.name for system in SIMPLE} & {system.name for system in known}
    assert {system for _, first, second, _ in GAINS.values() for system in (first, second)} <= {*known}
    headings = [*ABLATIONS.values(), *(measure.heading for measure in MEASURES.values())]
    assert len({*headings}) == len(headings)


def test_arrows_point_to_better_values() -> None:
    assert [metric.heading for metric in METRICS.values()] == [
        *("AUC ↑", "LogLoss ↓", "MAE ↓", "RMSE ↓", "MSE ↓", "GAUC ↑", "NE ↓", "ECE ↓")
    ]
    assert (METRICS["auc"].better, METRICS["ece"].better) == ("higher", "lower")
