"""Random files, titles, requests and options, for as long as you like: does any of them give a traceback or hang?

    python -m tools.bench.fuzz --run runs/quickstart --minutes 60            # all targets in turn
    python -m tools.bench.fuzz --run runs/quickstart --minutes 5 --targets table request

An input may give an error for people. It may not raise anything else, take over 10 s of processor time, or over 1 GB
of memory. Each fault is printed with the smallest input that shows it; the last line is JSON. Exit code 1: there are
faults.
"""

import argparse
import faulthandler
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from expctr.modules.staged import StagedModule
from expctr.report.run import read_run
from expctr.serving.worker import ModelWorker
from tools.fuzz import options, requests, tables, texts
from tools.fuzz.check import FaultError

_HANGS = 120  # seconds of one input after which the process ends with a traceback


class Target(NamedTuple):
    """Something that reads what others wrote."""

    inputs: st.SearchStrategy[Any]
    """How an input is drawn."""
    attempt: Callable[[Any], None]
    """Gives it one; raises FaultError."""
    per_round: int = 100
    """How many inputs a round has."""


class Fault(NamedTuple):
    """What went wrong, and the smallest input that was found for it."""

    what: str
    given: str


def make_targets(run: Path, folder: Path) -> dict[str, Target]:
    """All targets, by name.

    Args:
        run: the folder of a trained and tested run of ExpCTRModule.
        folder: an empty one, for what commands write.
    """
    worker = ModelWorker(run, None, "cpu")
    with patch("signal.signal"):  # the worker is no process of its own here
        worker.setup("cpu")
    predictor = worker.predictor
    assert isinstance(predictor.module, StagedModule)
    drawn = read_run(run)
    drawn = replace(drawn, test=drawn.test.head(3))
    with suppress(FaultError):  # the first start of a command imports for seconds
        options.try_option(run, folder, ("seed_everything", "0"))
    return {
        "table": Target(tables.TABLES, tables.try_table),
        "layout": Target(tables.layouts(), tables.try_layout),
        "people": Target(tables.PEOPLE, partial(tables.try_people, predictor.data)),
        "pairs": Target(tables.PAIRS, partial(tables.try_pairs, predictor)),
        "prompt": Target(texts.SAMPLE, partial(texts.try_prompt, predictor.module.models.policy.prompts)),
        "report": Target(st.lists(texts.TITLE, min_size=1, max_size=3), partial(texts.try_report, drawn), 10),
        "request": Target(requests.requests(), partial(requests.try_request, requests.client(worker))),
        "option": Target(options.options(run), partial(options.try_option, run, folder), 10),
    }


def find_fault(target: Target, count: int, number: int) -> Fault | None:
    """Give a target some random inputs.

    Args:
        target: what reads them.
        count: how many.
        number: the seed.

    Returns:
        The first fault, with its smallest input; None if there is none.
    """
    found: list[Fault] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
        report_multiple_bugs=False,
    )
    @given(target.inputs)
    def attempt(drawn: Any) -> None:
        faulthandler.dump_traceback_later(_HANGS, exit=True)
        try:
            target.attempt(drawn)
        except FaultError as error:
            found.append(Fault(str(error), repr(drawn)[:2000]))
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    try:
        attempt()
    except (FaultError, Flaky):
        return found[-1]
    return None


def main(args: Sequence[str] | None = None) -> None:
    """Try all targets in turn until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the folder of a trained and tested run")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--targets", nargs="*", help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each round adds one")
    own = parser.parse_args(args)
    end = time.monotonic() + 60 * own.minutes
    tried: dict[str, int] = {}
    faults: dict[str, str] = {}
    number = own.seed
    with tempfile.TemporaryDirectory() as folder:
        targets = make_targets(own.run, Path(folder))
        while time.monotonic() < end:
            for name in own.targets or targets:
                fault = find_fault(targets[name], targets[name].per_round, number)
                tried[name] = tried.get(name, 0) + targets[name].per_round
                if fault and f"{name}: {fault.what}" not in faults:
                    faults[f"{name}: {fault.what}"] = fault.given
                    print(f"seed {number}, {name}: {fault.what}\n    {fault.given}", flush=True)
            number += 1
    print(json.dumps({"minutes": own.minutes, "rounds": number - own.seed, "inputs": tried, "faults": len(faults)}))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
