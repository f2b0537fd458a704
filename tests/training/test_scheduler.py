"""The scheduler of stages, and what contradicts a plan."""

from collections.abc import Sequence
from typing import Any, cast

import lightning as L
import pytest
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
)
from torch import Tensor

from expctr.data.batches import Batch
from expctr.errors import UserError
from expctr.modules.explainer import PPOExplainerModule
from expctr.modules.staged import StagedModule
from expctr.rl.rewards import ICAlignment, LCAlignment, LengthPenalty, Reward
from expctr.training.scheduler import CTRStageOptions, PolicyStageOptions, StageScheduler, check_trainer


def scheduler(lc_epochs: int = 2, rounds: int = 1, ctr_epochs: int = 50, ic_epochs: int = 2) -> StageScheduler:
    return StageScheduler(
        PolicyStageOptions(lc_epochs), rounds, CTRStageOptions(ctr_epochs), PolicyStageOptions(ic_epochs)
    )


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
        scheduler(*numbers)


class Bare(Reward):
    """Has no more than it must."""

    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        return batch.label


class Named(Bare):
    """Is called as its maker says."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([], r"stages\.lc\.rewards is empty"),
        ([LCAlignment(), LengthPenalty(), LCAlignment(0.5)], r"stages\.lc\.rewards: 2 rewards are called lc"),
        ([ICAlignment()], r"stages\.lc\.rewards: ICAlignment needs a trained CTR model"),
        ([LCAlignment(0), LengthPenalty(0)], r"stages\.lc\.rewards: all weights are 0"),
        ([Named("normalised")], r"stages\.lc\.rewards: Named needs a `name`"),
        ([Named("a/b c")], r"stages\.lc\.rewards: Named needs a `name`"),
        ([Bare.__new__(Bare)], r"stages\.lc\.rewards: the __init__ of Bare must call super"),
        ([Named("ic")], r"stages: different rewards of the LC and the IC stage are both called ic"),
    ],
)
def test_rewards_that_contradict_each_other_are_refused(rewards: list[Reward], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageScheduler(PolicyStageOptions(1, rewards))


def test_another_plan_than_the_checkpoints_is_named() -> None:
    saved = scheduler(2, 1, 3, 2).state_dict()
    scheduler(2, 1, 3, 2).load_state_dict(saved)
    with pytest.raises(UserError, match="lc x 2, ctr1 x 3, ic1 x 2, but the config says lc x 2, ctr1 x 3, ic1 x 4"):
        scheduler(2, 1, 3, 4).load_state_dict(saved)


class AllStages(StagedModule):
    """All stages and no models, which are tested elsewhere."""

    kinds = ("lc", "ctr", "ic")


def trainer(**options: Any) -> L.Trainer:
    usual = {"accelerator": "cpu", "max_epochs": -1}
    return L.Trainer(logger=False, enable_checkpointing=False, **(usual | options))


def test_the_scheduler_gives_the_module_its_plan_and_rewards() -> None:
    made, module = scheduler(2, 1, 3, 2), AllStages()
    made.setup(trainer(), module, "fit")
    assert list(module.plan) == list(made.plan)
    assert module.rewards == {"lc": made.lc_rewards, "ic": made.ic_rewards}
    other = AllStages()
    made.setup(trainer(check_val_every_n_epoch=2), other, "test")  # no training, so nothing to refuse
    assert list(other.plan) == list(made.plan)


def test_a_module_gets_the_stages_that_it_has() -> None:
    module = PPOExplainerModule()
    scheduler(2, 3, 5, 2).setup(trainer(), module, "fit")
    assert [entry.name for entry in module.plan] == ["lc", "lc"]
    assert list(module.rewards) == ["lc"]


def test_two_runs_do_not_share_a_plan() -> None:
    made, one, other = scheduler(1, 1, 3, 1), AllStages(), AllStages()
    made.setup(trainer(), one, "fit")
    one.plan.stop(one.plan.at(1))
    made.setup(trainer(), other, "fit")
    assert (len(one.plan), len(other.plan)) == (3, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"check_val_every_n_epoch": 2}, r"check_val_every_n_epoch must be 1: .* \(it is 2\)"),
        ({"val_check_interval": 0.5}, r"val_check_interval must be 1\.0: .* \(it is 0\.5\)"),
        ({"val_check_interval": 1}, r"val_check_interval must be 1\.0: .* \(it is 1\)"),
        ({"val_check_interval": "00:00:10:00"}, r"val_check_interval must be 1\.0"),
        ({"limit_val_batches": 0}, r"limit_val_batches must not be 0: .* \(it is 0\)"),
        ({"max_epochs": 3}, r"max_epochs must be -1: .* \(it is 3\)"),
        ({"devices": 2, "strategy": "ddp"}, r"unless you add --config ddp or --config fsdp \(it is 2\)"),
    ],
)
def test_options_that_would_train_something_else_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        StageScheduler().setup(trainer(**options), AllStages(), "fit")


def test_only_a_ctr_stage_needs_validations() -> None:
    scheduler(lc_epochs=1, rounds=0).setup(trainer(limit_val_batches=0), AllStages(), "fit")


def test_another_module_is_left_alone() -> None:
    fit = trainer(max_epochs=1)
    StageScheduler().setup(fit, cast(L.LightningModule, L.LightningModule()), "fit")
    assert fit.max_epochs == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, "GradientAccumulationScheduler needs one model"),
        ({"callbacks": [LearningRateFinder()]}, "LearningRateFinder needs one model"),
        ({"callbacks": [ModelPruning("l1_unstructured")]}, "ModelPruning needs one model and one optimizer"),
        ({"callbacks": [BackboneFinetuning()]}, "BackboneFinetuning needs one model and one optimizer"),
        ({"overfit_batches": 3}, "overfit_batches must be 0.*max_samples"),
        ({"limit_train_batches": 0}, "limit_train_batches is 0"),
        ({"devices": 2, "strategy": "ddp_spawn"}, "DDPStrategy, which .* selects, cannot train stages.*--config ddp"),
        ({"accumulate_grad_batches": 4}, r"accumulate_grad_batches must be 1 \(it is 4\).*micro_batch_size"),
    ],
)
def test_options_that_stages_cannot_keep_to_are_refused_in_our_words(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_trainer(trainer(**options))


def test_a_limit_of_batches_can_be_kept_to() -> None:
    check_trainer(trainer(limit_train_batches=2, limit_val_batches=0.5, max_steps=3, min_steps=2))
