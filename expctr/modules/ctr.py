"""The CTR model as a LightningModule of its own: the ID baselines of the paper's Table 1."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from expctr.ctr.click_model import DEFAULTS, TOO_FAST, ClickModel, CTROptions, MakeBackbone
from expctr.ctr.zoo import DeepFM
from expctr.data.batches import Batch
from expctr.data.features import Vocabulary
from expctr.distributed import all_sum, average_gradients, rank, world_size
from expctr.modules.scoring import ScoringModule
from expctr.nan_guard import NaNGuard
from expctr.seeding import reseed


class CTRModule(ClickModel, ScoringModule):
    """Any model of the zoo, trained by binary cross-entropy.

    Alone it is the baseline without text. As a part of `ExpCTRModule`, its hooks are never called.

    Args:
        backbone: the model, one of `expctr.ctr.zoo`.
        options: how it is trained.
    """

    def __init__(self, backbone: MakeBackbone, options: CTROptions = DEFAULTS) -> None:
        super().__init__(backbone, options)
        self.monitor = options.monitor

    def on_fit_start(self) -> None:
        """Refuse training that would never end."""
        self.trainer.datamodule.check_rows()  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Build for the data module's vocabularies, unless `build` was called before."""
        if not self.built:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self.build(data.features.vocabulary, seed=data.seed)
            if self.device_mesh is not None:
                self.shard(self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimizer()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of the seed and the place in training, so that a resumed run repeats it."""
        reseed(self._seed, self.current_epoch, batch_idx, rank())

    def text(self, batch: Batch) -> Tensor | None:
        """The rows' text vectors, `[batch, text_dim]`; none for a model that trains alone."""
        return None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        guard = NaNGuard(f"epoch {self.current_epoch + 1}, batch {batch_idx + 1}", batch.sample.tolist())
        loss = self.loss(batch, self.text(batch), guard)
        mean = all_sum(loss) / (world_size() * self.options.crossfit)
        self.log("ctr/loss", mean, prog_bar=True, batch_size=len(batch))
        return loss

    def on_after_backward(self) -> None:
        average_gradients(self.parameters())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """End the run if a gradient is NaN or infinite."""
        guard = NaNGuard(f"epoch {self.current_epoch + 1}", ())
        guard.check_gradients("the CTR model's gradient norm", self.gradients(), TOO_FAST)

    def row_scores(self, batch: Batch) -> Tensor:
        return self.score(batch, self.text(batch))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also the statistics, which a sharded checkpoint's weights leave out."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ctr_statistics"] = self.statistics()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.load_statistics(checkpoint.get("ctr_statistics", {}))  # checkpoints of 0.1.0 have none


class DeepFMTextModule(CTRModule):
    """DeepFM, the paper's CTR model (5.1): alone the DeepFM row of its Table 1, with explanations ExpCTR-Aug's.

    Args:
        backbone: DeepFM's options.
        options: how it is trained.
    """

    def __init__(self, backbone: Callable[[Vocabulary, int], DeepFM] = DeepFM, options: CTROptions = DEFAULTS) -> None:
        super().__init__(backbone, options)
