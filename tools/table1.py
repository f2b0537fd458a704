"""Table 1 of the paper on your data: every row trained, tested and compared on the same rows.

    python tools/table1.py --config configs/quickstart.yaml                    # all rows, one seed
    python tools/table1.py --config configs/quickstart.yaml --rows FM DCN DIN --seeds 0 1 2 -- --data.path DIR

The config is one that trains ExpCTR; its data are every row's, its language model is TALLRec's and ICL's too. The ID
models take their own settings from `configs/baseline.yaml`. `--explained` adds a column: each ID model trained again
with the explanations that ExpCTR wrote in the same seed.

Each row and seed is a run folder of its own, `OUT/ROW-SEED`, made by `expctr fit` and `expctr test`; the same command
goes on with what is missing. `OUT` gets `table1.json`, `table1.md` and `table1.png`. A seed sets `seed_everything`, and
leaves `data.samples.seed` as it is, so that all runs are tested on the same rows: a metric is the mean over seeds, its
interval a bootstrap over the users of those rows, each drawn with all of theirs, and two systems are compared on the
same draws. So intervals and p-values tell of other test users, not of other trainings.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import polars as pl
import torch
import yaml  # type: ignore[import-untyped]
from plots import figure, save
from sweep import check_same, resolve
from torch import Tensor

from expctr.ctr.zoo import ZOO
from expctr.evaluation.table import PAPER
from expctr.metrics import bootstrap, ctr_metrics, paired_p_value
from expctr.systems import METRICS

sys.path.append(str(Path(__file__).parent / "bench"))
from jobs import fit_and_test, in_parallel, seconds, table

CONFIGS = {name: Path(__file__).parents[1] / "configs" / f"{name}.yaml" for name in ("baseline", "icl", "tallrec")}
ID_MODELS = tuple(ZOO)
OURS = ("ExpCTR-LLM", "ExpCTR-Aug")
EXPLAINED = " + explanations"
ROWS = (*ID_MODELS, "TALLRec", "ICL", "ExpCTR")
HIGHER = frozenset({"auc"})
HEADINGS = ("AUC ↑", "LogLoss ↓", "MAE ↓", "RMSE ↓", "MSE ↓")
SLICES = ("warm users", "cold users", "warm items", "cold items")


class Row(NamedTuple):
    """A system's metrics over its seeds."""

    values: dict[str, list[float]]
    """By metric, a value a seed."""
    draws: Tensor
    """The means over seeds on each bootstrap draw, `[n, metrics]`."""
    slices: dict[str, list[float]]
    """AUC by slice, a value a seed."""
    sizes: dict[str, int]
    """Test rows of each slice."""
    seconds: float
    """What fit and test took, the mean over seeds."""

    def mean(self, metric: str) -> float:
        """Over the seeds."""
        return sum(self.values[metric]) / len(self.values[metric])

    def interval(self, metric: str) -> tuple[float, float]:
        """95% of the draws."""
        bounds = torch.tensor([0.025, 0.975], dtype=torch.float64)
        low, high = self.draws[:, list(METRICS).index(metric)].nanquantile(bounds).tolist()
        return low, high


def main(args: Sequence[str] | None = None) -> None:
    """Train and test what is missing, then write the tables and the picture."""
    own, options = parse(sys.argv[1:] if args is None else args)
    out = own.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    config = resolve(options)
    baselines = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in CONFIGS.items()}
    check_same({**config, "baselines": baselines}, out / "base.yaml")
    write_overlays(config, out)
    failure = ""
    for title, jobs in plan(own, options, out).items():
        try:
            in_parallel(dict(jobs), own.jobs, title)
        except SystemExit as error:  # some runs failed; the table has what the others gave
            failure = str(error)
            break
    rows = gather(own.rows, own.seeds, out, own.explained)
    if rows:
        paper = PAPER.get(str(config["data"]["init_args"].get("paper_dataset")), {})
        write(rows, paper, own.seeds, out)
        print((out / "table1.md").read_text(encoding="utf-8"))
    if failure:
        raise SystemExit(failure)


