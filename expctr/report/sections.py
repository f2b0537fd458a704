"""The report's sections: what of the runs is shown, as figures and cells. One with nothing to show is empty."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from expctr.report import compare, figures
from expctr.report.answers import rows_of
from expctr.report.compare import Estimate
from expctr.report.curves import smooth, stages
from expctr.report.figures import Line, Mark, Row
from expctr.report.rows import LETTERS
from expctr.report.run import Run, estimate, is_probability, number, section

FEW = 50
"""Rows below which a slice's AUC is called too uncertain to be read."""

METRICS = {"auc": "AUC ↑", "logloss": "LogLoss ↓", "mae": "MAE ↓", "rmse": "RMSE ↓", "mse": "MSE ↓"}
_SOURCES = {
    "ExpCTR-LLM, untrained": "LLM verdict, before training",
    "ExpCTR-Aug, explanations of the untrained model": "Sentences from before training",
    "ExpCTR-Aug, explanations of other rows": "Sentences of other rows",
    "ExpCTR-Aug, none (z = 0)": "No sentence (z = 0)",
}
_ABLATIONS = {
    "real": "Its own",
    "no verdict words": "Its own, without verdict words",
    "verdict only": "Its own verdict alone",
    "shuffled within verdict": "Another row's, of the same verdict",
    "shuffled": "Another row's",
    "untrained": "From before training",
    "none": "No sentence (z = 0)",
}
_MEASURES = {
    "words": "Words a sentence",
    "empty": "Empty",
    "distinct_1": "Distinct words, of all words",
    "distinct_2": "Distinct word pairs, of all pairs",
    "unique": "Distinct sentences, of all",
    "names_target": "Name the target",
    "names_history": "Name a title of the history",
    "invented": "Name an invented title",
    "invented_garbled": "Invented: one of theirs, garbled",
    "invented_elsewhere": "Invented: a title of other users",
    "verdict": "Say whether the user will like it",
    "verdict_positive": "Say that the user will like it",
    "verdict_agrees_s_u": "Verdict agrees with s_u",
    "verdict_agrees_s_r": "Verdict agrees with s_r",
    "verdict_agrees_label": "Verdict agrees with the label",
    "reviewed": "Rows with the user's own review",
    "bleu": "BLEU against the user's review",
    "rouge_l": "ROUGE-L against the user's review",
    "bertscore": "BERTScore against the user's review",
}
_SHARES = ("empty", "unique", "names_", "invented", "verdict", "reviewed")


class Figure(NamedTuple):
    """A drawing with its heading."""

    title: str
    svg: Markup
    about: str = ""


def _figures(made: Iterable[Figure]) -> list[Figure]:
    return [one for one in made if one.svg]


def _marks(runs: Sequence[Run], key: str, *path: str) -> list[Mark]:
    """A mark for each run whose table has a number under the key, at the path."""
    found = ((i, estimate(section(run.table, *path).get(key))) for i, run in enumerate(runs))
    return [Mark(value, i, LETTERS[i] if len(runs) > 1 else "") for i, value in found if value]


def _names(runs: Sequence[Run], *path: str) -> list[str]:
    """The names at a path of the runs' tables, in the order of their first appearance."""
    return list(dict.fromkeys(name for run in runs for name in section(run.table, *path)))


# --- the table


def metric_figures(runs: Sequence[Run]) -> list[Figure]:
    """AUC and LogLoss of each system, the paper's values as reference marks."""
    made = []
    for metric, title in list(METRICS.items())[:2]:
        rows = []
        for name in _names(runs, "systems"):
            marks = _marks(runs, metric, "systems", name)
            papers = [number(section(run.table, "paper", name).get(metric)) for run in runs]
            paper = next((value for value in papers if math.isfinite(value)), None)
            if marks:
                rows.append(Row(name, marks, paper))
        shown = any(row.paper is not None for row in rows)
        svg = figures.forest(title, rows, zero=0.5 if metric == "auc" else None)
        made.append(Figure(title, svg, "dashed: the paper's" if shown else ""))
    return _figures(made)


def metric_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each system's metrics with intervals, and the paper's; a system's rows of several runs follow each other."""
    rows = []
    for name in _names(runs, "systems"):
        for i, run in enumerate(runs):
            metrics = section(run.table, "systems").get(name)
            if metrics is None:
                continue
            cells = []
            for metric in METRICS:
                value = estimate(section(metrics).get(metric))
                paper = number(section(run.table, "paper", name).get(metric))
                said = "" if math.isnan(paper) else f"{paper:.4f}"
                cells.append({"value": _value(value), "bounds": _bounds(value), "paper": said})
            rows.append({"name": name, "run": i, "cells": cells})
    return rows


