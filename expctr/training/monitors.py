"""Checks of the user's callbacks that watch a metric: stages log different ones, and a name may be wrong."""

from collections.abc import Iterator

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from expctr.errors import UserError
from expctr.modules.staged import StagedModule
from expctr.systems import AUG, LLM, METRICS, PLAIN


def check_monitors(trainer: L.Trainer, module: StagedModule) -> None:
    """Refuse, before training, a callback whose metric is missing in a stage: it would fail, or act on an old value.

    Raises:
        UserError: naming the callback's option, and what it may be.
    """
    first = module.plan[0]
    policy = first.stage != "ctr"
    known = {f"val/{metric}_{system.key}" for system in ([LLM] if policy else [AUG, PLAIN]) for metric in METRICS}
    if policy:
        known |= {"val/s_u_above_half", *(f"val/reward_{reward.name}" for reward in module.all_rewards(first.stage))}
    for callback, monitor in _monitors(trainer):
        name = type(callback).__name__
        if isinstance(callback, EarlyStopping) and len({entry.name for entry in module.plan}) > 1:
            raise UserError(
                f"trainer.callbacks: {name} would end the whole plan, not a stage, and {monitor} does not change in "
                "stages that do not log it. Fix: leave it out, as the CTR stage stops early by itself "
                "(model.ctr.options.patience); or train one stage, with stages.rounds 0"
            )
        if monitor.startswith("val/") and monitor not in known:
            raise _missing(name, monitor, first.name, known)


def check_trained_monitors(trainer: L.Trainer, module: StagedModule) -> None:
    """As `check_monitors`, for metrics that training logs: their names are known after the first batch."""
    for callback, monitor in _monitors(trainer):
        if not monitor.startswith("val/") and monitor not in trainer.callback_metrics:
            raise _missing(type(callback).__name__, monitor, module.plan[0].name, set(trainer.callback_metrics))


def _monitors(trainer: L.Trainer) -> Iterator[tuple[Callback, str]]:
    callbacks: list[Callback] = vars(trainer)["callbacks"]
    for callback in callbacks:
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor:
            yield callback, callback.monitor


def _missing(callback: str, monitor: str, stage: str, known: set[str]) -> UserError:
    names = ", ".join(sorted(known))
    return UserError(
        f"trainer.callbacks: {callback} monitors {monitor}, which the {stage} stage does not log. Fix: monitor one of "
        f"{names}"
    )
