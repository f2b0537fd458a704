"""Rows of Table 1: metrics of finished runs, their comparison, and the files that show them."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from expctr.ctr.zoo.sequential import STYLE
from expctr.metrics import bootstrap, ctr_metrics, estimate, holm, paired_p_value
from expctr.systems import AUG, COMPARISONS, FEWEST_OF_A_LABEL, FEWEST_ROWS, LLM, METRICS, PLAIN, SIMPLE
from tools.plots import figure, save
from tools.runs import markdown_table, mean_and_spread, seconds, table, validation
from tools.search import SEED, Search, shown

SEARCHED = f"{AUG.name}, searched"
OURS = (LLM.name, AUG.name, SEARCHED)
EXPLAINED = " + explanations"
ENDINGS = tuple(system.name.removeprefix(PLAIN.name) for system in COMPARISONS)
"""Of the names of an ExpCTR run's comparison models, which begin with that of its CTR model."""
HEADINGS = [metric.heading for metric in METRICS.values()]
PUBLISHED = tuple(METRICS)[:4]
"""Metrics of the paper's table, which are tested. NE would be LogLoss again."""
SLICES = ("warm users", "cold users", "warm items", "cold items")


class Row(NamedTuple):
    """A system's metrics over its seeds."""

    values: dict[str, list[float]]
    """By metric, one value per seed."""
    draws: Tensor
    """The means over seeds on each bootstrap draw, `[n, metrics]`."""
    slices: dict[str, list[float]]
    """AUC by slice, one value per seed."""
    sizes: dict[str, int]
    """Test rows of each slice."""
    seconds: float
    """Time of fit and test, mean over seeds."""
    validation: dict[str, float]
    """AUC and LogLoss of the validation rows, means over seeds; empty where nothing keeps them."""

    def mean(self, metric: str) -> float:
        return fmean(self.values[metric])

    def interval(self, metric: str) -> tuple[float, float]:
        """Return bounds that hold 95% of the draws."""
        _, low, high = estimate(self.mean(metric), self.draws[:, list(METRICS).index(metric)])
        return low, high


def gather(
    names: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    monitor: str = "logloss",
    counted: Mapping[str, dict[str, float]] = {},
) -> dict[str, Row]:
    """Return every system's metrics in the order of the runs, without systems of which a run is missing.

    Args:
        names: of the runs, without their seeds.
        seeds: of each of them.
        out: the folder of the runs.
        monitor: the metric that they stopped by.
        counted: metrics of the simple baselines on the validation rows.
    """
    folders = {name: [out / f"{name}-{seed}" for seed in seeds] for name in names}
    there = {name: runs for name, runs in folders.items() if all((run / "scores.parquet").exists() for run in runs)}
    files = {run: pl.read_parquet(run / "scores.parquet") for runs in there.values() for run in runs}
    if old := ", ".join(run.name for run, frame in files.items() if "user" not in frame.columns):
        raise SystemExit(
            f"{out}: the scores.parquet of {old} has no column user, which the intervals need: an older version made "
            "it. Fix: test each of these again, expctr test --config RUN/config.yaml"
        )
    tested = {run: frame.select("sample", "user", "label") for run, frame in files.items()}
    first = next(iter(tested.values()), None)
    if other := ", ".join(run.name for run, frame in tested.items() if not frame.equals(first)):
        raise SystemExit(f"{out}: {other} were tested on different rows than the first. Fix: use another --out")
    simple = [system.name for system in SIMPLE]  # the same in all runs; those of an older version lack them
    scored = [runs for runs in there.values() if all({*simple} <= {*files[run].columns} for run in runs)]
    found = {name: (name, runs) for name, runs in product(simple, scored[:1])}
    for name, runs in there.items():
        found |= {title: (column, runs) for title, column in systems(name, files[runs[0]].columns).items()}
    return {
        name: read(column, {run: files[run] for run in runs}, counted.get(name) or validated(name, runs, monitor))
        for name, (column, runs) in found.items()
        if all(column in files[run].columns for run in runs)
    }


def validated(name: str, runs: Sequence[Path], monitor: str) -> dict[str, float]:
    """AUC and LogLoss of the validation rows, means over runs; empty for a system without a curve of its own."""
    if name in (*(system.name for system in SIMPLE), LLM.name, AUG.name) or name.endswith(ENDINGS):
        return {}
    found = [validation(run, monitor) for run in runs]
    names = ("auc", "logloss")
    return {metric: fmean(one[metric] for one in found) for metric in names} if all(map(len, found)) else {}


def systems(run: str, columns: Sequence[str]) -> dict[str, str]:
    """The columns of a run's scores that the table shows, by the rows' names."""
    if run == "ExpCTR":
        compared = [column for column in columns if column.endswith(ENDINGS)]
        return {name: name for name in (*compared, LLM.name, AUG.name)}
    column = columns[-1]  # the simple baselines come before the run's own system
    if run == "ExpCTR-searched":
        return {SEARCHED: column}
    return {column + (EXPLAINED if run.endswith("-explained") else ""): column}


