"""What every ID model of the zoo is made of, and the door through which an explanation enters it (Eq. 12)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.embedding import FieldEmbeddings
from expctr.errors import check_range


@dataclass(frozen=True)
class BackboneOptions:
    """The shape of a CTR model. The defaults are RecBole's for DeepFM."""

    embedding_dim: int = 10
    """Length of each field's embedding."""
    mlp: tuple[int, ...] = (128, 128, 128)
    """Widths of the deep tower's hidden layers."""
    dropout: float = 0.2
    """Dropout before each layer of the deep tower."""
    fuse: Literal["input", "last"] = "input"
    """Where the explanation joins: the deep tower's input, or its last hidden layer."""
    oov_rate: float = 0.02
    """Share of ids replaced by "unknown" while training, so that new users and items have a trained vector."""

    def __post_init__(self) -> None:
        check_range("ctr.options", self, embedding_dim=(1, inf), dropout=(0, 1), oov_rate=(0, 1))


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
        kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class FusedLinear(nn.Module):
    """A linear layer over the concatenation of a hidden vector x and the explanation's z (Eq. 12).

    Written as the sum W_x x + b + W_z z, which is the same map, for two reasons. With z = 0 the second term vanishes
    exactly, so the layer then *is* the one of a model without text, bit for bit. And the parameters without W_z carry
    the names and shapes of that model.

    z is scaled to a root mean square of 1 first (0 stays 0). Sentence encoders are trained on the angle between
    vectors, and their lengths differ tenfold from one to the next; at this scale z learns about as fast as the ids at
    one learning rate. (Tried with MiniLM on verdicts that agree with 70% of labels: validation LogLoss 0.640 under
    `fuse: last`, against 0.654 for z as it is, 0.683 at unit length, 0.611 possible; under `fuse: input` all three come
    within 0.006 of that.)

    Args:
        width: length of x.
        out: length of the output.
        text_dim: length of z; 0 makes a plain linear layer.
        dropout: dropout on x and z.
    """

    def __init__(self, width: int, out: int, text_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.x = nn.Linear(width, out)
        self.z = nn.Linear(text_dim, out, bias=False) if text_dim else None
        self.dropout = Dropout(dropout)
        nn.init.xavier_normal_(self.x.weight)
        nn.init.zeros_(self.x.bias)
        if self.z is not None:
            nn.init.xavier_normal_(self.z.weight)

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        """`[batch, width]` and `[batch, text_dim]` -> `[batch, out]`; `None` stands for z = 0."""
        hidden: Tensor = self.x(self.dropout(x))
        if self.z is not None and text is not None:
            scaled = F.normalize(text, dim=-1) * text.shape[-1] ** 0.5
            hidden = hidden + self.z(self.dropout(scaled))
        return hidden


class DeepTower(nn.Module):
    """The deep part of a CTR model: dropout, linear, ReLU, for each hidden layer (RecBole's order).

    Args:
        width: length of the input.
        hidden: widths of the hidden layers.
        dropout: dropout before each layer.
        text_dim: length of the z that joins the input; 0 where none does.
    """

    def __init__(self, width: int, hidden: Sequence[int], dropout: float, text_dim: int = 0) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("the deep tower needs at least one hidden layer")
        widths = [width, *hidden]
        self.layers = nn.ModuleList(
            FusedLinear(before, after, text_dim if level == 0 else 0, dropout)
            for level, (before, after) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        """`[batch, width]` -> the last hidden layer `[batch, hidden[-1]]`."""
        for layer in self.layers:
            x = F.relu(layer(x, text))
        return x


class CTRBackbone(nn.Module):
    """Base class of the zoo: index tensors, and an explanation's vector where there is one, to a click logit.

    A model builds its field embeddings with `embeddings()`, its deep part with `tower()` and its last layer with
    `head()`, and passes `text` to the latter two; the fusion is then right for it, wherever `options.fuse` puts it.
    A model without a deep part has the last layer only, whose input is its last hidden layer.

    Args:
        sizes: rows of each field's table.
        shares: fields that read another field's table.
        options: the model's shape.
        text_dim: length of the explanation's vector z; 0 makes a model without text.
    """

    def __init__(
        self, sizes: Mapping[str, int], shares: Mapping[str, str], options: BackboneOptions, text_dim: int = 0
    ) -> None:
        super().__init__()
        self.sizes, self.shares, self.options, self.text_dim = dict(sizes), dict(shares), options, text_dim

    def embeddings(self, dim: int) -> FieldEmbeddings:
        """Field embeddings of length `dim`."""
        return FieldEmbeddings(self.sizes, self.shares, dim, self.options.oov_rate)

    def tower(self, width: int) -> DeepTower:
        """The deep tower over an input of length `width`; z joins it under `fuse: input`."""
        joins = self.options.fuse == "input"
        return DeepTower(width, self.options.mlp, self.options.dropout, self.text_dim if joins else 0)

    def head(self, width: int, *, deep: bool = True) -> FusedLinear:
        """The last layer, from `[batch, width]` to `[batch, 1]`; z joins it under `fuse: last`.

        Args:
            width: length of the last hidden layer.
            deep: whether the model has a deep tower; without one z joins here whatever `fuse` says.
        """
        joins = self.options.fuse == "last" or not deep
        return FusedLinear(width, 1, self.text_dim if joins else 0)

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
        return self.logits(features, text)

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        """What a model of the zoo implements; as `forward`, which has checked the arguments."""
        raise NotImplementedError
