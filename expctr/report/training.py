"""The report's figures of training: rewards, KL, the signs that the alarms watch, and the CTR model's LogLoss."""

import math
from collections.abc import Sequence

from expctr.report import figures
from expctr.report.browser import LETTERS
from expctr.report.curves import smooth, stages
from expctr.report.figures import Figure, Line
from expctr.report.run import Run, number, section
from expctr.systems import AUG, LLM


def stage_axis(runs: Sequence[Run]) -> list[tuple[str, float, float]]:
    """The rollout stages on an axis that all runs share: name, first and last batch."""
    lengths: dict[str, int] = {}
    for run in runs:
        for name, steps in stages(run.events.curves):
            if not name.startswith("CTR"):
                lengths[name] = max(lengths.get(name, 0), len(steps))
    placed, start = [], 1.0
    for name, length in sorted(lengths.items(), key=lambda pair: (pair[0] != "LC", len(pair[0]), pair[0])):
        placed.append((name, start, start + length - 1))
        start += length
    return placed


def stage_curve(run: Run, tags: Sequence[str], axis: Sequence[tuple[str, float, float]]) -> list[list[figures.Point]]:
    """A curve that the stages log under different tags, one list of points per stage."""
    begins = {name: start for name, start, _ in axis}
    values: dict[int, float] = {}
    for tag in tags:
        values |= run.events.curves.get(tag, {})
    return [
        [(begins[name] + i, values[step]) for i, step in enumerate(steps) if math.isfinite(values.get(step, math.nan))]
        for name, steps in stages(run.events.curves)
        if name in begins
    ]


def reward_figures(runs: Sequence[Run]) -> list[Figure]:
    """The rewards and the distance from the untrained model."""
    axis = stage_axis(runs)
    return figures.drawn(
        [
            _stage_figure(
                runs, axis, "LC reward", "lc/reward_lc", "ic/reward_lc", about="not normalised", val="val/reward_lc"
            ),
            _stage_figure(runs, axis, "IC reward", "ic/reward_ic", about="not normalised"),
            _stage_figure(runs, axis, "KL to the untrained model", "lc/kl", "ic/kl", about="nats per sentence"),
            _stage_figure(runs, axis, "Entropy", "lc/entropy", "ic/entropy", about="nats per token"),
            _ctr_figure(runs),
        ]
    )


def sign_figures(runs: Sequence[Run]) -> list[Figure]:
    """The signs that the alarms watch, with the bounds of the first run's config."""
    axis, options = stage_axis(runs), section(runs[0].config, "alarms")

    def bounds(name: str, *values: float) -> list[tuple[float, str]]:
        return [(value, "alarm") for value in values if not math.isnan(value)] if options.get(name) is not None else []

    positive = number(options.get("positive"))
    return figures.drawn(
        [
            _stage_figure(runs, axis, title, f"lc/{tag}", f"ic/{tag}", about=about, reference=bounds(option, *values))
            for title, tag, about, option, values in (
                ("Distinct sentences", "unique", "share of the samples", "unique", [number(options.get("unique"))]),
                ("Words per sentence", "words", "", "", []),
                ("Repeated word sequences", "repeated", "share", "repeated", [number(options.get("repeated"))]),
                ("Positive verdicts", "s_u_positive", "share, s_u", "positive", [positive, 1 - positive]),
                ("Positive CTR scores", "s_r_positive", "share, s_r", "positive", [positive, 1 - positive]),
                ("Extreme verdicts", "s_u_saturated", "share, s_u", "saturated", [number(options.get("saturated"))]),
            )
        ]
    )


def _stage_figure(
    runs: Sequence[Run],
    axis: Sequence[tuple[str, float, float]],
    title: str,
    *tags: str,
    about: str = "",
    val: str = "",
    reference: Sequence[tuple[float, str]] = (),
) -> Figure:
    lines: list[Line] = []
    for i, run in enumerate(runs):
        parts = [part for part in stage_curve(run, tags, axis) if part]
        reach = max(1, sum(map(len, parts)) // 40)
        smoothed = []
        for part in parts:
            means = smooth([y for _, y in part], reach)
            smoothed.append([(x, y) for (x, _), y in zip(part, means, strict=True)])
        if len(runs) == 1:
            lines += [Line(_thin(part), kind="faint") for part in parts]
        last = len(smoothed) - 1
        label = LETTERS[i] if len(runs) > 1 else ""
        lines += [Line(_thin(part), i, label if k == last else "") for k, part in enumerate(smoothed)]
        if val and parts:
            lines.append(Line(_validated(run, val, axis), i, kind="dots"))
    first = min((x for line in lines for x, _ in line.points), default=0.0)  # a stage without the curve takes no room
    shown = [stage for stage in axis if stage[2] >= first]
    if val and any(line.kind == "dots" and line.points for line in lines):
        about += ", dots: validation"
    return Figure(title, figures.curves(title, lines, stages=shown, reference=reference), about)


def _validated(run: Run, tag: str, axis: Sequence[tuple[str, float, float]]) -> list[figures.Point]:
    """Values of the validation split, placed at the last batch before them."""
    begins = {name: start for name, start, _ in axis}
    points = []
    for step, value in run.events.curves.get(tag, {}).items():
        for name, steps in stages(run.events.curves):
            if name in begins and steps[0] <= step <= steps[-1] and math.isfinite(value):
                points.append((begins[name] + sum(s <= step for s in steps) - 1, value))
    return points


def _ctr_figure(runs: Sequence[Run]) -> Figure:
    """LogLoss on the validation split in the CTR stages, with and without the sentences."""
    lines: list[Line] = []
    for i, run in enumerate(runs):
        names = [tag for tag in run.events.curves if tag.startswith("val/logloss_") and tag != f"val/logloss_{LLM.key}"]
        for tag in names:
            trained = [step for name, steps in stages(run.events.curves) if name.startswith("CTR") for step in steps]
            within = [
                value
                for step, value in run.events.curves[tag].items()
                if trained and trained[0] <= step <= trained[-1] and math.isfinite(value)
            ]
            aug, letter = tag == f"val/logloss_{AUG.key}", LETTERS[i] if len(runs) > 1 else ""
            label = f"{letter} with" if aug else f"{letter} without"
            points = [(k + 1.0, value) for k, value in enumerate(within)]
            lines.append(Line(points, i, label.strip(), "line" if aug else "dashed"))
    title = "CTR model: LogLoss"
    return Figure(title, figures.curves(title, [line for line in lines if line.points]), "validation, by CTR epoch")


def _thin(points: Sequence[figures.Point], most: int = 300) -> list[figures.Point]:
    """Evenly spaced points and the last one; more than `most` would not be visible."""
    step = -(-len(points) // most)
    return [*points[::step], *([points[-1]] if (len(points) - 1) % step else [])]
