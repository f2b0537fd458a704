"""Real ratings: what ExpCTR learns there, and where the gain comes from (the quickstart with more samples and seeds).

    python -m tools.get_movielens .data/ml-100k # once
    python -m tools.bench.real_ratings          # three seeds, in runs/real_ratings, which gets results.md

A seed draws other targets, another split, other first weights and other samples. Another CTR model is trained on the
explanations of the untrained model (a run whose policy does not change), which separates the effect of the training
from that of having sentences at all. The tables of single runs show the same CTR model on other explanations. Run the
same command again to resume. The last line is JSON.
"""

import json
from functools import partial
from pathlib import Path
from statistics import fmean

import yaml

from expctr.run_folder import checkpoints
from expctr.systems import METRICS, SOURCES, SYSTEMS
from tools import runs
from tools.runs import ROOT, fit_and_test, mean_and_spread, table

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
STAGES = yaml.safe_load(QUICKSTART.read_text())["stages"]


def play(out: Path, targets: int, seed: int) -> None:
    """Train and test all stages; test before the IC stage; train and test with a policy that does not change."""
    folder = out / f"seed-{seed}"
    options = [
        f"--config={QUICKSTART}",
        f"--seed_everything={seed}",
        f"--data.init_args.samples.seed={100 + seed}",  # the quickstart's settings were chosen on another one
        f"--data.init_args.samples.targets_per_user={targets}",
        f"--data.init_args.cache_dir={out / 'cache'}",
        "--trainer.enable_progress_bar=false",
        "--checkpoint.every_n_batches=0",
        f"--checkpoint.keep={STAGES['ic']['epochs'] + 1}",  # also where the IC stage begins
    ]
    fit_and_test(folder / "main", *options)
    if not (folder / "before_ic" / "table.json").exists():
        first = checkpoints(folder / "main" / "checkpoints")[0]
        runs.expctr("test", folder / "before_ic", *options, f"--ckpt_path={first}")
    # the same passes, so that equally many samples are explained and the CTR model sees the same batches
    still = ["--stages.ic.epochs=0", *(f"--model.init_args.explainer.ppo.{option}" for option in ("lr=0", "epochs=1"))]
    fit_and_test(folder / "untrained", *options, *still)


def rows(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return the rows of one seed's result, with metrics and intervals."""
    main = table(folder / "main")
    before, untrained = (table(folder / run)["systems"] for run in ("before_ic", "untrained"))
    if untrained["DeepFM"] != main["systems"]["DeepFM"]:
        raise SystemExit(f"{folder}: DeepFM, which reads no text, differs between the runs, so they cannot be compared")
    return {
        **{row.name: main["systems"][row.name] for row in SYSTEMS},
        "ExpCTR-Aug, before the IC stage": before["ExpCTR-Aug"],
        "ExpCTR-Aug, a CTR model of the untrained model's explanations": untrained["ExpCTR-Aug"],
        **{source.name: main["sources"][source.name] for source in SOURCES},
    }


def main() -> None:
    parser = runs.arguments(__doc__, "runs/real_ratings")
    parser.add_argument("--targets", type=int, default=10, help="targets per user (943 users)")
    asked = parser.parse_args()
    out = asked.out.resolve()
    runs.in_parallel({f"{s}": partial(play, out, asked.targets, s) for s in asked.seeds}, asked.jobs, "seeds")

    found = [rows(out / f"seed-{seed}") for seed in asked.seeds]
    heads = ["", *METRICS, *(f"AUC, seed {seed} (95%)" for seed in asked.seeds)]
    cells: dict[str, list[str]] = {}
    summary: dict[str, float] = {}
    for name in found[0]:
        ours = [one[name] for one in found]
        values = {metric: [row[metric]["value"] for row in ours] for metric in METRICS}
        summary[name] = round(fmean(values["auc"]), 4)
        cells[name] = [mean_and_spread(values[metric]) for metric in METRICS]
        cells[name] += ["{value:.3f} ({low:.3f}–{high:.3f})".format(**row["auc"]) for row in ours]
    note = "Means over seeds ± half their range; in brackets bootstrap intervals over the test users."
    lines = [*runs.markdown_table(heads, cells), "", note, ""]
    (out / "results.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    took = fmean(runs.seconds(out / f"seed-{seed}" / "main") for seed in asked.seeds)
    print(json.dumps({**summary, "seconds": round(took)}))


if __name__ == "__main__":
    runs.start(main)
