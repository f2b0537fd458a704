"""A run that was killed and resumed, again and again, is the run that was never stopped."""

import json
from pathlib import Path

import polars as pl
import pytest
from faults.callbacks import kill
from polars.testing import assert_frame_equal
from running import World, curves, expctr, last

from expctr.systems import METRICS

CONFIGS = ("stateful",)
# Epochs: 0 LC; 1-2 CTR, stopped early; 3 IC; 4-7 CTR; 8 IC. Five batches in a policy epoch, three in a CTR epoch, saved
# after the second and the fourth. The first epoch of a CTR stage samples the explanations that it learns from.
KILLS = {
    "before anything was saved": kill(0, 1),
    "in LC, a batch after it was saved": kill(0, 3),
    "in LC's validation": kill(0, 2, where="validation"),
    "at the end of LC, right after it was saved": kill(1, 0),
    "in CTR, while explanations are sampled": kill(1, 2),
    "in CTR, right after it was saved": kill(2, 2),
    "in CTR's validation": kill(2, 0, where="validation"),
    "after CTR has stopped": kill(3, 0),
    "in IC, right after it was saved": kill(3, 4),
    "in the second round's CTR": kill(4, 1),
    "in the second round's IC": kill(8, 3),
    "in the last validation": kill(8, 2, where="validation"),
}


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    options = world.options("whole", *CONFIGS)
    return world.once("whole", ["fit", *options], ["test", *options])


@pytest.fixture(scope="module", params=["every third", pytest.param("all", marks=pytest.mark.slow)])
def resumed(world: World, request: pytest.FixtureRequest) -> Path:
    name = f"resumed {request.param}"
    options = world.options(name, *CONFIGS)
    kills = list(KILLS.items())[:: 3 if request.param == "every third" else 1]
    with world.first(name) as first:
        for where, args in kills if first else ():
            outcome = expctr("fit", *options, "--ckpt_path=last", *args)
            assert outcome.code == -9, f"{where}: not killed\n{outcome.output}"
        if first:
            expctr("fit", *options, "--ckpt_path=last").ok()
            expctr("test", *options).ok()
    return world.folder / name


def test_each_curve_has_the_same_value_at_each_step(whole: Path, resumed: Path) -> None:
    expected, found = curves(whole), curves(resumed)
    assert last(found) == last(expected)
    assert len({step for steps in expected.values() for step in steps}) > 25
    assert all(len(values) == 1 for steps in expected.values() for values in steps.values())


def test_a_step_that_was_done_again_gave_the_same(resumed: Path) -> None:
    again = {(tag, step): v for tag, steps in curves(resumed).items() for step, v in steps.items() if len(v) > 1}
    assert again
    assert all(len(set(values)) == 1 for values in again.values())


def test_the_tables_are_the_same(whole: Path, resumed: Path) -> None:
    tables = [json.loads((run / "table.json").read_text()) for run in (whole, resumed)]
    assert tables[0] == tables[1]
    assert set(tables[0]["systems"]["ExpCTR-Aug"]) == set(METRICS)


def test_no_explanation_is_lost_or_doubled(whole: Path, resumed: Path) -> None:
    names = [sorted(path.name for path in (run / "explanations").iterdir()) for run in (whole, resumed)]
    assert names[0] == names[1]
    assert {"000-lc.parquet", "005-ic1.parquet", "010-ic2.parquet", "test.parquet"} <= set(names[0])
    for name in names[0]:
        one, other = (pl.read_parquet(run / "explanations" / name) for run in (whole, resumed))
        assert_frame_equal(one, other, check_exact=True)
    gathered = pl.read_parquet(whole / "explanations" / "005-ic1.parquet")
    assert gathered.height == 36 * 2
    assert {"sample", "text", "stage", "iteration", "s_u", "s_r", "s_0", "reward_lc", "reward_ic"} <= set(
        gathered.columns
    )


def test_the_ctr_stage_stopped_early_in_the_run_that_was_compared(whole: Path) -> None:
    assert len(curves(whole)["ctr/loss"]) < 2 * 4 * 3
