"""The scheduler of the stages (paper 4.3.2), LC, then CTR and IC in turn."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import ParallelStrategy

from expctr.errors import UserError, check_range
from expctr.modules.staged import StagedModule
from expctr.rl.rewards import ICAlignment, LCAlignment, Reward
from expctr.stages.plan import make_plan
from expctr.training.monitors import check_monitors, check_trained_monitors
from expctr.training.strategy import MultiDeviceStrategy


@dataclass
class PolicyStageOptions:
    """A stage in which the policy learns."""

    epochs: int = 2
    """Passes over the training samples."""
    rewards: list[Reward] | None = None
    """What the policy is rewarded for: the sum of these, each normalised (Eq. 10) and times its weight. None: the
    paper's reward of this stage."""


@dataclass
class CTRStageOptions:
    """A stage in which the CTR model learns."""

    epochs: int = 50
    """Passes over the training samples, at most; it stops early on the validation split."""
    explanations: int = 1
    """Explanations per sample that it learns from. 1: the latest that the policy wrote while it was trained. More: the
    stage's first epoch samples that many from the policy as it is, each epoch then reads another one, and validation
    takes the mean score. A CTR model memorises one fixed explanation per sample."""

    def __post_init__(self) -> None:
        check_range("stages.ctr", self, explanations=(1, math.inf))


