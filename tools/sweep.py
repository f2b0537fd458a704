"""A sweep of the KL penalty beta and the reward bound delta: trains and tests a grid of runs (Figure 4).

    python -m tools.sweep --config configs/quickstart.yaml --out runs/sweep [-- further expctr options]

One of the two is varied at a time, and the other keeps the config's value. Each point is a run folder, such as
`OUT/beta=0.05,delta=1,seed=0`. Run the same command again to resume. `OUT` gets `sweep.json` (all metrics with their
intervals over the test users), `sweep.md` and `sweep.png`. `--seeds` sets `seed_everything`; `data.samples.seed` keeps
the config's value, so all points are tested on the same rows.
"""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from expctr.systems import AUG, ICL, LLM, SIMPLE, Estimate
from tools import run_options
from tools.plots import figure, save
from tools.runs import arguments, expctr, markdown_table, mean_and_spread, run_all, start, table

OPTIONS = {"beta": "--model.init_args.explainer.kl.beta", "delta": "--model.init_args.explainer.reward.delta"}
LABELS = {"beta": "KL penalty β (Eq. 7)", "delta": "bound δ of the normalised reward (Eq. 10)"}
OURS = (AUG.name, LLM.name)


class Point(NamedTuple):
    """A run of the sweep."""

    beta: float
    delta: float
    seed: int

    @property
    def name(self) -> str:
        return f"beta={self.beta:.12g},delta={self.delta:.12g},seed={self.seed}"


