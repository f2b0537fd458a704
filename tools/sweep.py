"""How much do the KL penalty beta and the reward bound delta matter? Trains and tests a grid of runs (Figure 4).

    python tools/sweep.py --config configs/quickstart.yaml --out runs/sweep [-- further expctr options]

One of the two is varied at a time and the other stays as the config has it. Each point is a run folder of its own,
`OUT/beta=0.05,delta=1,seed=0`, made by `expctr fit` and `expctr test`. The same command goes on with a sweep that was
stopped: finished points stay, an unfinished one goes on from its checkpoint. `OUT` gets `sweep.json` (all metrics with
their intervals over the test users), `sweep.md` and `sweep.png`.

`--seeds` sets `seed_everything`: first weights, order of the batches, sampling. `data.samples.seed` stays as the config
has it, so that all points are tested on the same rows.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from plots import figure, save
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PATIENCE = 30.0
"""Seconds that runs have to end by themselves after a Ctrl-C."""
COMMAND = [sys.executable, "-m", "expctr"]
OPTIONS = {"beta": "--model.init_args.explainer.kl.beta", "delta": "--model.init_args.explainer.reward.delta"}
LABELS = {"beta": "KL penalty β (Eq. 7)", "delta": "bound δ of the normalised reward (Eq. 10)"}
OURS = ("ExpCTR-Aug", "ExpCTR-LLM")
FREE = (  # what may change between two calls: the points' own, and what no result depends on
    *("seed_everything", "ckpt_path", "weights_only", "checkpoint", "results"),
    *(f"trainer.{name}" for name in ("default_root_dir", "logger", "callbacks", "enable_progress_bar")),
    *(f"data.init_args.{name}" for name in ("cache_dir", "eval_batch_size", "paper_dataset")),
)


class Point(NamedTuple):
    """A run of the sweep."""

    beta: float
    delta: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"beta={self.beta:.12g},delta={self.delta:.12g},seed={self.seed}"


def main(args: Sequence[str] | None = None) -> None:
    """Run the points that are missing, then write the table and the figure."""
    own, further = parse(sys.argv[1:] if args is None else args)
    options = [*(f"--config={config}" for config in own.config), *further]
    config = resolve(options)
    base = Point(*at_base(config), int(config["seed_everything"]))
    seeds = list(dict.fromkeys(own.seeds or [base.seed]))
    points = grid(base, own.beta, own.delta, seeds)
    check_same(config, own.out / "base.yaml")
    failures = run(points, options, own.out, own.jobs, config["stages"])
    results = [(point, table) for point in points if (table := read_table(own.out / point.name))]
    failed = [{"run": point.name, "error": error} for point, error in failures.items()]
    content = {
        "base": {"beta": base.beta, "delta": base.delta},
        "seeds": seeds,
        "points": [{**point._asdict(), "run": point.name, **table} for point, table in results],
        "failed": failed,
    }
    (own.out / "sweep.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = {name: on_line(results, base, name) for name in OPTIONS if getattr(own, name)}
    if results:
        text = "\n".join(markdown(by_value, name, base) for name, by_value in lines.items())
        (own.out / "sweep.md").write_text(text, encoding="utf-8")
        print(text)
        draw(lines, own.out, len(seeds))
        print(f"{len(results)} of {len(points)} points are in {own.out}/sweep.json, .md and .png")
    for failure in failed:
        print(f"failed: {failure['run']}: {failure['error']}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def parse(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The tool's own arguments, and those after `--`."""
    words = list(args)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="append", required=True, help="as of expctr; a later one is laid over it")
    parser.add_argument("--beta", type=float, nargs="*", default=[0.01, 0.05, 0.1, 0.5], help="default: the paper's")
    parser.add_argument("--delta", type=float, nargs="*", default=[0.5, 1.0, 2.0, 5.0], help="default: the paper's")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the config's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores; one a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="the sweep's folder")
    own = parser.parse_args(words[:cut])
    if own.jobs < 1:
        parser.error(f"--jobs is {own.jobs}: it must be at least 1")
    if not own.beta and not own.delta:
        parser.error("neither --beta nor --delta has a value: there is nothing to sweep")
    return own, words[cut + 1 :]


# --- which points


