"""Two fits in one folder, and a rank that dies."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.callbacks import add, kill
from running import ENVIRON, LIMIT, World, expctr, sharded, start

from expctr.run_folder import checkpoints


def test_two_fits_in_one_folder_refuse_each_other(world: World, tmp_path: Path) -> None:
    options = world.options("shared")
    (tmp_path / "mine.yaml").write_text(kept := "# lightning.pytorch==2.6.0, of a run of mine")
    (world.folder / "shared").mkdir()
    (world.folder / "shared" / "config.yaml").symlink_to(tmp_path / "mine.yaml")  # as a stranger's folder may have
    first = start(["fit", *options, *add("Slow")], {}, tmp_path / "first.txt")
    try:
        waiting = time.monotonic() + LIMIT
        while not list((world.folder / "shared").glob("events.*")) and time.monotonic() < waiting:
            time.sleep(0.1)
        time.sleep(1)  # it has written its config by then
        config = (world.folder / "shared" / "config.yaml").read_text()
        assert "seed_everything: 1" in config
        assert (tmp_path / "mine.yaml").read_text() == kept
        second = expctr("fit", *options, "--seed_everything=7")
        assert second.code == 2
        assert f"is being trained in by process {first.pid} on " in second.output
        assert (world.folder / "shared" / "config.yaml").read_text() == config
    finally:
        first.kill()
        first.join()
    expctr("fit", *options, "--ckpt_path=last", "--stages.rounds=0").ok()


def test_a_run_that_another_fit_trained_meanwhile_is_left_alone(world: World) -> None:
    """Two first starts in one folder: the second has found nothing there, and gets the lock when the first ends."""
    run = world.folder / "meanwhile"
    outcome = expctr("fit", *world.options(run), *add("TrainedMeanwhile", run=run))
    assert outcome.code == 2, outcome.output
    assert f"{run} was trained in by another process while this one loaded. Fix: resume it with" in outcome.output
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["epoch=0001-batch=000000.ckpt"]


DEATHS = {
    "the first is killed": (0, 9),
    "the second is killed": (1, 9),
    "the first has an error": (0, 0),
    "the second has an error": (1, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEATHS)
def test_a_rank_that_dies_brings_the_other_down_and_is_heard(name: str, world: World) -> None:
    """Started as a user would: the launcher runs the command again for the second rank."""
    rank, number = DEATHS[name]
    place = [*kill(0, 2, number=number), f"--trainer.callbacks.init_args.rank={rank}"]
    job = subprocess.Popen(
        [sys.executable, "-m", "expctr", "fit", *world.options(name.replace(" ", "-")), *sharded(2), *place],
        env=os.environ | ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = job.communicate(timeout=LIMIT)  # which ends when all have closed their ends of the pipe
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode != 0
    if not number:
        assert "this rank's own error" in output
    saved = [path.name for path in checkpoints(world.folder / name.replace(" ", "-") / "checkpoints")]
    assert saved == ["epoch=0000-batch=000002.ckpt"]
