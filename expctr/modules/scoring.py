"""Scoring module: validation, test and prediction of all modules whose output is one click probability per row."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from expctr.ctr.early_stopping import BestWeights, Monitor
from expctr.data.batches import Batch, BatchSpec
from expctr.data.features import Features
from expctr.distributed import all_gather_rows
from expctr.metrics import ctr_metrics
from expctr.modules.checks import check_device, section
from expctr.modules.resume import use_current_options


class ScoringModule(L.LightningModule, ABC):
    """A row of the paper's Table 1 that scores and does not explain. It ends with the weights of its best validation.

    Args:
        monitor: validation metric that decides which weights are best, and when to stop.
    """

    best: BestWeights
    why_own_rows_only: ClassVar[str] = ""
    """Why only the run's own rows can be scored, for people; empty if any row can."""

    def __init__(self, monitor: Monitor = "logloss") -> None:
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

    def setup(self, stage: str) -> None:
        check_device(self.trainer)
        self.trainer.datamodule.request(self.train_batches, self.val_batches)  # type: ignore[attr-defined]

    def train_batches(self) -> BatchSpec:
        """Training rows without titles."""
        return BatchSpec(self.trainer.datamodule.ctr_batch_size, epoch=self.current_epoch)  # type: ignore[attr-defined]

    def val_batches(self) -> BatchSpec:
        return BatchSpec(self.trainer.datamodule.ctr_batch_size)  # type: ignore[attr-defined]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch; the metrics are of all rows together."""
        self._scored.append((self.row_scores(batch), batch.label))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, and stop when they no longer improve."""
        metrics = self._log_metrics("val")
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.trainer.should_stop |= self.best.update(metrics[self.monitor])

    def on_train_start(self) -> None:
        """Use the options as they are now. A run that stopped early trains no further."""
        use_current_options(self.trainer, [[optimizer.defaults] for optimizer in self.trainer.optimizers])
        self.trainer.should_stop |= self.best.stopped

    def on_validation_start(self) -> None:
        """Before `expctr validate`: restore the best weights."""
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self.best.restore()

    def on_test_start(self) -> None:
        """Go back to the best weights: the model, like a checkpoint, also holds the last ones."""
        self.best.restore()

    on_train_end = on_predict_start = on_test_start

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """As `validation_step`; returns `score` and `label`, both `[batch]`."""
        self.validation_step(batch, batch_idx)
        scores, labels = self._scored[-1]
        return {"score": scores, "label": labels}

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """`sample` ids and click probabilities `score`, both `[batch]`."""
        return {"sample": batch.sample, "score": self.row_scores(batch)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the vocabularies and the best weights so far."""
        checkpoint["features"] = self.trainer.datamodule.features.state_dict()  # type: ignore[attr-defined]
        checkpoint["ctr_best"] = self.best.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trainer.datamodule.features.check_same(Features.from_state(checkpoint["features"]))  # type: ignore[attr-defined]
        self.best.load_state_dict(section(checkpoint, "ctr_best", self))

    def _log_metrics(self, split: str) -> dict[str, float]:
        scores, labels = (all_gather_rows(torch.cat(part)) for part in zip(*self._scored, strict=True))
        self._scored.clear()
        metrics = ctr_metrics(scores, labels)
        known = {f"{split}/{name}": value for name, value in metrics.items() if not math.isnan(value)}
        self.log_dict(known, prog_bar=split == "val")
        return metrics
