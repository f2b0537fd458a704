"""Signals to commands and moments in which there is nothing to save."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from faults.callbacks import kill
from running import LIMIT, World, expctr, replicated, start

from expctr.cli import app
from expctr.run_folder import checkpoints


@pytest.mark.parametrize(
    ("command", "where", "number", "said"),
    [
        ("test", "test", signal.SIGTERM, "stopped; no results were written"),
        ("predict", "predict", signal.SIGHUP, "stopped; no results were written"),
        ("validate", "validation", signal.SIGTERM, "stopped"),
        ("export", "predict", signal.SIGTERM, "stopped"),
    ],
)
def test_a_command_that_is_stopped_says_so(
    command: str, where: str, number: signal.Signals, said: str, world: World, tmp_path: Path
) -> None:
    out = [f"--out={tmp_path / 'export'}"] if command == "export" else []  # the run may have one
    outcome = expctr(command, world.tested("one"), *out, *kill(0, 0, where, number))
    assert outcome.code == 128 + number, outcome.output
    assert outcome.output.splitlines()[-1] == said
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(
    ("command", "where", "rank"),
    [("test", "test", 0), ("predict", "predict", 1), ("test", "start", 1), ("fit", "start", 0)],
)
def test_a_signal_to_one_of_two_processes_ends_both(command: str, where: str, rank: int, world: World) -> None:
    only = f"--trainer.callbacks.init_args.rank={rank}"
    run = world.folder / "stopped-at-once" if command == "fit" else world.tested("one")
    outcome = expctr(command, *world.options(run), *replicated(2), *kill(0, 0, where, signal.SIGTERM), only, ranks=2)
    assert outcome.code == (143 if rank == 0 else 1), outcome.output  # the first one's
    assert "\nstopped" in outcome.output
    assert "another process of this command has ended" in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_the_others_can_be_stopped(
    number: signal.Signals, world: World, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    waiting = start(["fit", *world.options("alone"), *replicated(2)], place, log)
    end = time.monotonic() + LIMIT
    while "Initializing distributed" not in (log.read_text() if log.exists() else "") and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(2)
    os.kill(waiting.pid or 0, number)
    waiting.join(30)
    code = waiting.exitcode
    waiting.kill()
    assert code == -number, log.read_text()


def test_a_fit_stopped_while_it_loads_says_so(world: World) -> None:
    outcome = expctr("fit", *world.options("stopped-early"), *kill(0, 0, "setup", signal.SIGTERM))
    assert (outcome.code, outcome.output.splitlines()[-1]) == (143, "stopped")
    assert checkpoints(world.folder / "stopped-early" / "checkpoints") == []


@pytest.mark.parametrize(("command", "where"), [("fit", "setup"), ("validate", "validation")])
def test_what_asks_to_save_ends_no_command(command: str, where: str, world: World) -> None:
    world.tested("one")
    line = [command, *world.options("one" if command == "validate" else "asked-early"), "--stages.lc.epochs=1"]
    plan = ["--stages.rounds=0"] if command == "fit" else []
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        expctr(*line, *plan, "--ckpt_path=last", *kill(0, 0, where, number)).ok()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_an_error_is_handled_has_its_own_code(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(_: object) -> None:
        try:
            raise KeyError("looked up in vain")
        except KeyError:
            signal.raise_signal(number)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    monkeypatch.setattr(app, "print_class_help", handle)
    with pytest.raises(SystemExit) as stop:
        app.run(["prepare"])
    signal.signal(signal.SIGHUP, before)
    assert stop.value.code == 128 + number
