"""Is ExpCTR learning? Runs in planted worlds (planted.py) with known best AUCs, and controls that must not learn.

    python -m tools.bench.learning                          # both worlds, three seeds, in runs/learning
    python -m tools.bench.learning --worlds easy --seeds 0
    python -m tools.bench.learning --worlds verdict-first   # the LC stage with a critic, new and old lambda

A run is the real command line with learning.yaml. All share one pretrained model; a seed means another world, other
first weights and other draws. Run the same command again to resume. The last line is JSON: means over the seeds of the
easy world, and those of the other world under `harder`. Controls in the easy world: with permuted ratings AUC stays at
0.50; with a KL penalty of 1000 nothing changes; with the explanations of other rows ExpCTR-Aug is no better than the
CTR model without text; with random IC rewards it does not improve.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import torch
import yaml
from torch import Tensor

from expctr.data.batches import Batch
from expctr.data.datamodules import MOVIELENS, MovieLensDataModule
from expctr.rl.rewards import Reward
from expctr.run_folder import checkpoints
from tools.bench.planted import Rule, World, bounds, make_encoder, make_model
from tools.runs import arguments, auc, curve, expctr, fit_and_test, in_parallel, print_seeds, seconds, start

FILE = Path(__file__).with_name("learning.yaml")
CONFIG = yaml.safe_load(FILE.read_text())
LC_EPOCHS: dict[Rule, int] = {"easy": CONFIG["stages"]["lc"]["epochs"], "harder": 5, "verdict-first": 3}
"""Epochs of the LC stage."""
FINAL_LR: dict[Rule, float] = {"easy": 1.0, "harder": 0.0, "verdict-first": 0.0}
"""The last learning rate of a stage, relative to the first one. With a constant rate, the harder world's share of the
best AUC ends anywhere between 0.83 and 0.96."""
EXPLAINER = "--model.init_args.explainer"
PPO = f"{EXPLAINER}.ppo"
USERS: dict[Rule, int] = {"easy": 20_000, "harder": 20_000, "verdict-first": 8_000}
"""Samples of a world: of 20,000, 12,800 are for training, 2,000 for validation and 5,200 for the test."""
CREDIT: dict[str, dict[str, float]] = {
    "defaults": {},
    "critic_lr = lr": {"critic_lr": CONFIG["model"]["init_args"]["explainer"]["ppo"]["lr"]},
    "lam 0.95": {"lam": 0.95},
    "old defaults": {"lam": 0.95, "critic_lr": CONFIG["model"]["init_args"]["explainer"]["ppo"]["lr"]},
}
"""Options of PPO that the verdict-first world compares, beside `advantage: gae`."""
LLM, AUG, CTR = "ExpCTR-LLM", "ExpCTR-Aug", "DeepFM"
UNTRAINED, EXCHANGED = "ExpCTR-LLM, untrained", "ExpCTR-Aug, explanations of other rows"
PLAIN, SHUFFLED = "data", "shuffled"
TOLERANCE = 0.03
"""AUC differences up to this count as none; the standard error on 5,200 rows is about 0.007."""


class Noise(Reward):
    """A control: random rewards in the IC stage."""

    name = "ic"

    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        """Numbers that depend on the seed, the epoch and the batch alone: training reseeds each batch."""
        return torch.rand(len(batch), device=batch.label.device)

    def evaluate(self, batch: Batch, texts: Sequence[str], columns: Mapping[str, Any]) -> None:
        pass


def prepare(out: Path, rules: Sequence[Rule], seeds: Sequence[int]) -> None:
    """Make the language model, the sentence encoder and the ratings, unless they exist."""
    makers: dict[str, Callable[[Path], None]] = {"encoder": make_encoder}
    for rule in rules:
        makers[llm(rule)] = partial(make_model, verdict_first=rule == "verdict-first")
    for name, make in makers.items():
        if not (out / name / "tokenizer.json").exists():
            make(out / name)
    for rule, seed, kind in product(rules, seeds, (PLAIN, SHUFFLED)):
        folder = out / f"{rule}-{seed}" / kind
        if not (folder / "movies.csv").exists():
            World(rule, seed).write(folder, USERS[rule], shuffled=kind == SHUFFLED)


def llm(rule: Rule) -> str:
    """Return the name of the language model's folder."""
    return "llm-verdict-first" if rule == "verdict-first" else "llm"