def parse(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The tool's own arguments, and the options of `expctr`: the configs, and what stands after `--`."""
    words = list(args)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="append", required=True, help="as of expctr; a later one is laid over it")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--tallrec_lr", type=float, help="TALLRec's learning rate; default: its own, for large models")
    parser.add_argument("--explained", action="store_true", help="each ID model with ExpCTR's explanations, too")
    parser.add_argument("--out", type=Path, default=Path("runs/table1"))
    own = parser.parse_args(words[:cut])
    if own.jobs < 1:
        parser.error(f"--jobs is {own.jobs}: it must be at least 1")
    if own.explained and "ExpCTR" not in own.rows:
        parser.error("--explained needs ExpCTR among the rows: it writes the explanations")
    return own, [*(f"--config={Path(config).resolve()}" for config in own.config), *words[cut + 1 :]]


def write_overlays(config: dict[str, Any], out: Path) -> None:
    """What the baselines take over from the config: `data.yaml`, and `llm.yaml` for those with a language model."""
    data = config["data"]
    data["init_args"].pop("seed", None)  # seed_everything sets it
    model = config["model"]["init_args"]
    if "explainer" not in model:
        raise SystemExit("the config trains no ExpCTR (model.explainer): give one that does, such as quickstart.yaml")
    explainer = model["explainer"]["init_args"]
    trainer = {"accelerator": config["trainer"]["accelerator"], "enable_progress_bar": False}
    base = {name: value for name, value in explainer["llm"].items() if not name.startswith(("lora", "adapter"))}
    asked = {"llm": base, "prompts": explainer["prompts"], "lc": explainer["lc"]}
    write_yaml(out / "data.yaml", {"data": data, "trainer": trainer})
    write_yaml(out / "llm.yaml", {"model": {"init_args": asked}})
    dropout = model["ctr"]["init_args"]["options"]["text_dropout"]
    explained = {"encoder": model["encoder"], "options": {"text_dropout": dropout}}
    write_yaml(out / "explained.yaml", {"model": {"class_path": "ExplainedCTRModule", "init_args": explained}})


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write a config."""
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def plan(own: argparse.Namespace, options: list[str], out: Path) -> dict[str, dict[str, Callable[[], None]]]:
    """The runs, in waves of which each needs the one before."""
    first: dict[str, Callable[[], None]] = {}
    second: dict[str, Callable[[], None]] = {}
    for seed in own.seeds:
        for row in own.rows:
            folder = out / f"{row}-{seed}"
            if row == "ExpCTR":
                line = [*options, "--trainer.enable_progress_bar=false"]
            else:
                line = [f"--config={CONFIGS.get(row.lower(), CONFIGS['baseline'])}", f"--config={out / 'data.yaml'}"]
                line += [f"--model.backbone={row}"] if row in ID_MODELS else []
                line += [f"--config={out / 'llm.yaml'}"] if row in ("TALLRec", "ICL") else []
                line += (
                    [f"--model.options.lr={own.tallrec_lr}"] if row == "TALLRec" and own.tallrec_lr is not None else []
                )
            first[folder.name] = partial(fit_and_test, folder, *line, f"--seed_everything={seed}")
            if own.explained and row in ID_MODELS:
                more = [f"--config={out / 'explained.yaml'}", f"--model.explanations={out / f'ExpCTR-{seed}'}"]
                folder = out / f"{row}-explained-{seed}"
                second[folder.name] = partial(fit_and_test, folder, *line, *more, f"--seed_everything={seed}")
    # the longest first, so that the last minutes use all cores
    ordered = dict(sorted(first.items(), key=lambda job: not job[0].startswith(("ExpCTR", "TALLRec", "ICL"))))
    return {"rows": ordered, "with explanations": second}


# --- what came out


def gather(rows: Sequence[str], seeds: Sequence[int], out: Path, explained: bool) -> dict[str, Row]:
    """Every system's metrics, in the paper's order; a system whose runs are not all there is left out."""
    systems: dict[str, tuple[str, str]] = {}  # by what the table calls it: the runs' name, and the scores' column
    for name in rows:
        systems |= {system: (name, system) for system in (OURS if name == "ExpCTR" else (name,))}
        if explained and name in ID_MODELS:
            systems[name + EXPLAINED] = f"{name}-explained", name
    folders = {system: [out / f"{run}-{seed}" for seed in seeds] for system, (run, _) in systems.items()}
    there = {name: runs for name, runs in folders.items() if all((run / "scores.parquet").exists() for run in runs)}
    files = {run: pl.read_parquet(run / "scores.parquet") for runs in there.values() for run in runs}
    if old := [run.name for run, frame in files.items() if "user" not in frame.columns]:
        raise SystemExit(
            f"{out}: the scores.parquet of {', '.join(old)} has no column user, whom intervals are over: an older "
            "version made it. Test each of these again: expctr test --config RUN/config.yaml"
        )
    tested = {run: frame.select("sample", "user", "label") for run, frame in files.items()}
    first = next(iter(tested.values()), pl.DataFrame())
    if other := [run.name for run, frame in tested.items() if not frame.equals(first)]:
        raise SystemExit(f"{out}: {', '.join(other)} were tested on different rows than the first: give another --out")
    return {name: read(systems[name][1], {run: files[run] for run in runs}) for name, runs in there.items()}


def read(system: str, runs: Mapping[Path, pl.DataFrame]) -> Row:
    """A system's row from its runs' folders and scores."""
    folders, frames = list(runs), list(runs.values())
    labels, users = frames[0]["label"].to_torch().float(), frames[0]["user"].rank("dense").to_torch()
    scores = [frame[system].to_torch() for frame in frames]
    metrics = [ctr_metrics(values, labels) for values in scores]
    slices: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for folder in folders:
        for name, part in table(folder)["slices"].items():
            value = part["systems"][system]["auc"]["value"]  # none where all labels of the slice are the same
            slices.setdefault(name, []).extend([] if value is None else [value])
            sizes[name] = part["rows"]
    return Row(
        {metric: [one[metric] for one in metrics] for metric in METRICS},
        torch.stack([bootstrap(values, labels, users) for values in scores]).mean(0),
        slices,
        sizes,
        sum(map(seconds, folders)) / len(folders),
    )


def is_baseline(name: str) -> bool:
    """Has it nothing of ExpCTR?"""
    return name not in OURS and not name.endswith(EXPLAINED)


def compare(rows: dict[str, Row]) -> dict[str, Any]:
    """ExpCTR-Aug against the best baseline by AUC, metric by metric; empty where either is missing."""
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
    """`table1.json`, `table1.md` and `table1.png`."""
    compared = compare(rows)
    content = {
        "seeds": list(seeds),
        "rows": {
            name: {
                "metrics": {
                    metric: {"mean": row.mean(metric), "interval": row.interval(metric), "seeds": row.values[metric]}
                    for metric in METRICS
                },
                "slices": row.slices,
                "rows": row.sizes,
                "seconds": row.seconds,
            }
            for name, row in rows.items()
        },
        "compared": compared,
        "paper": {name: dict(zip(METRICS, values, strict=False)) for name, values in paper.items()},
    }
    (out / "table1.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "table1.md").write_text(markdown(rows, paper, compared, len(seeds)), encoding="utf-8")
    draw(rows, paper, out / "table1.png")


def markdown(rows: dict[str, Row], paper: Mapping[str, Sequence[float]], compared: dict[str, Any], seeds: int) -> str:
    """The tables: ours, ours by warm and cold, the paper's."""
    means = {name: {metric: row.mean(metric) for metric in METRICS} for name, row in rows.items()}
    marks = marked(means)
    cells = {
        name: [
            "{} ({:.3f}–{:.3f})".format(mark(f"{row.mean(metric):.4f}", marks[metric], name), *row.interval(metric))
            for metric in METRICS
        ]
        for name, row in rows.items()
    }
    lines = [*grid(["", *HEADINGS], cells), ""]
    lines.append(
        f"Means over {seeds} seed{'s' if seeds > 1 else ''}; in brackets 95% bootstrap intervals over the test users. "
        "**Best of all**, <u>best baseline</u>."
    )
    if compared:
        told = ", ".join(
            f"{heading.split()[0]} {compared['difference'][metric]:+.4f} (p = {compared['p'][metric]:.3f})"
            for metric, heading in zip(METRICS, HEADINGS, strict=True)
        )
        lines += ["", f"ExpCTR-Aug less {compared['baseline']}, by a paired bootstrap over the test users: {told}."]
    by_slice = {
        name: [f"{fmean(row.slices[part]):.4f}" if row.slices.get(part) else "-" for part in SLICES]
        for name, row in rows.items()
    }
    sizes = next((row.sizes for row in rows.values()), {})
    lines += [
        "",
        "AUC of users and items that training rows hold (warm) or not (cold), by the number of test rows:",
        "",
    ]
    lines += [*grid(["", *(f"{part} ({sizes.get(part, 0)})" for part in SLICES)], by_slice), ""]
    if paper:
        best = marked({name: dict(zip(METRICS, values, strict=False)) for name, values in paper.items()})
        theirs = {
            name: [mark(f"{value:.4f}", best[metric], name) for metric, value in zip(METRICS, values, strict=False)]
            for name, values in paper.items()
        }
        lines += ["The paper's own, on its own data:", "", *grid(["", *HEADINGS[:4]], theirs), ""]
    return "\n".join(lines)


