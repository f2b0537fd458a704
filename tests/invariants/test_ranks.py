"""Two ranks, with everything sharded or with all weights on each, train what one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from faults.callbacks import add, kill
from running import (
    ENVIRON,
    LIMIT,
    TESTS,
    World,
    assert_agree,
    assert_tables_agree,
    curves,
    expctr,
    replicated,
    sharded,
)
from torch.distributed.checkpoint import FileSystemReader

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def one(world: World) -> Path:
    return world.tested("one")


WAYS = {"sharded": sharded, "replicated": replicated}


@pytest.fixture(scope="module", params=["sharded", pytest.param("replicated", marks=pytest.mark.slow)])
def two(world: World, request: pytest.FixtureRequest) -> Path:
    options = [*world.options(f"two {request.param}"), *WAYS[request.param](2)]
    # in batches of one row, one of the ranks has none
    test = ["test", *options, "--data.init_args.eval_batch_size=1"]
    return world.once(f"two {request.param}", ["fit", *options], test, ranks=2)


def test_the_beginning_of_a_replicated_run_agrees(one: Path, world: World) -> None:
    """All of the LC stage and two batches of the CTR stage; the whole run is a slow test."""
    options = [*world.options("replicated"), *replicated(2), "--trainer.max_steps=24"]
    expctr("fit", *options, ranks=2).ok()
    found = curves(world.folder / "replicated")
    last = max(found["ctr/loss_without_text"])
    assert last == 7
    beginning = {tag: {step: v for step, v in curve.items() if step <= last} for tag, curve in curves(one).items()}
    assert_agree(found, {tag: curve for tag, curve in beginning.items() if curve})


def test_all_curves_agree(one: Path, two: Path) -> None:
    assert_agree(curves(two), curves(one))


def test_the_tables_agree(one: Path, two: Path) -> None:
    assert_tables_agree(two, one)


def test_the_explanations_are_the_same(one: Path, two: Path) -> None:
    for name in ("000-lc", "008-ic2", "test"):
        texts = [pl.read_parquet(run / "explanations" / f"{name}.parquet").sort("sample")["text"] for run in (one, two)]
        assert texts[0].to_list() == texts[1].to_list()


def test_a_checkpoint_holds_trained_weights_only(two: Path) -> None:
    for checkpoint in (two / "checkpoints").iterdir():
        if checkpoint.is_dir():
            names = [*FileSystemReader(checkpoint).read_metadata().state_dict_metadata]
            weights = [name.removeprefix("state_dict.") for name in names if name.startswith("state_dict.")]
        else:
            weights = [*torch.load(checkpoint, weights_only=True)["state_dict"]]
        assert any("lora_A" in name for name in weights)
        assert not [name for name in weights if "explainer.model" in name and "lora_" not in name]
        files = checkpoint.iterdir() if checkpoint.is_dir() else [checkpoint]
        assert sum(file.stat().st_size for file in files) < 1_000_000


@pytest.mark.slow
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
    assert "--config fsdp" in refused.output


@pytest.mark.slow
def test_a_replicated_run_goes_on_from_any_number_of_ranks(one: Path, world: World) -> None:
    """Its checkpoints are those of one process, which needs no overlay for them."""
    options = [*world.options("changing replicated"), "--ckpt_path=last"]
    for ranks, stop in ((2, kill(0, 3)), (1, kill(2, 2)), (2, kill(4, 3)), (1, [])):
        outcome = expctr("fit", *options, *(replicated(ranks) if ranks > 1 else []), *stop, ranks=ranks)
        assert outcome.code == (-9 if stop else 0), outcome.output
    run = world.folder / "changing replicated"
    assert_agree(curves(run), curves(one))
    expctr("test", *options, *replicated(1)).ok()
    assert_tables_agree(run, one)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_other_ways_through_a_step_agree_too(way: str, world: World) -> None:
    """Started as a user would: the launcher runs the command again for the second rank."""
    world.once("grouped", ["fit", *world.options("grouped", "grouped")])
    options = [*world.options(f"grouped-{way}", "grouped"), *WAYS[way](2), *add("SmallLogits")]
    done = subprocess.run(
        [sys.executable, "-m", "expctr", "fit", *options],
        env=os.environ | ENVIRON,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("LC scorer:") == 1
    found, expected = (curves(world.folder / run) for run in (f"grouped-{way}", "grouped"))
    assert_agree(found, expected)
    assert {"ic/reward_ic", "ic/reward_ic_std"} <= set(found)
    cut = [value for values in found["lc/cut_history_titles"].values() for value in values]
    assert 0 < sum(value > 0 for value in cut) < len(cut)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_batch_normalised_ctr_models_and_running_statistics_agree_too(way: str, world: World) -> None:
    """Without dropout, whose draws differ by rank."""
    draws = ["backbone.init_args.dropout", "backbone.init_args.oov_rate", "options.text_dropout"]
    none = [f"--model.init_args.ctr.init_args.{name}=0.0" for name in draws]
    short = ["--stages.rounds=1", "--stages.ctr.epochs=2", "--model.init_args.ctr.init_args.options.lr=0.01"]
    alone = world.once("normed", ["fit", *world.options("normed", "stateful"), *none, *short])
    run = f"normed-{way}"
    expctr("fit", *world.options(run, "stateful"), *none, *short, *WAYS[way](2), ranks=2).ok()
    assert_agree(curves(world.folder / run), curves(alone))


def quantized(kind: str, *, stages: str) -> list[str]:
    """Arguments of a short run on a base in few bits."""
    llm = f"--model.init_args.explainer.llm.quantization={kind}"
    return [llm, f"--stages.{stages}", "--stages.ctr.epochs=1", "--data.init_args.samples.max_samples=30"]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_base_in_4_bits_trains_the_same_on_two_ranks(way: str, world: World) -> None:
    """Which compute their layers again in the backward pass, as the overlay has it."""
    overlay = f"--config={TESTS.parent / 'configs' / 'qlora.yaml'}"
    two_ranks = [overlay, *WAYS[way](2), "--data.init_args.rollout_batch_size=8"]
    found = []
    for run, ranks, more in (("nf4", 1, []), (f"nf4-{way}", 2, two_ranks)):
        options = [*world.options(run), *quantized("nf4", stages="rounds=1"), *more]
        found.append(world.once(run, ["fit", *options], ["test", *options], ranks=ranks))
    one, two = found
    assert_agree(curves(two), curves(one))
    assert_tables_agree(two, one)


@pytest.mark.slow
@pytest.mark.int8
def test_a_base_in_8_bits_trains_the_same_sharded(world: World) -> None:
    """On one rank: bitsandbytes chooses what it keeps in 16 bits by all rows of a batch, and two ranks have others."""
    for run, more in (("int8", []), ("int8-sharded", sharded(1))):
        expctr("fit", *world.options(run), *quantized("int8", stages="rounds=0"), *more).ok()
    assert_agree(curves(world.folder / "int8-sharded"), curves(world.folder / "int8"))
    options = [*world.options("int8-two"), *quantized("int8", stages="rounds=0"), *sharded(2)]
    assert expctr("fit", *options, *kill(0, 2), ranks=2).code == -9
    expctr("fit", *options, "--ckpt_path=last", ranks=2).ok()
    assert set(curves(world.folder / "int8-two")["lc/kl"]) == set(curves(world.folder / "int8")["lc/kl"])


@pytest.mark.slow
def test_a_full_disk_ends_all_ranks_of_a_replicated_run(world: World) -> None:
    """Though rank 0 alone writes: the other one must not wait for it."""
    options = [*world.options("full replicated"), *replicated(2)]
    outcome = expctr("fit", *options, *add("FullDisk", epoch=0, batch=3), ranks=2)
    assert outcome.code == 2, outcome.output
    assert outcome.output.count("epoch=0000-batch=000004.ckpt cannot be saved: ") == 2


@pytest.mark.slow
def test_a_ctr_model_alone_trains_the_same_replicated(world: World) -> None:
    """Lightning makes its steps."""
    model = ["--model=CTRModule", "--model.init_args.backbone=DeepFM", "--model.init_args.options.lr=0.01"]
    none = [f"--model.init_args.backbone.init_args.{name}=0.0" for name in ("dropout", "oov_rate")]
    data = ["--data=MovieLensDataModule", "--data.init_args.ctr_batch_size=16", "--trainer.max_epochs=2"]
    for run, more in (("ctr", []), ("ctr-two", replicated(2))):
        paths = [path for path in world.paths(run) if "model" not in path]
        options = [*model, *none, *data, *paths, "--trainer.accelerator=cpu"]
        expctr("fit", *options, *more, ranks=2 if more else 1).ok()
    found, expected = (curves(world.folder / run) for run in ("ctr-two", "ctr"))
    assert_agree(found, expected)
    assert "ctr/loss" in found
