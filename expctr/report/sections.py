"""The report's sections on the test, the data and the options. A section with nothing to show is empty."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from expctr import systems
from expctr.report import figures
from expctr.report.browser import LETTERS
from expctr.report.figures import Figure, Line, Mark, Row
from expctr.report.run import Run, bins, estimate, number, points, section
from expctr.systems import ABLATIONS, FEWEST_ROWS, MEASURES, METRICS, Estimate, Measure


def _marks(runs: Sequence[Run], key: str, *path: str) -> list[Mark]:
    """One mark for each run whose table has a number under the key, at the path."""
    found = ((i, estimate(section(run.table, *path).get(key))) for i, run in enumerate(runs))
    return [Mark(value, i, LETTERS[i] if len(runs) > 1 else "") for i, value in found if value]


def _names(runs: Sequence[Run], *path: str) -> list[str]:
    """The names at a path of the runs' tables, in the order of their first appearance."""
    return list(dict.fromkeys(name for run in runs for name in section(run.table, *path)))


# --- the table


def metric_figures(runs: Sequence[Run]) -> list[Figure]:
    """AUC and LogLoss of each system, with the paper's values as reference marks."""
    made = []
    for metric, zero in (("auc", 0.5), ("logloss", None)):
        rows, title = [], METRICS[metric].heading
        for name in _names(runs, "systems"):
            papers = [number(section(run.table, "paper", name).get(metric)) for run in runs]
            paper = next((value for value in papers if math.isfinite(value)), None)
            if marks := _marks(runs, metric, "systems", name):
                rows.append(Row(name, marks, paper))
        about = "dashed: the paper's value" if any(row.paper is not None for row in rows) else ""
        made.append(Figure(title, figures.forest(title, rows, zero=zero), about))
    return figures.drawn(made)


def metric_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The two tables of `table.md`: the metrics of the paper, and the further ones."""
    main = [("systems", key, metric.heading) for key, metric in METRICS.items() if key not in systems.FURTHER]
    further = [("systems", key, METRICS[key].heading) for key in systems.FURTHER]
    further += [("temperature", "t", "T")]
    further += [("temperature", key, f"{METRICS[key].heading} at T") for key in systems.RESCALED]
    return [made for columns in (main, further) if (made := _metric_table(runs, columns))["headings"]]


def _metric_table(runs: Sequence[Run], columns: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Each system's metrics with intervals and the paper's values, one row per run; without columns of no number.

    Args:
        runs: the runs.
        columns: of each, the part of table.json, the key in it, and the heading.
    """
    names = _names(runs, "systems")
    shown = [column for column in columns if any(_marks(runs, column[1], column[0], name) for name in names)]
    rows = []
    for name in names:
        for i, run in enumerate(runs):
            if name not in section(run.table, "systems"):
                continue
            cells = []
            for part, key, _ in shown:
                value = estimate(section(run.table, part, name).get(key))
                paper = section(run.table, "paper", name).get(key) if part == "systems" else None
                cells.append(
                    {
                        "value": f"{value.value:.4f}" if value else "–",
                        "bounds": _bounds(value),
                        "paper": _shown(paper, ".4f", ""),
                    }
                )
            rows.append({"name": name, "run": i, "cells": cells})
    return {"headings": [heading for *_, heading in shown], "rows": rows}


def summary(run: Run) -> str:
    """The base rates, and a constant's LogLoss."""
    get, parts = run.table.get, []
    if rows := _shown(get("rows"), ",.0f", ""):
        users = _shown(get("users"), ",.0f", "")
        parts.append(f"{rows} test rows" + (f" of {users} users" if users else ""))
    if test := _shown(get("test_rate"), ".1%", ""):
        train = _shown(get("train_rate"), ".1%", "")
        parts.append(f"{test} liked" + (f" ({train} of the training rows)" if train else ""))
    constant = _shown(get("constant_logloss"), ".4f", "")
    beat = f". A model should beat the LogLoss of a constant score, {constant}." if constant else ""
    return ", ".join(parts) + beat


