"""The ID-based CTR model, with explanations or without, alone or as a part of ExpCTR."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn import functional as F

from expctr.ctr.zoo import CTRBackbone, DeepFM
from expctr.data.batches import Batch
from expctr.data.features import Vocabulary
from expctr.distributed import all_sum, rank, world_size
from expctr.errors import check_range
from expctr.modules.guard import Guard, check_rows
from expctr.modules.scoring import WHOLE, BestWeights, Monitor, ScoringModule
from expctr.seeding import initial_weights, reseed

TOO_FAST = "Lower the CTR model's learning rate (options.lr)"
"""The mend where a CTR model's numbers are none."""


MakeBackbone = Callable[[Vocabulary, int], CTRBackbone]
"""Makes a model of the zoo for the data's vocabulary and the length of the text vectors (0: without text): such a class
itself, or in a config its name and options."""


@dataclass(frozen=True)
class CTROptions:
    """How a CTR model is trained."""

    lr: float = 1e-3
    """Adam's learning rate."""
    weight_decay: float = 0.0
    """Adam's L2 penalty."""
    text_dropout: float = 0.0
    """Share of training rows whose explanation is hidden (z = 0), so that the score without one is in distribution."""
    crossfit: int = 1
    """Models trained, each on all rows but its own share; a training row is then scored by the one that never saw it.
    1 trains a single model on all rows."""
    monitor: Monitor = "logloss"
    """Validation metric that early stopping watches."""
    patience: int = 3
    """Validations without improvement until training stops; the best weights are restored."""

    def __post_init__(self) -> None:
        check_range("ctr.options", self, lr=(0, math.inf), weight_decay=(0, math.inf), text_dropout=(0, 1))
        check_range("ctr.options", self, crossfit=(1, math.inf), patience=(1, math.inf))


_DEFAULTS = CTROptions()
_SMALLEST = Vocabulary({"user": 3, "target": 3}, history=1)


