"""Runs of `expctr` as jobs: several at a time, resumable, with a progress bar; and what they leave behind."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from expctr.report.curves import Curves, read_events
from expctr.systems import METRICS

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "expctr"]
PHASES = ("prefill", "decode", "score", "reference", "train")
"""Parts of a rollout batch whose seconds are logged."""
PATIENCE = 30.0
"""Seconds that runs have to end by themselves after a Ctrl-C."""
_running: set["subprocess.Popen[bytes]"] = set()
_lock, _stopping = threading.Lock(), threading.Event()
Job = Callable[[], None]


class FailedRunError(RuntimeError):
    """A command that ended with an error."""


def script(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help shows a module's docstring as it is."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=layout, allow_abbrev=False)


def arguments(description: str | None, out: str, **defaults: object) -> argparse.ArgumentParser:
    """Return a parser of the options that all experiments have."""
    parser = script(description)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=_at_least_one, default=2, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of all runs and results")
    parser.set_defaults(**defaults)
    return parser


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


# --- running


def expctr(command: str, folder: Path, *args: object, threads: int = 1) -> None:
    """Run `expctr COMMAND`; its output goes to `FOLDER/COMMAND.log`.

    Raises:
        FailedRunError: with the reason that the command printed last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log = folder / f"{command}.log"
    with _lock, log.open("wb") as out:
        if _stopping.is_set():
            raise FailedRunError("stopped")
        process = subprocess.Popen(
            [*COMMAND, command, *map(str, args), f"--trainer.default_root_dir={folder}"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on once
        )
        _running.add(process)
    code = process.wait()
    _running.discard(process)
    if code:
        said = log.read_text(encoding="utf-8", errors="replace")
        raise FailedRunError(f"{last_words(said, code)} (the whole output is in {log})")


def run_once(commands: Sequence[str], folder: Path, *args: object) -> None:
    """Run commands of `expctr` in one folder, unless all are done; `fit` resumes from the last checkpoint, if any.

    `FOLDER/run.json` keeps the options, whether the commands are done, and the seconds that they took in all calls.

    Raises:
        FailedRunError: a command failed, or the folder holds a run with other options.
    """
    kept, line = folder / "run.json", [str(arg) for arg in args]
    record = json.loads(kept.read_text()) if kept.exists() else {"args": line, "done": False, "seconds": 0.0}
    if record["args"] != line:
        other = [arg for arg in line if arg not in record["args"]] + [arg for arg in record["args"] if arg not in line]
        raise FailedRunError(f"{folder} holds a run with other options ({', '.join(other)}). Fix: use another --out")
    if record["done"]:
        return
    began = time.monotonic()
    try:
        for command in commands:
            expctr(command, folder, *line, *(["--ckpt_path=last"] if command == "fit" else []))
        record["done"] = True
    finally:
        record["seconds"] += time.monotonic() - began
        kept.write_text(json.dumps(record))


fit_and_test = partial(run_once, ("fit", "test"))


def run_all(
    jobs: Mapping[str, Job], workers: int, title: str, share_done: Callable[[str], float] = lambda name: 0.0
) -> dict[str, str]:
    """Do all jobs, some at a time, and return why jobs failed, by their names.

    `share_done` returns how much of an unfinished job is done, from 0 to 1, by its name.
    """
    failures: dict[str, str] = {}
    shown = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
    # the estimate uses the speed since the start, because a job may take hours
    progress = Progress(*shown, console=Console(stderr=True), speed_estimate_period=float("inf"))
    with progress, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(job): name for name, job in jobs.items()}
        waiting = set(futures)
        task = progress.add_task(title, total=len(jobs), completed=sum(map(share_done, jobs)))
        progress.advance(task, 0)  # the speed is measured from here
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ended:
                    if error := future.exception():
                        failures[futures[future]] = str(error)
                    outcome = "failed" if error else "is done"
                    progress.console.print(f"{futures[future]} {outcome}", highlight=False)
                under_way = sum(share_done(futures[future]) for future in waiting)
                progress.update(task, completed=len(jobs) - len(waiting) + under_way)
        finally:
            if waiting:
                pool.shutdown(wait=False, cancel_futures=True)
                _stop_all()
    return failures


def in_parallel(jobs: Mapping[str, Job], workers: int, title: str) -> None:
    report_failures(run_all(jobs, workers, title))


def report_failures(failures: Mapping[str, str]) -> None:
    """End the program with the names of jobs that failed, and why."""
    if failures:
        raise SystemExit("\n\n".join(f"{name}: {why}" for name, why in failures.items()))


def _stop_all() -> None:
    """Leave no process behind: pass the Ctrl-C on, and kill what does not end in time."""
    with _lock:
        _stopping.set()
        processes = list(_running)
    try:
        for process in processes:
            os.killpg(process.pid, signal.SIGINT)
        end = time.monotonic() + PATIENCE
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            time.sleep(0.1)
    finally:  # also after a second Ctrl-C
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def start(main: Job) -> None:
    """Run a tool that can be interrupted: by Ctrl-C, a scheduler's SIGTERM, or a lost terminal's SIGHUP."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup's handler stays
            signal.signal(number, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        print("stopped. Run the same command again to resume", file=sys.stderr)
        raise SystemExit(130) from None


def last_words(output: str, code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error:|[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [f"exit code {code}"])[-1]


# --- results


def is_done(folder: Path) -> bool:
    """Return whether all commands of `run_once` are done."""
    kept = folder / "run.json"
    return kept.exists() and bool(json.loads(kept.read_text())["done"])


def seconds(folder: Path) -> float:
    """Return what fit and test took in all."""
    return float(json.loads((folder / "run.json").read_text())["seconds"])


def table(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    return content


def auc(folder: Path, name: str) -> float:
    """Return the test AUC of a system, or of a trained model on other explanations."""
    found = table(folder)
    return float((found["systems"] | found["sources"])[name]["auc"]["value"])


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Return a curve of TensorBoard as (training batches, value); empty if there is none."""
    return list(_curves(folder).get(tag, {}).items())


def validation(folder: Path, monitor: str) -> dict[str, float]:
    """Return AUC and LogLoss of the validation that a fit without stages keeps the weights of; empty if it has none.

    Args:
        folder: of the run.
        monitor: the metric that the fit stops by, `auc` or `logloss`.
    """
    curves = {name: dict(curve(folder, f"val/{name}")) for name in ("auc", "logloss")}
    known = curves["auc"].keys() & curves["logloss"].keys()  # AUC is undefined where all labels are the same
    if not known:
        return {}
    choose = max if METRICS[monitor].higher_is_better else min
    best = choose(sorted(known), key=curves[monitor].__getitem__)  # the first of equal ones, as early stopping keeps
    return {name: values[best] for name, values in curves.items()}


@cache
def _curves(folder: Path) -> Curves:
    return read_events(folder).curves  # takes seconds per run, and callers need many curves of a run


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean ± half the range."""
    return f"{fmean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"


def print_seeds(title: str, found: Mapping[str, Sequence[float]], seeds: Sequence[int], digits: int = 3) -> None:
    """Print a table of values by name, one per seed."""
    shown = Table(title, "mean ± half the range", *(f"seed {seed}" for seed in seeds))
    for name, values in found.items():
        shown.add_row(name, mean_and_spread(values), *(f"{value:.{digits}f}" for value in values))
    Console().print(shown)


def markdown_table(headings: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown; the first heading is that of the rows' names."""
    rule = "|---" + "|---:" * (len(headings) - 1) + "|"
    return [f"| {' | '.join(headings)} |", rule, *(f"| {' | '.join([name, *row])} |" for name, row in rows.items())]
