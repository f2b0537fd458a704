"""Variance of the advantage: which baseline learns fastest in AUC per rollout, in the easy planted world (planted.py)?

    python -m tools.bench.variance              # three seeds, in runs/variance, with the figure variance.png

Compares baselines: the mean of the batch, the mean of the rows with the same label, the reward of the untrained model's
explanation, the mean of the other responses to the same prompt, a critic's value (without and with the label), and the
mean of K responses to the same prompt. All have the same number of rollouts and steps. `label-all-tokens` is the
label's mean with an adapter that also acts on the prompt. The last line is JSON. `noise.py` shows what each removes.
"""

import json
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from tools.bench.learning import LLM, best, options, prepare
from tools.plots import figure, save
from tools.runs import arguments, auc, curve, fit_and_test, in_parallel, mean_and_spread, seconds, start

EXPLAINER = "--model.init_args.explainer"
BASELINES: dict[str, dict[str, object]] = {
    "batch": {"baseline": "batch"},
    "label": {"baseline": "label"},
    "reference": {"baseline": "reference"},
    "prompt-of-2": {"baseline": "prompt", "rollout.group_size": 2},
    "critic": {"baseline": "batch", "ppo.advantage": "gae"},
    "critic-with-label": {"baseline": "batch", "ppo.advantage": "gae", "ppo.critic_label": True},
    "groups-of-4": {"baseline": "batch", "ppo.advantage": "group", "rollout.group_size": 4},
    "label-all-tokens": {"baseline": "label", "llm.adapter_scope": "all"},
}
"""The LC reward's baseline, and options of the explainer, by name."""
ROLLOUTS, EVERY, BATCHES = 256, 10, 150
"""Rollouts per batch, batches between two validations, and number of batches."""


def play(out: Path, name: str, seed: int) -> None:
    chosen = {"ppo.advantage": "batch", **BASELINES[name]}
    prompts = ROLLOUTS // int(str(chosen.get("rollout.group_size", 1)))
    reward = {"class_path": "LCAlignment", "init_args": {"baseline": chosen.pop("baseline")}}
    args = [
        *options(out, "easy", seed),
        f"--stages.lc.rewards={json.dumps([reward])}",
        *(f"{EXPLAINER}.{option}={value}" for option, value in chosen.items()),
        f"{EXPLAINER}.ppo.warmup=0",
        f"--data.init_args.rollout_batch_size={prompts}",
        f"--trainer.limit_train_batches={EVERY}",
        f"--stages.lc.epochs={BATCHES // EVERY}",
        "--stages.rounds=0",
    ]
    fit_and_test(out / f"easy-{seed}" / name, *args)


def plot(out: Path, curves: dict[str, list[list[tuple[int, float]]]], bound: float) -> None:
    """Draw validation AUC over rollouts: the mean over seeds, with the range as a band."""
    picture, (axes,) = figure("ExpCTR-LLM by baseline (band: all seeds)", 1)
    for name, seeds in curves.items():
        rollouts = [ROLLOUTS * batch for batch, _ in seeds[0]]
        by_time = list(zip(*([value for _, value in one] for one in seeds), strict=True))
        (line,) = axes.plot(rollouts, [fmean(values) for values in by_time], marker="o", label=name)
        low, high = [min(values) for values in by_time], [max(values) for values in by_time]
        axes.fill_between(rollouts, low, high, color=line.get_color(), alpha=0.12)
    axes.axhline(bound, color="grey", linestyle="--", label="best")
    axes.set(xlabel="rollouts", ylabel="validation AUC")
    save(picture, out / "variance.png")


def main() -> None:
    parser = arguments(__doc__, "runs/variance")
    parser.add_argument("--baselines", nargs="+", choices=list(BASELINES), default=list(BASELINES))
    args = parser.parse_args()
    out = args.out.resolve()
    prepare(out, ["easy"], args.seeds)
    pairs = list(product(args.seeds, args.baselines))
    in_parallel({f"{n}-{s}": partial(play, out, n, s) for s, n in pairs}, args.jobs, "baselines")

    known = [best(out, "easy", seed)["llm"] for seed in args.seeds]
    folders = {name: [out / f"easy-{seed}" / name for seed in args.seeds] for name in args.baselines}
    curves = {name: [curve(run, "val/auc_llm") for run in runs] for name, runs in folders.items()}
    plot(out, curves, fmean(known))
    shown = Table("baseline", "test AUC, mean ± half the range", "mean validation AUC over the run", "seconds")
    summary: dict[str, dict[str, float]] = {}
    for name, runs in folders.items():
        tested = [auc(run, LLM) for run in runs]
        area = [fmean(value for _, value in one) for one in curves[name]]
        took = fmean(map(seconds, runs))
        shown.add_row(name, mean_and_spread(tested), mean_and_spread(area), f"{took:.0f}")
        means = {"auc": fmean(tested), "mean_auc": fmean(area), "seconds": took}
        summary[name] = {key: round(value, 4) for key, value in means.items()}
    Console().print(shown)
    print(json.dumps({"best_auc": round(fmean(known), 4), **summary}))


if __name__ == "__main__":
    start(main)
