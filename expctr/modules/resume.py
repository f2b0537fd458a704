"""Resume: optimizers with the options that the config has now, and checkpoints of earlier versions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from expctr.stages.plan import Plan

Groups = Sequence[dict[str, Any]]
"""Options of each group of an optimizer's parameters."""


def prime(optimizer: Optimizer) -> None:
    """Create an optimizer's moments now, at step 0. To save an optimizer without moments, torch makes a dummy step, so
    saving would change training.
    """
    for group in optimizer.param_groups:
        for parameter in filter(lambda p: p.requires_grad, group["params"]):
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0, device=parameter.device if group["fused"] else "cpu"),  # where torch has it
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


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


def skip_idle_epochs(checkpoint: Mapping[str, Any], plan: Plan) -> None:
    """Leave out the rest of a CTR stage that stopped early; versions before 0.2 went through it without training."""
    entry = plan.at(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    if checkpoint["expctr"].get("stopped_in") == entry.iteration and entry.stage == "ctr":
        plan.stopped[entry.name] = entry.stage_epoch