def marked(rows: dict[str, dict[str, float]]) -> dict[str, tuple[str, str]]:
    """By metric, the best of all and the best baseline."""
    found = {}
    for metric in METRICS:
        known = {name: row[metric] for name, row in rows.items() if metric in row}
        baselines = {name: value for name, value in known.items() if is_baseline(name)}
        choose = max if metric in HIGHER else min
        if known:
            best = choose(known, key=known.__getitem__)
            found[metric] = best, choose(baselines, key=baselines.__getitem__) if baselines else best
    return found


def mark(text: str, best: tuple[str, str], name: str) -> str:
    """Bold for the best of all, underlined for the best baseline."""
    text = f"<u>{text}</u>" if name == best[1] and is_baseline(name) else text
    return f"**{text}**" if name == best[0] else text


def grid(heads: list[str], rows: dict[str, list[str]]) -> list[str]:
    """A table in GitHub's Markdown."""
    rule = "|---" + "|---:" * (len(heads) - 1) + "|"
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join([name, *cells])} |" for name, cells in rows.items())]


def draw(rows: dict[str, Row], paper: Mapping[str, Sequence[float]], path: Path) -> None:
    """AUC and LogLoss of every row with its interval, the paper's value beside it."""
    made, panels = figure("Table 1 on these data", 2)
    made.set_size_inches(11, 1.5 + 0.25 * len(rows))
    names = list(rows)[::-1]
    for axes, metric, heading in zip(panels, ("auc", "logloss"), HEADINGS, strict=False):
        means = [rows[name].mean(metric) for name in names]
        bounds = [rows[name].interval(metric) for name in names]
        errors = [[m - low for m, (low, _) in zip(means, bounds, strict=True)]]
        errors.append([high - m for m, (_, high) in zip(means, bounds, strict=True)])
        axes.errorbar(means, range(len(names)), xerr=errors, fmt="o", capsize=2, label="here, 95% interval")
        there = [(paper[name][list(METRICS).index(metric)], y) for y, name in enumerate(names) if name in paper]
        if there:
            axes.plot(*zip(*there, strict=True), "x", color="tab:red", label="the paper, its own data")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(heading)
    save(made, path)


if __name__ == "__main__":
    main()