class StageScheduler(Callback):
    """Gives the module its plan, one entry per epoch, and its rewards.

    Args:
        lc: the LC stage, which comes first.
        rounds: how often the CTR and the IC stage follow.
        ctr: each CTR stage.
        ic: each IC stage.
    """

    def __init__(
        self,
        lc: PolicyStageOptions = PolicyStageOptions(),
        rounds: int = 1,
        ctr: CTRStageOptions = CTRStageOptions(),
        ic: PolicyStageOptions = PolicyStageOptions(),
    ) -> None:
        if min(lc.epochs, rounds, ctr.epochs, ic.epochs) < 0:
            raise ValueError("stages: numbers of epochs and rounds cannot be negative")
        self.plan = make_plan(lc.epochs, rounds, ctr.epochs, ic.epochs)
        self.explanations = ctr.explanations
        if not self.plan:
            raise ValueError("stages: the plan is empty; give lc.epochs, or rounds with ctr.epochs or ic.epochs")
        if self.plan[0].stage == "ic" or (rounds and ic.epochs and not ctr.epochs):
            raise ValueError("stages: the IC reward needs a CTR model: give ctr.epochs of at least 1")
        self.lc_rewards = _checked("stages.lc.rewards", [LCAlignment()] if lc.rewards is None else lc.rewards)
        self.ic_rewards = _checked("stages.ic.rewards", [ICAlignment()] if ic.rewards is None else ic.rewards)
        kinds = {reward.name: type(reward) for reward in self.lc_rewards}
        if other := [r for r in self.ic_rewards if kinds.get(r.name, type(r)) is not type(r)]:
            raise ValueError(f"stages: different rewards of the LC and the IC stage are both called {other[0].name}")
        if any(isinstance(reward, ICAlignment) for reward in self.lc_rewards):
            raise ValueError(
                "stages.lc.rewards: ICAlignment needs a trained CTR model: list it under stages.ic.rewards"
            )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the plan and the rewards to a module that takes them."""
        if not isinstance(pl_module, StagedModule):
            return
        pl_module.scheduled = True
        pl_module.set_plan(self.plan, {"lc": self.lc_rewards, "ic": self.ic_rewards}, self.explanations)
        if stage == "fit":
            self._check(trainer)
            check_monitors(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refuse early what a callback of the user would miss at the end of the first epoch."""
        if isinstance(pl_module, StagedModule) and trainer.current_epoch == batch_idx == 0:
            check_trained_monitors(trainer, pl_module)

    def _check(self, trainer: L.Trainer) -> None:
        """Refuse options that would silently train something else than the plan."""
        options, ranks = vars(trainer), trainer.world_size
        every, interval = trainer.check_val_every_n_epoch, options.get("val_check_interval")
        part, epochs = trainer.limit_val_batches, trainer.fit_loop.max_epochs
        each_epoch = isinstance(interval, float) and interval == 1  # Lightning takes the integer for every batch
        ctr = any(entry.stage == "ctr" for entry in self.plan)
        several = isinstance(trainer.strategy, MultiDeviceStrategy)
        early = "the CTR stage stops early on the validation split"
        unset = epochs in (None, -1, 1000) or bool(options["fast_dev_run"])  # 1000 is Lightning's own, if not set
        rules: list[tuple[bool, object, str]] = [
            (every == 1, every, f"check_val_every_n_epoch must be 1: {early}"),
            (each_epoch, interval, f"val_check_interval must be 1.0: {early}"),
            (part != 0 or not ctr, part, f"limit_val_batches must not be 0: {early}"),
            (unset, epochs, "max_epochs must be -1: stages.*.epochs and stages.rounds set the length of the run"),
            (ranks == 1 or several, ranks, "devices must be 1, unless you add --config ddp or --config fsdp"),
        ]
        for kept, value, rule in rules:
            if not kept:
                raise UserError(f"trainer.{rule} (it is {value})")

    def state_dict(self) -> dict[str, Any]:
        """The plan, so that a resumed run cannot follow another one unnoticed."""
        return {"plan": [entry.name for entry in self.plan.full]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the plan is the checkpoint's."""
        ours = [entry.name for entry in self.plan.full]
        if state_dict["plan"] != ours:
            raise UserError(
                f"the checkpoint was made with the stages {_summary(state_dict['plan'])}, but the config says "
                f"{_summary(ours)}: give the same stages.* options, or start a run in another folder"
            )


_ONE_OPTIMIZER = (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
)
"""Callbacks for a module with one model and one optimizer, which Lightning steps."""


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse trainer options that do not work with stages, before Lightning refuses them in its own words.

    Raises:
        UserError: it names the option, and the one to use instead.
    """
    accumulated, clipped = trainer.accumulate_grad_batches, trainer.gradient_clip_val
    if accumulated != 1:
        raise UserError(
            f"trainer.accumulate_grad_batches must be 1 (it is {accumulated}): model.explainer.ppo.minibatch_size is "
            "the number of rows per step, and micro_batch_size how many of them are computed at a time"
        )
    if clipped is not None:
        raise UserError(
            f"trainer.gradient_clip_val must be null (it is {clipped}): model.explainer.ppo.grad_clip is the limit of "
            "the policy's gradient"
        )
    for callback in vars(trainer)["callbacks"]:
        if isinstance(callback, _ONE_OPTIMIZER):
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} needs one model and one optimizer that Lightning steps, "
                "and a run has several, which its stages step. Fix: leave it out"
            )
    if trainer.limit_train_batches == 0:
        raise UserError("trainer.limit_train_batches is 0, so nothing would be trained. Fix: raise it, or leave it out")
    if vars(trainer)["overfit_batches"]:
        raise UserError(
            "trainer.overfit_batches must be 0: batches are drawn anew in each epoch, so the run would not overfit a "
            "few of them. Fix: data.samples.max_samples keeps a few samples"
        )
    if isinstance(trainer.strategy, ParallelStrategy) and not isinstance(trainer.strategy, MultiDeviceStrategy):
        raise UserError(
            f"{type(trainer.strategy).__name__}, which trainer.strategy, devices or num_nodes selects, cannot train "
            "stages. Fix: add --config ddp, or --config fsdp where a device cannot hold the whole base"
        )


def _checked(option: str, rewards: Sequence[Reward]) -> list[Reward]:
    """The rewards, if all of them are complete and each has a name of its own."""
    if not rewards:
        raise ValueError(f"{option} is empty: list at least one reward, such as LCAlignment")
    for reward in rewards:
        kind = type(reward).__name__
        if not {"weight", "columns"} <= vars(reward).keys():
            raise ValueError(f"{option}: the __init__ of {kind} must call super().__init__(weight)")
        if not re.fullmatch(r"[A-Za-z]\w*", getattr(reward, "name", "")) or reward.name == "normalised":
            raise ValueError(f"{option}: {kind} needs a `name` of letters, digits and _ (and not `normalised`)")
    (name, count), *_ = Counter(reward.name for reward in rewards).most_common(1)
    if count > 1:
        raise ValueError(f"{option}: {count} rewards are called {name}; their curves and columns need different names")
    if not any(reward.weight for reward in rewards):
        raise ValueError(f"{option}: all weights are 0, so nothing would be learnt; give one reward a weight above 0")
    return list(rewards)


def _summary(names: list[str]) -> str:
    return ", ".join(f"{name} x {count}" for name, count in Counter(names).items())
