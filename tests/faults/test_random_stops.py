"""Runs that are stopped at random moments come to the result of a run that was never stopped."""

import contextlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from faults.callbacks import add
from running import World, expctr, replicated

LONGEST = 2.0
"""Seconds of training before a stop, at most: a part of the run, so that stops occur in all its stages."""
KILLED, TERMINATED, REFUSED = -9, 143, 2
CODES = {"kill": KILLED, "terminate": TERMINATED, "end_time": 0, "fill_disk": REFUSED, "move_clock": KILLED}
"""How a run ends that is stopped in one of the ways of `Mortal`."""
ROOM = "24m"
"""Size of the disk that is filled: a run of 2 MB, and a checkpoint of the half of that being written."""
GOES_ON = "the plan is not finished"


class Stopped:
    """Runs of one kind, each of which is stopped until it ends by itself.

    Args:
        folder: of the runs, in the world's folder.
        way: of stopping, a method of `Mortal`.
        ranks: number of processes that train together, of which the second is stopped.
    """

    def __init__(self, world: World, folder: str, way: str, ranks: int = 1) -> None:
        self.world, self.folder, self.way, self.ranks = world, folder, way, ranks
        self.runs = [self.name(0)]

    def name(self, number: int) -> str:
        return f"{self.folder}/{number}"

    def options(self, run: str) -> list[str]:
        return [*self.world.options(run, "stateful"), *(replicated(self.ranks) if self.ranks > 1 else [])]

    def stop(self, draw: random.Random, saving: bool) -> None:
        """Stop the newest run once; one that ends before is followed by another."""
        while not self._stops(self.runs[-1], draw, saving):
            self.runs.append(self.name(len(self.runs)))

    def _stops(self, run: str, draw: random.Random, saving: bool) -> bool:
        chosen = {"saving": str(saving).lower(), **({"rank": 1} if self.ranks > 1 else {})}
        mortal = add("Mortal", seconds=draw.uniform(0, LONGEST), way=self.way, **chosen)
        outcome = expctr("fit", *self.options(run), "--ckpt_path=last", *mortal, ranks=self.ranks)
        (self.world.folder / self.folder / "ballast").unlink(missing_ok=True)
        if self.ranks == 1:  # of several, those that live on end with an error of the connection
            assert outcome.code in (0, CODES[self.way]), f"{run} ended with code {outcome.code}:\n{outcome.output}"
            assert "Traceback" not in outcome.output, outcome.output
        return bool(outcome.code) or GOES_ON in outcome.output

    def finish(self, run: str) -> tuple[dict[str, object], dict[str, pl.DataFrame]]:
        """Go on to the end, and return the table and the explanations."""
        expctr("fit", *self.options(run), "--ckpt_path=last", ranks=self.ranks).ok()
        expctr("test", *self.world.options(run, "stateful")).ok()
        texts = sorted((self.world.folder / run / "explanations").glob("*.parquet"))
        table = json.loads((self.world.folder / run / "table.json").read_text())
        return table, {path.name: pl.read_parquet(path) for path in texts}


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own in this folder."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "count", "ranks"),
    [
        ("kill", 30, 1),
        ("terminate", 10, 1),
        ("end_time", 10, 1),
        ("fill_disk", 10, 1),
        ("move_clock", 10, 1),
        ("kill", 10, 2),
    ],
)
def test_stopped_runs_come_to_the_same_end(
    way: str, count: int, ranks: int, world: World, pytestconfig: pytest.Config
) -> None:
    """A third of the stops come while a checkpoint is written. A stopped run is resumed, stopped again, and so on; once
    a run ends, the next one begins. The last one may end without a stop.

    `pytest -m slow tests/faults/test_random_stops.py --stop_seed 1 -s` prints the number of stops and runs.
    """
    draw, while_saving = random.Random(pytestconfig.getoption("stop_seed")), 0
    stopped = Stopped(world, f"{way}-{ranks}", way, ranks)
    expected_table, expected_texts = stopped.finish(f"never-stopped-{way}-{ranks}")
    with small_disk(world.folder / stopped.folder) if way == "fill_disk" else contextlib.nullcontext():
        for _ in range(count):
            saving = draw.random() < 1 / 3
            stopped.stop(draw, saving)
            while_saving += saving
        print(json.dumps({"way": way, "stops": count, "while_saving": while_saving, "runs": len(stopped.runs)}))
        for run in stopped.runs:
            table, texts = stopped.finish(run)
            assert table == expected_table, run
            assert texts.keys() == expected_texts.keys(), run
            assert all(texts[name].equals(frame) for name, frame in expected_texts.items()), run
