"""Two ranks, with everything sharded, train what one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from running import LIMIT, TESTS, World, assert_agree, assert_tables_agree, curves, expctr, kill, sharded

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def one(world: World) -> Path:
    options = world.options("one")
    return world.once("one", ["fit", *options], ["test", *options])


@pytest.fixture(scope="module")
def two(world: World) -> Path:
    options = [*world.options("two"), *sharded(2)]
    # in batches of one row, one of the ranks has none
    return world.once("two", ["fit", *options], ["test", *options, "--data.init_args.eval_batch_size=1"], ranks=2)


def test_all_curves_agree(one: Path, two: Path) -> None:
    assert_agree(curves(two), curves(one))


def test_the_tables_agree(one: Path, two: Path) -> None:
    assert_tables_agree(two, one)


def test_the_explanations_are_the_same(one: Path, two: Path) -> None:
    for name in ("000-lc", "008-ic2", "test"):
        texts = [pl.read_parquet(run / "explanations" / f"{name}.parquet").sort("sample")["text"] for run in (one, two)]
        assert texts[0].to_list() == texts[1].to_list()


def test_a_checkpoint_holds_trained_weights_only(two: Path) -> None:
    from torch.distributed.checkpoint import FileSystemReader

    for checkpoint in (two / "checkpoints").iterdir():
        names = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
        weights = [name for name in names if name.startswith("state_dict.")]
        assert any("lora_A" in name for name in weights)
        assert not [name for name in weights if "explainer.model" in name and "lora_" not in name]
        assert sum(file.stat().st_size for file in checkpoint.iterdir()) < 1_000_000


def test_a_run_goes_on_from_any_number_of_ranks(one: Path, world: World) -> None:
    options = [*world.options("changing"), "--ckpt_path=last"]
    for ranks, stop in ((2, kill(0, 3)), (2, kill(2, 2)), (1, kill(4, 3)), (2, [])):
        outcome = expctr("fit", *options, *sharded(ranks), *stop, ranks=ranks)
        assert outcome.code == (-9 if stop else 0), outcome.output
    run = world.folder / "changing"
    assert_agree(curves(run), curves(one))
    expctr("test", *options, *sharded(1)).ok()
    assert_tables_agree(run, one)
    refused = expctr("test", *options)
    assert refused.code == 2
    assert "configs/fsdp.yaml" in refused.output


def test_other_ways_through_a_step_agree_too(world: World) -> None:
    """Started as a user would: the launcher runs the command again for the second rank."""
    small = "--trainer.callbacks+=running.SmallLogits"
    expctr("fit", *world.options("grouped", "grouped")).ok()
    done = subprocess.run(
        [sys.executable, "-m", "expctr", "fit", *world.options("grouped-two", "grouped"), *sharded(2), small],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("LC scorer:") == 1
    found, expected = (curves(world.folder / run) for run in ("grouped-two", "grouped"))
    assert_agree(found, expected)
    assert {"ic/reward_ic", "ic/reward_ic_std"} <= set(found)