def summary(run: Run) -> str:
    """The base rates, and what a constant scores."""
    rows, users, test, train, constant = (
        number(run.table.get(name)) for name in ("rows", "users", "test_rate", "train_rate", "constant_logloss")
    )
    parts = []
    if not math.isnan(rows):
        parts.append(f"{rows:,.0f} test rows" + ("" if math.isnan(users) else f" of {users:,.0f} users"))
    if not math.isnan(test):
        parts.append(f"{test:.1%} liked" + (f" ({train:.1%} of the training rows)" if not math.isnan(train) else ""))
    said = ", ".join(parts)
    if not math.isnan(constant):
        said += f". A constant's LogLoss is {constant:.4f}: what a model has to beat."
    return said


# --- curves


def stage_axis(runs: Sequence[Run]) -> list[tuple[str, float, float]]:
    """Where each stage of rollouts stands on an axis that the runs share: its name, first and last batch."""
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
    """A curve that the stages log under different tags, a list of points a stage."""
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
    """The rewards and the distance from the untrained model; with one run, each batch behind the mean."""
    axis = stage_axis(runs)
    return _figures(
        [
            _stage_figure(runs, axis, "LC reward", "lc/reward_lc", "ic/reward_lc", about="raw", val="val/reward_lc"),
            _stage_figure(runs, axis, "IC reward", "ic/reward_ic", about="raw"),
            _stage_figure(runs, axis, "KL to the untrained model", "lc/kl", "ic/kl", about="nats a sentence"),
            _stage_figure(runs, axis, "Entropy", "lc/entropy", "ic/entropy", about="nats a token"),
            _click_figure(runs),
        ]
    )


