"""Two fits in one folder, and a rank that dies."""

import time
from pathlib import Path

from running import LIMIT, World, expctr, start


def test_two_fits_in_one_folder_refuse_each_other(world: World, tmp_path: Path) -> None:
    options = world.options("shared")
    first = start(["fit", *options, "--trainer.callbacks+=running.Slow"], {}, tmp_path / "first.txt")
    try:
        waiting = time.monotonic() + LIMIT
        while not list((world.folder / "shared").glob("events.*")) and time.monotonic() < waiting:
            time.sleep(0.1)
        time.sleep(1)  # it has written its config by then
        config = (world.folder / "shared" / "config.yaml").read_text()
        assert "seed_everything: 1" in config
        second = expctr("fit", *options, "--seed_everything=7")
        assert second.code == 2
        assert f"is being trained in by process {first.pid} on " in second.output
        assert (world.folder / "shared" / "config.yaml").read_text() == config
    finally:
        first.kill()
        first.join()
    expctr("fit", *options, "--ckpt_path=last", "--stages.rounds=0").ok()
