"""The plan of stages (paper 4.3.2): LC, then CTR and IC in turn."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from expctr.errors import UserError
from expctr.modules.expctr import ExpCTRModule
from expctr.stages.plan import PlanEntry
from expctr.training.strategy import ShardedStrategy


class StageScheduler(Callback):
    """Gives the module its plan, one entry an epoch, and the trainer its length.

    The stage is pulled (`plan[trainer.current_epoch]`), never pushed by a hook: a run resumed in mid-epoch gets no
    `on_train_epoch_start`, and the loaders are made before it.

    Args:
        lc_epochs: passes of the LC stage over the training samples.
        rounds: how often the CTR and the IC stage follow.
        ctr_epochs: passes of each CTR stage, at most; it stops early on the validation split.
        ic_epochs: passes of each IC stage.
    """

    def __init__(self, lc_epochs: int = 2, rounds: int = 1, ctr_epochs: int = 50, ic_epochs: int = 2) -> None:
        if min(lc_epochs, rounds, ctr_epochs, ic_epochs) < 0:
            raise ValueError("stages: numbers of epochs and rounds cannot be negative")
        self.plan = make_plan(lc_epochs, rounds, ctr_epochs, ic_epochs)
        if not self.plan:
            raise ValueError("stages: the plan is empty; give lc_epochs, or rounds with ctr_epochs or ic_epochs")
        if self.plan[0].stage == "ic" or (rounds and ic_epochs and not ctr_epochs):
            raise ValueError("stages: the IC reward needs a CTR model: give ctr_epochs of at least 1")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the plan to a module that takes one."""
        if not isinstance(pl_module, ExpCTRModule):
            return
        pl_module.plan = self.plan
        if stage == "fit":
            self._check(trainer)
            trainer.fit_loop.max_epochs = len(self.plan)

    def _check(self, trainer: L.Trainer) -> None:
        """Refuse what would, without a word, train something else than the plan."""
        options, ranks = vars(trainer), trainer.world_size
        reload, interval = options["reload_dataloaders_every_n_epochs"], options.get("val_check_interval")
        every, part, epochs = trainer.check_val_every_n_epoch, trainer.limit_val_batches, trainer.fit_loop.max_epochs
        each_epoch = isinstance(interval, float) and interval == 1  # Lightning takes the integer for every batch
        ctr = any(entry.stage == "ctr" for entry in self.plan)
        sharded = isinstance(trainer.strategy, ShardedStrategy)
        early = "the CTR stage stops early on the validation split"
        unset = (None, -1, 1000)  # Lightning's own 1000, where no number was asked for
        rules: list[tuple[bool, object, str]] = [
            (reload == 1, reload, "reload_dataloaders_every_n_epochs must be 1: each stage has its own batches"),
            (every == 1, every, f"check_val_every_n_epoch must be 1: {early}"),
            (each_epoch, interval, f"val_check_interval must be 1.0: {early}"),
            (part != 0 or not ctr, part, f"limit_val_batches must not be 0: {early}"),
            (
                epochs in unset or bool(options["fast_dev_run"]),
                epochs,
                "max_epochs must be -1: see stages.*",
            ),
            (ranks == 1 or sharded, ranks, "devices must be 1 without sharding: add --config configs/fsdp.yaml"),
        ]
        for kept, value, rule in rules:
            if not kept:
                raise UserError(f"trainer.{rule} (it is {value})")

    def state_dict(self) -> dict[str, Any]:
        """The plan, so that a resumed run cannot follow another one unseen."""
        return {"plan": [entry.name for entry in self.plan]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the plan is the checkpoint's."""
        ours = [entry.name for entry in self.plan]
        if state_dict["plan"] != ours:
            raise UserError(
                f"the checkpoint was made with the stages {_brief(state_dict['plan'])}, and the config says "
                f"{_brief(ours)}: give the same stages.* options, or start a run in another folder"
            )


def make_plan(lc_epochs: int, rounds: int, ctr_epochs: int, ic_epochs: int) -> list[PlanEntry]:
    """The stages in order, one entry an epoch."""
    plan = [PlanEntry("lc", 0, step, step == lc_epochs - 1) for step in range(lc_epochs)]
    for iteration in range(1, rounds + 1):
        plan += [PlanEntry("ctr", iteration, step, step == ctr_epochs - 1) for step in range(ctr_epochs)]
        plan += [PlanEntry("ic", iteration, step, step == ic_epochs - 1) for step in range(ic_epochs)]
    return plan


def _brief(names: list[str]) -> str:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name} x {count}" for name, count in counts.items())
