import math
import re

import pytest
from markupsafe import Markup

from expctr.report.figures import Line, Mark, Row, Scale, apart, axis, curves, forest, interval, path, reliability, tick
from expctr.systems import Bin, Estimate


def attributes(svg: Markup, name: str, kind: str) -> list[str]:
    """An attribute of all elements of a class."""
    return [
        re.search(rf' {name}="([^"]*)"', tag)[1]  # type: ignore[index]
        for tag in re.findall(r"<[^/][^>]*>", svg)
        if re.search(rf'class="{kind}[ "]', tag) and f" {name}=" in tag
    ]


def test_a_scale_puts_its_bounds_at_its_ends() -> None:
    place = Scale(0, 2, 100, 20)
    assert [place(0), place(1), place(2)] == [100, 60, 20]


def test_a_path_goes_through_its_points_and_no_finer_than_is_seen() -> None:
    assert path([(0, 1.5), (2.006, 3)]) == "M0 1.5L2.01 3"


def test_an_axis_holds_its_range_and_has_round_steps() -> None:
    low, high, steps = axis(0.52, 0.71)
    assert low < 0.52 < 0.71 < high
    assert steps == pytest.approx([0.55, 0.6, 0.65, 0.7])
    assert [tick(step, steps) for step in steps] == ["0.55", "0.60", "0.65", "0.70"]
    for low in (0.98, -3e-7, 1e300):  # rounding errors apart
        _, _, steps = axis(low, math.nextafter(low, math.inf))
        assert 2 <= len({tick(step, steps) for step in steps}) <= 7
    assert axis(0, 0)[2] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])  # a single number still has an axis


def test_a_curve_is_where_it_should_be() -> None:
    """Two points at the corners of the plot: x from 36 to 352; y with 4% of room between 168 and 20."""
    svg = curves("a curve", [Line([(0, 0.0), (10, 1.0)])])
    assert attributes(svg, "d", "line") == ["M36 162.52L352 25.48"]
    assert 'aria-label="a curve"' in svg


def test_a_whisker_spans_its_interval_and_the_paper_is_a_mark() -> None:
    """0.5 to 0.7 with 4% of room on 346 units from 6: 0.5 at 18.81, 0.6 in the middle at 179."""
    svg = forest("AUC", [Row("Aug", [Mark(Estimate(0.6, 0.5, 0.7))], paper=0.65)])
    assert attributes(svg, "d", "whisker") == ["M18.81 27H339.19"]
    assert attributes(svg, "cx", "dot") == ["179"]
    assert attributes(svg, "d", "paper") == ["M259.09 20V33"]
    assert "0.6000 (0.500 to 0.700)" in svg


def test_a_number_without_an_interval_has_no_whisker() -> None:
    svg = forest("AUC", [Row("Aug", [Mark(Estimate(0.6))])])
    assert not attributes(svg, "d", "whisker")
    assert len(attributes(svg, "cx", "dot")) == 1


def test_without_a_number_there_is_no_figure() -> None:
    assert forest("AUC", []) == curves("c", []) == forest("AUC", [Row("Aug", [Mark(Estimate(float("nan")))])]) == ""
    assert forest("differences", [], zero=0) == ""


def test_calibrated_bins_lie_on_the_diagonal() -> None:
    svg = reliability("r", [(0, [Bin(4, 0.25, Estimate(0.25, 0.1, 0.4)), Bin(4, 0.75, Estimate(0.75, 0.6, 0.9))])])
    xs, ys = (attributes(svg, name, "dot") for name in ("cx", "cy"))
    assert xs == ["84", "184"]  # 34 + 200 * score
    assert ys == ["156", "56"]  # 206 - 200 * rate
    assert attributes(svg, "d", "whisker")[0] == "M84 186V126"


def test_labels_do_not_cover_each_other() -> None:
    line = Line([])
    assert [y for y, _ in apart([(50, line), (10, line), (12, line)], 12)] == [10, 22, 50]


def test_names_are_text_in_a_figure() -> None:
    svg = forest("<b>", [Row('<script>alert("x")</script>', [Mark(Estimate(0.6))])])
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert 'aria-label="&lt;b&gt;"' in svg


def test_numbers_have_a_true_minus_and_a_sign_where_asked() -> None:
    assert interval(Estimate(-0.0053, -0.028, 0.019), signed=True) == "−0.0053 (−0.028 to +0.019)"
    assert interval(Estimate(0.5)) == "0.5000"
