"""Options of Lightning's trainer in a staged run: what ends it early, what tries it, where it logs."""

import csv
from pathlib import Path

import pytest
from running import World, assert_agree, curves, expctr

from expctr.training.checkpoint import checkpoints

SHORT = ["--stages.rounds=0", "--stages.lc.epochs=2"]


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    return world.once("unlimited", ["fit", *world.options("unlimited"), *SHORT])


def test_a_stop_by_steps_goes_on_exactly(world: World, whole: Path) -> None:
    """After 3 of an epoch's 5 batches: each makes 4 optimizer steps."""
    options = [*world.options("limited"), *SHORT]
    stopped = expctr("fit", *options, "--trainer.max_steps=12").ok().output
    run = world.folder / "limited"
    assert "stopped after 3 batches of an epoch" in stopped
    assert f"the plan is not finished. Next: expctr fit {run}" in stopped
    assert [path.name for path in checkpoints(run / "checkpoints")][-1] == "epoch=0000-batch=000003.ckpt"
    expctr("fit", str(run), "--trainer.max_steps=-1").ok()
    assert_agree(curves(run), curves(whole))


def test_a_trial_leaves_no_run(world: World) -> None:
    options = [*world.options("tried"), *SHORT]
    expctr("fit", *options, "--trainer.fast_dev_run=true").ok()
    run = world.folder / "tried"
    assert not (run / "config.yaml").exists()
    assert not checkpoints(run / "checkpoints")
    assert not [*run.glob("explanations/*")]


def test_all_loggers_get_the_curves_and_the_run_keeps_its_config(world: World, whole: Path, tmp_path: Path) -> None:
    loggers = [
        "--trainer.logger+=TensorBoardLogger",
        f"--trainer.logger.save_dir={tmp_path / 'board'}",
        "--trainer.logger+=CSVLogger",
        f"--trainer.logger.save_dir={tmp_path / 'csv'}",
    ]
    expctr("fit", *world.options("logged"), *SHORT, *loggers).ok()
    (file,) = (tmp_path / "csv").rglob("metrics.csv")
    with file.open() as lines:
        rows = [row["lc/reward_lc"] for row in csv.DictReader(lines) if row["lc/reward_lc"]]
    assert [*map(float, rows)] == pytest.approx([values[-1] for values in curves(whole)["lc/reward_lc"].values()])
    assert (world.folder / "logged" / "config.yaml").exists()


def test_callbacks_find_the_metrics(world: World) -> None:
    """EarlyStopping on a metric that never gets so high ends the run after the first validation."""
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/auc_llm"]
    limits = ["--trainer.callbacks.mode=max", "--trainer.callbacks.stopping_threshold=0"]
    expctr("fit", *world.options("stopping"), *SHORT, *stopping, *limits).ok()
    assert checkpoints(world.folder / "stopping" / "checkpoints")[-1].name == "epoch=0001-batch=000000.ckpt"
