"""Resume with the config's learning rates and other optimizer options, where they differ from the checkpoint's."""

from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Groups = Sequence[dict[str, Any]]
"""Options of each group of an optimizer's parameters."""


def group_options(optimizers: Iterable[Optimizer]) -> list[Groups]:
    """The options that optimizers were made with."""
    return [
        [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def use_current_options(trainer: L.Trainer, current: Sequence[Groups]) -> None:
    """Learning rates, decay and the like as the options have them now; a checkpoint brings those it was made with.

    So a diverged run can resume at a lower rate. Moments and the place in the schedule are the checkpoint's.

    Args:
        trainer: has the optimizers and schedules.
        current: the options of each optimizer, by `group_options`.
    """
    for optimizer, groups in zip(trainer.optimizers, current, strict=True):
        for group, options in zip(optimizer.param_groups, groups, strict=True):
            group.update(options, initial_lr=options["lr"])
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        assert isinstance(schedule, LambdaLR)
        schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]
        factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
        rates = [base * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates


def split_critic(checkpoint: dict[str, Any], adapter: int) -> None:
    """Give the critic its own group in the policy's optimizer state; before `ppo.critic_lr`, one group held both.

    Args:
        checkpoint: with the states of the optimizers, the policy's first.
        adapter: number of the adapter's parameters, which come first.
    """
    state = checkpoint["optimizer_states"][0]
    if len(state["param_groups"]) == 1:
        (group,) = state["param_groups"]
        parts = group["params"][:adapter], group["params"][adapter:]
        state["param_groups"] = [{**group, "params": part} for part in parts]
