"""Table 1 of the paper on your data: every row is trained, tested and compared on the same test rows.

    python -m tools.table1 --config configs/quickstart.yaml                    # all rows, one seed
    python -m tools.table1 --config configs/quickstart.yaml --rows FM DCN DIN --seeds 0 1 2 -- --data.path DIR

The config is one that trains ExpCTR. All rows use its data; TALLRec and ICL also use its language model. The ID models
take their own settings from `configs/baseline.yaml`. All rows that train stop by the same metric, `--monitor`. The rows
that `expctr test` computes beside a run need no run of their own; their seconds are those of the run that has them.
`--explained` adds rows: each ID model trained again with the explanations that ExpCTR wrote with the same seed.

`--search N` tries N settings per ID model: its config's own, and N - 1 draws from the grid in `tools/search.py`. Those
with the lowest validation LogLoss, with the first seed, are used for all seeds. ExpCTR's CTR model is searched with
as many trials, on the explanations of the first seed's run; the row "ExpCTR-Aug, searched" is that CTR model, trained
again on each run's explanations. Policy, TALLRec and ICL are not searched. No trial is tested.

Each row and seed is a run folder, `OUT/ROW-SEED`; trials are in `OUT/search`. Run the same command again to fill in
what is missing. `OUT` gets `table1.json`, `table1.md` and `table1.png`. A seed sets `seed_everything` and leaves
`data.samples.seed` as it is, so all runs are tested on the same rows. Metrics are means over seeds ± half their range.
Intervals and p-values are of a bootstrap over the test users, the same draws for all systems, so they describe other
test users, not other trainings.

ExpCTR-Aug (the searched one, if there is one) is compared with the baseline that is best on the validation rows by the
metric of `--monitor`, and with the run's CTR models on titles and on untrained sentences, which need no choice.
P-values are of the paper's four metrics, adjusted by Holm's method over all of these tests.
"""

import argparse
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser

from expctr.ctr.zoo import ZOO
from expctr.data.datamodules import RatingsDataModule
from expctr.evaluation.simple_baselines import simple_scores
from expctr.evaluation.table import PAPER
from expctr.metrics import ctr_metrics
from tools import run_options
from tools.runs import Job, arguments, report_failures, run_all, run_once, start
from tools.search import Search, as_options, draw_settings, read_search
from tools.table1_results import gather, write

CONFIGS = {name: Path(__file__).parents[1] / "configs" / f"{name}.yaml" for name in ("baseline", "icl", "tallrec")}
ID_MODELS = tuple(ZOO)
ROWS = (*ID_MODELS, "TALLRec", "ICL", "ExpCTR")


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
    # also after failures: the table has what the others gave
    rows = gather(runs(own), own.seeds, out, own.monitor, validate_simple(config["data"]))
    if rows:
        searched = [*ids(own), *readers(own)]
        paper = PAPER.get(str(config["data"]["init_args"].get("paper_dataset")), {})
        write(rows, paper, own.seeds, own.monitor, searches(searched, own, config, out), out)
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
    with the explanations, and `searched.yaml` for ExpCTR's own CTR model with them.
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


def runs(own: argparse.Namespace) -> list[str]:
    """Names of all runs in the table's order, each ID model's with explanations after the one without."""
    names = [name for row in own.rows for name in (row, f"{row}-explained") if name == row or name in readers(own)]
    return list(dict.fromkeys([*names, *readers(own)]))


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


def searches(rows: list[str], own: argparse.Namespace, config: dict[str, Any], out: Path) -> dict[str, Search]:
    """What the finished searches of these rows found, by the rows' names in folders."""
    of_rows = {row: places(row, own, config, out) for row in rows} if own.search else {}
    found = {row: read_search([*trial], [*trial.values()], own.monitor) for row, trial in of_rows.items()}
    return {row: search for row, search in found.items() if search is not None}


def tested(
    rows: list[str], own: argparse.Namespace, options: list[str], config: dict[str, Any], out: Path
) -> dict[str, Job]:
    """The runs of these rows, with all seeds and the best settings."""
    best = {row: as_options(search.best) for row, search in searches(rows, own, config, out).items()}
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
    """The options of a baseline's run, or of a CTR model on ExpCTR's explanations."""
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


def validate_simple(data: dict[str, Any]) -> dict[str, dict[str, float]]:
    """AUC and LogLoss of the simple baselines on the validation rows, which no run keeps; `data` is the config's."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(RatingsDataModule, "data")
    module: RatingsDataModule = parser.instantiate(parser.parse_object({"data": data})).data
    module.setup()
    val = module.table("val")
    found = {name: ctr_metrics(scores[val.sample], val.label) for name, scores in simple_scores(module.samples).items()}
    return {name: {metric: metrics[metric] for metric in ("auc", "logloss")} for name, metrics in found.items()}


if __name__ == "__main__":
    start(main)