class CTRModule(ScoringModule):
    """Any model of the zoo, trained by binary cross-entropy.

    Alone it is the baseline without text. As a part of another module, that one builds it with the length of its text
    vectors, calls `loss`, `score` and `best`, and does the logging: these methods log nothing and return plain values.

    Args:
        backbone: the model, one of `expctr.ctr.zoo`.
        options: how it is trained.
    """

    def __init__(self, backbone: MakeBackbone = DeepFM, options: CTROptions = _DEFAULTS) -> None:
        super().__init__(options.monitor)
        self.backbone, self.options = backbone, options
        self.backbones = nn.ModuleList()
        self.best = BestWeights(self.backbones, options.monitor == "auc", options.patience)
        self._built_for, self._name = (Vocabulary({}), 0), ""
        with torch.random.fork_rng(devices=[]):
            backbone(_SMALLEST, 0)  # refuses wrong options now, and not once the data are read

    def on_fit_start(self) -> None:
        """Refuse what would never end."""
        check_rows(self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Build for the data module's vocabularies, unless `build` was called before."""
        if not self.built:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self.build(data.features.vocabulary, seed=data.seed)
            if self.device_mesh is not None:
                self.shard(self.device_mesh["data_parallel"])

    @property
    def built(self) -> bool:
        """Are the models there?"""
        return len(self.backbones) > 0

    @property
    def name(self) -> str:
        """What the built model is called."""
        return self._name

    def build(self, vocabulary: Vocabulary, text_dim: int = 0, seed: int = 0) -> None:
        """Make the model (all `crossfit` of them).

        Args:
            vocabulary: the data's.
            text_dim: length of the text vectors z; 0 for a model without text.
            seed: of the initial weights, and of dropout where the module trains alone.
        """
        self._seed = seed
        self._built_for = vocabulary, text_dim
        self.backbones.extend(self._fresh())
        self._name = type(self.backbones[0]).__name__  # sharding gives each another class

    def statistics(self) -> dict[str, Tensor]:
        """What the models remember and do not learn by gradients: batch normalisation's means and variances."""
        return {name: values.clone() for name, values in self.backbones.named_buffers()}

    def load_statistics(self, statistics: Mapping[str, Tensor]) -> None:
        """Take over what `statistics` gave."""
        for name, values in self.backbones.named_buffers():
            if name in statistics:
                values.copy_(statistics[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also the statistics, which a sharded checkpoint's weights leave out."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ctr_statistics"] = self.statistics()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse of `on_save_checkpoint`."""
        super().on_load_checkpoint(checkpoint)
        self.load_statistics(checkpoint.get("ctr_statistics", {}))  # checkpoints of 0.1.0 have none

    def reset(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Return to the initial weights, for a stage that starts over; forgets the best ones too.

        Args:
            optimizer: the one whose moments and step counts go back to zero.
        """
        fresh = nn.ModuleList(self._fresh()).state_dict()
        set_model_state_dict(self.backbones, fresh, options=WHOLE)
        self.best.forget()
        for state in optimizer.state.values() if optimizer else ():
            for value in state.values():
                value.zero_()

    def _fresh(self) -> list[CTRBackbone]:
        models: list[CTRBackbone] = []
        for fold in range(self.options.crossfit):
            with initial_weights(self._seed + fold):
                models.append(self.backbone(*self._built_for))
        return models

    def optimizer(self) -> torch.optim.Adam:
        """One Adam over all models."""
        return torch.optim.Adam(self.parameters(), self.options.lr, weight_decay=self.options.weight_decay, fused=True)

    def gradients(self) -> list[Tensor]:
        """Of all parameters that have one."""
        return [p.grad for p in self.parameters() if p.grad is not None]

    def shard(self, mesh: DeviceMesh) -> None:
        """Shard each model by FSDP2 over a one-dimensional mesh."""
        for backbone in self.backbones:
            # FSDP2 leaves a root unsharded after a forward without backward, where no state dict can be loaded.
            fully_shard(backbone, mesh=mesh, reshard_after_forward=True)
            register_fsdp_forward_method(backbone, "penalty")

    def forward(self, features: Mapping[str, Tensor], text: Tensor | None = None) -> Tensor:
        """Every cross-fitted model's logits, `[crossfit, batch]`; arguments as for `CTRBackbone`."""
        return torch.stack([backbone(features, text) for backbone in self.backbones])

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None = None) -> Tensor:
        """The click's logit `[batch]`, the mean of the cross-fitted models'; arguments as for `CTRBackbone`."""
        mean: Tensor = self(features, text).mean(0)
        return mean

    def loss(self, batch: Batch, text: Tensor | None = None, guard: Guard | None = None) -> Tensor:
        """Binary cross-entropy, averaged over the rows of all ranks and summed over the cross-fitted models.

        Scaled by the world size, since sharding averages gradients over ranks.

        Args:
            batch: training rows.
            text: their text vectors, `[batch, text_dim]`; `None` stands for z = 0.
            guard: knows the rows; without one, a loss that is no number is returned as it is.

        Returns:
            A scalar to call `backward` on.

        Raises:
            BadRunError: a row's loss is no number.
        """
        if text is not None and self.training and self.options.text_dropout > 0:
            shown = torch.rand(len(batch), 1, device=text.device) >= self.options.text_dropout
            text = text * shown
        folds = self.options.crossfit
        total, by_row = torch.zeros((), device=batch.label.device), torch.zeros_like(batch.label)
        for fold, backbone in enumerate(cast("list[CTRBackbone]", self.backbones)):
            rows = batch.sample % folds != fold if folds > 1 else slice(None)  # all of them, without a copy
            features = {name: values[rows] for name, values in batch.features.items()}
            logits = backbone(features, None if text is None else text[rows])
            losses = F.binary_cross_entropy_with_logits(logits, batch.label[rows], reduction="none")
            if (penalty := backbone.penalty(features)) is not None:
                losses = losses + penalty
            count = torch.tensor(len(losses), device=losses.device)
            total = total + losses.sum() / all_sum(count).clamp_min(1)
            by_row[rows] += losses.detach()
        if guard is not None:
            guard.finite("the CTR loss", by_row, TOO_FAST)
        return total * world_size()

    @torch.no_grad()
    def score(self, batch: Batch, text: Tensor | None = None, *, heldout: bool = False) -> Tensor:
        """The click's probability, s^r of Eq. 12, without dropout whatever mode the module is in.

        Args:
            batch: any rows.
            text: their text vectors, `[batch, text_dim]`; `None` stands for z = 0.
            heldout: the rows are training rows: score each by the cross-fitted model that was not trained on it.

        Returns:
            `[batch]`.
        """
        training = self.training
        self.eval()
        logits: Tensor = self(batch.features, text)
        self.train(training)
        if heldout:
            return logits.gather(0, (batch.sample % self.options.crossfit)[None])[0].sigmoid()
        return logits.mean(0).sigmoid()

    def score_without_text(self, batch: Batch, *, heldout: bool = False) -> Tensor:
        """The click's probability at z = 0, the s~^r of Eq. 13; `[batch]`."""
        return self.score(batch, heldout=heldout)

    # Below: training alone. An outer module has hooks of its own and never calls these.

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """`optimizer`."""
        return self.optimizer()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of the seed and the place in training, so that resuming repeats it."""
        reseed(self._seed, self.current_epoch, batch_idx, rank())

    def text(self, batch: Batch) -> Tensor | None:
        """The rows' text vectors, `[batch, text_dim]`; a model that trains alone has none."""
        return None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch."""
        loss = self.loss(batch, self.text(batch), self._guard(batch, batch_idx))
        mean = all_sum(loss) / (world_size() * self.options.crossfit)
        self.log("ctr/loss", mean, prog_bar=True, batch_size=len(batch))
        return loss

    def _guard(self, batch: Batch, batch_idx: int) -> Guard:
        return Guard(f"epoch {self.current_epoch + 1}, batch {batch_idx + 1}", batch.sample.tolist())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """End the run at a gradient that is no number."""
        place = f"epoch {self.current_epoch + 1}"
        Guard(place, ()).norm("the CTR model's gradient norm", self.gradients(), TOO_FAST)

    def row_scores(self, batch: Batch) -> Tensor:
        """`score`, with the rows' text vectors where there are any."""
        return self.score(batch, self.text(batch))


class DeepFMTextModule(CTRModule):
    """DeepFM, the paper's CTR model (5.1): alone the DeepFM row of its Table 1, with explanations ExpCTR-Aug's.

    Args:
        backbone: DeepFM's options.
        options: how it is trained.
    """

    def __init__(self, backbone: Callable[[Vocabulary, int], DeepFM] = DeepFM, options: CTROptions = _DEFAULTS) -> None:
        super().__init__(backbone, options)
