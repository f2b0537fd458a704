"""DIN (Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018)."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.embedding import HistoryVectors
from expctr.ctr.zoo.base import DeepBackbone
from expctr.ctr.zoo.layers import linear
from expctr.data.features import Vocabulary


class TargetAttention(nn.Module):
    """Scores each item of a history against the target, by a small network over both, their difference and product.

    As in RecBole, the scores are divided by the square root of the vectors' length.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((4 * dim, *hidden)):
            layers += [linear(before, after), nn.Sigmoid()]
        self.score = nn.Sequential(*layers, linear(hidden[-1], 1))
        self.scale: float = dim**-0.5

    def forward(self, target: Tensor, items: Tensor) -> Tensor:
        """`[batch, dim]` and `[batch, history, dim]` -> scores `[batch, history]`, padding included."""
        query = target[:, None].expand_as(items)
        scores: Tensor = self.score(torch.cat([query, items, query - items, query * items], dim=-1)).squeeze(-1)
        return scores * self.scale


class InterestBackbone(DeepBackbone):
    """What DIN and DIEN share: the target, the history in its order, and all other fields.

    The fields `liked` and `disliked` are left out, since the history holds the same items.

    Args:
        mlp: widths of the hidden layers, of the deep tower and of the attention's network.
        dropout: dropout before each layer of the deep tower.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        mlp: tuple[int, ...] = (256, 256, 256),
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, mlp=mlp, dropout=dropout, **kwargs)
        self.need_history()
        self.fields = self.embeddings(self.embedding_dim, self.vocabulary.sizes.keys() - {"liked", "disliked"})
        self.others = [i for i, name in enumerate(self.fields.names) if name != "target"]
        self.past = HistoryVectors(self.embedding_dim)

    def vectors(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The target's vector `[batch, dim]`, and the other fields' vectors side by side, `[batch, others * dim]`."""
        fields = self.fields(features)
        return fields[:, self.fields.names.index("target")], fields[:, self.others].flatten(1)


class DIN(InterestBackbone):
    """A deep tower over the history, the target and all other fields; a history item's weight depends on the target.

    From the paper: the attention, whose weights are not normalised. From RecBole: the product of history and target as
    a further input of the tower; batch normalisation in the tower; and x * sigmoid(x) as "Dice", with a fixed slope of
    0. RecBole leaves the other fields out; here every model reads them.
    """

    def __init__(self, vocabulary: Vocabulary, text_dim: int = 0, **kwargs: Any) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.attention = TargetAttention(self.embedding_dim, self.mlp)
        self.deep = self.tower((3 + len(self.others)) * self.embedding_dim, activation=F.silu, batch_norm=True)
        self.last = self.head(self.mlp[-1])

    def interest(self, target: Tensor, items: Tensor) -> Tensor:
        """The weighted sum of the history, `[batch, dim]`; the vectors of padding are zeros."""
        return torch.einsum("bh,bhd->bd", self.attention(target, items), items)

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        target, others = self.vectors(features)
        items, _ = self.past(self.fields, features)
        interest = self.interest(target, items)
        hidden = self.deep(torch.cat([interest, target, interest * target, others], 1), text)
        return torch.squeeze(self.last(hidden, text), -1)