def resolve(options: list[str]) -> dict[str, Any]:
    """The whole config with its defaults, as the command line itself reads it."""
    asked = subprocess.run([*COMMAND, "fit", *options, "--print_config"], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise SystemExit(last_words(asked.stderr, asked.returncode))
    config: dict[str, Any] = yaml.safe_load(asked.stdout)
    return config


def at_base(config: dict[str, Any]) -> tuple[float, float]:
    """The config's own beta and delta."""
    try:
        explainer = config["model"]["init_args"]["explainer"]["init_args"]
        return float(explainer["kl"]["beta"]), float(explainer["reward"]["delta"])
    except (KeyError, TypeError) as error:
        raise SystemExit("the config's model has no explainer, and so neither beta nor delta: give another") from error


def grid(base: Point, betas: list[float], deltas: list[float], seeds: list[int]) -> list[Point]:
    """One parameter varied at a time; a point that both lines share is there once."""
    lines = [(beta, base.delta) for beta in betas] + [(base.beta, delta) for delta in deltas]
    return list(dict.fromkeys(Point(*place, seed) for seed in seeds for place in lines))


def check_same(config: dict[str, Any], path: Path) -> None:
    """Refuse a folder whose points were made with other options; keep the config in a new one."""
    if path.exists():
        made, now = (dict(leaves(tree)) for tree in (yaml.safe_load(path.read_text(encoding="utf-8")), config))
        changes = [
            f"{name} is {now.get(name)} and the sweep in {path.parent} was made with {made.get(name)}"
            for name in sorted(made.keys() | now.keys())
            if made.get(name) != now.get(name) and not any(f"{name}.".startswith(f"{free}.") for free in FREE)
        ]
        if changes:
            more = "; ..." if changes[3:] else ""
            raise SystemExit(f"{'; '.join(changes[:3])}{more}: give the sweep's value, or another --out")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def leaves(tree: dict[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """A config's values by their dotted names."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


# --- running them


def run(points: list[Point], options: list[str], out: Path, jobs: int, stages: dict[str, int]) -> dict[Point, str]:
    """Fit and test what is not done; returns why points failed."""
    waiting = [point for point in points if read_table(out / point.name) is None]
    running: dict[Point, tuple[str, subprocess.Popen[bytes]]] = {}
    failures: dict[Point, str] = {}

    def finished() -> float:
        under_way = sum(share_done(out / point.name, stages) for point in (*waiting, *running))
        return len(points) - len(waiting) - len(running) + under_way

    columns = (TextColumn("points"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # the speed over all the time: a point may take hours
    with stopping(running), Progress(*columns, speed_estimate_period=float("inf")) as progress:
        task = progress.add_task("points", total=len(points))
        progress.update(task, completed=finished())
        progress.advance(task, 0)  # the moment that the speed is measured from
        while waiting or running:
            while waiting and len(running) < jobs:
                point = waiting.pop(0)
                running[point] = "fit", start("fit", point, options, out, jobs)
            time.sleep(0.2)
            for point, (command, process) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[point]
                if code:
                    log = out / point.name / f"{command}.log"
                    said = log.read_text(encoding="utf-8", errors="replace")
                    failures[point] = f"{last_words(said, code)} (all of it in {log})"
                    progress.console.print(f"{point.name} failed", highlight=False)
                elif command == "fit":
                    running[point] = "test", start("test", point, options, out, jobs)
                else:
                    progress.console.print(f"{point.name} is done", highlight=False)
            progress.update(task, completed=finished())
    return failures


def start(command: str, point: Point, options: list[str], out: Path, jobs: int) -> subprocess.Popen[bytes]:
    """Start `expctr fit` or `expctr test` of a point, which goes on where it was."""
    folder = out / point.name
    folder.mkdir(parents=True, exist_ok=True)
    own = [f"{OPTIONS[name]}={getattr(point, name):.12g}" for name in OPTIONS]
    own += [f"--seed_everything={point.seed}", f"--trainer.default_root_dir={folder}", "--ckpt_path=last"]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with (folder / f"{command}.log").open("wb") as log:
        return subprocess.Popen(
            [*COMMAND, command, *options, *own],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            start_new_session=True,  # a Ctrl-C comes here alone, and is handed on once
        )


@contextmanager
def stopping(running: dict[Point, tuple[str, subprocess.Popen[bytes]]]) -> Iterator[None]:
    """Leave no run behind, whatever ends the sweep."""
    try:
        yield
    finally:
        processes = [process for _, process in running.values()]
        try:
            for process in processes:
                os.killpg(process.pid, signal.SIGINT)
            end = time.monotonic() + PATIENCE
            while any(process.poll() is None for process in processes) and time.monotonic() < end:
                time.sleep(0.1)
        finally:  # one that does not hear, or a second Ctrl-C
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def share_done(folder: Path, stages: dict[str, int]) -> float:
    """How much of a point is done, by the policy's epochs before its newest checkpoint: CTR epochs take little time."""
    a_round = [0] * stages["ctr_epochs"] + [1] * stages["ic_epochs"]
    plan = [1] * stages["lc_epochs"] + a_round * stages["rounds"]
    names = [path.name for path in folder.glob("checkpoints/epoch=*.ckpt")]
    epochs = [int(found[1]) for name in names if (found := re.match(r"epoch=(\d+)-", name))]
    return 0.95 * sum(plan[: max(epochs, default=0)]) / max(1, sum(plan))  # the test is left


def last_words(output: str, code: int) -> str:
    """Why a command failed, in a line."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error:|[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [f"exit code {code}"])[-1]


def read_table(folder: Path) -> dict[str, Any] | None:
    """What a finished test found; none where there is no table, or half of one."""
    try:
        table: dict[str, Any] = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return table


# --- what came out

Line = dict[float, list[dict[str, Any]]]
"""By the value of what is varied: the tables of its runs, one a seed."""


def on_line(results: list[tuple[Point, dict[str, Any]]], base: Point, varied: str) -> Line:
    """The results where the other parameter is the base's."""
    other = next(name for name in OPTIONS if name != varied)
    made: Line = {}
    for point, table in sorted(results, key=lambda result: result[0]):
        if getattr(point, other) == getattr(base, other):
            made.setdefault(getattr(point, varied), []).append(table)
    return made


def estimates(tables: list[dict[str, Any]], system: str, metric: str) -> list[tuple[float, float, float]]:
    """A metric of a system with the bounds of its interval, one a seed, where it is defined."""
    rows = [table["systems"].get(system, {}).get(metric) for table in tables]
    defined = [row for row in rows if row and row["value"] is not None]
    return [(row["value"], *(row["value"] if row[b] is None else row[b] for b in ("low", "high"))) for row in defined]


def markdown(line: Line, varied: str, base: Point) -> str:
    """A table of one line of the grid."""
    other = next(name for name in OPTIONS if name != varied)
    systems = [*OURS, plain(next(iter(line.values()), []))]
    heads = [varied, "seeds", *(f"{system} {of}" for system in systems for of in ("AUC ↑", "LogLoss ↓"))]
    made = [f"{other} = {getattr(base, other):g}", "", f"| {' | '.join(heads)} |", "|---:" * len(heads) + "|"]
    for value, tables in line.items():
        cells = [cell(estimates(tables, system, metric)) for system in systems for metric in ("auc", "logloss")]
        made.append(f"| {value:g} | {len(tables)} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *made,
            "",
            "Several seeds: mean ± standard deviation. One: its 95% bootstrap interval over the test users.",
            "",
        ]
    )


def plain(tables: list[dict[str, Any]]) -> str:
    """What the tables call the CTR model without text."""
    names = [name for table in tables for name in table["systems"] if name not in (*OURS, "ICL")]
    return names[0] if names else "DeepFM"


def cell(found: list[tuple[float, float, float]]) -> str:
    """A mean with its spread; one value with its interval."""
    values = [value for value, _, _ in found]
    if len(values) > 1:
        return f"{fmean(values):.4f} ± {stdev(values):.4f}"
    return f"{values[0]:.4f} ({found[0][1]:.3f}–{found[0][2]:.3f})" if found else "-"


def draw(lines: dict[str, Line], out: Path, seeds: int) -> None:
    """AUC against each parameter."""
    band = f"lowest to highest of {seeds} seeds" if seeds > 1 else "95% bootstrap interval, one seed"
    picture, panels = figure(f"{out}   (band: {band})", len(lines))
    for axes, (varied, line) in zip(panels, lines.items(), strict=True):
        for index, system in enumerate(OURS):
            found = {value: made for value, tables in line.items() if (made := estimates(tables, system, "auc"))}
            if not found:
                continue
            means = [fmean(value for value, _, _ in made) for made in found.values()]
            bounds = [[value for value, _, _ in made] if seeds > 1 else made[0] for made in found.values()]
            color = f"C{index}"
            axes.fill_between([*found], [*map(min, bounds)], [*map(max, bounds)], color=color, alpha=0.15, linewidth=0)
            axes.plot([*found], means, "o-", color=color, label=system)
        without = plain(next(iter(line.values()), []))
        values = [value for tables in line.values() for value, _, _ in estimates(tables, without, "auc")]
        if values:  # it reads no explanation: one line for all
            axes.axhline(fmean(values), color="0.4", linestyle="--", label=without)
        above = [value for value in line if value > 0]
        if len(above) == len(line):
            axes.set_xscale("log")
        elif above:  # 0 has no place on a log axis
            axes.set_xscale("symlog", linthresh=min(above))
            axes.set_xlim(left=-min(above) / 2)
        axes.set_xticks([*line], [f"{value:g}" for value in line])
        axes.set_xticks([], minor=True)
        axes.set(xlabel=LABELS[varied], ylabel="AUC")
    save(picture, out / "sweep.png")


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # a scheduler's, a lost terminal's; nohup's ignoring stays
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the sweep", file=sys.stderr)
        raise SystemExit(130) from None
