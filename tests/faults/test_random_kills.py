"""Runs that are killed at random moments come to the result of a run that was never stopped."""

import json
import random
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import yaml
from faults.callbacks import add
from running import World, expctr

from expctr.stages.plan import make_plan
from expctr.training.checkpoint import checkpoints, position

LONGEST = 2.0
"""Seconds of training before a kill, at most: a part of the run, so that kills occur in all its stages."""


def stage_names(run: Path) -> list[str]:
    """Return the stage of each epoch of a run."""
    stages = yaml.safe_load((run / "config.yaml").read_text())["stages"]
    epochs = [stages[stage]["epochs"] for stage in ("lc", "ctr", "ic")]
    return [entry.name for entry in make_plan(epochs[0], stages["rounds"], *epochs[1:])]


def kill_once(world: World, run: str, draw: random.Random) -> str | None:
    """Resume a run until it is killed. Return the stage of its newest checkpoint, or None if the run ended."""
    saving = draw.random() < 1 / 3
    mortal = add("Mortal", seconds=draw.uniform(0, LONGEST), saving=str(saving).lower())
    outcome = expctr("fit", *world.options(run, "stateful"), "--ckpt_path=last", *mortal)
    if outcome.code == 0:
        return None
    assert outcome.code == -9, f"{run} ended by itself, with code {outcome.code}:\n{outcome.output}"
    found = checkpoints(world.folder / run / "checkpoints")
    place = position(found[-1]) if found else (0, 0)
    names = stage_names(world.folder / run)
    stage = names[min(place[0], len(names) - 1)] if place else "?"
    return f"{stage}, saving" if saving else stage


def result(run: Path) -> tuple[dict[str, object], dict[str, pl.DataFrame]]:
    """Return the table and the explanations of a run."""
    texts = {path.name: pl.read_parquet(path) for path in sorted((run / "explanations").glob("*.parquet"))}
    return json.loads((run / "table.json").read_text()), texts


@pytest.mark.slow
def test_killed_runs_come_to_the_same_end(world: World, pytestconfig: pytest.Config) -> None:
    """A third of the kills come while a checkpoint is written. A killed run is resumed, killed again, and so on; once a
    run ends, the next one begins. The last one may end without a kill.

    `pytest -m slow tests/faults/test_random_kills.py --kills 30 --kill_seed 1 -s` prints where the kills came.
    """
    kills, draw = pytestconfig.getoption("kills"), random.Random(pytestconfig.getoption("kill_seed"))
    options = world.options("never-killed", "stateful")
    for command in ("fit", "test"):
        expctr(command, *options).ok()
    expected_table, expected_texts = result(world.folder / "never-killed")

    runs, where = ["killed-0"], Counter[str]()
    for _ in range(kills):
        while (stage := kill_once(world, runs[-1], draw)) is None:
            runs.append(f"killed-{len(runs)}")
        where[stage] += 1
    print(json.dumps({"kills": kills, "runs": len(runs), "where": where}))
    for run in runs:
        options = world.options(run, "stateful")
        expctr("fit", *options, "--ckpt_path=last").ok()
        expctr("test", *options).ok()
        table, texts = result(world.folder / run)
        assert table == expected_table, run
        assert texts.keys() == expected_texts.keys(), run
        assert all(texts[name].equals(frame) for name, frame in expected_texts.items()), run
