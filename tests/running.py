"""Runs of the real command line on tiny data, each in its own process, and readers of what they leave behind.

Importing torch takes longer than such a run, so the processes are forked from a server that has imported everything
and run nothing. `tests/cli/test_app.py` tests `python -m expctr` itself.

A test that starts processes belongs to the tier `cli`. `conftest.py` finds these tests and gives them the marker.
"""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from conftest import make_llm
from filelock import FileLock
from polars.testing import assert_frame_equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.multiprocessing import start_processes

TESTS = Path(__file__).parent
CONF = TESTS / "conf"
LIMIT = 300.0
"""Seconds after which a process counts as hanging."""
ENVIRON = {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "OMP_NUM_THREADS": "1"}
"""Variables of runs in a new interpreter: they use this checkout and can import the tests' callbacks."""


allowed = True
"""Whether the current test may start processes; `conftest.py` sets it."""


class Outcome(NamedTuple):
    """How a process ended.

    Attributes:
        code: its exit code, or the negative number of the signal that killed it.
        output: what it printed.
    """

    code: int
    output: str

    def ok(self) -> "Outcome":
        """Return itself if the process succeeded; else fail with its output."""
        assert self.code == 0, f"exit code {self.code}\n{self.output}"
        return self


def sharded(ranks: int) -> list[str]:
    """Return options that train on some ranks, with everything sharded."""
    return [f"--config={TESTS.parent / 'configs' / 'fsdp.yaml'}", f"--trainer.devices={ranks}"]


def replicated(ranks: int) -> list[str]:
    """Return options that train on some ranks, each of which holds everything."""
    return [f"--config={TESTS.parent / 'configs' / 'ddp.yaml'}", f"--trainer.devices={ranks}"]


