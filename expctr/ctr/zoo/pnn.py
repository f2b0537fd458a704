"""PNN (Qu et al., "Product-Based Neural Networks for User Response Prediction", ICDM 2016)."""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from expctr.ctr.zoo.base import DeepBackbone
from expctr.data.features import Vocabulary


class PNN(DeepBackbone):
    """A deep tower over the fields and a product of each pair of them.

    From the paper: inner and outer products. From RecBole: one matrix per pair weights its outer product, where the
    paper sums all outer products first; and the penalty.

    Args:
        mlp: widths of the deep tower's hidden layers.
        dropout: dropout before each layer of the deep tower.
        inner: use the pairs' inner products.
        outer: use the pairs' outer products, each weighted by a matrix of the pair and summed.
        reg_weight: weight of the norms of the tower's matrices in the loss.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        mlp: tuple[int, ...] = (128, 256, 128),
        dropout: float = 0.0,
        inner: bool = True,
        outer: bool = False,
        reg_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, mlp=mlp, dropout=dropout, **kwargs)
        self.inner, self.reg_weight = inner, reg_weight
        self.check(reg_weight=(0, inf))
        self.fields = self.embeddings(self.embedding_dim)
        count = len(self.fields.names)
        self.first, self.second = torch.triu_indices(count, count, offset=1).tolist()
        pairs = len(self.first)
        self.kernel = nn.Parameter(torch.empty(self.embedding_dim, pairs, self.embedding_dim)) if outer else None
        if self.kernel is not None:
            nn.init.xavier_uniform_(self.kernel)
        self.deep = self.tower(count * self.embedding_dim + pairs * (inner + outer))
        self.last = self.head(mlp[-1])

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        fields: Tensor = self.fields(features)
        first, second = fields[:, self.first], fields[:, self.second]
        parts = [fields.flatten(1)]
        if self.inner:
            parts.append((first * second).sum(-1))
        if self.kernel is not None:
            parts.append(torch.einsum("bpe,dpe,bpd->bp", first, self.kernel, second))
        return torch.squeeze(self.last(self.deep(torch.cat(parts, 1), text), text), -1)

    def penalty(self, features: Mapping[str, Tensor]) -> Tensor | None:
        """`reg_weight` times the norms of the tower's matrices, `[]`."""
        if self.reg_weight == 0:
            return None
        return self.reg_weight * torch.stack([weight.norm() for weight in self.deep.weights]).sum()