def main(args: Sequence[str] | None = None) -> None:
    """Run the points that are missing, then write the table and the figure."""
    parser = arguments(__doc__, "runs/sweep", seeds=None, jobs=1)
    parser.add_argument("--beta", type=float, nargs="*", default=[0.01, 0.05, 0.1, 0.5], help="default: the paper's")
    parser.add_argument("--delta", type=float, nargs="*", default=[0.5, 1.0, 2.0, 5.0], help="default: the paper's")
    own, options = run_options.parse(parser, args)
    if not own.beta and not own.delta:
        parser.error("neither --beta nor --delta has a value: there is nothing to sweep")
    config = run_options.resolve(options)
    base = Point(*values_of(config), int(config["seed_everything"]))
    seeds = list(dict.fromkeys(own.seeds or [base.seed]))
    points = grid(base, own.beta, own.delta, seeds)
    run_options.check_same(config, own.out / "base.yaml")
    failures = run(points, options, own.out, own.jobs, config["stages"])
    results = [(point, found) for point in points if (found := read_table(own.out / point.name))]
    content = {
        "base": {"beta": base.beta, "delta": base.delta},
        "seeds": seeds,
        "points": [{**point._asdict(), "run": point.name, **found} for point, found in results],
        "failed": [{"run": name, "error": error} for name, error in failures.items()],
    }
    (own.out / "sweep.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = {name: on_line(results, base, name) for name in OPTIONS if getattr(own, name)}
    if results:
        text = "\n".join(markdown(by_value, name, base) for name, by_value in lines.items())
        (own.out / "sweep.md").write_text(text, encoding="utf-8")
        print(text)
        draw(lines, own.out, len(seeds))
        print(f"{len(results)} of {len(points)} points are in {own.out}/sweep.json, .md and .png")
    for name, error in failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


# --- which points


def values_of(config: dict[str, Any]) -> tuple[float, float]:
    try:
        explainer = config["model"]["init_args"]["explainer"]["init_args"]
        return float(explainer["kl"]["beta"]), float(explainer["reward"]["delta"])
    except (KeyError, TypeError) as error:
        why = "the config's model has no explainer, so it has neither beta nor delta"
        raise SystemExit(f"{why}. Fix: use another") from error


def grid(base: Point, betas: list[float], deltas: list[float], seeds: list[int]) -> list[Point]:
    """Return points that vary one parameter at a time; a point on both lines appears once."""
    lines = [(beta, base.delta) for beta in betas] + [(base.beta, delta) for delta in deltas]
    return list(dict.fromkeys(Point(*place, seed) for seed in seeds for place in lines))


# --- running them


def run(points: list[Point], options: list[str], out: Path, jobs: int, stages: dict[str, Any]) -> dict[str, str]:
    """Fit and test the points without a table, and return why points failed."""
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // jobs)))  # they share the cores
    epochs = stages["lc"]["epochs"] + stages["rounds"] * stages["ic"]["epochs"]

    def play(point: Point) -> None:
        own = [f"{OPTIONS[name]}={getattr(point, name):.12g}" for name in OPTIONS]
        for command in ("fit", "test"):
            line = [*options, *own, f"--seed_everything={point.seed}", "--ckpt_path=last"]
            expctr(command, out / point.name, *line, threads=threads)

    def share_done(name: str) -> float:
        """By the policy's epochs that have written their explanations."""
        done = sum(1 for stage in ("lc", "ic*") for _ in (out / name).glob(f"explanations/*-{stage}.parquet"))
        return 0.95 * done / max(1, epochs)  # the rest is the test; CTR epochs are short

    missing = {point.name: partial(play, point) for point in points if read_table(out / point.name) is None}
    return run_all(missing, jobs, "points", share_done)


def read_table(folder: Path) -> dict[str, Any] | None:
    """Return what a finished test found; None if its table is missing or incomplete."""
    try:
        return table(folder)
    except (FileNotFoundError, json.JSONDecodeError):
        return None


# --- what came out

Line = dict[float, list[dict[str, Any]]]
"""By the value of the varied parameter: the tables of its runs, one per seed."""


def on_line(results: list[tuple[Point, dict[str, Any]]], base: Point, varied: str) -> Line:
    """Return the results in which the other parameter has the base's value."""
    other = next(name for name in OPTIONS if name != varied)
    made: Line = {}
    for point, found in sorted(results, key=lambda result: result[0]):
        if getattr(point, other) == getattr(base, other):
            made.setdefault(getattr(point, varied), []).append(found)
    return made


def estimates(tables: list[dict[str, Any]], system: str, metric: str) -> list[Estimate]:
    """Return a metric of a system, one per seed in which it is defined."""
    rows = [table["systems"].get(system, {}).get(metric) for table in tables]
    defined = [row for row in rows if row and row["value"] is not None]
    return [
        Estimate(*(row["value"] if row[part] is None else row[part] for part in Estimate._fields)) for row in defined
    ]


def markdown(line: Line, varied: str, base: Point) -> str:
    other = next(name for name in OPTIONS if name != varied)
    systems = [*OURS, plain(next(iter(line.values()), []))]
    heads = [varied, "seeds", *(f"{system} {of}" for system in systems for of in ("AUC ↑", "LogLoss ↓"))]
    rows = {}
    for value, tables in line.items():
        found = [estimates(tables, system, metric) for system in systems for metric in ("auc", "logloss")]
        rows[f"{value:g}"] = [str(len(tables)), *map(cell, found)]
    note = "Several seeds: mean ± half the range. One seed: 95% bootstrap interval over the test users."
    return "\n".join([f"{other} = {getattr(base, other):g}", "", *markdown_table(heads, rows), "", note, ""])


def plain(tables: list[dict[str, Any]]) -> str:
    """Return the tables' name of the CTR model without text."""
    others = {*OURS, *(system.name for system in (ICL, *SIMPLE))}
    names = [name for table in tables for name in table["systems"] if name not in others]
    return names[0] if names else "DeepFM"


def cell(found: list[Estimate]) -> str:
    """Return a mean with its spread, or a single value with its interval."""
    if len(found) > 1:
        return mean_and_spread([one.value for one in found], digits=4)
    return found[0].format() if found else "-"


def draw(lines: dict[str, Line], out: Path, seeds: int) -> None:
    band = f"lowest to highest of {seeds} seeds" if seeds > 1 else "95% bootstrap interval, one seed"
    picture, panels = figure(f"{out}   (band: {band})", len(lines))
    for axes, (varied, line) in zip(panels, lines.items(), strict=True):
        for index, system in enumerate(OURS):
            found = {value: made for value, tables in line.items() if (made := estimates(tables, system, "auc"))}
            if not found:
                continue
            means = [fmean(one.value for one in made) for made in found.values()]
            bounds = [[one.value for one in made] if seeds > 1 else made[0] for made in found.values()]
            color = f"C{index}"
            axes.fill_between([*found], [*map(min, bounds)], [*map(max, bounds)], color=color, alpha=0.15, linewidth=0)
            axes.plot([*found], means, "o-", color=color, label=system)
        without = plain(next(iter(line.values()), []))
        values = [one.value for tables in line.values() for one in estimates(tables, without, "auc")]
        if values:  # it reads no explanation, so one line shows all points
            axes.axhline(fmean(values), color="0.4", linestyle="--", label=without)
        above = [value for value in line if value > 0]
        if len(above) == len(line):
            axes.set_xscale("log")
        elif above:  # a log axis has no 0
            axes.set_xscale("symlog", linthresh=min(above))
            axes.set_xlim(left=-min(above) / 2)
        axes.set_xticks([*line], [f"{value:g}" for value in line])
        axes.set_xticks([], minor=True)
        axes.set(xlabel=LABELS[varied], ylabel="AUC")
    save(picture, out / "sweep.png")


if __name__ == "__main__":
    start(main)