def expctr(*args: object, ranks: int = 1, environ: Mapping[str, str] = {}, others: Sequence[object] = ()) -> Outcome:
    """Run `expctr ARGS`.

    Args:
        args: the command line.
        ranks: number of processes that train together, started as on a cluster.
        environ: more environment variables.
        others: more of the command line, of all ranks but the first.
    """
    line = [str(arg) for arg in args]
    places = [dict(environ) for _ in range(ranks)]
    if ranks > 1:
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
        places = [{**environ, **common, "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)} for rank in range(ranks)]
    with _scratch() as folder:
        logs = [folder / f"{rank}.txt" for rank in range(ranks)]
        lines = [line, *[[*line, *map(str, others)]] * (ranks - 1)]
        works = [start(*work) for work in zip(lines, places, logs, strict=True)]
        end = time.monotonic() + LIMIT
        while any(work.is_alive() for work in works) and time.monotonic() < end:
            if any(work.exitcode for work in works):  # one failed, and the others may wait for it forever
                end = min(end, time.monotonic() + 5)
            time.sleep(0.05)
        hanging = [work for work in works if work.is_alive()]
        for work in hanging:
            work.kill()
        for work in works:
            work.join()
        output = "\n".join(log.read_text(errors="replace") for log in logs if log.exists())
        codes = [work.exitcode or 0 for work in works]
        failed = [code for work, code in zip(works, codes, strict=True) if code and work not in hanging]
        return Outcome(failed[0] if failed else 124 if hanging else 0, output)


def start(line: list[str], environ: Mapping[str, str], log: Path) -> BaseProcess:
    """Start `expctr LINE`, which writes into `log`."""
    assert allowed, "this test starts processes: mark it with @pytest.mark.cli"
    work = server().Process(target=_work, args=(line, dict(environ), str(log)))
    work.start()
    return work


def together(work: Callable[..., None], *args: Any, ranks: int = 2) -> None:
    """Call `work(rank, *args)` in processes of their own, at once; raise what one of them raises."""
    server()
    start_processes(work, args, nprocs=ranks, start_method="forkserver")


@cache
def server() -> ForkServerContext:
    """Return the context of processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["expctr.cli.app", "peft", "sentence_transformers", "faults.callbacks", "coverage"])
    with pytest.MonkeyPatch.context() as patch:  # the server of Python 3.11 ignores its parent's sys.path
        for name, value in ENVIRON.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return context


def _work(line: list[str], environ: Mapping[str, str], log: str) -> None:
    os.environ |= environ
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["expctr", *line]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores for all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell does for what it starts in the background
    from expctr.__main__ import main

    main()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# --- tiny data


class World(NamedTuple):
    """A folder with the model and the data of all runs, and with the runs that tests share."""

    folder: Path

    def options(self, run: str | Path, *configs: str) -> list[str]:
        """Return options of a run in the folder `run`, with configs of `tests/conf` over `tiny.yaml`."""
        args = [f"--config={CONF / name}.yaml" for name in ("tiny", *configs)]
        return [*args, *self.paths(run)]

    def paths(self, run: str | Path) -> list[str]:
        """Return the options that name the folders of the model, the data and the run."""
        return [
            f"--model.init_args.explainer.llm.path={self.folder / 'llm'}",
            f"--model.init_args.encoder.path={self.folder / 'llm'}",
            f"--data.init_args.path={self.folder / 'movielens'}",
            f"--data.init_args.cache_dir={self.folder / 'cache'}",
            f"--trainer.default_root_dir={self.folder / run}",
        ]

    def once(self, run: str, *lines: list[str], ranks: int = 1) -> Path:
        """Return the folder of a run that tests share. The first test that asks for it runs the command lines."""
        with self.first(run) as first:
            for line in lines if first else ():
                expctr(*line, ranks=ranks).ok()
        return self.folder / run

    def tested(self, run: str) -> Path:
        """Return the folder of a run that is trained and tested, once for all tests."""
        options = self.options(run)
        return self.once(run, ["fit", *options], ["test", *options])

    @contextlib.contextmanager
    def first(self, name: str) -> Iterator[bool]:
        """Yield whether this is the first use of the name by any worker; later uses wait until the first is done."""
        done = self.folder / f"{name}.done"
        with FileLock(f"{done}.lock"):
            yield not done.exists()
            done.touch()


def make_world(folder: Path) -> World:
    """Write a language model and ratings, once for all workers."""
    folder.mkdir(exist_ok=True)
    world = World(folder)
    with world.first("world") as first:
        if first:
            make_llm(folder / "llm")
            movielens(folder / "movielens")
    return world


ITEMS = range(1, 31)


def tastes(users: int = 60, each: int = 8) -> list[tuple[int, int, bool, int]]:
    """Return user, item, liked, time. Each user rates some items; both ids and chance decide whether they like one."""
    draw = random.Random(0)
    rows = []
    for user in range(1, users + 1):
        for moment, item in enumerate(draw.sample(ITEMS, each)):
            liked = ((user + item) % 2 == 0) != (draw.random() < 0.2)
            rows.append((user, item, liked, 1000 * user + moment))
    return rows


def movielens(folder: Path) -> Path:
    """Write the ratings in the layout of MovieLens-100K."""
    folder.mkdir(exist_ok=True)
    rows = [f"{user}\t{item}\t{4 if liked else 2}\t{time}" for user, item, liked, time in tastes()]
    (folder / "u.data").write_text("\n".join(rows) + "\n")
    items = [
        f"{item}|Film {item}, The ({1950 + item})|01-Jan-1995||http://film|"
        + "|".join(str(int((item * 7 + genre) % 5 == 0)) for genre in range(19))
        for item in ITEMS
    ]
    (folder / "u.item").write_text("\n".join(items) + "\n", encoding="latin-1")
    return folder


def amazon(folder: Path) -> None:
    """Write the ratings in the layout of Amazon 2014, with reviews."""
    reviews = [
        {
            "reviewerID": f"A{user}",
            "asin": f"B{item}",
            "overall": 5.0 if liked else 3.0,
            "unixReviewTime": 1_400_000_000 + time,
            "reviewText": f"unmistakable words {user}",
        }
        for user, item, liked, time in tastes()
    ]
    meta = [f"{{'asin': 'B{item}', 'title': 'Volume {item}', 'categories': [['Books', 'Tales']]}}" for item in ITEMS]
    (folder / "reviews_Books_5.json").write_text("\n".join(map(json.dumps, reviews)) + "\n")
    (folder / "meta_Books.json").write_text("\n".join(meta) + "\n")


# --- what a run left behind

Curves = dict[str, dict[int, list[float]]]


def last(found: Curves) -> dict[str, dict[int, float]]:
    """Return the newest value of each step: `validate` and resumed runs log some steps again."""
    return {tag: {step: values[-1] for step, values in curve.items()} for tag, curve in found.items()}


def curves(run: Path) -> Curves:
    """Return TensorBoard's scalars except times: tag -> step -> values, several if a resumed run repeated a step."""
    found: Curves = {}
    for file in sorted(run.glob("events.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if "seconds" not in tag and "per_second" not in tag:
                for event in events.Scalars(tag):
                    found.setdefault(tag, {}).setdefault(event.step, []).append(event.value)
    return found


def assert_agree(found: Curves, expected: Curves, tolerance: float = 1e-5) -> None:
    """Assert equal tags and steps, and values within the tolerance (relative above 1, absolute below)."""
    assert set(found) == set(expected)
    for tag, steps in expected.items():
        assert set(found[tag]) == set(steps), tag
        for step, values in steps.items():
            assert found[tag][step][-1] == pytest.approx(values[-1], rel=tolerance, abs=tolerance), f"{tag} at {step}"


def assert_tables_agree(found: Path, expected: Path, tolerance: float = 1e-5) -> None:
    """Assert the same test rows, users and systems, and scores and metrics within the tolerance.

    AUC and GAUC are of ranks, which rounding may change where two rows have the same text: their scores are compared.
    """
    assert_frame_equal(*(pl.read_parquet(run / "scores.parquet") for run in (found, expected)), abs_tol=tolerance)
    whole = [json.loads((run / "table.json").read_text()) for run in (found, expected)]
    tables = [table["systems"] for table in whole]
    assert set(tables[0]) == set(tables[1])
    temperatures = [{name: row["t"] for name, row in table["temperature"].items()} for table in whole]
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-2)
    for system, metrics in tables[1].items():
        for metric in metrics.keys() - {"auc", "gauc"}:
            assert tables[0][system][metric] == pytest.approx(metrics[metric], abs=tolerance), f"{metric} of {system}"
