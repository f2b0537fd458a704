"""Table 1 of the paper on your data: every row is trained, tested and compared on the same test rows.

    python -m tools.table1 --config configs/quickstart.yaml                    # all rows, one seed
    python -m tools.table1 --config configs/quickstart.yaml --rows FM DCN DIN --seeds 0 1 2 -- --data.path DIR

The config is one that trains ExpCTR. All rows use its data; TALLRec and ICL also use its language model. The ID models
take their own settings from `configs/baseline.yaml`. All rows that train stop by the same metric, `--monitor`. The rows
that `expctr test` computes beside a run need no run of their own; their seconds are those of the run that has them.
`--explained` adds rows: each ID model trained again with the explanations that ExpCTR wrote with the same seed.

`--search N` tries N settings per ID model: its config's own, and N - 1 draws from the grid in `tools/search.py`. Those
with the lowest validation LogLoss, with the first seed, are used for all seeds. ExpCTR's click model is searched with
as many trials, on the explanations of the first seed's run; the row "ExpCTR-Aug, searched" is that click model, trained
again on each run's explanations. Policy, TALLRec and ICL are not searched. No trial is tested.

Each row and seed is a run folder, `OUT/ROW-SEED`; trials are in `OUT/search`. Run the same command again to fill in
what is missing. `OUT` gets `table1.json`, `table1.md` and `table1.png`. A seed sets `seed_everything` and leaves
`data.samples.seed` as it is, so all runs are tested on the same rows. Metrics are means over seeds ± half their range.
Intervals and p-values are of a bootstrap over the test users, the same draws for all systems, so they describe other
test users, not other trainings.

ExpCTR-Aug (the searched one, if there is one) is compared with the baseline that is best on the validation rows by the
metric of `--monitor`, and with the run's click models on titles and on untrained sentences, which need no choice.
P-values are of the paper's four metrics, adjusted by Holm's method over all of these tests.
"""

import argparse
import inspect
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import polars as pl
import torch
import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser
from torch import Tensor

from expctr.ctr.zoo import ZOO
from expctr.data.datamodules import RatingsDataModule
from expctr.evaluation.simple_baselines import simple_scores
from expctr.evaluation.table import PAPER
from expctr.metrics import bootstrap, ctr_metrics, estimate, holm, paired_p_value
from expctr.systems import AUG, COMPARISONS, FEWEST_OF_A_LABEL, FEWEST_ROWS, LLM, METRICS, PLAIN, SIMPLE, STYLE
from tools import run_options
from tools.plots import figure, save
from tools.runs import (
    Job,
    arguments,
    markdown_table,
    mean_and_spread,
    report_failures,
    run_all,
    run_once,
    seconds,
    start,
    table,
    validation,
)
from tools.search import SEED, Search, as_options, draw_settings, read_search, shown

CONFIGS = {name: Path(__file__).parents[1] / "configs" / f"{name}.yaml" for name in ("baseline", "icl", "tallrec")}
ID_MODELS = tuple(ZOO)
SEARCHED = f"{AUG.name}, searched"
OURS = (LLM.name, AUG.name, SEARCHED)
EXPLAINED = " + explanations"
ENDINGS = tuple(system.name.removeprefix(PLAIN.name) for system in COMPARISONS)
"""Of the names of an ExpCTR run's comparison models, which begin with that of its click model."""
ROWS = (*ID_MODELS, "TALLRec", "ICL", "ExpCTR")
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
    for title, jobs in plan(own, options, config, out):
        failures = run_all(jobs, own.jobs, title) if jobs else {}
        if failures:
            break
    rows = gather(own, out, count(config["data"]))  # also after failures: the table has what the others gave
    if rows:
        paper = PAPER.get(str(config["data"]["init_args"].get("paper_dataset")), {})
        write(rows, paper, own, searches(own, config, out), out)
        print((out / "table1.md").read_text(encoding="utf-8"))
    report_failures(failures)