def read(system: str, runs: Mapping[Path, pl.DataFrame], on_validation: dict[str, float]) -> Row:
    """Return a system's row from its runs' folders and scores."""
    frames = list(runs.values())
    labels, users = frames[0]["label"].to_torch().float(), frames[0]["user"].rank("dense").to_torch()
    scores = [frame[system].to_torch() for frame in frames]
    metrics = [ctr_metrics(values, labels, users) for values in scores]
    found = [table(folder)["slices"] for folder in runs]
    slices = {
        name: [one[name]["systems"].get(system, {}).get("auc", {}).get("value") for one in found] for name in found[0]
    }
    return Row(
        {metric: [one[metric] for one in metrics] for metric in METRICS},
        torch.stack([bootstrap(values, labels, users) for values in scores]).mean(0),
        {name: [value for value in values if value is not None] for name, values in slices.items()},  # of enough rows
        {name: part["rows"] for name, part in found[0].items()},
        fmean(map(seconds, runs)),
        on_validation,
    )


def is_baseline(name: str) -> bool:
    """Return whether a row uses nothing that ExpCTR has learnt."""
    return name not in OURS and not name.endswith(EXPLAINED)


def compare(rows: dict[str, Row], monitor: str) -> dict[str, Any]:
    """Compare ExpCTR-Aug with the baseline that is best on the validation rows, and with its comparison models.

    Returns:
        Differences by metric, and p-values of the paper's metrics, also adjusted over all tests. Empty if one side is
        missing.
    """
    ours = next((name for name in (SEARCHED, AUG.name) if name in rows), None)
    better = max if METRICS[monitor].higher_is_better else min
    known = [name for name, row in rows.items() if is_baseline(name) and row.validation]
    chosen = better(known, key=lambda name: rows[name].validation[monitor]) if known else None
    others = [*([chosen] if chosen else []), *(name for name in rows if name.endswith(ENDINGS))]
    if ours is None or not others:
        return {}
    against: dict[str, Any] = {}
    for name in others:
        draws = rows[ours].draws - rows[name].draws
        against[name] = {
            "difference": {metric: rows[ours].mean(metric) - rows[name].mean(metric) for metric in METRICS},
            "p": {metric: paired_p_value(draws[:, [*METRICS].index(metric)]) for metric in PUBLISHED},
        }
    adjusted = iter(holm([p for one in against.values() for p in one["p"].values()]))
    for one in against.values():
        one["p_adjusted"] = {metric: next(adjusted) for metric in one["p"]}
    return {"ours": ours, "best_on_validation": chosen, "monitor": monitor, "against": against}


def write(
    rows: dict[str, Row],
    paper: Mapping[str, Sequence[float]],
    seeds: Sequence[int],
    monitor: str,
    searched: Mapping[str, Search],
    out: Path,
) -> None:
    """Write `table1.json`, `table1.md` and `table1.png`."""
    compared = compare(rows, monitor)
    published = {name: dict(zip(METRICS, values, strict=False)) for name, values in paper.items()}
    written: dict[str, Any] = {}
    for name, row in rows.items():
        metrics = {
            metric: {"mean": row.mean(metric), "interval": row.interval(metric), "seeds": row.values[metric]}
            for metric in METRICS
        }
        written[name] = {
            "metrics": metrics,
            "validation": row.validation,
            "slices": row.slices,
            "rows": row.sizes,
            "seconds": row.seconds,
        }
    content = {
        "seeds": list(seeds),
        "monitor": monitor,
        "rows": written,
        "compared": compared,
        "search": {name: search.to_dict() for name, search in searched.items()},
        "paper": published,
    }
    known = json.loads(json.dumps(content), parse_constant=lambda name: None)  # JSON has no NaN
    text = json.dumps(known, indent=2, ensure_ascii=False, allow_nan=False)
    (out / "table1.json").write_text(text + "\n", encoding="utf-8")
    (out / "table1.md").write_text(markdown(rows, published, compared, seeds, monitor, searched), encoding="utf-8")
    draw(rows, paper, out / "table1.png")


