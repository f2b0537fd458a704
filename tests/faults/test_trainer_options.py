"""Options of Lightning's trainer in a staged run: what ends it early, what tries it, where it logs."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest
from faults.callbacks import add
from running import TESTS, World, assert_agree, curves, expctr

from expctr.run_folder import checkpoints

CONFIGS = TESTS.parent / "configs"
SHORT = ["--stages.rounds=0", "--stages.lc.epochs=2"]


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    return world.once("unlimited", ["fit", *world.options("unlimited"), *SHORT])


def test_a_stop_by_steps_goes_on_exactly(world: World, whole: Path) -> None:
    """After 3 of an epoch's 5 batches: each makes 4 optimizer steps."""
    options = [*world.options("limited"), *SHORT]
    stopped = expctr("fit", *options, "--trainer.max_steps=12").ok().output
    run = world.folder / "limited"
    assert "stopped after 3 batches of epoch 1" in stopped
    assert f"the plan is not finished. Next: expctr fit {run}" in stopped
    assert [path.name for path in checkpoints(run / "checkpoints")][-1] == "epoch=0000-batch=000003.ckpt"
    expctr("fit", str(run), "--trainer.max_steps=-1").ok()
    assert_agree(curves(run), curves(whole))


def test_a_stop_by_time_goes_on_exactly(world: World, whole: Path) -> None:
    """And neither validates half an epoch nor calls it done."""
    options = [*world.options("timed"), *SHORT]
    stopped = expctr("fit", *options, *add("TimeUp", epoch=1, batch=1)).ok().output
    run = world.folder / "timed"
    assert "stopped after 2 batches of epoch 2, and saved" in stopped
    assert "lc epoch 1 (1/2 of the plan) done" in stopped
    assert "lc epoch 2" not in stopped
    expctr("fit", *options, "--ckpt_path=last").ok()
    assert_agree(curves(run), curves(whole))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "epoch", "batch"), [("ctr", 2, 1), ("ic", 4, 2)])
@pytest.mark.parametrize("limit", ["time", "steps"])
def test_a_stop_in_any_stage_goes_on_exactly(stage: str, epoch: int, batch: int, limit: str, world: World) -> None:
    """Steps: 4 in each of a policy epoch's 5 batches, 2 in each of a CTR epoch's 3."""
    run, rounds = world.folder / f"{limit}-{stage}", "--stages.rounds=1"
    reference = world.once("one-round", ["fit", *world.options("one-round"), rounds])
    steps = 20 + 6 * min(epoch - 1, 3) + (2 if stage == "ctr" else 4) * (batch + 1)
    stop = add("TimeUp", epoch=epoch, batch=batch) if limit == "time" else [f"--trainer.max_steps={steps}"]
    expctr("fit", *world.options(run), rounds, *stop).ok()
    name = f"epoch={epoch:04d}-batch={batch + 1:06d}.ckpt"
    assert checkpoints(run / "checkpoints")[-1].name == name
    expctr("fit", *world.options(run), rounds, "--ckpt_path=last").ok()
    assert_agree(curves(run), curves(reference))


def test_a_trial_leaves_no_run(world: World) -> None:
    options = [*world.options("tried"), *SHORT]
    expctr("fit", *options, "--trainer.fast_dev_run=true").ok()
    assert not (world.folder / "tried").exists()


def test_a_trial_of_a_test_does_not_replace_the_results(world: World) -> None:
    run = world.tested("one")
    before = (run / "table.json").read_text()
    for command in ("test", "predict"):
        tried = expctr(command, run, "--trainer.fast_dev_run=true")
        assert tried.code == 2, tried.output
        assert "here it would replace the run's results by those of one batch. Fix: leave it out" in tried.output
    assert (run / "table.json").read_text() == before


def test_a_stop_at_the_end_of_an_epoch_is_not_the_end_of_training(world: World) -> None:
    """Of a model without a plan, which has a number of epochs."""
    data = [f"--data.path={world.folder / 'movielens'}", f"--data.cache_dir={world.folder / 'cache'}"]
    options = [f"--config={CONFIGS / 'baseline.yaml'}", "--model.backbone=FM", *data, "--trainer.max_epochs=2"]
    run = world.folder / "stopped-fm"
    line = ["fit", *options, f"--trainer.default_root_dir={run}"]
    stopped = expctr(*line, "--trainer.max_time=00:00:00:00").ok().output
    assert f"the plan is not finished. Next: expctr fit {run}, with a higher trainer.max_time" in stopped
    assert f"trained; the run is in {run}" in expctr(*line, "--ckpt_path=last").ok().output


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


def test_a_test_of_some_rows_is_a_test_of_these(world: World) -> None:
    """With a CTR model, which is compared with others on the same rows."""
    run = world.once("some-rows", ["fit", *world.options("some-rows"), "--stages.rounds=1", "--stages.ctr.epochs=1"])
    expctr("test", run, "--trainer.limit_test_batches=1", "--results.counterfactual_rows=0").ok()
    assert json.loads((run / "table.json").read_text())["rows"] == len(pl.read_parquet(run / "scores.parquet")) < 12
    outcome = expctr("test", run, "--trainer.limit_test_batches=0")
    assert outcome.code == 2
    assert "error: trainer.limit_test_batches is 0, so there is nothing to do" in outcome.output


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--trainer.devices=-1", "should be an int > 0"),
        pytest.param("--trainer.accelerator=tpu", "Requirement 'torch_xla", marks=pytest.mark.slow),
        pytest.param("--trainer.default_root_dir=s3://runs/x", "is not on this machine", marks=pytest.mark.slow),
        pytest.param("--trainer.default_root_dir=file::runs", "is not on this machine", marks=pytest.mark.slow),
        pytest.param("--trainer.callbacks+=Timer", "trainer.callbacks.interval=step", marks=pytest.mark.slow),
        pytest.param("--stages.lc=null", "is null", marks=pytest.mark.slow),
    ],
)
def test_an_option_that_lightning_refuses_is_one_line(option: str, reason: str, world: World) -> None:
    failed = expctr("fit", *world.options("refused"), option)
    assert failed.code == 2
    assert failed.output.splitlines()[-1].startswith("error: ")
    assert reason in failed.output
    assert "Traceback" not in failed.output
