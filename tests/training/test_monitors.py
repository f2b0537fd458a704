"""Callbacks of the user that watch a metric: refused before work is lost, in names that exist."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from training.test_scheduler import AllStages, scheduler

from expctr.errors import UserError
from expctr.training.monitors import check_trained_monitors


def set_up(plan: tuple[int, int, int, int], *callbacks: Callback) -> L.Trainer:
    """A trainer with these callbacks, after the scheduler has seen it; the module logs two metrics of its training."""
    trainer = L.Trainer(accelerator="cpu", max_epochs=-1, logger=False, callbacks=[*callbacks])
    module = AllStages()
    trainer.strategy._lightning_module = module
    scheduler(*plan).setup(trainer, module, "fit")
    trainer.callback_metrics.update({"lc/kl": torch.tensor(0.1), "lc/reward_lc": torch.tensor(0.5)})
    check_trained_monitors(trainer, module)
    return trainer


WHOLE, LC, CTR = (1, 1, 2, 1), (2, 0, 0, 0), (0, 1, 3, 0)


@pytest.mark.parametrize(
    ("plan", "callback", "said"),
    [
        (WHOLE, EarlyStopping("val/auc_llm"), r"EarlyStopping would end the whole plan.*model\.ctr\.options\.patience"),
        (LC, EarlyStopping("val/auc"), r"monitors val/auc, which the lc stage does not log.*val/auc_llm"),
        (CTR, EarlyStopping("val/auc_llm"), r"the ctr1 stage does not log.*val/auc_aug, val/auc_plain"),
        (WHOLE, ModelCheckpoint(monitor="val/logloss_aug"), r"ModelCheckpoint monitors val/logloss_aug"),
        (LC, ModelCheckpoint(monitor="lc/klx"), r"lc/klx, which the lc stage does not log.*lc/kl, lc/reward_lc"),
    ],
)
def test_a_metric_that_is_not_logged_is_refused(plan: tuple[int, int, int, int], callback: Callback, said: str) -> None:
    with pytest.raises(UserError, match=said):
        set_up(plan, callback)


@pytest.mark.parametrize(
    ("plan", "callback"),
    [
        (LC, EarlyStopping("val/reward_lc", mode="max")),
        (LC, EarlyStopping("lc/kl")),
        (CTR, EarlyStopping("val/logloss_plain")),
        (WHOLE, ModelCheckpoint(monitor="val/auc_llm", mode="max")),
        (WHOLE, ModelCheckpoint()),
    ],
)
def test_a_metric_of_the_first_stage_can_be_watched(plan: tuple[int, int, int, int], callback: Callback) -> None:
    assert callback in vars(set_up(plan, callback))["callbacks"]