def markdown(
    rows: dict[str, Row],
    paper: dict[str, dict[str, float]],
    compared: dict[str, Any],
    seeds: Sequence[int],
    monitor: str,
    searched: Mapping[str, Search],
) -> str:
    """Return the tables: ours, what is compared, ours by warm and cold users and items, and the paper's."""
    marks = marked({name: {metric: row.mean(metric) for metric in METRICS} for name, row in rows.items()})
    cells = {name: [cell(row, metric, marks[metric], name) for metric in METRICS] for name, row in rows.items()}
    spread = f"Means over {len(seeds)} seeds ± half their range" if len(seeds) > 1 else "One seed"
    lines = [
        *markdown_table(["", *HEADINGS], cells),
        "",
        f"{spread}, with 95% bootstrap intervals over the test users. **Best of all**, <u>best baseline</u>. "
        f"All rows that train stop by validation {METRICS[monitor].name}.",
    ]
    if searched:
        trials = max(len(search.trials) for search in searched.values())
        found = "; ".join(f"{name} {shown(search.best)}" for name, search in searched.items())
        lines += [
            "",
            f"Settings by the lowest validation LogLoss of {trials} trials per model (seed {seeds[0]}; the "
            f"config's own settings, and draws from the grid of `tools/search.py` with seed {SEED}): {found}.",
        ]
    lines += compared_lines(compared)
    by_slice = {
        name: [f"{fmean(row.slices[part]):.4f}" if row.slices.get(part) else "-" for part in SLICES]
        for name, row in rows.items()
    }
    sizes = next((row.sizes for row in rows.values()), {})
    warm = (
        "AUC by whether the training rows contain the user or item (warm) or not (cold), with numbers of test rows; a "
        f"dash for fewer than {FEWEST_ROWS} rows or {FEWEST_OF_A_LABEL} of a label:"
    )
    lines += ["", warm, ""]
    lines += [*markdown_table(["", *(f"{part} ({sizes.get(part, 0)})" for part in SLICES)], by_slice), ""]
    if paper:
        best = marked(paper)
        theirs = {name: [mark(row[metric], best[metric], name) for metric in row] for name, row in paper.items()}
        heads = ["", *HEADINGS[: len(PUBLISHED)]]
        lines += ["The paper's results, on its own data:", "", *markdown_table(heads, theirs), ""]
    return "\n".join(lines)


def cell(row: Row, metric: str, best: tuple[str, str], name: str) -> str:
    """Return a mean with its spread over seeds and its interval; a dash where it is undefined."""
    values, (low, high) = row.values[metric], row.interval(metric)
    if math.isnan(row.mean(metric)):
        return "-"
    spread = f" ± {mean_and_spread(values, 4).partition(' ± ')[2]}" if len(values) > 1 else ""
    bounds = "" if math.isnan(low + high) else f" ({low:.3f}–{high:.3f})"
    return mark(row.mean(metric), best, name) + spread + bounds


def compared_lines(compared: dict[str, Any]) -> list[str]:
    """Return the table of differences, with a sentence that says what is tested."""
    if not compared:
        return []
    against, chosen = compared["against"], compared["best_on_validation"]

    def shown_test(difference: float, p: float) -> str:
        return "-" if math.isnan(difference) else f"{difference:+.4f}" + ("" if math.isnan(p) else f" (p = {p:.3f})")

    cells = {
        f"minus {name}": [shown_test(one["difference"][metric], one["p_adjusted"][metric]) for metric in PUBLISHED]
        for name, one in against.items()
    }
    which = f" {chosen} is the best baseline by validation {METRICS[compared['monitor']].name}." if chosen else ""
    note = (
        f"Differences by a paired bootstrap over the test users.{which} P-values are adjusted by Holm's method over "
        f"the {len(against) * len(PUBLISHED)} tests of this table."
    )
    return ["", *markdown_table([compared["ours"], *HEADINGS[: len(PUBLISHED)]], cells), "", note]


def marked(rows: dict[str, dict[str, float]]) -> dict[str, tuple[str, str]]:
    """Return the best of all and the best baseline by metric."""
    found = {}
    for metric in next(iter(rows.values())):
        known = [name for name, row in rows.items() if not math.isnan(row[metric])]
        choose = partial(max if METRICS[metric].higher_is_better else min, key=lambda name: rows[name][metric])
        best = choose(known, default="")
        found[metric] = best, choose(filter(is_baseline, known), default=best)
    return found


def mark(value: float, best: tuple[str, str], name: str) -> str:
    """Return a value, bold if it is the best of all, underlined if it is the best baseline."""
    text = f"<u>{value:.4f}</u>" if name == best[1] and is_baseline(name) else f"{value:.4f}"
    return f"**{text}**" if name == best[0] else text


def draw(rows: dict[str, Row], paper: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw AUC and LogLoss of every row with its interval, and the paper's values."""
    made, panels = figure("Table 1 on these data", 2)
    made.set_size_inches(11, 1.5 + 0.25 * len(rows))
    names = list(rows)[::-1]
    for axes, metric, heading in zip(panels, ("auc", "logloss"), HEADINGS, strict=False):
        means = [rows[name].mean(metric) for name in names]
        bounds = [rows[name].interval(metric) for name in names]
        errors = [[abs(mean - pair[end]) for mean, pair in zip(means, bounds, strict=True)] for end in (0, 1)]
        axes.errorbar(means, range(len(names)), xerr=errors, fmt="o", capsize=2, label="here, 95% interval")
        published = [paper.get(name.removesuffix(STYLE)) for name in names]
        there = [(values[list(METRICS).index(metric)], y) for y, values in enumerate(published) if values]
        if there:
            axes.plot(*zip(*there, strict=True), "x", color="tab:red", label="the paper, its own data")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(heading)
    save(made, path)