def squares(runs: Sequence[Run]) -> dict[str, list[Figure]]:
    """ROC curves and reliability diagrams of each system, with all runs in one figure."""
    made: dict[str, list[Figure]] = {"roc": [], "reliability": []}
    for name in _names(runs, "calibration"):
        lines, diagrams, aucs, errors = [], [], [], []
        for i, run in enumerate(runs):
            entry = section(run.table, "calibration", name)
            if found := bins(entry.get("bins")):
                diagrams.append((i, found))
                new = section(run.table, "systems", name).get("ece")  # older versions wrote it beside the bins
                errors.append(estimate(new) or estimate(entry.get("ece")) or Estimate(math.nan))
            if curve := points(section(run.table, "roc", name)):
                lines.append(Line(curve, i))
                aucs.append(number(section(run.table, "systems", name, "auc").get("value")))
        if lines:
            about = "AUC " + ", ".join(f"{value:.4f}" for value in aucs)
            made["roc"].append(Figure(name, figures.roc(f"ROC of {name}", lines), about))
        if diagrams:
            about = f"{METRICS['ece'].name} " + ", ".join(error.format() for error in errors)
            made["reliability"].append(Figure(name, figures.reliability(f"Calibration of {name}", diagrams), about))
    return made if made["reliability"] else {}


def audit_figures(runs: Sequence[Run]) -> list[Figure]:
    """The CTR model on other sentences, counterfactuals, and the leakage of the label."""
    # the result table's numbers come first: the audit's "shuffled" is the mean of several permutations
    paths = {
        "real": ("systems", systems.AUG.name),
        "shuffled": ("sources", systems.AUG_OTHER_ROW.name),
        "untrained": ("sources", systems.AUG_UNTRAINED.name),
        "none": ("sources", systems.AUG_NO_TEXT.name),
    }
    places = {heading: paths.get(key, ("audit", "ablations", key)) for key, heading in ABLATIONS.items()}
    rows = [Row(heading, _marks(runs, "auc", *place)) for heading, place in places.items()]
    made = [_forest(f"{systems.AUG.name} on other sentences", rows, "AUC")]
    for key, title, about in (
        ("expected", "A changed prompt has the expected effect", "share of changed prompts"),
        ("text_changed", "The sentence changes", "share of its words"),
        ("s_u", f"Change of the score of {systems.LLM.name}", "mean |change| of s_u"),
        ("s_r", f"Change of the score of {systems.AUG.name}", "mean |change| of s_r"),
    ):
        made.append(_forest(title, _rows(runs, key, "audit", "counterfactuals"), about))
    probes = {
        "auc": "Trained model's words",
        "auc_untrained": "Untrained model's words",
        "auc_verdict": "Trained model's verdict",
    }
    rows = [Row(label, _marks(runs, key, "audit", "leakage")) for key, label in probes.items()]
    made.append(_forest("The label, predicted from the text alone", rows, "AUC"))
    return figures.drawn(made)


def slice_figures(runs: Sequence[Run]) -> list[Figure]:
    """AUC of each system on each slice of the test rows; of a slice that is too small for one, only its count."""
    made = []
    for name in _names(runs, "slices"):
        parts = [section(run.table, "slices", name) for run in runs]
        few = [number(part.get("rows")) < FEWEST_ROWS for part in parts]  # of older versions, which have an AUC
        rows = [
            row._replace(marks=[mark for mark in row.marks if not few[mark.series]])
            for row in _rows(runs, "auc", "slices", name, "systems")
        ]
        counts = dict.fromkeys(filter(None, (_shown(part.get("rows"), ",.0f", "") for part in parts)))
        about = ", ".join(f"{count} row{'' if count == '1' else 's'}" for count in counts)
        figure = _forest(name.capitalize(), rows, about)
        made.append(figure if figure.svg else figure._replace(about=f"{about}, too few for an AUC"))
    return made


