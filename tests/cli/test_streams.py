"""A log that cannot be written ends no command whose results are files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import ENVIRON, LIMIT, World, start

from expctr.cli.streams import spared
from expctr.run_folder import checkpoints

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


def test_the_first_error_of_the_log_is_said_and_the_rest_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FULL.open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        with spared("stdout"):
            for _ in range(3):
                print("a line", flush=True)
            assert not sys.stdout.isatty()
        assert sys.stdout is log
        log.flush()
    said = "standard output: No space left on device; the command goes on without it\n"
    assert capsys.readouterr().err == said


def test_a_log_that_can_be_written_again_is_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        kept = os.dup(log.fileno())
        monkeypatch.setattr(sys, "stdout", log)
        with spared("stdout"), FULL.open("w") as full:
            print("one", flush=True)
            os.dup2(full.fileno(), log.fileno())
            print("two", flush=True)
            os.dup2(kept, log.fileno())
            print("three", flush=True)
    os.close(kept)
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_a_fit_goes_on_without_its_logs(world: World) -> None:
    work = start(["fit", *world.options("without-log"), "--stages.rounds=0"], {}, FULL)
    work.join(LIMIT)
    assert work.exitcode == 0
    assert checkpoints(world.folder / "without-log" / "checkpoints")[-1].name == "epoch=0001-batch=000000.ckpt"


@pytest.mark.parametrize(("command", "code"), [("test", 0), ("validate", 2)])
def test_what_nobody_reads_is_an_error_where_it_is_the_result(command: str, code: int, world: World) -> None:
    run = world.once("logless", ["fit", *world.options("logless"), "--stages.rounds=0"])
    line = [sys.executable, "-m", "expctr", command, str(run)]
    with FULL.open("w") as log:
        done = subprocess.run(
            line, env=os.environ | ENVIRON, stdout=log, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False
        )
    said = "standard output: No space left" if command == "test" else "error: a file, or the log (standard output): No"
    assert done.returncode == code, done.stderr
    assert done.stderr.count(said) == 1
    assert "Traceback" not in done.stderr
    assert command != "test" or (run / "scores.parquet").exists()
