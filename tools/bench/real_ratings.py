"""What it learns from real ratings, and where the gain comes from: the quickstart with more samples, several seeds.

    python tools/get_movielens.py .data/ml-100k # once
    python tools/bench/real_ratings.py          # three seeds; runs/real_ratings; results.md there

A seed draws other targets, another split, other first weights and other samples. To tell the training's part from that
of having sentences at all, a further CTR model is trained on what the untrained model writes (a run whose policy does
not move). The tables of single runs say what the same CTR model makes of other explanations. Stopped, the same command
goes on. The last line is JSON.
"""

import json
from functools import partial
from pathlib import Path

import yaml
from jobs import HERE, arguments, expctr, fit_and_test, in_parallel, mean_and_spread, seconds, table

from expctr.systems import METRICS, SOURCES, SYSTEMS

QUICKSTART = HERE.parents[1] / "configs" / "quickstart.yaml"
STAGES = yaml.safe_load(QUICKSTART.read_text())["stages"]


def play(out: Path, targets: int, seed: int) -> None:
    """All stages; where the IC stage began; a policy that does not move."""
    folder = out / f"seed-{seed}"
    options = [
        f"--config={QUICKSTART}",
        f"--seed_everything={seed}",
        f"--data.init_args.samples.seed={100 + seed}",  # none that the quickstart's settings were chosen on
        f"--data.init_args.samples.targets_per_user={targets}",
        f"--data.init_args.cache_dir={out / 'cache'}",
        "--trainer.enable_progress_bar=false",
        "--checkpoint.every_n_batches=0",
        f"--checkpoint.keep={STAGES['ic_epochs'] + 1}",  # where the IC stage begins, too
    ]
    fit_and_test(folder / "main", *options)
    begins = STAGES["lc_epochs"] + STAGES["ctr_epochs"]
    if not (folder / "before_ic" / "table.json").exists():
        start = folder / "main" / "checkpoints" / f"epoch={begins:04d}-batch=000000.ckpt"
        expctr("test", folder / "before_ic", *options, f"--ckpt_path={start}")
    # as many passes, so that as many samples are explained and the CTR model sees the same batches
    still = ["--stages.ic.epochs=0", *(f"--model.init_args.explainer.ppo.{option}" for option in ("lr=0", "epochs=1"))]
    fit_and_test(folder / "untrained", *options, *still)


def rows(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Each row of the result with its metrics and their intervals, of one seed."""
    main = table(folder / "main")
    before, untrained = (table(folder / run)["systems"] for run in ("before_ic", "untrained"))
    if untrained["DeepFM"] != main["systems"]["DeepFM"]:
        raise SystemExit(f"{folder}: DeepFM, which reads no text, differs between the runs: they are no comparison")
    return {
        **{row.name: main["systems"][row.name] for row in SYSTEMS},
        "ExpCTR-Aug, before the IC stage": before["ExpCTR-Aug"],
        "ExpCTR-Aug, a CTR model of the untrained model's explanations": untrained["ExpCTR-Aug"],
        **{source.name: main["sources"][source.name] for source in SOURCES},
    }


def main() -> None:
    """Run what is asked for, print and write the table, and the line of JSON."""
    parser = arguments(__doc__, "runs/real_ratings")
    parser.add_argument("--targets", type=int, default=10, help="targets a user (943 users)")
    asked = parser.parse_args()
    out = asked.out.resolve()
    in_parallel({f"{s}": partial(play, out, asked.targets, s) for s in asked.seeds}, asked.jobs, "seeds")

    found = [rows(out / f"seed-{seed}") for seed in asked.seeds]
    heads = ["", *METRICS, *(f"AUC, seed {seed} (95%)" for seed in asked.seeds)]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    summary: dict[str, float] = {}
    for name in found[0]:
        ours = [one[name] for one in found]
        values = {metric: [row[metric]["value"] for row in ours] for metric in METRICS}
        summary[name] = round(sum(values["auc"]) / len(ours), 4)
        cells = [mean_and_spread(values[metric]) for metric in METRICS]
        cells += ["{value:.3f} ({low:.3f}–{high:.3f})".format(**row["auc"]) for row in ours]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "Means over seeds ± half their range; in brackets bootstrap intervals over the test users.", ""]
    (out / "results.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    took = sum(seconds(out / f"seed-{seed}" / "main") for seed in asked.seeds) / len(found)
    print(json.dumps({**summary, "seconds": round(took)}))


if __name__ == "__main__":
    main()
