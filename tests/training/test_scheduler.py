"""The plan of stages, and what contradicts it."""

from typing import Any, cast

import lightning as L
import pytest

from expctr.errors import UserError
from expctr.modules.expctr import ExpCTRModule
from expctr.stages.plan import PlanEntry
from expctr.training.scheduler import StageScheduler, make_plan


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


def trainer(**options: Any) -> L.Trainer:
    usual = {"accelerator": "cpu", "max_epochs": -1, "reload_dataloaders_every_n_epochs": 1}
    return L.Trainer(logger=False, enable_checkpointing=False, **(usual | options))


def test_the_scheduler_gives_the_module_its_plan_and_the_trainer_its_length() -> None:
    scheduler, module, fit = StageScheduler(2, 1, 3, 2), bare_module(), trainer()
    scheduler.setup(fit, module, "fit")
    assert list(module.plan) == scheduler.plan
    assert fit.max_epochs == 7
    test = trainer(max_epochs=1, check_val_every_n_epoch=2)
    scheduler.setup(test, bare_module(), "test")
    assert test.max_epochs == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reload_dataloaders_every_n_epochs": 0}, r"reload_dataloaders_every_n_epochs must be 1: .* \(it is 0\)"),
        ({"check_val_every_n_epoch": 2}, r"check_val_every_n_epoch must be 1: .* \(it is 2\)"),
        ({"val_check_interval": 0.5}, r"val_check_interval must be 1\.0: .* \(it is 0\.5\)"),
        ({"val_check_interval": 1}, r"val_check_interval must be 1\.0: .* \(it is 1\)"),
        ({"val_check_interval": "00:00:10:00"}, r"val_check_interval must be 1\.0"),
        ({"limit_val_batches": 0}, r"limit_val_batches must not be 0: .* \(it is 0\)"),
        ({"max_epochs": 3}, r"max_epochs must be -1: .* \(it is 3\)"),
        ({"devices": 2, "strategy": "ddp"}, r"add --config configs/fsdp\.yaml \(it is 2\)"),
    ],
)
def test_options_that_would_train_something_else_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        StageScheduler().setup(trainer(**options), bare_module(), "fit")


def test_only_a_ctr_stage_needs_validations() -> None:
    StageScheduler(lc_epochs=1, rounds=0).setup(trainer(limit_val_batches=0), bare_module(), "fit")


def test_another_module_is_left_alone() -> None:
    fit = trainer(max_epochs=1, reload_dataloaders_every_n_epochs=0)
    StageScheduler().setup(fit, cast(L.LightningModule, L.LightningModule()), "fit")
    assert fit.max_epochs == 1
