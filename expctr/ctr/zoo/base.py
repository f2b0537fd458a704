"""What every ID model of the zoo is made of, and the door through which an explanation enters it (Eq. 12)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.embedding import FieldEmbeddings
from expctr.data.features import Vocabulary
from expctr.distributed import all_sum, all_sum_with_gradient, world_size
from expctr.errors import UserError, check_range

Fuse = Literal["input", "last"]


class Dropout(nn.Dropout):
    """torch's dropout at a quarter of its time on a CPU, where it costs more than the layer that it precedes.

    Each element is decided by 16 random bits, of which the generator makes 64 at once: the rate is a multiple of
    1/65536, and the survivors are scaled by that very rate. Other draws than torch's own, no other distribution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[...]` -> `[...]`."""
        dropped = round(self.p * 2**16)
        if not self.training or dropped in (0, 2**16) or x.device.type != "cpu":
            return super().forward(x)
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits, kept = drawn.view(torch.int16)[: x.numel()].view(x.shape), torch.empty(x.shape, dtype=x.dtype)
        torch.ge(bits, dropped - 2**15, out=kept)  # a fifth of the time of a bool mask that is made a float
        return x * kept.mul_(2**16 / (2**16 - dropped))


def linear(width: int, out: int, bias: bool = True) -> nn.Linear:
    """A linear layer with RecBole's first weights."""
    layer = nn.Linear(width, out, bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class TextLinear(nn.Linear):
    """W_z z, the explanation's part of a layer (Eq. 12).

    z is scaled to a root mean square of 1 first (0 stays 0). Sentence encoders are trained on the angle between
    vectors, and their lengths differ tenfold from one to the next; at this scale z learns about as fast as the ids at
    one learning rate. (Tried with MiniLM on verdicts that agree with 70% of labels: validation LogLoss 0.640 under
    `fuse: last`, against 0.654 for z as it is, 0.683 at unit length, 0.611 possible; under `fuse: input` all three come
    within 0.006 of that.)

    Args:
        text_dim: length of z.
        out: length of the output.
        dropout: dropout on z.
    """

    def __init__(self, text_dim: int, out: int, dropout: float = 0.0) -> None:
        super().__init__(text_dim, out, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, text: Tensor) -> Tensor:
        """`[batch, text_dim]` -> `[batch, out]`."""
        scaled = F.normalize(text, dim=-1) * text.shape[-1] ** 0.5
        return super().forward(self.dropout(scaled))


class FusedLinear(nn.Module):
    """A linear layer over the concatenation of a hidden vector x and the explanation's z (Eq. 12).

    Written as the sum W_x x + b + W_z z, which is the same map, for two reasons. With z = 0 the second term vanishes
    exactly, so the layer then *is* the one of a model without text, bit for bit. And the parameters without W_z carry
    the names and shapes of that model.

    Args:
        width: length of x.
        out: length of the output.
        text_dim: length of z; 0 makes a plain linear layer.
        dropout: dropout on x and z.
    """

    def __init__(self, width: int, out: int, text_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.x = nn.Linear(width, out)
        self.z = TextLinear(text_dim, out, dropout) if text_dim else None
        self.dropout = Dropout(dropout)
        nn.init.xavier_normal_(self.x.weight)
        nn.init.zeros_(self.x.bias)
        if self.z is not None:
            nn.init.xavier_normal_(self.z.weight)

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        """`[batch, width]` and `[batch, text_dim]` -> `[batch, out]`; `None` stands for z = 0."""
        hidden: Tensor = self.x(self.dropout(x))
        return hidden if self.z is None or text is None else hidden + self.z(text)


class TextLogit(nn.Module):
    """For models without a deep tower: z's own term of the logit, b + w_z z.

    Args:
        text_dim: length of z; 0 leaves the bias alone.
    """

    def __init__(self, text_dim: int = 0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.z = TextLinear(text_dim, 1) if text_dim else None
        if self.z is not None:
            nn.init.xavier_normal_(self.z.weight)

    def forward(self, logit: Tensor, text: Tensor | None) -> Tensor:
        """The model's logit `[batch]` without text -> with it."""
        with_bias = logit + self.bias
        return with_bias if self.z is None or text is None else with_bias + self.z(text).squeeze(-1)


class BatchNorm(nn.BatchNorm1d):
    """torch's, but over the rows of all ranks, so that they learn what one would.

    A training batch of a single row has no spread: it is normalised by what was seen so far.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, features]` -> `[batch, features]`."""
        if not self.training:
            return super().forward(x)
        rows = all_sum(torch.tensor(float(len(x)), device=x.device))
        if rows < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if world_size() == 1:
            return super().forward(x)
        mean = all_sum_with_gradient(x.sum(0)) / rows
        variance = all_sum_with_gradient((x - mean).square().sum(0)) / rows
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * rows / (rows - 1), self.momentum)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


class DeepTower(nn.Module):
    """The deep part of a CTR model: dropout, linear, activation, for each hidden layer (RecBole's order).

    Args:
        width: length of the input.
        hidden: widths of the hidden layers.
        dropout: dropout before each layer.
        text_dim: length of the z that joins the tower; 0 where none does.
        activation: after each layer.
        batch_norm: normalise between a layer and its activation.
        text_layer: which layer z joins.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        dropout: float,
        text_dim: int = 0,
        *,
        activation: Callable[[Tensor], Tensor] = F.relu,
        batch_norm: bool = False,
        text_layer: int = 0,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise UserError(f"mlp must name the width of one hidden layer or more, not {list(hidden)}")
        widths = [width, *hidden]
        joins = range(len(hidden))[text_layer]
        self.layers = nn.ModuleList(
            FusedLinear(before, after, text_dim if level == joins else 0, dropout)
            for level, (before, after) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(BatchNorm(size) if batch_norm else nn.Identity() for size in hidden)
        if batch_norm:  # takes a bias off again: of the rounding errors that were its gradient Adam made full steps
            for layer in self.layers:
                cast("FusedLinear", layer).x.bias.requires_grad_(False)
        self.activation = activation

    @property
    def weights(self) -> list[Tensor]:
        """The matrices W_x of all layers."""
        return [cast("FusedLinear", layer).x.weight for layer in self.layers]

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        """`[batch, width]` -> the last hidden layer `[batch, hidden[-1]]`."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.activation(norm(layer(x, text)))
        return x


class CTRBackbone(nn.Module):
    """Base class of the zoo: index tensors, and an explanation's vector where there is one, to a click logit.

    A model takes the vocabulary and the text's length by place, everything else by name: so a config names the model
    and its options, and the data make the rest (`expctr.modules.ctr.MakeBackbone`). It implements `logits`. A model
    without a deep tower adds `text_logit` to its logit; one with a tower derives from `DeepBackbone`.

    Args:
        vocabulary: what it is built for.
        text_dim: length of the explanation's vector z; 0 makes a model without text.
        oov_rate: share of ids replaced by "unknown" while training, so that new users and items have a trained vector.
        max_rows: a field of more values than this keeps so many vectors, which its values share by a hash; null keeps
            one a value.
    """

    def __init__(
        self, vocabulary: Vocabulary, text_dim: int = 0, oov_rate: float = 0.02, max_rows: int | None = None
    ) -> None:
        super().__init__()
        self.vocabulary, self.text_dim, self.oov_rate, self.max_rows = vocabulary, text_dim, oov_rate, max_rows
        self.check(oov_rate=(0, 1), max_rows=(3, inf))

    def check(self, **bounds: tuple[float, float]) -> None:
        """Refuse options out of range, which are attributes of the same names; see `check_range`."""
        check_range(type(self).__name__, self, **bounds)

    def embeddings(
        self, dim: int, fields: Collection[str] | None = None, *, first_order: bool = False
    ) -> FieldEmbeddings:
        """Field embeddings.

        Args:
            dim: length of a vector.
            fields: which; all without it.
            first_order: add a last column, the field's first-order weight: one lookup then serves both.
        """
        if dim < 1:
            raise UserError(f"{type(self).__name__}.embedding_dim must be at least 1")
        kept = [*self.vocabulary.sizes, *self.vocabulary.shares] if fields is None else fields
        sizes = {name: size for name, size in self.vocabulary.sizes.items() if name in kept}
        shares = {name: owner for name, owner in self.vocabulary.shares.items() if name in kept}
        return FieldEmbeddings(sizes, shares, dim + first_order, self.oov_rate, self.max_rows)

    def need_history(self) -> int:
        """The longest history in order.

        Raises:
            UserError: the data have none.
        """
        if not self.vocabulary.history or "target" not in self.vocabulary.sizes:
            raise UserError(
                f"{type(self).__name__} reads histories in their order, and the data have none: data.fields must hold "
                "target and history (null keeps all), and samples.max_history and the ratings must leave some"
            )
        return self.vocabulary.history

    def text_logit(self) -> TextLogit:
        """The last step of a model without a deep tower: the logit's bias and z's term."""
        return TextLogit(self.text_dim)

    def forward(self, features: Mapping[str, Tensor], text: Tensor | None = None) -> Tensor:
        """The click's logit.

        Args:
            features: int64 `[batch]` or `[batch, values]`, by field.
            text: float `[batch, text_dim]`; `None` stands for z = 0.

        Returns:
            `[batch]`.

        Raises:
            ValueError: `text` has another length than the model was built for.
        """
        if text is not None and text.shape[-1] != self.text_dim:
            raise ValueError(f"text vectors of length {text.shape[-1]} for a model built for {self.text_dim}")
        return self.logits(features, text).clone()  # FSDP2 wants no view of a model's inner tensors

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        """What a model of the zoo implements; as `forward`, which has checked the arguments."""
        raise NotImplementedError

    def penalty(self, features: Mapping[str, Tensor]) -> Tensor | None:
        """What training adds to each row's loss: the paper's regularisation or auxiliary loss.

        Args:
            features: of training rows, as `forward` takes them.

        Returns:
            `[batch]`, or one number `[]` for all rows; `None` where there is nothing to add.
        """
        return None


class DeepBackbone(CTRBackbone):
    """A model with a deep tower, which z joins (Eq. 12).

    It builds its field embeddings with `embeddings()`, its deep part with `tower()` and its last layer with `head()`,
    and passes `text` to the latter two; the fusion is then right for it, wherever `fuse` puts it.

    Args:
        vocabulary: what it is built for.
        text_dim: length of the explanation's vector z; 0 makes a model without text.
        mlp: widths of the deep tower's hidden layers.
        dropout: dropout before each layer of the deep tower.
        fuse: where the explanation joins: the deep tower's input, or its last hidden layer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        mlp: tuple[int, ...] = (128, 128, 128),
        dropout: float = 0.2,
        fuse: Fuse = "input",
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.mlp, self.dropout, self.fuse = mlp, dropout, fuse
        self.check(dropout=(0, 1))

    def tower(
        self, width: int, *, activation: Callable[[Tensor], Tensor] = F.relu, batch_norm: bool = False
    ) -> DeepTower:
        """The deep tower over an input of length `width`; z joins it under `fuse: input`. See `DeepTower`."""
        text_dim = self.text_dim if self.fuse == "input" else 0
        return DeepTower(width, self.mlp, self.dropout, text_dim, activation=activation, batch_norm=batch_norm)

    def head(self, width: int) -> FusedLinear:
        """The last layer, from `[batch, width]` to `[batch, 1]`; z joins it under `fuse: last`."""
        return FusedLinear(width, 1, self.text_dim if self.fuse == "last" else 0)
