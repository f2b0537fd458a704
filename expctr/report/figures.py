"""The report's figures, drawn as SVG. The style sheet sets colours and fonts.

A figure is 360 units wide, so that its text is readable on a phone. Larger screens scale it up.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from expctr.systems import Bin, Estimate

WIDTH = 360.0
_HEIGHT = 190.0
_SQUARE = 240.0
Point = tuple[float, float]


class Figure(NamedTuple):
    """A drawing with its heading."""

    title: str
    svg: Markup
    about: str = ""
    """Written after the title in a lighter colour."""


class Scale(NamedTuple):
    """Maps numbers to coordinates: `low` to `start`, `high` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


class Mark(NamedTuple):
    """A dot with a whisker for its interval."""

    estimate: Estimate
    series: int = 0
    """Number of the colour, one per run."""
    name: str = ""
    """Written before the mark, where a row has several."""


class Row(NamedTuple):
    """A row of a forest plot."""

    label: str
    marks: Sequence[Mark]
    paper: float | None = None
    """The paper's value, drawn as a reference mark."""


class Line(NamedTuple):
    """A curve or dots."""

    points: Sequence[Point]
    series: int = 0
    label: str = ""
    """Written at its end."""
    kind: str = "line"
    """`line`, `faint` for the background, `dots` or `dashed`."""


def drawn(figures: Iterable[Figure]) -> list[Figure]:
    """The figures that show something."""
    return [figure for figure in figures if figure.svg]


def forest(
    title: str, rows: Sequence[Row], *, zero: float | None = None, signed: bool = False, values: bool = True
) -> Markup:
    """A forest plot: dots with their intervals as whiskers, one row each.

    Args:
        title: for screen readers.
        rows: from top to bottom.
        zero: a value to mark by a line, such as that of no difference.
        signed: whether numbers are written with their sign.
        values: whether numbers are written at all.
    """
    numbers = [v for row in rows for mark in row.marks for v in mark.estimate] + [row.paper or math.nan for row in rows]
    shown = [v for v in numbers if math.isfinite(v)]
    if not shown:
        return Markup()
    shown += [] if zero is None else [zero]
    several = any(len(row.marks) > 1 for row in rows)
    low, high, steps = axis(min(shown), max(shown))
    place = Scale(low, high, 22.0 if several else 6.0, WIDTH - 8)
    numbered = values and not several
    parts: list[Markup] = []
    bands: list[tuple[float, float]] = []  # of the marks, below their labels
    y = 4.0
    for row in rows:
        if numbered:
            parts.extend(_text(WIDTH, y + 11, interval(m.estimate, signed), "value", "end") for m in row.marks)
        for line in textwrap.wrap(row.label, 30 if numbered else 50):
            parts.append(_text(0, y + 11, line, "label"))
            y += 14
        y += 2
        top = y
        for mark in row.marks:
            y += 13
            if several:
                parts.append(_text(0, y - 2, mark.name, f"name s{mark.series}"))
            parts.append(_whisker(place, y - 6, mark, interval(mark.estimate, signed)))
        if row.paper is not None and math.isfinite(row.paper):
            x = place(row.paper)
            label = f"the paper's value: {row.paper:.4f}"
            parts.append(_tag("path", _tag("title", label), d=f"M{n(x)} {n(top)}V{n(y)}", class_="paper"))
        y += 9
        bands.append((top, y - 5))
    bottom = y

    def upright(value: float, kind: str) -> Markup:
        """A vertical line, interrupted where labels stand."""
        return _tag("path", d="".join(f"M{n(place(value))} {n(a)}V{n(b)}" for a, b in bands), class_=kind)

    grid = [
        *(upright(s, "grid") for s in steps),
        *(_text(place(s), bottom + 12, tick(s, steps), "tick", "middle") for s in steps),
    ]
    if zero is not None:
        grid.append(upright(zero, "zero"))
    return _figure(title, WIDTH, bottom + 17, [*grid, *parts])


