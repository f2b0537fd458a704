"""Runs of the real command line on tiny data, each in a process of its own; and what they left behind, as numbers.

Importing torch takes longer than such a run, so the processes are forked from a server that has imported everything
and run nothing. `python -m expctr` itself is tried in `test_cli.py`.
"""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import polars as pl
import pytest
import torch
from conftest import make_llm
from filelock import FileLock
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from expctr.llm import logprobs
from expctr.modules.expctr import ExpCTRModule

TESTS = Path(__file__).parent
CONF = TESTS / "conf"
LIMIT = 300.0
"""Seconds after which a process counts as hanging."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["expctr.cli.app", "peft", "sentence_transformers", "running"])


class Outcome(NamedTuple):
    """How a process ended."""

    code: int
    """Its exit code; the negative signal that killed it."""
    output: str
    """What it printed."""

    def ok(self) -> "Outcome":
        """Itself, where all went well."""
        assert self.code == 0, f"exit code {self.code}\n{self.output}"
        return self


class Sabotage(Callback):
    """Sends this process a signal, as an outage or a user would.

    Args:
        epoch: when.
        batch: before this training batch; in `validation`, before that batch of it.
        where: while training, validating, or after the checkpoint of the epoch's end.
        signal: which; 9 ends the process on the spot, 0 raises an error in place of a signal.
        rank: of the process that gets it; none: all.
    """

    def __init__(
        self, epoch: int, batch: int = 0, where: str = "train", signal: int = 9, rank: int | None = None
    ) -> None:
        self.place, self.signal, self.rank = (where, epoch, batch), signal, rank

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._at("train", trainer, batch_idx)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._at("validation", trainer, batch_idx)

    def _at(self, where: str, trainer: L.Trainer, batch: int) -> None:
        if (where, trainer.current_epoch, batch) == self.place and self.rank in (None, trainer.global_rank):
            if not self.signal:
                raise RuntimeError("this rank's own error")
            os.kill(os.getpid(), self.signal)


class Mortal(Callback):
    """Kills this process by signal 9 some time after training began, whatever it is doing then.

    Args:
        seconds: from the first training batch on.
        saving: wait further until a checkpoint is being made, and some milliseconds more.
    """

    def __init__(self, seconds: float, saving: bool = False) -> None:
        self.seconds, self.saving, self.begun = seconds, saving, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begun = time.monotonic()
        if not self.saving:
            self._end_after(self.seconds)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.saving and time.monotonic() - self.begun >= self.seconds:
            self._end_after(self.seconds % 0.02)

    def _end_after(self, seconds: float) -> None:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()


class Slow(Callback):
    """Never begins its first training batch."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        time.sleep(LIMIT)


class FullDisk(Callback):
    """Leaves room for no file of more than so many bytes from some training batch on.

    Args:
        epoch: when.
        batch: when.
        room: in bytes; None: for whatever `torch.save` writes by a path there is none at all.
    """

    def __init__(self, epoch: int, batch: int, room: int | None = 60_000) -> None:
        self.place, self.room = (epoch, batch), room

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) != self.place:
            return
        if self.room is None:
            real = torch.save
            torch.save = lambda value, file: real(value, "/dev/full" if isinstance(file, Path) else file)
        else:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error then, as from a full disk, and no signal
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, self.room))


class Poison(Callback):
    """Spoils one training batch, as bad numbers or a bad base would.

    Args:
        epoch: when.
        batch: when.
        what: a weight of the `adapter`, the `critic` or the `ctr` model that is no number; a first row's `score` that
            is none; `equal` scores; all but one of the texts (`texts`), or all of them (`all texts`), empty.
    """

    def __init__(self, epoch: int, batch: int, what: str) -> None:
        self.place, self.what = (epoch, batch), what

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ExpCTRModule)
        explainer, here = pl_module.explainer, (trainer.current_epoch, batch_idx) == self.place
        if here and self.what in ("adapter", "critic", "ctr"):
            weights = {
                "adapter": [p for name, p in explainer.named_parameters() if "lora_B" in name],
                "critic": list(explainer.value_head.parameters()),
                "ctr": list(pl_module.ctr.parameters()),
            }[self.what]
            weights[0].data.fill_(float("nan"))
        elif self.what in ("score", "equal"):
            score = explainer.lc_scores = partial(type(explainer).lc_scores, explainer)  # type: ignore[method-assign]
            if here:
                explainer.lc_scores = lambda *args: _spoilt(score(*args), self.what)  # type: ignore[method-assign]
        elif self.what in ("texts", "all texts"):
            explain = explainer.explain = partial(type(explainer).explain, explainer)  # type: ignore[method-assign]
            if here:

                def blank(*args: Any, **options: Any) -> Any:
                    rollout, texts = explain(*args, **options)
                    return rollout, [" "] * (len(texts) - 1) + (texts[-1:] if self.what == "texts" else [""])

                explainer.explain = blank  # type: ignore[method-assign]


def _spoilt(scores: Tensor, what: str) -> Tensor:
    if what == "equal":
        return torch.full_like(scores, 0.5)
    scores[0] = float("nan")
    return scores


