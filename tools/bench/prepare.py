"""Seconds of `expctr prepare`, from raw ratings to samples, on generated files.

    python -m tools.bench.prepare    # 2, 5, 10 and 20 million rows in MovieLens-20M's layout
    python -m tools.bench.prepare --layout amazon-2014 --millions 0.3 1

The files are those of `tools.bench.raw_data`, in runs/raw_data, made once. Each preparation runs in its own process
with an empty cache. Seconds are those of the data module's `setup`, without imports, and of the processor; memory is
the peak of the process. The start from the cache is timed in another process, on the largest files; the catalogue's
seconds are those of finding a title there. The slope is that of log seconds over log rows: 1 is linear. The last line
is JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rich
from rich.table import Table

from tools.bench.raw_data import LAYOUTS, generate
from tools.bench.turns import ROOT, memory_gb
from tools.runs import script


def child(layout: str, folder: str, cache: str) -> None:
    """Prepare, and print the time and memory."""
    from expctr.data.datamodules import AmazonBooksDataModule, MovieLensDataModule

    kind = MovieLensDataModule if layout.startswith("movielens") else AmazonBooksDataModule
    data = kind(folder, cache_dir=cache)
    before, began = _processor(), time.monotonic()
    data.setup()
    took = time.monotonic() - began
    said = {"seconds": took, "processor": _processor() - before, "peak_gb": memory_gb()}
    began = time.monotonic()
    data.catalogue.matches("a title that no item has")
    said["catalogue"] = time.monotonic() - began
    print(json.dumps({**said, "rows": data.summary.rows, "samples": data.samples.height}))


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def prepare(layout: str, folder: Path, cache: str) -> dict[str, Any]:
    line = [sys.executable, "-m", "tools.bench.prepare", "--child", layout, str(folder.resolve()), cache]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{folder}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--layout", choices=[*LAYOUTS], default="movielens-20m")
    parser.add_argument("--millions", nargs="+", type=float, default=[2, 5, 10, 20])
    parser.add_argument("--out", type=Path, default=Path("runs/raw_data"))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(*asked.child)
        return
    shown = Table("million rows", "seconds", "processor s", "peak GB", "samples")
    found = {}
    for millions in sorted(asked.millions):
        folder = generate(asked.layout, round(millions * 1_000_000), asked.out)
        with TemporaryDirectory() as cache:
            first = found[millions] = prepare(asked.layout, folder, cache)
            again = prepare(asked.layout, folder, cache)
        numbers = [f"{first[name]:.1f}" for name in ("seconds", "processor", "peak_gb")]
        shown.add_row(f"{first['rows'] / 1e6:.1f}", *numbers, f"{first['samples']:,}")
    rich.print(shown)
    rows, seconds = (np.log([one[key] for one in found.values()]) for key in ("rows", "seconds"))
    slope = float(np.polyfit(rows, seconds, 1)[0]) if len(found) > 1 else None
    last = max(found)
    result = {f"{name}_{last:g}m": round(found[last][name], 2) for name in ("seconds", "processor", "peak_gb")}
    result |= {"slope": slope and round(slope, 3), "seconds_cached": round(again["seconds"], 3)}
    print(json.dumps(result | {"seconds_catalogue": round(again["catalogue"], 3)}))


if __name__ == "__main__":
    main()
