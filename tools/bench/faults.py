"""Kills runs (`kill -9`) at thirty random moments, a third of them while a checkpoint is written; compares the ends.

    python tools/bench/faults.py          # a new folder under the system's for temporary files

The run is that of tests/invariants/test_resume.py: all stages twice, with everything that a checkpoint has to carry. A
killed run goes on by `--ckpt_path last`, is killed again, and so on; one that ends makes room for the next, until there
were as many kills as asked for. The last run may then end in peace. Each has to come to the table and the explanations
of a run that was never stopped. The last line is JSON.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import polars as pl
import yaml
from rich.progress import track

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from running import CONF, World, expctr, make_world

from expctr.training.checkpoint import checkpoints, position
from expctr.training.scheduler import make_plan

CONFIGS = ("tiny", "stateful")
LONGEST = 2.0
"""Seconds of training until a kill, at most: some of the run, so that the kills spread over its stages."""


def stages() -> list[str]:
    """The stage of each epoch of the run."""
    counts: dict[str, int] = {}
    for name in CONFIGS:
        counts |= yaml.safe_load((CONF / f"{name}.yaml").read_text())["stages"]
    return [entry.name for entry in make_plan(**counts)]


def killed(world: World, run: str, draw: random.Random) -> str | None:
    """Go on with a run until it is killed; the stage that its newest checkpoint is in, or `None` if it ended."""
    saving = draw.random() < 1 / 3
    moment = {"seconds": draw.uniform(0, LONGEST), "saving": str(saving).lower()}
    args = [f"--trainer.callbacks.init_args.{name}={value}" for name, value in moment.items()]
    options = [*world.options(run, "stateful"), "--ckpt_path=last"]
    outcome = expctr("fit", *options, "--trainer.callbacks+=running.Mortal", *args)
    if outcome.code == 0:
        return None
    if outcome.code != -9:
        raise SystemExit(f"{run} ended by itself, with code {outcome.code}:\n{outcome.output}")
    found = checkpoints(world.folder / run / "checkpoints")
    place = position(found[-1]) if found else (0, 0)
    names = stages()
    stage = names[min(place[0], len(names) - 1)] if place else "?"
    return f"{stage}, saving" if saving else stage


def same(one: Path, other: Path) -> dict[str, bool]:
    """Whether two runs came to the same."""
    tables = [json.loads((run / "table.json").read_text()) for run in (one, other)]
    files = [sorted(path.name for path in (run / "explanations").glob("*.parquet")) for run in (one, other)]
    equal = files[0] == files[1] and all(
        pl.read_parquet(one / "explanations" / name).equals(pl.read_parquet(other / "explanations" / name))
        for name in files[0]
    )
    return {"same_table": tables[0] == tables[1], "same_explanations": equal}


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    world = make_world(Path(tempfile.mkdtemp(prefix="expctr-faults-")) / "world")
    options = world.options("whole", "stateful")
    for command in ("fit", "test"):
        expctr(command, *options).ok()

    runs, where = ["killed-0"], Counter[str]()
    for _ in track(range(asked.kills), "kills"):
        while (stage := killed(world, runs[-1], draw)) is None:
            runs.append(f"killed-{len(runs)}")
        where[stage] += 1
    found = {"same_table": True, "same_explanations": True}
    for run in runs:
        options = world.options(run, "stateful")
        expctr("fit", *options, "--ckpt_path=last").ok()
        expctr("test", *options).ok()
        outcome = same(world.folder / "whole", world.folder / run)
        found = {name: value and outcome[name] for name, value in found.items()}
        print(run, outcome)
    saving = sum(count for stage, count in where.items() if stage.endswith("saving"))
    print(json.dumps({"kills": asked.kills, "while_saving": saving, "runs": len(runs), **found, "where": where}))


if __name__ == "__main__":
    main()
