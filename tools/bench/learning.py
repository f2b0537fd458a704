"""Does it learn? ExpCTR in planted worlds (planted.py) whose best AUCs are known, with controls that must fail.

    python tools/bench/learning.py                          # both worlds, three seeds, in runs/learning
    python tools/bench/learning.py --worlds easy --seeds 0

Each run is the real command line on learning.yaml. One pretrained model serves all runs; a seed stands for another
world, other first weights and other draws. Stopped, the same command goes on. The last line is JSON: means over the
seeds of the easy world, and under `harder` of the other.

Controls, in the easy world: with the ratings of all targets shuffled, AUC stays at 0.50; with a KL penalty of 1000
nothing moves; with the explanations of other rows ExpCTR-Aug is no better than the CTR model without text; with noise
in place of the IC stage's rewards ExpCTR-Aug does not rise.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import polars as pl
import torch
import yaml
from jobs import HERE, arguments, auc, curve, expctr, fit_and_test, in_parallel, mean_and_spread, seconds
from planted import Rule, World, bounds, make_encoder, make_model
from rich.console import Console
from rich.table import Table
from torch import Tensor

from expctr.data.batches import Batch
from expctr.data.datamodules import MOVIELENS, MovieLensDataModule
from expctr.modules.expctr import ExpCTRModule
from expctr.seeding import seed_of

CONFIG = yaml.safe_load((HERE / "learning.yaml").read_text())
LC_EPOCHS: dict[Rule, int] = {"easy": CONFIG["stages"]["lc_epochs"], "harder": 5}
"""Passes of the LC stage."""
FINAL_LR: dict[Rule, float] = {"easy": 1.0, "harder": 0.0}
"""Of each stage's learning rate. In the harder world a stage of steps as large as the first ones ends anywhere between
0.83 and 0.96 of the way."""
PPO = "--model.init_args.explainer.ppo"
USERS = 20_000
"""Samples of a world: 12,800 to train on, 2,000 to validate and 5,200 to test."""
LLM, AUG, CTR = "ExpCTR-LLM", "ExpCTR-Aug", "DeepFM"
UNTRAINED, EXCHANGED = "ExpCTR-LLM, untrained", "ExpCTR-Aug, explanations of other rows"
PLAIN, SHUFFLED = "data", "shuffled"
TOLERANCE = 0.03
"""What counts as no change of an AUC on 5,200 rows, whose standard error is about 0.007."""


class NoiseIC(ExpCTRModule):
    """A control: ExpCTR whose rewards in the IC stage are draws of chance."""

    def _rewards(self, batch: Batch, texts: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, float]]]:
        scores, components = super()._rewards(batch, texts)
        if "ic" in components:
            generator = torch.Generator().manual_seed(seed_of(self.seed, self.batches))
            components = {"ic": (torch.rand(len(batch), generator=generator), 1.0)}
        return scores, components


def prepare(out: Path, rules: Sequence[Rule], seeds: Sequence[int]) -> None:
    """The language model, the sentence encoder and the ratings, unless they are there."""
    for name, make in (("encoder", make_encoder), ("llm", make_model)):
        if not (out / name / "tokenizer.json").exists():
            make(out / name)
    for rule, seed in product(rules, seeds):
        for kind in (PLAIN, SHUFFLED):
            folder = out / f"{rule}-{seed}" / kind
            if not (folder / "movies.csv").exists():
                World(rule, seed).write(folder, USERS, shuffled=kind == SHUFFLED)


def options(out: Path, rule: Rule, seed: int, kind: str = PLAIN) -> list[str]:
    """Arguments of the command line in a world."""
    return [
        f"--config={HERE / 'learning.yaml'}",
        f"--seed_everything={seed}",
        f"--stages.lc.epochs={LC_EPOCHS[rule]}",
        f"{PPO}.final_lr={FINAL_LR[rule]}",
        f"--model.init_args.explainer.llm.path={out / 'llm'}",
        f"--model.init_args.encoder.path={out / 'encoder'}",
        f"--data.init_args.path={out / f'{rule}-{seed}' / kind}",
        f"--data.init_args.cache_dir={out / 'cache'}",
    ]


def best(out: Path, rule: Rule, seed: int) -> dict[str, float]:
    """The best possible AUCs on the test rows."""
    samples = CONFIG["data"]["init_args"]["samples"]
    data = MovieLensDataModule(
        str(out / f"{rule}-{seed}" / PLAIN),
        replace(MOVIELENS, **{**samples, "fractions": tuple(samples["fractions"])}),
        cache_dir=str(out / "cache"),
    )
    data.setup()
    return asdict(bounds(World(rule, seed), data.rows("test")))


def play(out: Path, rule: Rule, seed: int) -> None:
    """Train and test; test where the IC stage began; in the easy world train that stage on noise, too."""
    folder, args = out / f"{rule}-{seed}", options(out, rule, seed)
    fit_and_test(folder / "main", *args)
    ic_begins = LC_EPOCHS[rule] + CONFIG["stages"]["ctr_epochs"]
    start = folder / "main" / "checkpoints" / f"epoch={ic_begins:04d}-batch=000000.ckpt"
    if not (folder / "before_ic" / "table.json").exists():
        expctr("test", folder / "before_ic", *args, f"--ckpt_path={start}")
    if rule == "easy" and not (folder / "noise" / "table.json").exists():
        noise = [*args, "--model.class_path=learning.NoiseIC"]
        begun = (folder / "noise" / "checkpoints").exists()
        expctr("fit", folder / "noise", *noise, f"--ckpt_path={'last' if begun else start}")
        expctr("test", folder / "noise", *noise)


def still(out: Path, rule: Rule, seed: int) -> None:
    """The LC stage with a KL penalty that nothing outweighs."""
    kl = {"beta": 1000, "where": "loss", "estimator": "k3"}
    only_lc = ["--stages.rounds=0", *(f"--model.init_args.explainer.kl.{name}={value}" for name, value in kl.items())]
    fit_and_test(out / f"{rule}-{seed}" / "still", *options(out, rule, seed), *only_lc)


def shuffle(out: Path, rule: Rule, seed: int) -> None:
    """All stages where there is nothing to learn."""
    fit_and_test(out / f"{rule}-{seed}" / SHUFFLED / "run", *options(out, rule, seed, SHUFFLED), "--stages.rounds=1")


def figures(out: Path, rule: Rule, seed: int) -> dict[str, float]:
    """What came out in one world with one seed; seconds are those of fit and test, and of the LC batches alone."""
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
    """Does each control fail, as it must?

    Args:
        seeds: the figures of each; what must stay is judged by the mean distance, so that seeds cannot cancel.
    """
    shuffled = max(fmean(abs(one[f"auc_{who}_shuffled"] - 0.5) for one in seeds) for who in ("llm", "aug"))
    same = fmean(one["same_text_still"] for one in seeds)
    over_ctr = fmean(one["auc_aug_exchanged"] - one["auc_ctr"] for one in seeds)
    under_own = fmean(one["auc_aug"] - one["auc_aug_exchanged"] for one in seeds)
    by_noise = fmean(one["auc_aug_noise"] - one["auc_aug_before_ic"] for one in seeds)
    by_reward = fmean(one["auc_aug"] - one["auc_aug_before_ic"] for one in seeds)
    return {
        "shuffled labels: AUC stays at 0.50": shuffled <= TOLERANCE,
        "beta 1000: 95% of the texts stay": same >= 0.95,
        "explanations of other rows: no better than none": over_ctr <= TOLERANCE < under_own,
        "noise for the IC reward: Aug does not rise, as it does by the reward": by_noise <= 0 < by_reward,
    }


def stages(folder: Path) -> Table:
    """Validation AUC after each epoch of a run; raw reward of the stage and KL, means of its last five batches."""
    shown = Table("batches", *(f"{who} AUC" for who in ("llm", "aug", "plain")), "reward", "KL", title=str(folder))
    reward, kl = (
        [*curve(folder, f"lc/{lc}"), *curve(folder, f"ic/{ic}")]
        for lc, ic in (("reward_lc", "reward_ic"), ("kl", "kl"))
    )
    by_batch = {who: dict(curve(folder, f"val/auc_{who}")) for who in ("llm", "aug", "plain")}
    for batch in sorted({batch for values in by_batch.values() for batch in values}):
        cells = [f"{values[batch]:.3f}" if batch in values else "" for values in by_batch.values()]
        last = [[value for step, value in values if batch - 5 < step <= batch] for values in (reward, kl)]
        shown.add_row(str(batch), *cells, *(f"{sum(v) / len(v):.3f}" if v else "" for v in last))
    return shown


def main() -> None:
    """Run what is asked for, print the tables and the line of JSON."""
    parser = arguments(__doc__, "runs/learning")
    parser.add_argument("--worlds", nargs="+", choices=get_args(Rule), default=list(get_args(Rule)))
    asked = parser.parse_args()
    out, console = asked.out.resolve(), Console()
    prepare(out, asked.worlds, asked.seeds)

    jobs: dict[str, Callable[[], None]] = {}
    for rule in asked.worlds:
        for task in (play, still, shuffle) if rule == "easy" else (play,):
            jobs |= {f"{task.__name__} {rule}-{seed}": partial(task, out, rule, seed) for seed in asked.seeds}
    in_parallel(jobs, asked.jobs, "runs")

    summary: dict[str, Any] = {}
    for rule in asked.worlds:
        for seed in asked.seeds:
            console.print(stages(out / f"{rule}-{seed}" / "main"))
        found = [figures(out, rule, seed) for seed in asked.seeds]
        means: dict[str, Any] = {name: fmean(row[name] for row in found) for name in found[0]}
        shown = Table(f"{rule} world", "mean ± half the range", *(f"seed {seed}" for seed in asked.seeds))
        for name in found[0]:
            values = [row[name] for row in found]
            shown.add_row(name, mean_and_spread(values), *(f"{value:.3f}" for value in values))
        console.print(shown)
        if rule == "easy":
            held = controls(found)
            means |= {"controls_hold": all(held.values()), "controls": held}
        means = {name: round(value, 4) if isinstance(value, float) else value for name, value in means.items()}
        summary |= means if rule == "easy" else {rule: means}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
