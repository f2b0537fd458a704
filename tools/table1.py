"""Table 1 of the paper on your data: every row is trained, tested and compared on the same test rows.

    python -m tools.table1 --config configs/quickstart.yaml                    # all rows, one seed
    python -m tools.table1 --config configs/quickstart.yaml --rows FM DCN DIN --seeds 0 1 2 -- --data.path DIR

The config is one that trains ExpCTR. All rows use its data; TALLRec and ICL also use its language model. The ID models
take their own settings from `configs/baseline.yaml`. The first two rows, the simple baselines of `expctr test`, need no
run of their own; their seconds are those of the run that has them. `--explained` adds rows: each ID model trained again
with the explanations that ExpCTR wrote with the same seed.

Each row and seed is a run folder, `OUT/ROW-SEED`. Run the same command again to fill in what is missing. `OUT` gets
`table1.json`, `table1.md` and `table1.png`. A seed sets `seed_everything` and leaves `data.samples.seed` as it is, so
all runs are tested on the same rows. Metrics are means over seeds. Intervals and p-values are of a bootstrap over the
test users, the same draws for all systems, so they describe other test users, not other trainings.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import polars as pl
import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

from expctr.ctr.zoo import ZOO
from expctr.evaluation.table import PAPER
from expctr.metrics import bootstrap, ctr_metrics, estimate, paired_p_value
from expctr.systems import AUG, LLM, METRICS, SIMPLE
from tools import run_options
from tools.plots import figure, save
from tools.runs import Job, arguments, fit_and_test, markdown_table, report_failures, run_all, seconds, start, table

CONFIGS = {name: Path(__file__).parents[1] / "configs" / f"{name}.yaml" for name in ("baseline", "icl", "tallrec")}
ID_MODELS = tuple(ZOO)
OURS = (LLM.name, AUG.name)
EXPLAINED = " + explanations"
ROWS = (*ID_MODELS, "TALLRec", "ICL", "ExpCTR")
HEADINGS = [metric.heading for metric in METRICS.values()]
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

    def mean(self, metric: str) -> float:
        return fmean(self.values[metric])

    def interval(self, metric: str) -> tuple[float, float]:
        """Return bounds that hold 95% of the draws."""
        _, low, high = estimate(self.mean(metric), self.draws[:, list(METRICS).index(metric)])
        return low, high


def main(args: Sequence[str] | None = None) -> None:
    """Train and test what is missing, then write the tables and the figure."""
    own, options = parse(args)
    out = own.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    config = run_options.resolve(options)
    baselines = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in CONFIGS.items()}
    run_options.check_same({**config, "baselines": baselines}, out / "base.yaml")
    write_overlays(config, out)
    failures: dict[str, str] = {}
    for title, jobs in plan(own, options, out).items():
        if not failures:
            failures = run_all(jobs, own.jobs, title)
    rows = gather(own.rows, own.seeds, out, own.explained)  # also after failures: the table has what the others gave
    if rows:
        paper = PAPER.get(str(config["data"]["init_args"].get("paper_dataset")), {})
        write(rows, paper, own.seeds, out)
        print((out / "table1.md").read_text(encoding="utf-8"))
    report_failures(failures)


def parse(args: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = arguments(__doc__, "runs/table1", seeds=[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument("--tallrec_lr", type=float, help="TALLRec's learning rate; default: its own, for large models")
    parser.add_argument("--explained", action="store_true", help="also train each ID model with the explanations")
    own, options = run_options.parse(parser, args)
    if own.explained and "ExpCTR" not in own.rows:
        parser.error("--explained needs ExpCTR among the rows: it writes the explanations")
    return own, options


def write_overlays(config: dict[str, Any], out: Path) -> None:
    """Write what baselines take from the config: `data.yaml`, and `llm.yaml` for those with a language model."""
    data = config["data"]
    data["init_args"].pop("seed", None)  # seed_everything sets it
    model = config["model"]["init_args"]
    if "explainer" not in model:
        raise SystemExit("the config has no model.explainer. Fix: use one that trains ExpCTR, such as quickstart.yaml")
    explainer = model["explainer"]["init_args"]
    trainer = {"accelerator": config["trainer"]["accelerator"], "enable_progress_bar": False}
    base = {name: value for name, value in explainer["llm"].items() if not name.startswith(("lora", "adapter"))}
    explaining = {"llm": base, "prompts": explainer["prompts"], "lc": explainer["lc"]}
    dropout = model["ctr"]["init_args"]["options"]["text_dropout"]
    explained = {"encoder": model["encoder"], "options": {"text_dropout": dropout}}
    run_options.write_yaml(out / "data.yaml", {"data": data, "trainer": trainer})
    run_options.write_yaml(out / "llm.yaml", {"model": {"init_args": explaining}})
    run_options.write_yaml(
        out / "explained.yaml", {"model": {"class_path": "ExplainedCTRModule", "init_args": explained}}
    )


def plan(own: argparse.Namespace, options: list[str], out: Path) -> dict[str, dict[str, Job]]:
    """Return the runs in groups; each group needs the one before it."""
    first: dict[str, Job] = {}
    second: dict[str, Job] = {}
    rows = sorted(own.rows, key=ID_MODELS.__contains__)  # the longest runs start first, to keep all cores busy
    for row, seed in product(rows, own.seeds):
        name = f"{row}-{seed}"
        if row == "ExpCTR":
            line = [*options, "--trainer.enable_progress_bar=false"]
        else:
            line = [f"--config={CONFIGS.get(row.lower(), CONFIGS['baseline'])}", f"--config={out / 'data.yaml'}"]
            line += [f"--model.backbone={row}" if row in ID_MODELS else f"--config={out / 'llm.yaml'}"]
        if row == "TALLRec" and own.tallrec_lr is not None:
            line.append(f"--model.options.lr={own.tallrec_lr}")
        first[name] = partial(fit_and_test, out / name, *line, f"--seed_everything={seed}")
        if own.explained and row in ID_MODELS:
            name = f"{row}-explained-{seed}"
            line += [f"--config={out / 'explained.yaml'}", f"--model.explanations={out / f'ExpCTR-{seed}'}"]
            second[name] = partial(fit_and_test, out / name, *line, f"--seed_everything={seed}")
    return {"rows": first, "with explanations": second}


# --- what came out


def gather(rows: Sequence[str], seeds: Sequence[int], out: Path, explained: bool) -> dict[str, Row]:
    """Return every system's metrics in the paper's order, without systems of which a run is missing."""
    systems: dict[str, tuple[str, str]] = {}  # by its name in the table: name of its runs, column of its scores
    for name in rows:
        systems |= {system: (name, system) for system in (OURS if name == "ExpCTR" else (name,))}
        if explained and name in ID_MODELS:
            systems[name + EXPLAINED] = f"{name}-explained", name
    folders = {system: [out / f"{run}-{seed}" for seed in seeds] for system, (run, _) in systems.items()}
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
    found |= {name: (systems[name][1], runs) for name, runs in there.items()}
    return {name: read(column, {run: files[run] for run in runs}) for name, (column, runs) in found.items()}


def read(system: str, runs: Mapping[Path, pl.DataFrame]) -> Row:
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
    )


def is_baseline(name: str) -> bool:
    """Return whether a row uses nothing of ExpCTR."""
    return name not in OURS and not name.endswith(EXPLAINED)


def compare(rows: dict[str, Row]) -> dict[str, Any]:
    """Compare ExpCTR-Aug with the best baseline by AUC, metric by metric; empty if either is missing."""
    baselines = [name for name in rows if is_baseline(name)]
    if "ExpCTR-Aug" not in rows or not baselines:
        return {}
    best = max(baselines, key=lambda name: rows[name].mean("auc"))
    ours, theirs = rows["ExpCTR-Aug"], rows[best]
    return {
        "baseline": best,
        "difference": {metric: ours.mean(metric) - theirs.mean(metric) for metric in METRICS},
        "p": {metric: paired_p_value((ours.draws - theirs.draws)[:, i]) for i, metric in enumerate(METRICS)},
    }


def write(rows: dict[str, Row], paper: Mapping[str, Sequence[float]], seeds: Sequence[int], out: Path) -> None:
    compared = compare(rows)
    published = {name: dict(zip(METRICS, values, strict=False)) for name, values in paper.items()}
    written: dict[str, Any] = {}
    for name, row in rows.items():
        metrics = {
            metric: {"mean": row.mean(metric), "interval": row.interval(metric), "seeds": row.values[metric]}
            for metric in METRICS
        }
        written[name] = {"metrics": metrics, "slices": row.slices, "rows": row.sizes, "seconds": row.seconds}
    content = {"seeds": list(seeds), "rows": written, "compared": compared, "paper": published}
    (out / "table1.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "table1.md").write_text(markdown(rows, published, compared, len(seeds)), encoding="utf-8")
    draw(rows, paper, out / "table1.png")


def markdown(rows: dict[str, Row], paper: dict[str, dict[str, float]], compared: dict[str, Any], seeds: int) -> str:
    """Return the tables: ours, ours by warm and cold users and items, and the paper's."""
    marks = marked({name: {metric: row.mean(metric) for metric in METRICS} for name, row in rows.items()})
    cells = {
        name: [
            "{} ({:.3f}–{:.3f})".format(mark(row.mean(metric), marks[metric], name), *row.interval(metric))
            for metric in METRICS
        ]
        for name, row in rows.items()
    }
    over = f"{seeds} seed{'s' if seeds > 1 else ''}, with 95% bootstrap intervals over the test users"
    lines = [*markdown_table(["", *HEADINGS], cells), "", f"Means over {over}. **Best of all**, <u>best baseline</u>."]
    if compared:
        differences = ", ".join(
            f"{METRICS[metric].name} {difference:+.4f} (p = {compared['p'][metric]:.3f})"
            for metric, difference in compared["difference"].items()
        )
        pair = f"ExpCTR-Aug minus {compared['baseline']}"
        lines += ["", f"{pair}, by a paired bootstrap over the test users: {differences}."]
    by_slice = {
        name: [f"{fmean(row.slices[part]):.4f}" if row.slices.get(part) else "-" for part in SLICES]
        for name, row in rows.items()
    }
    sizes = next((row.sizes for row in rows.values()), {})
    warm = "AUC by whether the training rows contain the user or item (warm) or not (cold), with numbers of test rows:"
    lines += ["", warm, ""]
    lines += [*markdown_table(["", *(f"{part} ({sizes.get(part, 0)})" for part in SLICES)], by_slice), ""]
    if paper:
        best = marked(paper)
        theirs = {name: [mark(row[metric], best[metric], name) for metric in row] for name, row in paper.items()}
        lines += ["The paper's results, on its own data:", "", *markdown_table(["", *HEADINGS[:4]], theirs), ""]
    return "\n".join(lines)


def marked(rows: dict[str, dict[str, float]]) -> dict[str, tuple[str, str]]:
    """Return the best of all and the best baseline by metric."""
    found = {}
    for metric in next(iter(rows.values())):
        choose = partial(max if METRICS[metric].higher_is_better else min, key=lambda name: rows[name][metric])
        best = choose(rows)
        found[metric] = best, choose(filter(is_baseline, rows), default=best)
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
        there = [(paper[name][list(METRICS).index(metric)], y) for y, name in enumerate(names) if name in paper]
        if there:
            axes.plot(*zip(*there, strict=True), "x", color="tab:red", label="the paper, its own data")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(heading)
    save(made, path)


if __name__ == "__main__":
    start(main)
