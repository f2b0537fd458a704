"""Checks before a run: they refuse a device or precision that does not work, and a checkpoint of another model."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.accelerators import MPSAccelerator
from torch import nn

from expctr.errors import UserError


def usable_accelerator(accelerator: Any) -> Any:
    """The CPU in place of `auto` where Lightning would choose Apple's GPU."""
    return "cpu" if accelerator == "auto" and MPSAccelerator.is_available() else accelerator


def check_device(trainer: L.Trainer) -> None:
    """Refuse Apple's GPUs.

    Raises:
        UserError: the trainer would use one.
    """
    if trainer.strategy.root_device.type == "mps":
        raise UserError(
            "trainer.accelerator: Apple's GPUs (mps) have no float64, in which sampling and metrics are computed. Fix: "
            "set trainer.accelerator to cpu"
        )


def check_precision(trainer: L.Trainer) -> None:
    """Refuse a `trainer.precision` other than 32-true.

    Raises:
        UserError: the precision is another.
    """
    if trainer.precision != "32-true":
        raise UserError(
            f"trainer.precision must be 32-true (it is {trainer.precision}): the base's precision is set by "
            "model.explainer.llm.dtype"
        )


def check_weights(module: nn.Module, found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint of another model, which would otherwise be loaded in part, without an error.

    `found` holds the shapes of the checkpoint's weights by name.

    Raises:
        UserError: naming a weight that it lacks, has in another shape, or should not have.
    """
    known = {name: tuple(tensor.shape) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    trained = {name: known[name] for name, parameter in module.named_parameters() if parameter.requires_grad}
    lacking = [f"lacks {name}" for name in trained if name not in found]
    shared = [name for name in trained if name in found]
    other = [f"has {name} as {found[name]}, not {trained[name]}" for name in shared if found[name] != trained[name]]
    unknown = [f"has {name}, which is not of this model" for name in found if name not in module.state_dict()]
    if wrong := lacking or other or unknown:
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise UserError(
            f"the checkpoint is of another model: it {wrong[0]}{more}. Give the options of the run that made it, or a "
            "checkpoint of this run"
        )


def section(checkpoint: Mapping[str, Any], name: str, module: nn.Module) -> Any:
    """A part of a checkpoint, if that is this module's.

    Raises:
        UserError: another class of module made it, or another model. Sharded weights are checked by the strategy.
    """
    if name not in checkpoint:
        raise UserError(f"the checkpoint is not of a {type(module).__name__}: give the config that made it")
    if "state_dict" in checkpoint:
        check_weights(module, {key: tuple(weight.shape) for key, weight in checkpoint["state_dict"].items()})
    return checkpoint[name]