def options(out: Path, rule: Rule, seed: int, kind: str = PLAIN) -> list[str]:
    return [
        f"--config={FILE}",
        f"--seed_everything={seed}",
        f"--stages.lc.epochs={LC_EPOCHS[rule]}",
        f"{PPO}.final_lr={FINAL_LR[rule]}",
        f"--model.init_args.explainer.llm.path={out / llm(rule)}",
        f"--model.init_args.encoder.path={out / 'encoder'}",
        f"--data.init_args.path={out / f'{rule}-{seed}' / kind}",
        f"--data.init_args.cache_dir={out / 'cache'}",
    ]


def best(out: Path, rule: Rule, seed: int) -> dict[str, float]:
    """Return the best possible AUCs on the test rows, by who predicts."""
    samples = CONFIG["data"]["init_args"]["samples"]
    chosen = replace(MOVIELENS, **{**samples, "fractions": tuple(samples["fractions"])})
    data = MovieLensDataModule(str(out / f"{rule}-{seed}" / PLAIN), chosen, cache_dir=str(out / "cache"))
    data.setup()
    return bounds(World(rule, seed), data.rows("test"))._asdict()


def play(out: Path, rule: Rule, seed: int) -> None:
    """Train and test; test before the IC stage; in the easy world also train that stage on noise."""
    folder, args = out / f"{rule}-{seed}", options(out, rule, seed)
    fit_and_test(folder / "main", *args)
    *_, last = checkpoints(folder / "main" / "checkpoints")
    stopped = torch.load(last, weights_only=True)["expctr"]["stopped"]
    ic_begins = LC_EPOCHS[rule] + stopped.get("ctr1", CONFIG["stages"]["ctr"]["epochs"])
    first = folder / "main" / "checkpoints" / f"epoch={ic_begins:04d}-batch=000000.ckpt"
    if not (folder / "before_ic" / "table.json").exists():
        expctr("test", folder / "before_ic", *args, f"--ckpt_path={first}")
    if rule == "easy" and not (folder / "noise" / "table.json").exists():
        noise = [*args, '--stages.ic.rewards=[{"class_path": "tools.bench.learning.Noise"}]']
        begun = (folder / "noise" / "checkpoints").exists()
        expctr("fit", folder / "noise", *noise, f"--ckpt_path={'last' if begun else first}")
        expctr("test", folder / "noise", *noise)


def still(out: Path, rule: Rule, seed: int) -> None:
    """Train the LC stage with a KL penalty that outweighs everything."""
    kl = [f"--model.init_args.explainer.kl.{option}" for option in ("beta=1000", "where=loss", "estimator=k3")]
    fit_and_test(out / f"{rule}-{seed}" / "still", *options(out, rule, seed), "--stages.rounds=0", *kl)


def shuffle(out: Path, rule: Rule, seed: int) -> None:
    fit_and_test(out / f"{rule}-{seed}" / SHUFFLED / "run", *options(out, rule, seed, SHUFFLED), "--stages.rounds=1")


def credit(out: Path, seed: int, name: str) -> None:
    """Train the LC stage alone in the verdict-first world, with a critic."""
    chosen = {"advantage": "gae", **CREDIT[name]}
    folder = out / f"verdict-first-{seed}" / name.replace(" ", "_")
    line = [*options(out, "verdict-first", seed), "--stages.rounds=0", f"{EXPLAINER}.rollout.max_new_tokens=96"]
    fit_and_test(folder, *line, *(f"{PPO}.{option}={value}" for option, value in chosen.items()))


def credit_figures(out: Path, seed: int, name: str) -> dict[str, float]:
    """Return what the LC stage reached in the verdict-first world."""
    folder, known = out / f"verdict-first-{seed}" / name.replace(" ", "_"), best(out, "verdict-first", seed)["llm"]
    before, after = auc(folder, UNTRAINED), auc(folder, LLM)
    tokens = fmean(value for _, value in curve(folder, "lc/response_length"))
    return {
        "best_auc": known,
        "auc_before": before,
        "auc_llm": after,
        "share_of_best": (after - before) / (known - before),
        "tokens": tokens,
        "explained_variance": curve(folder, "lc/explained_variance")[-1][1],
        "seconds": seconds(folder),
    }


