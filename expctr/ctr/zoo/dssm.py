"""DSSM (Huang et al., "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data", CIKM 2013)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from expctr.ctr.zoo.base import DeepBackbone
from expctr.ctr.zoo.layers import DeepTower
from expctr.data.features import Vocabulary
from expctr.errors import UserError


class DSSM(DeepBackbone):
    """A tower for the user and one for the item; the logit is the cosine of their outputs, so it lies in [-1, 1].

    The item's tower reads the fields `target*`, the user's all others. The explanation joins the user's tower, at its
    input or (`fuse: last`) at its last layer.

    From the paper: two towers with tanh and a cosine (there of a query and a document, from letter trigrams). From
    RecBole: the cosine as a logit, and batch normalisation.

    Args:
        mlp: widths of the hidden layers of each tower.
        dropout: dropout before each layer of the towers.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        mlp: tuple[int, ...] = (256, 256, 256),
        dropout: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, mlp=mlp, dropout=dropout, **kwargs)
        self.fields = self.embeddings(self.embedding_dim)
        names = self.fields.names
        self.user_fields = [i for i, name in enumerate(names) if not name.startswith("target")]
        self.item_fields = [i for i, name in enumerate(names) if name.startswith("target")]
        if not self.user_fields or not self.item_fields:
            raise UserError(f"DSSM needs a field of the user and one of the item; data.fields has {', '.join(names)}")
        place = 0 if self.fuse == "input" else -1
        user, item = (len(side) * self.embedding_dim for side in (self.user_fields, self.item_fields))
        self.user = DeepTower(user, mlp, dropout, text_dim, activation=torch.tanh, batch_norm=True, text_layer=place)
        self.item = DeepTower(item, mlp, dropout, activation=torch.tanh, batch_norm=True)

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        fields: Tensor = self.fields(features)
        user = self.user(fields[:, self.user_fields].flatten(1), text)
        item = self.item(fields[:, self.item_fields].flatten(1), None)
        return torch.cosine_similarity(user, item, dim=1)