def _rows(runs: Sequence[Run], key: str, *path: str) -> list[Row]:
    """One row per name at a path of the runs' tables."""
    return [Row(name, _marks(runs, key, *path, name)) for name in _names(runs, *path)]


def _forest(title: str, rows: Sequence[Row], about: str) -> Figure:
    """A forest plot of the rows that have marks."""
    rows = [row for row in rows if row.marks]
    shares = all(0 <= mark.estimate.value <= 1 for row in rows for mark in row.marks)
    return Figure(title, figures.forest(title, rows, zero=0.5 if "AUC" in about and shares else None), about)


def quality(runs: Sequence[Run]) -> dict[str, Any]:
    """Measures of the sentences before and after training, two columns per run."""
    columns = [
        (f"{LETTERS[i]} {when}" if len(runs) > 1 else when, measures)
        for i, run in enumerate(runs)
        for when, key in (("before training", "untrained"), ("after training", "trained"))
        if (measures := section(run.table, "quality", key))
    ]
    rows = []
    for name in dict.fromkeys(name for _, measures in columns for name in measures):
        found = [estimate(measures.get(name)) for _, measures in columns]
        measure = MEASURES.get(name, Measure(name, "score"))
        if any(found):
            cells = [(measure.format(value.value) if value else "–", _bounds(value, measure)) for value in found]
            rows.append((measure.heading, cells))
    return {"headings": [heading for heading, _ in columns], "rows": rows}


def data(run: Run) -> dict[str, Any]:
    """What became of the raw rows, and the samples by split."""
    counts = [("read", run.data.get("rows"))]
    counts += [(f"dropped: {reason}", count) for reason, count in section(run.data, "dropped").items()]
    counts += [("kept", run.data.get("interactions"))]
    counts += [(f"not used: {reason}", count) for reason, count in section(run.data, "side_dropped").items()]
    counts += [(name, run.data.get(name)) for name in ("users", "items")]
    counts += [(f"samples not used: {reason}", count) for reason, count in section(run.data, "samples_dropped").items()]
    counts += [("history entries withheld, because they are targets of a later split", run.data.get("withheld"))]
    columns = {"samples": ",.0f", "base_rate": ".1%", "users": ",.0f", "warm_users": ".1%"}
    splits = [
        (name, [_shown(section(row).get(key), form) for key, form in columns.items()])
        for name, row in section(run.data, "splits").items()
        if section(row)
    ]
    history = section(run.data, "history")
    about = str(run.data["rule"]).capitalize() + "." if run.data.get("rule") else ""
    if history:
        about += " Length of the history: " + ", ".join(f"{k} {number(v):g}" for k, v in history.items()) + "."
    if not run.data:
        about = f"The run has no data.json. {summary(run)}"
    return {
        "about": about,
        "headings": ["samples", "liked", "users", "samples of training users"],
        "splits": splits,
        "counts": [(name, shown) for name, count in counts if (shown := _shown(count, ",.0f", ""))],
    }


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The options whose values differ between the runs."""
    flat = [dict(flatten(run.config)) for run in runs]
    names = dict.fromkeys(name for options in flat for name in options)
    values = [(name, [str(options.get(name, "–")) for options in flat]) for name in names]
    return [(name, found) for name, found in values if len({*found}) > 1]


def flatten(tree: object, name: str = "") -> Iterable[tuple[str, object]]:
    """The values of a config, with their dotted names."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from flatten(value, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, tree


def _bounds(value: Estimate | None, measure: Measure = Measure("", "score")) -> str:
    if value is None or math.isnan(value.low) or math.isnan(value.high):
        return ""
    return f"{measure.format(value.low)} to {measure.format(value.high)}"


def _shown(value: object, form: str, unknown: str = "–") -> str:
    """A number of a JSON file as text."""
    return unknown if math.isnan(number(value)) else f"{number(value):{form}}"