def figures(out: Path, rule: Rule, seed: int) -> dict[str, float]:
    """Return the results of one world and seed. `seconds` is fit and test, `seconds_lc` the LC batches alone."""
    folder = out / f"{rule}-{seed}"
    main, known = folder / "main", best(out, rule, seed)
    found = {
        "best_auc": known["llm"],
        "best_auc_aug": known["aug"],
        "best_auc_ctr": known["ctr"],
        "auc_before": auc(main, UNTRAINED),
        "auc_llm": auc(folder / "before_ic", LLM),
        "auc_llm_after_ic": auc(main, LLM),
        "auc_ctr": auc(main, CTR),
        "auc_aug_before_ic": auc(folder / "before_ic", AUG),
        "auc_aug": auc(main, AUG),
        "auc_aug_exchanged": auc(main, EXCHANGED),
    }
    found["share_of_best"] = (found["auc_llm"] - found["auc_before"]) / (known["llm"] - found["auc_before"])
    greedy = pl.read_parquet(main / "explanations" / "test.parquet")["text"]
    found["names_town"] = float(greedy.str.contains("for the town").mean() or 0)
    if rule == "easy":
        still, shuffled = folder / "still", folder / SHUFFLED / "run"
        written = pl.read_parquet(still / "explanations" / "test.parquet")
        found |= {
            "auc_aug_noise": auc(folder / "noise", AUG),
            "same_text_still": float((written["text"] == written["text_untrained"]).mean()),
            "kl_still": curve(still, "lc/kl")[-1][1],
            "auc_llm_shuffled": auc(shuffled, LLM),
            "auc_aug_shuffled": auc(shuffled, AUG),
        }
    in_lc = sum(value for _, value in curve(main, "lc/seconds_all"))
    return found | {"seconds_lc": in_lc, "seconds": seconds(main)}


def controls(seeds: Sequence[dict[str, float]]) -> dict[str, bool]:
    """Return whether each control holds, by the figures of each seed."""

    def gap(more: str, less: str) -> float:
        return fmean(one[f"auc_{more}"] - one[f"auc_{less}"] for one in seeds)

    # what must not change is judged by the mean distance, so seeds cannot cancel
    shuffled = max(fmean(abs(one[f"auc_{who}_shuffled"] - 0.5) for one in seeds) for who in ("llm", "aug"))
    same = fmean(one["same_text_still"] for one in seeds)
    over_ctr, under_own = gap("aug_exchanged", "ctr"), gap("aug", "aug_exchanged")
    by_noise, by_reward = gap("aug_noise", "aug_before_ic"), gap("aug", "aug_before_ic")
    return {
        "shuffled labels: AUC stays at 0.50": shuffled <= TOLERANCE,
        "beta 1000: 95% of the texts stay": same >= 0.95,
        "explanations of other rows: no better than none": over_ctr <= TOLERANCE < under_own,
        "noise for the IC reward: Aug improves with the reward alone": by_noise <= 0 < by_reward,
    }


def main() -> None:
    parser = arguments(__doc__, "runs/learning")
    parser.add_argument("--worlds", nargs="+", choices=list(LC_EPOCHS), default=list(LC_EPOCHS))
    parser.add_argument("--credit", nargs="+", choices=list(CREDIT), default=["defaults", "old defaults"])
    own = parser.parse_args()
    out = own.out.resolve()
    prepare(out, own.worlds, own.seeds)

    staged = [rule for rule in own.worlds if rule != "verdict-first"]
    compared = own.credit if "verdict-first" in own.worlds else []
    tasks = [(play, rule) for rule in staged]
    tasks += [(control, "easy") for control in (still, shuffle) if "easy" in own.worlds]
    pairs = product(tasks, own.seeds)
    jobs = {f"{task.__name__} {rule}-{seed}": partial(task, out, rule, seed) for (task, rule), seed in pairs}
    jobs |= {f"{name}, seed {seed}": partial(credit, out, seed, name) for name, seed in product(compared, own.seeds)}
    in_parallel(jobs, own.jobs, "runs")

    summary: dict[str, Any] = {}
    for name in compared:
        reached = [credit_figures(out, seed, name) for seed in own.seeds]
        values = {key: [row[key] for row in reached] for key in reached[0]}
        print_seeds(f"verdict-first world: {name}", values, own.seeds)
        summary[name] = {key: round(fmean(column), 4) for key, column in values.items()}
    for rule in staged:
        found = [figures(out, rule, seed) for seed in own.seeds]
        means: dict[str, Any] = {name: fmean(row[name] for row in found) for name in found[0]}
        print_seeds(f"{rule} world", {name: [row[name] for row in found] for name in found[0]}, own.seeds)
        if rule == "easy":
            held = controls(found)
            means |= {"controls_hold": all(held.values()), "controls": held}
        means = {name: round(value, 4) if isinstance(value, float) else value for name, value in means.items()}
        summary |= means if rule == "easy" else {rule: means}
    print(json.dumps(summary))


if __name__ == "__main__":
    start(main)
