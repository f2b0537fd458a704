"""Base class of the stages: what every stage has in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import lightning as L
from lightning.pytorch.core.optimizer import LightningOptimizer

from expctr.data.batches import Batch, BatchSpec
from expctr.nan_guard import NaNGuard
from expctr.stages.models import Models
from expctr.stages.plan import PlanEntry


class Place(NamedTuple):
    """Where in a run training is."""

    entry: PlanEntry
    epochs: int
    """How many the plan has."""
    trainer_epoch: int
    """From 0."""
    batch: int
    """Of this epoch, from 0."""

    def __str__(self) -> str:
        return f"{self.entry.name}, epoch {self.trainer_epoch + 1} of {self.epochs}, batch {self.batch + 1}"

    def guard(self, batch: Batch, texts: Sequence[str] = ()) -> NaNGuard:
        """A check of the batch's numbers that says where training is."""
        return NaNGuard(str(self), batch.sample.tolist(), texts)


class Stage(ABC):
    """Says which batches it wants, trains on one, validates, and knows when it is done.

    Args:
        loop: the LightningModule that runs it.
        models: what it trains and scores with.
    """

    def __init__(self, loop: L.LightningModule, models: Models) -> None:
        self.loop, self.models = loop, models

    @property
    def optimizers(self) -> list[LightningOptimizer]:
        """Of the policy, of the CTR model with text, and of the one without, as far as there are any."""
        found = self.loop.optimizers()
        return cast("list[LightningOptimizer]", found if isinstance(found, list) else [found])

    @abstractmethod
    def train_batches(self, entry: PlanEntry) -> BatchSpec:
        """The batches of an epoch."""

    @abstractmethod
    def val_batches(self, entry: PlanEntry) -> BatchSpec:
        """The batches of its validation."""

    @abstractmethod
    def step(self, batch: Batch, place: Place) -> dict[str, float]:
        """Train on one batch; returns what is logged."""

    @abstractmethod
    def validate(self, batch: Batch, entry: PlanEntry) -> dict[str, Any]:
        """Columns of one batch of the validation split, a value per row."""

    def end_epoch(self, metrics: Mapping[str, Mapping[str, float]], entry: PlanEntry) -> bool:
        """Take note of the validation at the end of an epoch; returns whether the stage ends early. By default never.

        Args:
            metrics: of each system, by its key and the metric's.
            entry: the epoch.
        """
        return False
