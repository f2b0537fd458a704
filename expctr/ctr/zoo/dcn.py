"""DCN (Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017)."""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from expctr.ctr.zoo.base import DeepBackbone
from expctr.data.features import Vocabulary


class DCN(DeepBackbone):
    """A cross network, whose layer is x_0 (x_l . w) + b + x_l, beside a deep tower with batch normalisation.

    From the paper: the network. From RecBole: the penalty on the cross weights.

    Args:
        mlp: widths of the deep tower's hidden layers.
        cross_layers: number of cross layers.
        reg_weight: weight of the norms of the cross weights in the loss.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        mlp: tuple[int, ...] = (256, 256, 256),
        cross_layers: int = 6,
        reg_weight: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, mlp=mlp, **kwargs)
        self.cross_layers, self.reg_weight = cross_layers, reg_weight
        self.check(cross_layers=(1, inf), reg_weight=(0, inf))
        self.fields = self.embeddings(self.embedding_dim)
        width = len(self.fields.names) * self.embedding_dim
        self.cross_weight = nn.Parameter(torch.randn(cross_layers, width))
        self.cross_bias = nn.Parameter(torch.zeros(cross_layers, width))
        self.deep = self.tower(width, batch_norm=True)
        self.last = self.head(width + mlp[-1])

    def cross(self, x: Tensor) -> Tensor:
        """The cross network, `[batch, width]` -> `[batch, width]`."""
        crossed = x
        for weight, bias in zip(self.cross_weight, self.cross_bias, strict=True):
            crossed = x * (crossed @ weight)[:, None] + bias + crossed
        return crossed

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        x = self.fields(features).flatten(1)
        return torch.squeeze(self.last(torch.cat([self.cross(x), self.deep(x, text)], 1), text), -1)

    def penalty(self, features: Mapping[str, Tensor]) -> Tensor:
        """`reg_weight` times the norms of the layers' cross weights, `[]`."""
        return self.reg_weight * torch.sum(torch.linalg.vector_norm(self.cross_weight, dim=1))
