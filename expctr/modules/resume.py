"""Resume with the config's learning rates and other optimizer options, where they differ from the checkpoint's."""

import lightning as L
from torch.optim.lr_scheduler import LambdaLR


def use_current_options(trainer: L.Trainer) -> None:
    """Learning rates, decay and the like as the options have them now; a checkpoint brings those it was made with.

    So a diverged run can resume at a lower rate. Moments and the place in the schedule are the checkpoint's.
    """
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group.update(optimizer.defaults, initial_lr=optimizer.defaults["lr"])
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        assert isinstance(schedule, LambdaLR)
        schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]
        factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
        rates = [base * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates
