"""A resumed run's rates are its options'; its moments and its place in the schedule are the checkpoint's."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from expctr.modules.resume import group_options, split_critic, use_current_options


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


def test_an_older_checkpoints_one_group_of_adapter_and_critic_becomes_two() -> None:
    parameters = [torch.nn.Parameter(torch.full((2,), float(i))) for i in range(4)]  # two of each

    def groups(*lengths: int) -> torch.optim.AdamW:
        parts = iter(parameters)
        return torch.optim.AdamW([{"params": [next(parts) for _ in range(length)], "lr": 0.1} for length in lengths])

    old, new = groups(4), groups(2, 2)
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.full((2,), i + 1.0)
    old.step()
    checkpoint = {"optimizer_states": [old.state_dict()]}
    split_critic(checkpoint, adapter=2)
    new.load_state_dict(checkpoint["optimizer_states"][0])
    for parameter in parameters:
        assert torch.equal(new.state[parameter]["exp_avg"], old.state[parameter]["exp_avg"])
    once = {"optimizer_states": [new.state_dict()]}
    split_critic(once, adapter=2)
    assert once["optimizer_states"][0] == new.state_dict()


def test_each_group_of_parameters_keeps_its_own_rate() -> None:
    adapter, critic = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(
        [{"params": adapter.parameters()}, {"params": critic.parameters(), "lr": 0.5}], lr=0.1
    )
    configured = group_options([optimizer])
    schedule = LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for group in optimizer.param_groups:
        group.update(lr=9.0, initial_lr=9.0)  # as of a checkpoint
    trainer: Any = SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)])
    use_current_options(trainer, configured)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
