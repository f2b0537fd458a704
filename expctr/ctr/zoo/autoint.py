"""AutoInt (Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks", CIKM
2019).
"""

from collections.abc import Mapping
from math import inf
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.zoo.base import DeepBackbone
from expctr.ctr.zoo.layers import SelfAttention, linear
from expctr.data.features import Vocabulary
from expctr.errors import UserError


class AutoInt(DeepBackbone):
    """The sum of three logits: first-order weights, self-attention over the fields, and a deep tower.

    From the paper: self-attention over the fields, and the tower beside it (its AutoInt+). From RecBole: the
    first-order weights, and a single ReLU after all attention layers, where the paper has one in each.

    Args:
        mlp: widths of the deep tower's hidden layers.
        attention_dim: length of a field's vector in the attention layers.
        layers: number of attention layers.
        heads: attention heads per layer.
        attention_dropout: dropout of the attention weights.
        residual: add a projection of each field once, before the ReLU, as RecBole's option does. (The paper adds one
            in each layer.)
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        mlp: tuple[int, ...] = (128, 128),
        attention_dim: int = 16,
        layers: int = 3,
        heads: int = 2,
        attention_dropout: float = 0.2,
        residual: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, mlp=mlp, **kwargs)
        self.attention_dim, self.layers, self.heads = attention_dim, layers, heads
        self.attention_dropout = attention_dropout
        self.check(attention_dim=(1, inf), layers=(0, inf), heads=(1, inf), attention_dropout=(0, 1))
        if attention_dim % heads:
            raise UserError(f"AutoInt.heads must divide attention_dim: {heads} heads, length {attention_dim}")
        self.fields = self.embeddings(self.embedding_dim, first_order=True)
        count = len(self.fields.names)
        self.project = linear(self.embedding_dim, attention_dim)
        self.attention = nn.ModuleList(
            SelfAttention(attention_dim, heads, attention_dropout, batch_first=True) for _ in range(layers)
        )
        for layer in self.attention:
            nn.init.xavier_normal_(cast("SelfAttention", layer).out_proj.weight)
        self.residual = linear(self.embedding_dim, attention_dim) if residual else None
        self.attended = linear(count * attention_dim, 1)
        self.deep = self.tower(count * self.embedding_dim)
        self.last = self.head(mlp[-1])  # also holds the first-order part's bias

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        fields: Tensor = self.fields(features)
        first_order, vectors = fields[..., -1].sum(1), fields[..., :-1]
        crossed = self.project(vectors)
        for layer in self.attention:
            crossed, _ = layer(crossed, crossed, crossed)
        if self.residual is not None:
            crossed = crossed + self.residual(vectors)
        both: Tensor = self.attended(F.relu(crossed).flatten(1)) + self.last(self.deep(vectors.flatten(1), text), text)
        return first_order + both.squeeze(-1)
