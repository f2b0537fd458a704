"""Runs that are killed at random moments come to the result of a run that was never stopped."""

import json
import random
from pathlib import Path

import polars as pl
import pytest
from faults.callbacks import add
from running import World, expctr

LONGEST = 2.0
"""Seconds of training before a kill, at most: a part of the run, so that kills occur in all its stages."""


def kill_once(world: World, run: str, draw: random.Random, saving: bool) -> bool:
    """Resume a run until it is killed, and return whether it was; it may end before."""
    mortal = add("Mortal", seconds=draw.uniform(0, LONGEST), saving=str(saving).lower())
    outcome = expctr("fit", *world.options(run, "stateful"), "--ckpt_path=last", *mortal)
    assert outcome.code in (0, -9), f"{run} ended by itself, with code {outcome.code}:\n{outcome.output}"
    return outcome.code == -9


def result(run: Path) -> tuple[dict[str, object], dict[str, pl.DataFrame]]:
    """Return the table and the explanations of a run."""
    texts = {path.name: pl.read_parquet(path) for path in sorted((run / "explanations").glob("*.parquet"))}
    return json.loads((run / "table.json").read_text()), texts


@pytest.mark.slow
def test_killed_runs_come_to_the_same_end(world: World, pytestconfig: pytest.Config) -> None:
    """A third of the kills come while a checkpoint is written. A killed run is resumed, killed again, and so on; once a
    run ends, the next one begins. The last one may end without a kill.

    `pytest -m slow tests/faults/test_random_kills.py --kills 30 --kill_seed 1 -s` prints the number of kills and runs.
    """
    kills, draw = pytestconfig.getoption("kills"), random.Random(pytestconfig.getoption("kill_seed"))
    options = world.options("never-killed", "stateful")
    for command in ("fit", "test"):
        expctr(command, *options).ok()
    expected_table, expected_texts = result(world.folder / "never-killed")

    runs, while_saving = ["killed-0"], 0
    for _ in range(kills):
        saving = draw.random() < 1 / 3
        while not kill_once(world, runs[-1], draw, saving):
            runs.append(f"killed-{len(runs)}")
        while_saving += saving
    print(json.dumps({"kills": kills, "while_saving": while_saving, "runs": len(runs)}))
    for run in runs:
        options = world.options(run, "stateful")
        expctr("fit", *options, "--ckpt_path=last").ok()
        expctr("test", *options).ok()
        table, texts = result(world.folder / run)
        assert table == expected_table, run
        assert texts.keys() == expected_texts.keys(), run
        assert all(texts[name].equals(frame) for name, frame in expected_texts.items()), run
