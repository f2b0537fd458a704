"""The report's figures of training: rewards, KL, the signs that the alarms watch, and the CTR model's LogLoss."""

import math
from collections.abc import Sequence

from expctr.report import figures
from expctr.report.browser import LETTERS
from expctr.report.curves import smooth, stages
from expctr.report.figures import Figure, Line
from expctr.report.run import Run, backbone, number, section
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
    values = {step: y for tag in tags for step, y in run.events.curves.get(tag, {}).items() if math.isfinite(y)}
    return [
        [(start + i, values[step]) for i, step in enumerate(steps) if step in values]
        for start, steps in _placed(run, axis)
    ]


def _placed(run: Run, axis: Sequence[tuple[str, float, float]]) -> list[tuple[float, list[int]]]:
    """The run's rollout stages, each with its start on the axis and its logged steps."""
    begins = {name: start for name, start, _ in axis}
    return [(begins[name], steps) for name, steps in stages(run.events.curves) if name in begins]


def reward_figures(runs: Sequence[Run]) -> list[Figure]:
    """The rewards and the distance from the untrained model."""
    made = [
        _stage_figure(runs, "LC reward", "reward_lc", "not normalised", val="val/reward_lc"),
        _stage_figure(runs, "IC reward", "reward_ic", "not normalised"),
        _stage_figure(runs, "KL to the untrained model", "kl", "nats per sentence"),
        _stage_figure(runs, "Entropy", "entropy", "nats per token"),
    ]
    return figures.drawn([*made, _ctr_figure(runs)])


def sign_figures(runs: Sequence[Run]) -> list[Figure]:
    """The signs that the alarms watch, with the bounds of the first run's config."""
    options, made = section(runs[0].config, "alarms"), []
    for title, tag, about, option in (
        ("Distinct sentences", "unique", "share of the samples", "unique"),
        ("Words per sentence", "words", "", ""),
        ("Repeated word sequences", "repeated", "share", "repeated"),
        ("Positive verdicts", "s_u_positive", "share, s_u", "positive"),
        ("Positive CTR scores", "s_r_positive", "share, s_r", "positive"),
        ("Extreme verdicts", "s_u_saturated", "share, s_u", "saturated"),
    ):
        bound = number(options.get(option))
        bounds = [] if math.isnan(bound) else [bound, 1 - bound] if option == "positive" else [bound]
        shown = ", ".join(filter(None, [about, "dashed: alarm" if bounds else ""]))
        made.append(_stage_figure(runs, title, tag, shown, reference=bounds))
    return figures.drawn(made)


def are_unwatched(run: Run) -> str:
    """Why no alarm could be raised, if no stage was as long as one needs; else empty."""
    window = number(section(run.config, "alarms").get("window"))
    steps = {stage: len(run.events.curves.get(f"{stage}/unique", ())) for stage in ("lc", "ic")}
    if math.isnan(window) or not any(steps.values()) or max(steps.values()) >= window:
        return ""
    return f"alarms.window is {window:.0f} rollout batches, and no stage had so many: no alarm could be raised."


def _stage_figure(
    runs: Sequence[Run], title: str, tag: str, about: str, *, val: str = "", reference: Sequence[float] = ()
) -> Figure:
    """A curve of the LC and IC stages, and under the tag `val` its values on the validation split."""
    axis = stage_axis(runs)
    lines: list[Line] = []
    for i, run in enumerate(runs):
        parts = [part for part in stage_curve(run, [f"lc/{tag}", f"ic/{tag}"], axis) if part]
        reach = max(1, sum(map(len, parts)) // 40)
        if len(runs) == 1:
            lines += [Line(_thin(part), kind="faint") for part in parts]
        for part in parts:
            xs, ys = zip(*part, strict=True)
            label = LETTERS[i] if len(runs) > 1 and part is parts[-1] else ""
            lines.append(Line(_thin([*zip(xs, smooth(ys, reach), strict=True)]), i, label))
        if val and parts:
            lines.append(Line(_validated(run, val, axis), i, kind="dots"))
    first = min((x for line in lines for x, _ in line.points), default=0.0)  # a stage without the curve takes no room
    shown = [stage for stage in axis if stage[2] >= first]
    if val and any(line.kind == "dots" and line.points for line in lines):
        about += ", dots: validation"
    return Figure(title, figures.curves(title, lines, stages=shown, reference=reference), about)


def _validated(run: Run, tag: str, axis: Sequence[tuple[str, float, float]]) -> list[figures.Point]:
    """Values of the validation split, placed at the last batch before them."""
    return [
        (start + sum(s <= step for s in steps) - 1, value)
        for step, value in run.events.curves.get(tag, {}).items()
        for start, steps in _placed(run, axis)
        if steps[0] <= step <= steps[-1] and math.isfinite(value)
    ]


def _ctr_figure(runs: Sequence[Run]) -> Figure:
    """LogLoss on the validation split in the CTR stages, with and without the sentences."""
    lines: list[Line] = []
    for i, run in enumerate(runs):
        trained = [step for name, steps in stages(run.events.curves) if name.startswith("CTR") for step in steps]
        for tag, curve in run.events.curves.items():
            if not tag.startswith("val/logloss_") or tag == f"val/logloss_{LLM.key}" or not trained:
                continue
            within = [y for step, y in curve.items() if trained[0] <= step <= trained[-1] and math.isfinite(y)]
            aug, letter = tag == f"val/logloss_{AUG.key}", LETTERS[i] if len(runs) > 1 else ""
            label = f"{letter} {AUG.name if aug else backbone(run)}"
            points = [(k + 1.0, value) for k, value in enumerate(within)]
            lines.append(Line(points, i, label.strip(), "line" if aug else "dashed"))
    title = "CTR model: LogLoss"
    return Figure(title, figures.curves(title, lines), "validation, by CTR epoch")


def _thin(points: Sequence[figures.Point], most: int = 300) -> list[figures.Point]:
    """Evenly spaced points and the last one; more than `most` would not be visible."""
    step = -(-len(points) // most)
    return [*points[::step], *([points[-1]] if (len(points) - 1) % step else [])]
