"""The plan of stages, and what contradicts it."""

from typing import cast

import lightning as L
import pytest

from expctr.errors import UserError
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.plan import PlanEntry
from expctr.training.stages import StageScheduler, make_plan


def test_the_plan_is_the_papers_order() -> None:
    plan = make_plan(lc_epochs=2, rounds=2, ctr_epochs=3, ic_epochs=1)
    names = ["lc", "lc", "ctr1", "ctr1", "ctr1", "ic1", "ctr2", "ctr2", "ctr2", "ic2"]
    assert [entry.name for entry in plan] == names
    assert [entry.step for entry in plan] == [0, 1, 0, 1, 2, 0, 0, 1, 2, 0]
    assert [i for i, entry in enumerate(plan) if entry.last] == [1, 4, 5, 8, 9]
    assert plan[0] == PlanEntry("lc", 0, 0, False)
    assert plan[5] == PlanEntry("ic", 1, 0, True)


def test_stages_may_be_left_out() -> None:
    assert [e.name for e in make_plan(0, 1, 1, 1)] == ["ctr1", "ic1"]
    assert [e.name for e in make_plan(1, 0, 9, 9)] == ["lc"]
    assert [e.name for e in make_plan(0, 2, 1, 0)] == ["ctr1", "ctr2"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 1, 1, 1), "cannot be negative"),
        ((1, 1, 1, -2), "cannot be negative"),
        ((0, 0, 5, 5), "the plan is empty"),
        ((0, 3, 0, 0), "the plan is empty"),
        ((0, 1, 0, 1), "needs a CTR model"),
        ((2, 1, 0, 1), "needs a CTR model"),
    ],
)
def test_contradictions_are_refused(numbers: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageScheduler(*numbers)


def test_another_plan_than_the_checkpoints_is_named() -> None:
    saved = StageScheduler(2, 1, 3, 2).state_dict()
    StageScheduler(2, 1, 3, 2).load_state_dict(saved)
    with pytest.raises(UserError, match="lc x 2, ctr1 x 3, ic1 x 2, and the config says lc x 2, ctr1 x 3, ic1 x 4"):
        StageScheduler(2, 1, 3, 4).load_state_dict(saved)


def bare_module() -> ExpCTRModule:
    module = ExpCTRModule.__new__(ExpCTRModule)  # its parts are tested elsewhere
    L.LightningModule.__init__(module)
    module.plan = ()
    return module


def trainer(reload: int) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        max_epochs=1,
        reload_dataloaders_every_n_epochs=reload,
    )


def test_the_scheduler_gives_the_module_its_plan_and_the_trainer_its_length() -> None:
    scheduler, module, fit = StageScheduler(2, 1, 3, 2), bare_module(), trainer(1)
    scheduler.setup(fit, module, "fit")
    assert list(module.plan) == scheduler.plan
    assert fit.max_epochs == 7
    test = trainer(0)
    scheduler.setup(test, bare_module(), "test")
    assert test.max_epochs == 1


def test_loaders_that_outlive_their_stage_are_refused() -> None:
    with pytest.raises(UserError, match="reload_dataloaders_every_n_epochs must be 1"):
        StageScheduler().setup(trainer(0), bare_module(), "fit")


def test_another_module_is_left_alone() -> None:
    fit = trainer(0)
    StageScheduler().setup(fit, cast(L.LightningModule, L.LightningModule()), "fit")
    assert fit.max_epochs == 1
