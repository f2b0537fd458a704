"""The CTR stage, where the CTR model learns to use explanations, beside the same model without them (paper 4.3.2)."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from expctr.ctr.click_model import TOO_FAST, ClickModel
from expctr.data.batches import Batch, BatchSpec
from expctr.distributed import all_gather_objects, all_sum, average_gradients, world_size
from expctr.stages.base import Place, Stage
from expctr.stages.models import Models
from expctr.stages.plan import PlanEntry
from expctr.systems import AUG, PLAIN


class CTRStage(Stage):
    """Trains until the validation split no longer improves, at most for the epochs of the plan.

    The validation explanations are sampled once, at the start, in the same way as those that it trains on. Greedy ones
    never name what only sampling finds, and the stage would stop before it has learnt to use it.

    With several explanations per row, the first epoch samples them from the policy as it is; each epoch then trains on
    another one, and the validation scores are means over all of them. One fixed explanation per row would be memorised.

    Args:
        loop: the LightningModule that runs it.
        models: what it trains and scores with.
        explanations: per row; with 1, the latest that the policy has written in training.
    """

    def __init__(self, loop: L.LightningModule, models: Models, explanations: int = 1) -> None:
        super().__init__(loop, models)
        self.explanations = explanations
        assert models.ctr is not None
        assert models.plain is not None
        assert models.encoder is not None
        self.ctr, self.plain, self.encoder = models.ctr, models.plain, models.encoder

    def train_batches(self, entry: PlanEntry) -> BatchSpec:
        """The training rows, with titles while explanations of them are written."""
        titles = self.explanations > 1 and entry.stage_epoch == 0
        return BatchSpec(self.models.data.ctr_batch_size, titles, entry.seed_epoch)

    def val_batches(self, entry: PlanEntry) -> BatchSpec:
        """The validation split, with titles while explanations of it are written.

        Of one size in all epochs, so that trainer.limit_val_batches leaves the same rows.
        """
        return BatchSpec(self.models.data.eval_batch_size, titles=self._writes(entry))

    def step(self, batch: Batch, place: Place) -> dict[str, float]:
        """A step of the CTR model with text (Eq. 15), and of the one without."""
        store = self.models.store
        stats: dict[str, float] = {}
        if place.entry.stage_epoch == 0 and place.batch == 0:
            stats["explained"] = self._start()
        if batch.texts:
            written = self.models.sample_explanations(batch, place.entry.seed_epoch, self.explanations)
            for samples, texts in all_gather_objects((batch.sample.tolist(), written)):
                store.keep(samples, texts)
        # rows without an explanation are left out: with balanced rollouts more of them are liked, and the model would
        # learn that z = 0 means liked
        known = [sample in store for sample in batch.sample.tolist()]
        explained = torch.tensor(known, dtype=torch.bool, device=batch.label.device)  # also where a rank has no rows
        read = batch.select(explained) if store else batch  # before any policy stage, no row is explained
        if int(all_sum(torch.tensor(len(read), device=batch.label.device))):
            vectors = self._vectors(read.sample, place.entry.stage_epoch, fresh=bool(batch.texts))
            stats["loss"] = self._train(self.ctr, self.optimizers[1], read, vectors, place)
        if place.entry.iteration == 1:
            stats["loss_without_text"] = self._train(self.plain, self.optimizers[2], batch, None, place)
        return stats

    def _start(self) -> float:
        """Begin with fresh weights: each round has its own explanations. Returns the share of explained rows."""
        models = self.models
        self.ctr.reset(self.optimizers[1].optimizer)
        models.ctr_trained = False
        models.store.draws.clear()
        train = models.data.table("train").sample.tolist()
        if self.encoder.options.centre:
            self.encoder.centre(models.store.texts(train), self.loop.device)
            models.forget_vectors()
        return 1.0 if self.explanations > 1 else sum(sample in models.store for sample in train) / len(train)

    def _vectors(self, samples: Tensor, draw: int, fresh: bool) -> Tensor:
        """Vectors of stored explanations, `[batch, dim]`; `fresh` ones are not in the cache of vectors yet."""
        if fresh:
            return self.encoder.vectors(self.models.store.texts(samples.tolist(), draw), samples.device)
        return self.models.stored_vectors(samples, draw % self.explanations)

    def _train(
        self, model: ClickModel, optimizer: LightningOptimizer, batch: Batch, vectors: Tensor | None, place: Place
    ) -> float:
        """One step of one model; returns the loss of all ranks."""
        model.train()
        draw = place.entry.stage_epoch
        texts = [] if vectors is None else self.models.store.texts(batch.sample.tolist(), draw)
        guard = place.guard(batch, texts)
        loss = model.loss(batch, vectors, guard)
        optimizer.zero_grad()
        self.loop.manual_backward(loss)
        average_gradients(model.parameters())
        guard.check_gradients("the CTR model's gradient norm", model.gradients(), TOO_FAST)
        optimizer.step()
        return float(all_sum(loss)) / (world_size() * model.options.crossfit)

    def validate(self, batch: Batch, entry: PlanEntry) -> dict[str, Any]:
        """The scores with and without explanations."""
        columns: dict[str, Any] = {}
        if writes := self._writes(entry):
            columns["sampled"] = self.models.sample_explanations(batch, entry.seed_epoch, self.explanations)
            self.models.store.keep(batch.sample.tolist(), columns["sampled"])
        vectors = [self._vectors(batch.sample, draw, fresh=writes) for draw in range(self.explanations)]
        return columns | {"s_r": self.ctr.mean_score(batch, vectors), "s_plain": self.plain.score(batch)}

    def end_epoch(self, metrics: Mapping[str, Mapping[str, float]], entry: PlanEntry) -> bool:
        """Record the validation; returns whether both models have stopped improving. At the stage's end both return to
        their best weights.
        """
        monitor = self.ctr.options.monitor
        stopped = self.ctr.best.update(metrics[AUG.key][monitor])
        if entry.iteration == 1:
            stopped &= self.plain.best.update(metrics[PLAIN.key][monitor])
        if stopped or entry.last:
            self.ctr.best.restore()
            self.plain.best.restore()
            self.models.ctr_trained = True
        return stopped

    def _writes(self, entry: PlanEntry) -> bool:
        """Are explanations of the validation rows sampled in this epoch?"""
        return entry.stage_epoch == 0 and (self.explanations > 1 or bool(self.models.store))