def curves(
    title: str,
    lines: Sequence[Line],
    *,
    stages: Sequence[tuple[str, float, float]] = (),
    reference: Sequence[float] = (),
) -> Markup:
    """Curves over a shared axis.

    Args:
        title: for screen readers.
        lines: whose points have finite coordinates.
        stages: names with their first and last x, written above the curves and separated by lines.
        reference: heights of horizontal lines.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup()
    points = [point for line in lines for point in line.points]
    heights = [y for _, y in points] + [*reference]
    low, high, steps = axis(min(heights), max(heights))
    longest = max(len(line.label) for line in lines)
    right = WIDTH - (9 + 7.2 * longest if longest else 8)
    left_x, right_x = _extent([x for x, _ in points] + [edge for _, *edges in stages for edge in edges])
    across = Scale(left_x, right_x, 36, right)
    down = Scale(low, high, _HEIGHT - 22, 20)
    parts = [
        *(_tag("path", d=f"M36 {n(down(s))}H{n(right)}", class_="grid") for s in steps),
        *(_text(31, down(s) + 3.5, tick(s, steps), "tick", "end") for s in steps),
        _text(across(left_x), _HEIGHT - 7, f"{left_x:g}", "tick", "start"),
        _text(across(right_x), _HEIGHT - 7, f"{right_x:g}", "tick", "end"),
    ]
    for i, (name, start, end) in enumerate(stages):
        parts.append(_text(across((start + end) / 2), 11, name, "stage", "middle"))
        if i:
            x = across((start + stages[i - 1][2]) / 2)
            parts.append(_tag("path", d=f"M{n(x)} 15V{n(_HEIGHT - 22)}", class_="part"))
    parts += [_tag("path", d=f"M36 {n(down(value))}H{n(right)}", class_="paper") for value in reference]
    ends: list[tuple[float, Line]] = []
    for line in lines:
        placed = [(across(x), down(y)) for x, y in line.points]
        if line.kind == "dots":
            parts.extend(_tag("circle", cx=x, cy=y, r=3, class_=f"dot s{line.series}") for x, y in placed)
        else:
            parts.append(_tag("path", d=path(placed), class_=f"{line.kind} s{line.series}"))
        if line.label:
            ends.append((placed[-1][1] + 3.5, line))
    for y, line in apart(ends, 12):
        parts.append(_text(right + 5, y, line.label, f"name s{line.series}"))
    return _figure(title, WIDTH, _HEIGHT, parts)


def roc(title: str, lines: Sequence[Line]) -> Markup:
    """ROC curves in a square, with the diagonal of random scores."""
    across, down = Scale(0, 1, 34, _SQUARE - 6), Scale(0, 1, _SQUARE - 34, 6)
    parts = [
        _tag("path", d=path([(across(x), down(y)) for x, y in line.points]), class_=f"{line.kind} s{line.series}")
        for line in lines
        if line.points
    ]
    return _square(title, "false positive rate", "true positive rate", parts, across, down)


def reliability(title: str, bins: Sequence[tuple[int, Sequence[Bin]]]) -> Markup:
    """A reliability diagram: share of ones against mean score, with whiskers. Calibrated scores lie on the diagonal.

    The radius of a dot grows with its number of rows.
    """
    across, down = Scale(0, 1, 34, _SQUARE - 6), Scale(0, 1, _SQUARE - 34, 6)
    parts = []
    for series, made in bins:
        most = max((b.rows for b in made), default=1)
        for b in made:
            x, radius = across(b.score), 2 + 4 * math.sqrt(b.rows / most)
            label = _tag("title", f"{b.rows:,} rows scored {b.score:.2f} on average: {b.rate.value:.1%} liked")
            whisker = f"M{n(x)} {n(down(b.rate.low))}V{n(down(b.rate.high))}"
            parts.append(_tag("path", d=whisker, class_=f"whisker s{series}"))
            parts.append(_tag("circle", label, cx=x, cy=down(b.rate.value), r=radius, class_=f"dot s{series}"))
    return _square(title, "score", "share liked", parts, across, down)


def path(points: Sequence[Point]) -> str:
    """The SVG path through points."""
    return "M" + "L".join(f"{n(x)} {n(y)}" for x, y in points)


def apart(ends: Sequence[tuple[float, Line]], gap: float) -> list[tuple[float, Line]]:
    """Labels with their heights, moved down until they no longer overlap."""
    placed: list[tuple[float, Line]] = []
    for y, line in sorted(ends, key=lambda end: end[0]):
        placed.append((max(y, placed[-1][0] + gap) if placed else y, line))
    return placed


def axis(low: float, high: float, count: int = 4) -> tuple[float, float, list[float]]:
    """Bounds of an axis around a range, and about `count` round numbers on it."""
    low, high = _extent([low, high])
    span = high - low
    magnitude = 10 ** math.floor(math.log10(span / count))
    step = next(f * magnitude for f in (1, 2, 2.5, 5, 10) if f * magnitude * count >= span * (1 - 1e-9))
    bounds = low - 0.04 * span, high + 0.04 * span
    first, last = math.ceil(bounds[0] / step), math.floor(bounds[1] / step)
    return *bounds, [i * step for i in range(first, last + 1)]


def interval(estimate: Estimate, signed: bool = False) -> str:
    """A number with its interval and true minus signs, such as `0.6071 (0.557 to 0.653)`; the digits are table.md's."""
    return estimate.format("{} ({} to {})", "+" if signed else "").replace("-", "\N{MINUS SIGN}")