def parse(args: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = arguments(__doc__, "runs/table1", seeds=[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument(
        "--monitor", choices=("logloss", "auc"), default="logloss", help="validation metric by which all rows stop"
    )
    parser.add_argument("--search", type=int, default=0, help="trials per ID model; 0: the configs' own settings")
    parser.add_argument("--tallrec_lr", type=float, help="TALLRec's learning rate; default: its own, for large models")
    parser.add_argument("--explained", action="store_true", help="also train each ID model with the explanations")
    own, options = run_options.parse(parser, args)
    if own.explained and "ExpCTR" not in own.rows:
        parser.error("--explained needs ExpCTR among the rows: it writes the explanations")
    if own.search < 0:
        parser.error("--search cannot be negative")
    return own, options


def write_overlays(config: dict[str, Any], out: Path) -> None:
    """Write what rows take from the config.

    These are `data.yaml` for all baselines, `llm.yaml` for those with a language model, `explained.yaml` for ID models
    with the explanations, and `searched.yaml` for ExpCTR's own click model with them.
    """
    data = config["data"]
    data["init_args"].pop("seed", None)  # seed_everything sets it
    model = config["model"]["init_args"]
    if "explainer" not in model:
        raise SystemExit("the config has no model.explainer. Fix: use one that trains ExpCTR, such as quickstart.yaml")
    explainer, click_model = model["explainer"]["init_args"], model["ctr"]["init_args"]
    trainer = {"accelerator": config["trainer"]["accelerator"], "enable_progress_bar": False}
    base = {name: value for name, value in explainer["llm"].items() if not name.startswith(("lora", "adapter"))}
    explaining = {"llm": base, "prompts": explainer["prompts"], "lc": explainer["lc"]}
    of_text = {name: value for name, value in click_model["options"].items() if name.startswith("text_")}
    run_options.write_yaml(out / "data.yaml", {"data": data, "trainer": trainer})
    run_options.write_yaml(out / "llm.yaml", {"model": {"init_args": explaining}})
    for name, init_args in (("explained", {"options": of_text}), ("searched", click_model)):
        model_of = {"class_path": "ExplainedCTRModule", "init_args": {"encoder": model["encoder"], **init_args}}
        run_options.write_yaml(out / f"{name}.yaml", {"model": model_of})


# --- which runs


def plan(
    own: argparse.Namespace, options: list[str], config: dict[str, Any], out: Path
) -> Iterator[tuple[str, dict[str, Job]]]:
    """Yield the runs in groups, with a title each; a group is made of what the ones before it left behind."""
    first, second = ids(own), readers(own)
    yield "search", trials(first, own, config, out)
    # the longest runs start first, to keep all cores busy
    yield "rows", tested([*(row for row in own.rows if row not in first), *first], own, options, config, out)
    yield "search with explanations", trials(second, own, config, out)
    yield "with explanations", tested(second, own, options, config, out)


def ids(own: argparse.Namespace) -> list[str]:
    return [row for row in own.rows if row in ID_MODELS]


def readers(own: argparse.Namespace) -> list[str]:
    """Names of the runs that read ExpCTR's explanations."""
    names = [f"{row}-explained" for row in ids(own)] if own.explained else []
    return [*names, "ExpCTR-searched"] if own.search and "ExpCTR" in own.rows else names


def trials(rows: list[str], own: argparse.Namespace, config: dict[str, Any], out: Path) -> dict[str, Job]:
    """The trials of all these rows, which are not tested."""
    return {
        folder.name: partial(run_once, ("fit",), folder, *line(row, own.seeds[0], own, out), *as_options(settings))
        for row in rows
        for folder, settings in places(row, own, config, out).items()
    }


def places(row: str, own: argparse.Namespace, config: dict[str, Any], out: Path) -> dict[Path, Mapping[str, float]]:
    """The settings of a row's trials, by their folders."""
    model = row.removesuffix("-explained")
    if model in ZOO:
        names: Collection[str] = {name for part in ZOO[model].__mro__ for name in inspect.signature(part).parameters}
    else:
        names = config["model"]["init_args"]["ctr"]["init_args"]["backbone"]["init_args"]
    drawn = draw_settings(names, own.search)
    return {out / "search" / f"{row}-{number}": settings for number, settings in enumerate(drawn)}


def searches(own: argparse.Namespace, config: dict[str, Any], out: Path) -> dict[str, Search]:
    """What the finished searches found, by the rows' names in folders."""
    of_rows = {row: places(row, own, config, out) for row in (*ids(own), *readers(own))} if own.search else {}
    found = {row: read_search([*trial], [*trial.values()], own.monitor) for row, trial in of_rows.items()}
    return {row: search for row, search in found.items() if search is not None}


def tested(
    rows: list[str], own: argparse.Namespace, options: list[str], config: dict[str, Any], out: Path
) -> dict[str, Job]:
    """The runs of these rows, with all seeds and the best settings."""
    best = {row: as_options(search.best) for row, search in searches(own, config, out).items()}
    jobs: dict[str, Job] = {}
    for row, seed in product(rows, own.seeds):
        folder, commands = out / f"{row}-{seed}", ("fit", "test")
        if row == "ExpCTR":
            monitor = f"--model.init_args.ctr.init_args.options.monitor={own.monitor}"
            args = [*options, "--trainer.enable_progress_bar=false", monitor, f"--seed_everything={seed}"]
        else:
            args = [*line(row, seed, own, out), *best.get(row, [])]
        if row == "ICL":  # its fit has nothing to validate
            commands = "fit", "validate", "test"
        jobs[folder.name] = partial(run_once, commands, folder, *args)
    return jobs


def line(row: str, seed: int, own: argparse.Namespace, out: Path) -> list[str]:
    """The options of a baseline's run, or of a click model on ExpCTR's explanations."""
    name, _, kind = row.partition("-")
    made = [f"--config={CONFIGS.get(row.lower(), CONFIGS['baseline'])}", f"--config={out / 'data.yaml'}"]
    if kind:
        made += [f"--config={out / f'{kind}.yaml'}", f"--model.explanations={out / f'ExpCTR-{seed}'}"]
    if name in ID_MODELS:
        made.append(f"--model.backbone={name}")
    elif not kind:
        made.append(f"--config={out / 'llm.yaml'}")
    if row != "ICL":  # which does not train
        made.append(f"--model.options.monitor={own.monitor}")
    if row == "TALLRec" and own.tallrec_lr is not None:
        made.append(f"--model.options.lr={own.tallrec_lr}")
    return [*made, f"--seed_everything={seed}"]


# --- what came out


def count(data: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Metrics of the simple baselines on the validation rows, which no run keeps; by the config's data."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(RatingsDataModule, "data")
    module: RatingsDataModule = parser.instantiate_classes(parser.parse_object({"data": data})).data
    module.setup()
    val = module.table("val")
    return {name: ctr_metrics(scores[val.sample], val.label) for name, scores in simple_scores(module.samples).items()}


def gather(own: argparse.Namespace, out: Path, counted: Mapping[str, dict[str, float]]) -> dict[str, Row]:
    """Return every system's metrics in the paper's order, without systems of which a run is missing.

    Args:
        own: the tool's arguments; of these `rows`, `seeds`, `monitor`, `explained` and `search`.
        out: the folder of the runs.
        counted: metrics of the simple baselines on the validation rows.
    """
    names = [name for row in own.rows for name in (row, f"{row}-explained") if name == row or name in readers(own)]
    names += [name for name in readers(own) if name not in names]
    folders = {name: [out / f"{name}-{seed}" for seed in own.seeds] for name in names}
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
    rows = {
        name: read(column, {run: files[run] for run in runs})
        for name, (column, runs) in found.items()
        if all(column in files[run].columns for run in runs)
    }
    elsewhere = (*simple, LLM.name, AUG.name)
    alone = {
        name: runs
        for name, (_, runs) in found.items()
        if name not in elsewhere and not name.endswith(ENDINGS)  # these have no curve of their own
    }
    kept = {name: [validation(run, own.monitor) for run in runs] for name, runs in alone.items()}
    known = {
        name: {metric: fmean(one[metric] for one in values) for metric in ("auc", "logloss")}
        for name, values in kept.items()
        if all(len(one) == 2 for one in values)
    }
    return {name: row._replace(validation=({**known, **counted}).get(name, {})) for name, row in rows.items()}


def systems(run: str, columns: Sequence[str]) -> dict[str, str]:
    """The columns of a run's scores that the table shows, by the rows' names."""
    if run == "ExpCTR":
        compared = [column for column in columns if column.endswith(ENDINGS)]
        return {name: name for name in (*compared, LLM.name, AUG.name)}
    column = columns[-1]  # the simple baselines come before the run's own system
    if run == "ExpCTR-searched":
        return {SEARCHED: column}
    return {column + (EXPLAINED if run.endswith("-explained") else ""): column}


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
        {},
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
    own: argparse.Namespace,
    searched: Mapping[str, Search],
    out: Path,
) -> None:
    compared = compare(rows, own.monitor)
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
        "seeds": own.seeds,
        "monitor": own.monitor,
        "rows": written,
        "compared": compared,
        "search": {name: search.to_dict() for name, search in searched.items()},
        "paper": published,
    }
    known = json.loads(json.dumps(content), parse_constant=lambda name: None)  # JSON has no NaN
    text = json.dumps(known, indent=2, ensure_ascii=False, allow_nan=False)
    (out / "table1.json").write_text(text + "\n", encoding="utf-8")
    (out / "table1.md").write_text(markdown(rows, published, compared, own, searched), encoding="utf-8")
    draw(rows, paper, out / "table1.png")


def markdown(
    rows: dict[str, Row],
    paper: dict[str, dict[str, float]],
    compared: dict[str, Any],
    own: argparse.Namespace,
    searched: Mapping[str, Search],
) -> str:
    """Return the tables: ours, what is compared, ours by warm and cold users and items, and the paper's."""
    marks = marked({name: {metric: row.mean(metric) for metric in METRICS} for name, row in rows.items()})
    cells = {name: [cell(row, metric, marks[metric], name) for metric in METRICS] for name, row in rows.items()}
    spread = f"Means over {len(own.seeds)} seeds ± half their range" if len(own.seeds) > 1 else "One seed"
    lines = [
        *markdown_table(["", *HEADINGS], cells),
        "",
        f"{spread}, with 95% bootstrap intervals over the test users. **Best of all**, <u>best baseline</u>. "
        f"All rows that train stop by validation {METRICS[own.monitor].name}.",
    ]
    if searched:
        found = "; ".join(f"{name} {shown(search.best)}" for name, search in searched.items())
        lines += [
            "",
            f"Settings by the lowest validation LogLoss of {own.search} trials per model (seed {own.seeds[0]}; the "
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
    cells = {
        f"minus {name}": [
            f"{one['difference'][metric]:+.4f} (p = {one['p_adjusted'][metric]:.3f})" for metric in PUBLISHED
        ]
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


if __name__ == "__main__":
    start(main)
