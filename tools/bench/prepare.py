"""Seconds of `expctr prepare`, from raw ratings to samples, on generated files.

    python -m tools.bench.prepare    # 2, 5, 10 and 20 million rows; files in runs/raw_data, made once

The files look like MovieLens-20M; fewer rows mean fewer users. Each preparation runs in its own process with an empty
cache. Seconds are those of `MovieLensDataModule.setup`, without imports; memory is the peak of the process. The cached
start is timed in another process, on the largest file. The slope is that of log seconds over log rows: 1 is linear. The
last line is JSON.
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
import polars as pl
import rich
from rich.table import Table

from tools.bench.turns import ROOT, memory_gb
from tools.runs import script

USERS, MOVIES, ROWS = 138_493, 27_278, 20_000_263
"""The sizes of MovieLens-20M."""
GENRES = ("Action", "Adventure", "Comedy", "Crime", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller", "War")
STARS = np.array([1.2, 3.4, 1.4, 7.2, 4.4, 21.5, 11.0, 27.8, 7.7, 14.4]) / 100
"""Shares of the ratings from 0.5 to 5."""


def generate(folder: Path, rows: int) -> None:
    """Write `ratings.csv` and `movies.csv`, unless they exist."""
    if (folder / "ratings.csv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    users = round(USERS * rows / ROWS)
    drawn = round(1.5 * rows)  # duplicate pairs are dropped, and then surplus rows
    activity = draw.lognormal(0, 1.2, users)
    counts = 25 + np.floor(activity / activity.sum() * (drawn - 25 * users)).astype(np.int64)
    popularity = 1 / np.arange(100, 100 + MOVIES) ** 1.4  # in 0.4% of the ratings, and in 0.0002%
    movies = draw.permutation(5 * MOVIES)[:MOVIES] + 1  # ids with gaps, and not in the order of popularity
    rank = draw.choice(MOVIES, counts.sum(), p=popularity / popularity.sum())
    frame = pl.DataFrame({"userId": np.repeat(np.arange(1, users + 1), counts), "movieId": movies[rank]})
    frame = frame.unique(maintain_order=True).sample(rows, seed=0).sort("userId", "movieId")
    began = draw.integers(789_652_009, 1_400_000_000, users)
    frame = frame.with_columns(
        rating=pl.Series(draw.choice(np.arange(0.5, 5.5, 0.5), rows, p=STARS)),
        timestamp=pl.Series(began[frame["userId"].to_numpy() - 1] + draw.integers(0, 15_000_000, rows)),
    )

    names = [f"Film {movie}, The ({1930 + movie % 85})" if movie % 5 else f"Film {movie} (1990)" for movie in movies]
    genres = ["|".join(sorted({GENRES[movie % 10], GENRES[movie // 10 % 10]})) for movie in movies]
    titles = pl.DataFrame({"movieId": movies, "title": names, "genres": genres})
    titles.sort("movieId").write_csv(folder / "movies.csv")
    aside = folder / "ratings.part"  # renamed when complete, so that an interrupted run leaves no partial file
    frame.write_csv(aside)
    aside.replace(folder / "ratings.csv")


def child(folder: Path, cache: Path) -> None:
    """Prepare, and print the time and memory."""
    from expctr.data.datamodules import MovieLensDataModule

    data = MovieLensDataModule(str(folder), cache_dir=str(cache))
    began = time.monotonic()
    data.setup()
    took = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    said = {"seconds": took, "processor": used.ru_utime + used.ru_stime, "peak_gb": memory_gb()}
    print(json.dumps({**said, "rows": data.summary.rows, "samples": data.samples.height}))


def prepare(folder: Path, cache: Path) -> dict[str, Any]:
    line = [sys.executable, "-m", "tools.bench.prepare", "--child", str(folder.resolve()), str(cache)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{folder}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--millions", nargs="+", type=int, default=[2, 5, 10, 20])
    parser.add_argument("--out", type=Path, default=Path("runs/raw_data"))
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(*asked.child)
        return
    shown = Table("million rows", "seconds", "processor s", "peak GB", "samples")
    found = {}
    for millions in sorted(asked.millions):
        folder = asked.out / f"{millions}m"
        generate(folder, millions * 1_000_000)
        with TemporaryDirectory() as cache:
            first = found[millions] = prepare(folder, Path(cache))
            again = prepare(folder, Path(cache))
        numbers = [f"{first[name]:.1f}" for name in ("seconds", "processor", "peak_gb")]
        shown.add_row(f"{first['rows'] / 1e6:.1f}", *numbers, f"{first['samples']:,}")
    rich.print(shown)
    rows, seconds = (np.log([one[key] for one in found.values()]) for key in ("rows", "seconds"))
    slope = float(np.polyfit(rows, seconds, 1)[0]) if len(found) > 1 else None
    last = max(found)
    result = {f"{name}_{last}m": round(found[last][name], 2) for name in ("seconds", "peak_gb")}
    result |= {"slope": slope and round(slope, 3), "seconds_cached": round(again["seconds"], 3)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
