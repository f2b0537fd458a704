"""What all models have in common whose output is a click probability a row: validation, test, prediction."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from expctr.data.batches import Batch
from expctr.data.features import Features
from expctr.distributed import all_gather_rows
from expctr.metrics import ctr_metrics
from expctr.modules.guard import section
from expctr.modules.rates import follow_options

Monitor = Literal["logloss", "auc"]
WHOLE = StateDictOptions(full_state_dict=True)
"""Unsharded tensors in and out, also under FSDP2."""


class BestWeights:
    """The weights at the best validation so far, and how long ago that was.

    Args:
        modules: whose weights to keep.
        higher: whether more is better.
        patience: validations without improvement until it is time to stop.
    """

    def __init__(self, modules: nn.Module, higher: bool, patience: int) -> None:
        self._modules, self._sign, self._patience = modules, 1.0 if higher else -1.0, patience
        self.forget()

    def forget(self) -> None:
        """Start over, as before the first validation."""
        self._best, self._waited = -math.inf, 0
        self._weights: dict[str, Tensor] = {}

    def update(self, value: float) -> bool:
        """Record a validation's metric (nan never improves) and return whether it is time to stop.

        Every rank has to call this, with the same value.
        """
        if self._sign * value > self._best:
            self._best, self._waited = self._sign * value, 0
            state = cast("dict[str, Tensor]", get_model_state_dict(self._modules, options=WHOLE))
            self._weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        else:
            self._waited += 1
        return self.stopped

    def restore(self) -> None:
        """Put the best weights back; nothing happens before the first validation."""
        if self._weights:
            set_model_state_dict(self._modules, dict(self._weights), options=WHOLE)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors, the same on every rank."""
        return {"best": self._best, "waited": self._waited, "weights": dict(self._weights)}

    @property
    def stopped(self) -> bool:
        """Was it time to stop at the last validation?"""
        return self._waited >= self._patience

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._best, self._waited, self._weights = state["best"], state["waited"], dict(state["weights"])


class ScoringModule(L.LightningModule, ABC):
    """A row of the paper's Table 1 that scores and explains nothing; the weights of its best validation count.

    Args:
        monitor: validation metric that tells the best weights, and when to stop.
    """

    best: BestWeights

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor
        self._scored: list[tuple[Tensor, Tensor]] = []

    @property
    @abstractmethod
    def name(self) -> str:
        """What the table calls it."""

    @abstractmethod
    def row_scores(self, batch: Batch) -> Tensor:
        """Click probabilities, `[batch]`, without gradient."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch; the metrics are of all rows together."""
        self._scored.append((self.row_scores(batch), batch.label))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, and stop when they no longer improve."""
        metrics = self._log_metrics("val")
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.trainer.should_stop |= self.best.update(metrics[self.monitor])

    def on_train_start(self) -> None:
        """A run that had stopped and is gone on with stays as it is."""
        follow_options(self.trainer)
        self.trainer.should_stop |= self.best.stopped

    def on_train_end(self) -> None:
        """Keep the best weights, not the last."""
        self.best.restore()

    def on_validation_start(self) -> None:
        """As `on_test_start`, where validation is all there is."""
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self.best.restore()

    def on_test_start(self) -> None:
        """A checkpoint holds the last weights and the best ones."""
        self.best.restore()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """As `validation_step`; returns `score` and `label`, both `[batch]`."""
        self.validation_step(batch, batch_idx)
        scores, labels = self._scored[-1]
        return {"score": scores, "label": labels}

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_metrics("test")

    def on_predict_start(self) -> None:
        """As `on_test_start`."""
        self.best.restore()

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """`sample` ids and click probabilities `score`, both `[batch]`."""
        return {"sample": batch.sample, "score": self.row_scores(batch)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the vocabularies and the best weights so far."""
        checkpoint["features"] = self.trainer.datamodule.features.state_dict()  # type: ignore[attr-defined]
        checkpoint["ctr_best"] = self.best.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the best weights so far, if the data are the same."""
        self.trainer.datamodule.features.check_same(Features.from_state(checkpoint["features"]))  # type: ignore[attr-defined]
        self.best.load_state_dict(section(checkpoint, "ctr_best", self))

    def _log_metrics(self, split: str) -> dict[str, float]:
        scores, labels = (all_gather_rows(torch.cat(part)) for part in zip(*self._scored, strict=True))
        self._scored.clear()
        metrics = ctr_metrics(scores, labels)
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()}, prog_bar=split == "val")
        return metrics