def tick(value: float, steps: Sequence[float]) -> str:
    """A number on an axis, with as many decimals as the steps need."""
    step = steps[1] - steps[0] if len(steps) > 1 else abs(value) or 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, decimals) != round(step, decimals + 2):
        decimals += 1
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}") if round(value, decimals) else "0"


def n(value: float) -> str:
    """A coordinate, rounded to what is visible."""
    return f"{round(value, 2):g}"


def _extent(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    # a range of rounding errors is none: its steps could not be told apart
    return (low, high) if high - low > 1e-9 * max(abs(low), abs(high)) else (min(low, 0.0), max(high, 0.0) or 1.0)


def _square(title: str, below: str, beside: str, parts: list[Markup], across: Scale, down: Scale) -> Markup:
    frame = []
    for step in (0, 0.5, 1):
        frame += [
            _tag("path", d=f"M{n(across(0))} {n(down(step))}H{n(across(1))}", class_="grid"),
            _tag("path", d=f"M{n(across(step))} {n(down(0))}V{n(down(1))}", class_="grid"),
            _text(across(0) - 5, down(step) + 3.5, f"{step:g}", "tick", "end"),
            _text(across(step), down(0) + 13, f"{step:g}", "tick", "end" if step == 1 else "middle"),
        ]
    frame += [
        _tag("path", d=path([(across(0), down(0)), (across(1), down(1))]), class_="zero"),
        _text(across(0.5), _SQUARE - 7, below, "tick", "middle"),
        _text(0, 0, beside, "tick", "middle", transform=f"translate(7 {n(down(0.5))}) rotate(-90)"),
    ]
    return _figure(title, _SQUARE, _SQUARE, [*frame, *parts])


def _whisker(place: Scale, y: float, mark: Mark, label: str) -> Markup:
    value, low, high = mark.estimate
    if not math.isfinite(value):
        return Markup()
    parts = [_tag("title", f"{mark.name} {label}".strip())]
    if math.isfinite(low + high):
        parts.append(_tag("path", d=f"M{n(place(low))} {n(y)}H{n(place(high))}", class_="whisker"))
    parts.append(_tag("circle", cx=place(value), cy=y, r=4, class_="dot"))
    return _tag("g", *parts, class_=f"s{mark.series}")


def _figure(title: str, width: float, height: float, parts: Sequence[Markup]) -> Markup:
    return _tag("svg", *parts, viewBox=f"0 0 {n(width)} {n(height)}", role="img", aria_label=title)


def _text(x: float, y: float, content: str, kind: str, anchor: str = "start", **more: str) -> Markup:
    return _tag("text", content, x=x, y=y, class_=kind, text_anchor=anchor, **more)


def _tag(name: str, *children: str | Markup, **attributes: str | float) -> Markup:
    """An element. Attributes, and children that are not markup, are escaped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(n(value) if isinstance(value, int | float) else value)}"'
        for key, value in attributes.items()
    )
    inner = Markup().join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")
