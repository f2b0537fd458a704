"""Runs of the command line as jobs: each in a process of its own, several at a time, resumable, with a progress bar."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.append(str(Path(__file__).parents[1]))
from rewards import Curves, read

HERE = Path(__file__).parent


class FailedRunError(RuntimeError):
    """A command that ended with an error."""


def arguments(description: str | None, out: str) -> argparse.ArgumentParser:
    """What every experiment can be told.

    Args:
        description: for --help.
        out: the default folder.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=_at_least_one, default=2, help="runs at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def expctr(command: str, folder: Path, *args: object) -> None:
    """Run `expctr COMMAND` with one thread and this folder's modules at hand; its output goes to `FOLDER/log.txt`.

    Args:
        command: `fit` or `test`.
        folder: of the run.
        args: further arguments.

    Raises:
        FailedRunError: with the last lines it printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, **threads, "PYTHONPATH": paths}
    line = [sys.executable, "-m", "expctr", command, *map(str, args), f"--trainer.default_root_dir={folder}"]
    with (folder / "log.txt").open("a") as log:
        print("$", *line, file=log, flush=True)
        done = subprocess.run(line, stdout=log, stderr=log, env=environ, check=False)
    if done.returncode:
        tail = (folder / "log.txt").read_text(errors="replace").splitlines()[-8:]
        raise FailedRunError(f"{folder}: exit code {done.returncode}\n" + "\n".join(tail))


def fit_and_test(folder: Path, *args: object) -> None:
    """Fit, going on where an earlier call was stopped, and test; nothing where that was done already.

    `FOLDER/run.json` keeps the options, whether it was done, and the seconds that it took, over all calls.

    Raises:
        FailedRunError: a command failed, or the folder holds a run with other options.
    """
    kept, line = folder / "run.json", [str(arg) for arg in args]
    record = json.loads(kept.read_text()) if kept.exists() else {"args": line, "done": False, "seconds": 0.0}
    if record["args"] != line:
        other = [arg for arg in line if arg not in record["args"]] + [arg for arg in record["args"] if arg not in line]
        raise FailedRunError(f"{folder} holds a run with other options ({', '.join(other)}): give another --out")
    if record["done"]:
        return
    began = time.monotonic()
    try:
        expctr("fit", folder, *line, "--ckpt_path=last")
        expctr("test", folder, *line)
        record["done"] = True
    finally:
        record["seconds"] += time.monotonic() - began
        kept.write_text(json.dumps(record))


def seconds(folder: Path) -> float:
    """What fit and test took in all."""
    return float(json.loads((folder / "run.json").read_text())["seconds"])


def in_parallel(jobs: dict[str, Callable[[], None]], workers: int, title: str) -> None:
    """Do jobs, some at a time.

    Raises:
        SystemExit: some failed, which it names; the others were done.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    failures = []
    with (
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        task = progress.add_task(title, total=len(jobs))
        futures = {pool.submit(job): name for name, job in jobs.items()}
        try:
            for future in as_completed(futures):
                if error := future.exception():
                    failures.append(f"{futures[future]}: {error}")
                progress.advance(task)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise SystemExit("stopped; the same command goes on") from None
    if failures:
        raise SystemExit("\n\n".join(failures))


def table(folder: Path) -> dict[str, Any]:
    """The result table of a run."""
    read: dict[str, Any] = json.loads((folder / "table.json").read_text())
    return read


def auc(folder: Path, name: str) -> float:
    """A system's test AUC, or that of a trained model on other explanations."""
    found = table(folder)
    return float((found["systems"] | found["sources"])[name]["auc"]["value"])


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """A curve of TensorBoard, (training batches, value); empty where there is none."""
    return list(_curves(folder).get(tag, {}).items())


@cache
def _curves(folder: Path) -> Curves:
    return read(str(folder))  # takes seconds a run, and each run is asked for many curves


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean, and half the range."""
    return f"{sum(values) / len(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"