class SmallLogits(Callback):
    """Has logits made in parts of one token, as a large vocabulary would."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        *others, _ = logprobs.token_logprobs.__defaults__ or ()
        logprobs.token_logprobs.__defaults__ = (*others, 1)


def kill(epoch: int, batch: int = 0, where: str = "train", number: int = signal.SIGKILL) -> list[str]:
    """Arguments that have a fit killed; see `Sabotage`."""
    place = {"epoch": epoch, "batch": batch, "where": where, "signal": int(number)}
    args = [f"--trainer.callbacks.init_args.{name}={value}" for name, value in place.items()]
    return ["--trainer.callbacks+=running.Sabotage", *args]


def sharded(ranks: int) -> list[str]:
    """Arguments that have so many ranks train together, everything sharded."""
    return [
        f"--config={TESTS.parent / 'configs' / 'fsdp.yaml'}",
        f"--trainer.devices={ranks}",
        f"--trainer.strategy.init_args.data_parallel_size={ranks}",
    ]


def poison(epoch: int, batch: int, what: str) -> list[str]:
    """Arguments that spoil a fit; see `Poison`."""
    args = [f"--trainer.callbacks.init_args.{k}={v}" for k, v in {"epoch": epoch, "batch": batch, "what": what}.items()]
    return ["--trainer.callbacks+=running.Poison", *args]


def expctr(*args: object, ranks: int = 1, environ: Mapping[str, str] = {}) -> Outcome:
    """Run `expctr ARGS`.

    Args:
        args: the command line.
        ranks: processes that train together, as a cluster would start them.
        environ: further environment variables.
    """
    line = [str(arg) for arg in args]
    places = [dict(environ) for _ in range(ranks)]
    if ranks > 1:
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
        places = [{**environ, **common, "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)} for rank in range(ranks)]
    with _scratch() as folder:
        logs = [folder / f"{rank}.txt" for rank in range(ranks)]
        works = [start(line, place, log) for place, log in zip(places, logs, strict=True)]
        end = time.monotonic() + LIMIT
        while any(work.is_alive() for work in works) and time.monotonic() < end:
            if any(work.exitcode for work in works):  # one failed: the others wait for it in vain
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
    work = _server.Process(target=_work, args=(line, dict(environ), str(log)))
    work.start()
    return work


def _work(line: list[str], environ: Mapping[str, str], log: str) -> None:
    os.environ |= environ
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["expctr", *line]
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
    """What all runs start from."""

    folder: Path
    """Also for what tests share."""

    def options(self, run: str | Path, *configs: str) -> list[str]:
        """Arguments of a run in the folder `run`, by the configs of `tests/conf` over `tiny.yaml`."""
        args = [f"--config={CONF / name}.yaml" for name in ("tiny", *configs)]
        return [*args, *self.paths(run)]

    def paths(self, run: str | Path) -> list[str]:
        """Where the models, the data and the run are."""
        return [
            f"--model.init_args.explainer.llm.path={self.folder / 'llm'}",
            f"--model.init_args.encoder.path={self.folder / 'llm'}",
            f"--data.init_args.path={self.folder / 'movielens'}",
            f"--data.init_args.cache_dir={self.folder / 'cache'}",
            f"--trainer.default_root_dir={self.folder / run}",
        ]

    def once(self, run: str, *lines: list[str], ranks: int = 1) -> Path:
        """The folder of a run that tests share, made by the first that asks: each line is a command."""
        with self.first(run) as first:
            for line in lines if first else ():
                expctr(*line, ranks=ranks).ok()
        return self.folder / run

    @contextlib.contextmanager
    def first(self, name: str) -> Iterator[bool]:
        """Whether this is the first of all workers' tests to ask for the name; the others wait until it is through."""
        done = self.folder / f"{name}.done"
        with FileLock(f"{done}.lock"):
            yield not done.exists()
            done.touch()


def make_world(folder: Path) -> World:
    """Write a language model and ratings; once, however many workers ask."""
    folder.mkdir(exist_ok=True)
    world = World(folder)
    with world.first("world") as first:
        if first:
            make_llm(folder / "llm")
            movielens(folder / "movielens")
    return world


ITEMS = range(1, 31)


def tastes(users: int = 60, each: int = 8) -> list[tuple[int, int, bool, int]]:
    """User, item, liked, time: each user rates some items; liking is a matter of both ids, and of chance."""
    draw = random.Random(0)
    rows = []
    for user in range(1, users + 1):
        for moment, item in enumerate(draw.sample(ITEMS, each)):
            liked = ((user + item) % 2 == 0) != (draw.random() < 0.2)
            rows.append((user, item, liked, 1000 * user + moment))
    return rows


def movielens(folder: Path) -> Path:
    """MovieLens-100K's layout."""
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
    """The layout of 2014, with the users' own words."""
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
    """The newest value of each step: `validate`, and a resumed run, say some again."""
    return {tag: {step: values[-1] for step, values in curve.items()} for tag, curve in found.items()}


def curves(run: Path) -> Curves:
    """TensorBoard's scalars but for times: tag -> step -> values, several where a resumed run did a step again."""
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
    """The same tags, steps and, but for rounding, values: the tolerance is relative above 1 and absolute below."""
    assert set(found) == set(expected)
    for tag, steps in expected.items():
        assert set(found[tag]) == set(steps), tag
        for step, values in steps.items():
            assert found[tag][step][-1] == pytest.approx(values[-1], rel=tolerance, abs=tolerance), f"{tag} at {step}"


def assert_tables_agree(found: Path, expected: Path, tolerance: float = 1e-5) -> None:
    """The same rows of the same users, the same systems and, but for rounding, values."""
    rows = [pl.read_parquet(run / "scores.parquet", columns=["sample", "user", "label"]) for run in (found, expected)]
    assert rows[0].equals(rows[1])
    tables = [json.loads((run / "table.json").read_text())["systems"] for run in (found, expected)]
    assert set(tables[0]) == set(tables[1])
    for system, metrics in tables[1].items():
        for metric, estimate in metrics.items():
            assert tables[0][system][metric] == pytest.approx(estimate, abs=tolerance), f"{metric} of {system}"
