"""A CTR model as it is trained and scored: with text or without, cross-fitted or not."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn import functional as F

from expctr.ctr.early_stopping import FULL, BestWeights, Monitor
from expctr.ctr.fusion import narrow_text
from expctr.ctr.zoo import CTRBackbone
from expctr.data.batches import Batch
from expctr.data.features import Vocabulary
from expctr.distributed import all_sum, world_size
from expctr.errors import UserError, check_range
from expctr.nan_guard import NaNGuard
from expctr.seeding import initial_weights

TOO_FAST = "Lower the learning rate of the CTR model (model.ctr.options.lr; model.options.lr where it trains alone)"
"""What to do if a CTR model's numbers are NaN or infinite."""

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
    text_bottleneck: int | None = None
    """Length of a learnt projection of z that joins the model in place of z, best about that of an id's embedding. The
    weights of all of z, which has hundreds of numbers, overfit on a few thousand rows. null: no projection."""
    text_bottleneck_dropout: float = 0.0
    """Dropout of the projected vector, in place of the dropout of the layer that it joins."""
    crossfit: int = 1
    """Models trained, each on all rows but its own share. A training row is then scored by the one that never saw it.
    1 trains a single model on all rows."""
    monitor: Monitor = "logloss"
    """Validation metric that early stopping watches."""
    patience: int = 3
    """Validations without improvement until training stops; the best weights are restored."""

    def __post_init__(self) -> None:
        shares = dict.fromkeys(("text_dropout", "text_bottleneck_dropout"), (0, 1))
        counts = dict.fromkeys(("text_bottleneck", "crossfit", "patience"), (1, math.inf))
        check_range("ctr.options", self, lr=(0, math.inf), weight_decay=(0, math.inf), **shares, **counts)
        if self.text_bottleneck_dropout and self.text_bottleneck is None:
            raise UserError(
                "ctr.options.text_bottleneck_dropout has no effect without a bottleneck. Fix: set "
                "ctr.options.text_bottleneck, or leave ctr.options.text_bottleneck_dropout at 0"
            )


DEFAULTS = CTROptions()
_SMALLEST = Vocabulary({"user": 3, "target": 3}, history=1)


class ClickModel(nn.Module):
    """Any model of the zoo, trained by binary cross-entropy."""

    name = ""
    """What the built model is called."""

    def __init__(self, backbone: MakeBackbone, options: CTROptions = DEFAULTS) -> None:
        super().__init__()
        self.backbone, self.options = backbone, options
        self.backbones = nn.ModuleList()
        self.best = BestWeights(self.backbones, options.monitor, options.patience)
        with torch.random.fork_rng(devices=[]):
            backbone(_SMALLEST, 0)  # refuses wrong options now, before the data are read

    @property
    def built(self) -> bool:
        return len(self.backbones) > 0

    def build(self, vocabulary: Vocabulary, text_dim: int = 0, seed: int = 0) -> None:
        """Make the model (all `crossfit` of them).

        `text_dim` is the length of the text vectors z, 0 for a model without text. `seed` is that of the initial
        weights, and of dropout where the module trains alone.
        """
        self._seed, self._built_for = seed, (vocabulary, text_dim)
        models = self._fresh()
        self.backbones.extend(models)
        self.name = models[0].title()

    def _fresh(self) -> list[CTRBackbone]:
        models = []
        for fold in range(self.options.crossfit):
            with initial_weights(self._seed + fold):
                models.append(self.backbone(*self._built_for))
                if self.options.text_bottleneck is not None:
                    narrow_text(models[-1], self.options.text_bottleneck, self.options.text_bottleneck_dropout)
        return models

    def reset(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Return to the initial weights, for a stage that starts over; forget the best ones and Adam's moments."""
        set_model_state_dict(self.backbones, nn.ModuleList(self._fresh()).state_dict(), options=FULL)
        self.best.forget()
        for state in optimizer.state.values() if optimizer else ():
            for value in state.values():
                value.zero_()

    def statistics(self) -> dict[str, Tensor]:
        """What the models remember but do not learn by gradients: means and variances of batch normalisation."""
        return {name: values.clone() for name, values in self.backbones.named_buffers()}

    def load_statistics(self, statistics: Mapping[str, Tensor]) -> None:
        for name, values in self.backbones.named_buffers():
            if name in statistics:
                values.copy_(statistics[name])

    def optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.parameters(), self.options.lr, weight_decay=self.options.weight_decay, fused=True)

    def gradients(self) -> list[Tensor]:
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
        """The click's logit `[batch]`, the mean over the cross-fitted models; arguments as for `CTRBackbone`."""
        return torch.mean(self(features, text), 0)

    def loss(self, batch: Batch, text: Tensor | None = None, guard: NaNGuard | None = None) -> Tensor:
        """Binary cross-entropy, averaged over the rows of all ranks and summed over the cross-fitted models.

        Scaled by the world size, since gradients are averaged over ranks.

        Args:
            batch: training rows.
            text: their text vectors, `[batch, text_dim]`; `None` stands for z = 0.
            guard: knows the rows; without one, a loss that is NaN or infinite is returned as it is.

        Raises:
            BadRunError: a row's loss is NaN or infinite.
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
            guard.check("the CTR loss", by_row, TOO_FAST)
        return total * world_size()

    @torch.no_grad()
    def score(self, batch: Batch, text: Tensor | None = None, *, heldout: bool = False) -> Tensor:
        """The click's probability `[batch]`, s_r of Eq. 12, always without dropout.

        Args:
            batch: any rows.
            text: their text vectors, `[batch, text_dim]`; `None` stands for z = 0, which gives s_0 of Eq. 13.
            heldout: the rows are training rows: score each with the cross-fitted model that was not trained on it.
        """
        training = self.training
        self.eval()
        logits: Tensor = self(batch.features, text)
        self.train(training)
        if heldout:
            return logits.gather(0, (batch.sample % self.options.crossfit)[None])[0].sigmoid()
        return logits.mean(0).sigmoid()

    def mean_score(self, batch: Batch, texts: Iterable[Tensor]) -> Tensor:
        """The mean of `score`, `[batch]`, over several text vectors per row, `[batch, text_dim]` each."""
        return torch.stack([self.score(batch, text) for text in texts]).mean(0)
