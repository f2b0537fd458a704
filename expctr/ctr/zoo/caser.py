"""Caser (Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding", WSDM
2018).

From the paper: the two kinds of filters and the user's vector, with T = 1. The model reads the whole history and not
windows of it, and it is trained on labelled targets (`expctr.ctr.zoo.sequential`). From RecBole: the last layer has a
ReLU, and its output meets the same item vectors that the history has. The paper has no ReLU there, and each item has
another vector, twice as long, and a bias.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.cpu.dropout import Dropout
from expctr.ctr.zoo.sequential import SequentialBackbone, start_normal
from expctr.data.features import Vocabulary
from expctr.errors import UserError


class Caser(SequentialBackbone):
    """Convolutions over the history as an image, items by dimensions; the user's vector joins their output.

    Vertical filters are weighted sums over time. Horizontal filters slide over all runs of 1, 2, ... items, up to the
    longest history, and their largest output is kept. A short history is padded with zeros at its end. With an empty
    history, the logit depends on the target and the user alone.

    Args:
        nv: number of vertical filters.
        nh: number of horizontal filters per height.
        dropout: dropout on the filters' output.
        reg_weight: weight of the penalty, the sum of the L2 norms (not squared) of the tables and the layers' weights.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        *,
        nv: int = 4,
        nh: int = 8,
        dropout: float = 0.4,
        reg_weight: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.nv, self.nh, self.dropout, self.reg_weight = nv, nh, dropout, reg_weight
        self.check(nv=(1, inf), nh=(1, inf), dropout=(0, 1), reg_weight=(0, inf))
        if "user" not in vocabulary.sizes:
            raise UserError("Caser reads the user: data.fields must hold it (null keeps all)")
        dim, heights = self.embedding_dim, range(1, self.history + 1)
        self.users = self.embeddings(dim, ["user"])
        self.vertical = nn.Conv1d(self.history, nv, kernel_size=1)
        self.horizontal = nn.ModuleList(nn.Conv1d(dim, nh, kernel_size=height) for height in heights)
        self.drop = Dropout(dropout)
        self.join = nn.Linear(nv * dim + nh * len(heights), dim)
        self.out = nn.Linear(2 * dim, dim)
        for table in (self.items, self.users):
            start_normal(table, 1 / dim)
        for layer in (self.join, self.out):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def state(self, vectors: Tensor, lengths: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        in_time = vectors.transpose(1, 2)  # [batch, embedding_dim, history]
        found = [self.vertical(vectors).flatten(1), *(F.relu(conv(in_time)).amax(2) for conv in self.horizontal)]
        sequence = F.relu(self.join(self.drop(torch.cat(found, dim=1))))
        user = self.users.look_up("user", features["user"])
        return F.relu(self.out(torch.cat([sequence, user], dim=1)))

    def penalty(self, features: Mapping[str, Tensor]) -> Tensor:
        """`reg_weight` times the norms of the tables and the layers' weights, `[]`; as in RecBole."""
        layers = (self.items, self.users, self.vertical, *self.horizontal, self.join, self.out)
        return self.reg_weight * torch.stack([layer.weight.norm() for layer in layers]).sum()
