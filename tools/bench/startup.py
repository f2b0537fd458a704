"""Startup time: `expctr --help`, `expctr fit --help`, and the quickstart's first training step.

    python -m tools.bench.startup    # median of five rounds; downloads MovieLens-100K into .data

Times are from the launch of the process to its end; the process that trains ends after the update of its first rollout
batch. The first round does not count: it reads the libraries from disk and makes the samples. Other load on the machine
affects the processor's seconds less than the wall time. The last line is JSON.
"""

import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import rich
from rich.table import Table

from tools.get_movielens import get_movielens
from tools.runs import COMMAND, ROOT, script

RATINGS = ROOT / ".data/ml-100k"


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the arguments of `expctr` by the name of the measurement."""
    fit = ["fit", f"--config={ROOT / 'configs/quickstart.yaml'}", f"--data.path={RATINGS}"]
    fit += [f"--data.cache_dir={folder / 'cache'}", f"--trainer.default_root_dir={folder / 'run'}"]
    fit += ["--trainer.callbacks+=tools.bench.callbacks.StopAfterFirstStep"]
    return {"help_s": ["--help"], "fit_help_s": ["fit", "--help"], "first_step_s": fit}


def measure(args: list[str]) -> tuple[float, float]:
    """Return wall and processor seconds of one `expctr ARGS`."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*COMMAND, *args], capture_output=True, text=True, env=environ, check=False)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"expctr {' '.join(args)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure in turns, so that other load affects all alike; print the table and the line of JSON."""
    parser = script(__doc__)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    get_movielens(RATINGS)
    with tempfile.TemporaryDirectory() as folder:
        work = commands(Path(folder))
        rounds = [{name: measure(args) for name, args in work.items()} for _ in range(options.times + 1)][1:]
    shown = Table("", "median s", "fastest to slowest", "processor s")
    medians = {}
    for name in work:
        walls, processor = zip(*(one[name] for one in rounds), strict=True)
        medians[name] = round(median(walls), 3)
        shown.add_row(name, f"{median(walls):.2f}", f"{min(walls):.2f} to {max(walls):.2f}", f"{median(processor):.2f}")
    rich.print(shown)
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
