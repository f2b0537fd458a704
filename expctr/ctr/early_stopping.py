"""Early stopping: the weights at the best validation so far."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

Monitor = Literal["logloss", "auc"]
FULL = StateDictOptions(full_state_dict=True)
"""Unsharded tensors in and out, also under FSDP2."""


class BestWeights:
    """The weights at the best validation so far, and how long ago that was.

    `patience` is the number of validations without improvement until it is time to stop.

    Attributes:
        waited: validations since the best one.
    """

    def __init__(self, modules: nn.Module, monitor: Monitor, patience: int) -> None:
        self._modules, self._sign, self._patience = modules, 1.0 if monitor == "auc" else -1.0, patience
        self.forget()

    def forget(self) -> None:
        """Start over, as before the first validation."""
        self._best, self.waited = -math.inf, 0
        self._weights: dict[str, Tensor] = {}

    def update(self, value: float) -> bool:
        """Record a validation's metric (NaN never improves) and return whether it is time to stop.

        Every rank has to call this, with the same value.
        """
        if self._sign * value > self._best:
            self._best, self.waited = self._sign * value, 0
            state = cast("dict[str, Tensor]", get_model_state_dict(self._modules, options=FULL))
            self._weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        else:
            self.waited += 1
        return self.stopped

    def restore(self) -> None:
        """Put the best weights back; does nothing before the first validation."""
        if self._weights:
            set_model_state_dict(self._modules, dict(self._weights), options=FULL)

    @property
    def stopped(self) -> bool:
        return self.waited >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors, the same on every rank."""
        return {"best": self._best, "waited": self.waited, "weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self.waited, self._weights = state["best"], state["waited"], dict(state["weights"])