def sign_figures(runs: Sequence[Run]) -> list[Figure]:
    """What the alarms watch, with the bounds that the first run's config gives."""
    axis, options = stage_axis(runs), section(runs[0].config, "alarms")

    def bounds(name: str, *values: float) -> list[tuple[float, str]]:
        return [(value, "alarm") for value in values if not math.isnan(value)] if options.get(name) is not None else []

    positive = number(options.get("positive"))
    return _figures(
        [
            _stage_figure(runs, axis, title, f"lc/{tag}", f"ic/{tag}", about=about, reference=bounds(option, *values))
            for title, tag, about, option, values in (
                ("Distinct sentences", "unique", "of the samples", "unique", [number(options.get("unique"))]),
                ("Words a sentence", "words", "", "", []),
                ("Repeated word runs", "repeated", "share", "repeated", [number(options.get("repeated"))]),
                ("Positive verdicts", "s_u_positive", "share, s_u", "positive", [positive, 1 - positive]),
                ("Positive click scores", "s_r_positive", "share, s_r", "positive", [positive, 1 - positive]),
                ("Certain verdicts", "s_u_saturated", "share", "saturated", [number(options.get("saturated"))]),
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
    first = min((x for line in lines for x, _ in line.points), default=0.0)  # a stage without the curve is no room
    shown = [stage for stage in axis if stage[2] >= first]
    if val and any(line.kind == "dots" and line.points for line in lines):
        about += ", dots: validation"
    return Figure(title, figures.curves(title, lines, stages=shown, reference=reference), about)


def _validated(run: Run, tag: str, axis: Sequence[tuple[str, float, float]]) -> list[figures.Point]:
    """Values of the validation split, at the batch that they were measured after."""
    begins = {name: start for name, start, _ in axis}
    points = []
    for step, value in run.events.curves.get(tag, {}).items():
        for name, steps in stages(run.events.curves):
            if name in begins and steps[0] <= step <= steps[-1] and math.isfinite(value):
                points.append((begins[name] + sum(s <= step for s in steps) - 1, value))
    return points


def _click_figure(runs: Sequence[Run]) -> Figure:
    """LogLoss on the validation split in the CTR stages, with the sentences and without."""
    lines: list[Line] = []
    for i, run in enumerate(runs):
        names = [tag for tag in run.events.curves if tag.startswith("val/logloss_") and tag != "val/logloss_llm"]
        for tag in names:
            trained = [step for name, steps in stages(run.events.curves) if name.startswith("CTR") for step in steps]
            within = [
                value
                for step, value in run.events.curves[tag].items()
                if trained and trained[0] <= step <= trained[-1] and math.isfinite(value)
            ]
            aug, letter = tag == "val/logloss_aug", LETTERS[i] if len(runs) > 1 else ""
            label = f"{letter} with" if aug else f"{letter} without"
            points = [(k + 1.0, value) for k, value in enumerate(within)]
            lines.append(Line(points, i, label.strip(), "line" if aug else "dashed"))
    title = "Click model: LogLoss"
    return Figure(title, figures.curves(title, [line for line in lines if line.points]), "validation, by CTR epoch")


def _thin(points: Sequence[figures.Point], most: int = 300) -> list[figures.Point]:
    """Every so many points and the last: no more than are seen."""
    step = -(-len(points) // most)
    return [*points[::step], *([points[-1]] if (len(points) - 1) % step else [])]


# --- scores


def squares(runs: Sequence[Run]) -> dict[str, list[Figure]]:
    """ROC and calibration of each system, the runs over each other."""
    names = dict.fromkeys(
        name for run in runs for name in run.scores.columns if name not in ("sample", "user", "label")
    )
    made: dict[str, list[Figure]] = {"roc": [], "reliability": []}
    for name in names:
        lines, bins, areas, errors = [], [], [], []
        for i, run in enumerate(runs):
            if name not in run.scores.columns:
                continue
            rows = run.scores.select(name, "label").drop_nulls().drop_nans()
            scores, labels = (rows[column].to_numpy().astype(np.float64) for column in (name, "label"))
            if not rows.height or not is_probability(scores) or not set(labels) <= {0.0, 1.0}:
                continue
            lines.append(Line(compare.roc(scores, labels), i))
            areas.append(compare.auc(scores, labels))
            bins.append((i, compare.calibration(scores, labels)))
            errors.append(compare.ece(bins[-1][1]))
        if not bins:
            continue
        if any(line.points for line in lines):
            said = "AUC " + ", ".join(f"{area:.3f}" for area in areas)
            made["roc"].append(Figure(name, figures.roc(f"ROC of {name}", lines), said))
        said = "error " + ", ".join(f"{error:.3f}" for error in errors)
        made["reliability"].append(Figure(name, figures.reliability(f"Calibration of {name}", bins), said))
    return made if made["reliability"] else {}


# --- what the gain rests on


def audit_figures(runs: Sequence[Run]) -> list[Figure]:
    """Ablations, counterfactuals and the leakage probe of the audit; without them, the test's other explanations."""
    made = []
    ablations = _rows(runs, "auc", "audit", "ablations")
    if ablations:
        named = [row._replace(label=_ABLATIONS.get(row.label, row.label)) for row in ablations]
        made.append(_forest("Click model on other sentences", named, "AUC"))
    elif others := _rows(runs, "auc", "sources"):
        own = _marks(runs, "auc", "systems", "ExpCTR-Aug")
        ours = [Row(_SOURCES.get(row.label, row.label), row.marks) for row in others if "LLM" not in row.label]
        made.append(_forest("Click model on other sentences", [*([Row("Its own", own)] if own else []), *ours], "AUC"))
    for key, title, about in (
        ("expected", "Scores move as expected", "share of changed prompts"),
        ("text_changed", "The sentence changes", "share of changed prompts"),
        ("s_u", "How far the verdict moves", "mean |change| of s_u"),
        ("s_r", "How far the click score moves", "mean |change| of s_r"),
    ):
        made.append(_forest(title, _rows(runs, key, "audit", "counterfactuals"), about))
    probes = [
        Row(name.replace("_", " ").capitalize(), marks)
        for name in _names(runs, "audit")
        if name not in ("ablations", "counterfactuals") and (marks := _marks(runs, "auc", "audit", name))
    ]
    if probes:
        made.append(_forest("The label, guessed from the text alone", probes, "AUC of a probe"))
    return _figures(made)


def slice_figures(runs: Sequence[Run]) -> list[Figure]:
    """AUC of each system on each slice of the test rows."""
    made = []
    for name in _names(runs, "slices"):
        rows = _rows(runs, "auc", "slices", name, "systems")
        counts = [number(section(run.table, "slices", name).get("rows")) for run in runs]
        known = [count for count in counts if not math.isnan(count)]
        about = ", ".join(f"{count:,.0f} rows" for count in dict.fromkeys(known))
        if known and max(known) < FEW:
            about += ", too few to be read"
        made.append(_forest(name.capitalize(), rows, about))
    return _figures(made)


def _rows(runs: Sequence[Run], key: str, *path: str) -> list[Row]:
    """A row a name at a path of the runs' tables, where there is a number to show."""
    rows = [Row(name, _marks(runs, key, *path, name)) for name in _names(runs, *path)]
    return [row for row in rows if row.marks]


def _forest(title: str, rows: Sequence[Row], about: str) -> Figure:
    shares = all(0 <= mark.estimate.value <= 1 for row in rows for mark in row.marks)
    return Figure(title, figures.forest(title, rows, zero=0.5 if "AUC" in about and shares else None), about)


# --- tables


def quality(runs: Sequence[Run]) -> dict[str, Any]:
    """Measures of the sentences, before and after training, a pair of columns a run."""
    columns = [
        (f"{LETTERS[i]} " if len(runs) > 1 else "", when, section(run.table, "quality", key))
        for i, run in enumerate(runs)
        for when, key in (("before training", "untrained"), ("after training", "trained"))
    ]
    columns = [column for column in columns if column[2]]
    names = dict.fromkeys(name for *_, measures in columns for name in measures)
    rows = []
    for name in names:
        found = [estimate(measures.get(name)) for *_, measures in columns]
        if any(found):
            label = _MEASURES.get(name, name.replace("_", " ").capitalize())
            rows.append((label, [(_measure(name, value), _bounds(value, name)) for value in found]))
    return {"headings": [f"{letter}{when}" for letter, when, _ in columns], "rows": rows}


def data(run: Run) -> dict[str, Any]:
    """What became of the raw rows, and the samples by split; what is known without data.json is little."""
    counts = [("read", run.data.get("rows"))]
    counts += [(f"dropped: {reason}", count) for reason, count in section(run.data, "dropped").items()]
    counts += [("kept", run.data.get("interactions"))]
    counts += [(f"not used: {reason}", count) for reason, count in section(run.data, "side_dropped").items()]
    counts += [(name, run.data.get(name)) for name in ("users", "items")]
    counts += [(f"samples not used: {reason}", count) for reason, count in section(run.data, "samples_dropped").items()]
    counts += [("history entries withheld, as targets of a later split", run.data.get("withheld"))]
    known = [(name, number(count)) for name, count in counts]
    splits = [
        (
            name,
            [
                _count(row.get("samples")),
                _percent(row.get("base_rate")),
                _count(row.get("users")),
                _percent(row.get("warm_users")),
            ],
        )
        for name, row in rows_of(run.data, "splits").items()
    ]
    history = section(run.data, "history")
    about = str(run.data["rule"]).capitalize() + "." if run.data.get("rule") else ""
    if history:
        about += " Length of the history: " + ", ".join(f"{k} {number(v):g}" for k, v in history.items()) + "."
    if not run.data:
        about = f"The run has no data.json, so less is known: {summary(run) or 'nothing'}"
    return {
        "about": about,
        "headings": ["samples", "liked", "users", "of trained users"],
        "splits": splits,
        "counts": [(name, f"{count:,.0f}") for name, count in known if not math.isnan(count)],
    }


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The options that are not the same in all runs."""
    if len(runs) < 2:
        return []
    flat = [dict(_flat(run.config)) for run in runs]
    names = dict.fromkeys(name for options in flat for name in options)
    return [
        (name, [str(options.get(name, "–")) for options in flat])
        for name in names
        if len({str(options.get(name, "–")) for options in flat}) > 1
    ]


def _flat(tree: object, name: str = "") -> Iterable[tuple[str, object]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, tree


def _value(value: Estimate | None) -> str:
    return f"{value.value:.4f}" if value else "–"


def _bounds(value: Estimate | None, name: str = "") -> str:
    if value is None or math.isnan(value.low) or math.isnan(value.high):
        return ""
    return f"{_measure(name, Estimate(value.low))} to {_measure(name, Estimate(value.high))}"


def _measure(name: str, value: Estimate | None) -> str:
    """Shares in percent, words with one decimal, the rest as metrics are written."""
    if value is None:
        return "–"
    if name == "words":
        return f"{value.value:.1f}"
    return f"{value.value:.1%}" if name.startswith(_SHARES) else f"{value.value:.3f}"


def _count(value: object) -> str:
    return "–" if math.isnan(number(value)) else f"{number(value):,.0f}"


def _percent(value: object) -> str:
    return "–" if math.isnan(number(value)) else f"{number(value):.1%}"


def whisker_words(value: Estimate) -> str:
    """A share in words: `71.2% (67.3% to 74.8%)`."""
    if math.isnan(value.low):
        return f"{value.value:.1%}"
    return f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"
