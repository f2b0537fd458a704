"""Results do not depend on how a minibatch is cut to save memory, nor on how samples are batched to be tested."""

import pytest
from running import World, assert_agree, assert_tables_agree, curves, expctr

SHORT = ["--stages.rounds=1", "--stages.ctr.epochs=1", "--data.init_args.samples.max_samples=30"]


@pytest.mark.slow
def test_micro_batches_of_one_row_train_the_same(world: World) -> None:
    micro = "--model.init_args.explainer.ppo.micro_batch_size=1"
    for run, cut, test_rows in (("whole-minibatch", [], 1), ("micro-batches", [micro], 5)):
        options = [*world.options(run), *SHORT, *cut]
        expctr("fit", *options).ok()
        expctr("test", *options, f"--data.init_args.eval_batch_size={test_rows}").ok()
    whole, parts = world.folder / "whole-minibatch", world.folder / "micro-batches"
    assert_agree(curves(parts), curves(whole), 1e-5)
    assert_tables_agree(parts, whole)
