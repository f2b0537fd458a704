"""A resumed run's rates are its options'; its moments and its place in the schedule are the checkpoint's."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from expctr.modules.resume import use_current_options


def made(lr: float, decay: float) -> tuple[torch.optim.AdamW, LambdaLR]:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(nn.Linear(2, 1).parameters(), lr=lr, weight_decay=decay)
    return optimizer, LambdaLR(optimizer, lambda step: 1 / (step + 1))


def step(optimizer: torch.optim.AdamW, schedule: LambdaLR) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()


def test_rates_follow_the_options() -> None:
    old, old_schedule = made(1e-2, 0.1)
    for _ in range(3):
        step(old, old_schedule)
    optimizer, schedule = made(1e-4, 0.0)
    optimizer.load_state_dict(old.state_dict())
    schedule.load_state_dict(old_schedule.state_dict())
    trainer: Any = SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)])
    use_current_options(trainer, [[optimizer.defaults]])
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(1e-4 / 4), 0.0)
    assert schedule.get_last_lr() == [pytest.approx(1e-4 / 4)]
    step(optimizer, schedule)
    assert group["lr"] == pytest.approx(1e-4 / 5)
    assert {float(state["step"]) for state in optimizer.state.values()} == {4}


def test_the_same_options_change_nothing() -> None:
    optimizer, schedule = made(1e-3, 0.1)
    step(optimizer, schedule)
    before = {**optimizer.param_groups[0]}
    trainer: Any = SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)])
    use_current_options(trainer, [[optimizer.defaults]])
    assert optimizer.param_groups[0] == before
