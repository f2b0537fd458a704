"""DCN V2 (Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
Systems", WWW 2021).
"""

from collections.abc import Mapping
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expctr.ctr.zoo.base import DeepBackbone
from expctr.ctr.zoo.layers import linear
from expctr.data.features import Vocabulary


class Cross(nn.Module):
    """Cross layers with one matrix each: x_0 * (W x_l + b) + x_l."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(layers, width, width))
        self.bias = nn.Parameter(torch.zeros(layers, width))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, width]` -> `[batch, width]`."""
        crossed = x
        for weight, bias in zip(self.weight, self.bias, strict=True):
            crossed = x * (crossed @ weight.T + bias) + crossed
        return crossed

    def norm(self) -> Tensor:
        """The sum of the norms of the layers' matrices, `[]`."""
        return torch.sum(torch.linalg.vector_norm(self.weight, dim=(1, 2)))


class MixedCross(nn.Module):
    """Cross layers of gated experts of low rank: expert i computes x_0 * (U_i tanh(C_i tanh(V_i x_l)) + b).

    Args:
        experts: number of experts per layer; all layers share the gates, as in RecBole.
        rank: rank of the experts' matrices.
    """

    def __init__(self, width: int, layers: int, experts: int, rank: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.randn(layers, experts, width, rank))
        self.v = nn.Parameter(torch.randn(layers, experts, width, rank))
        self.c = nn.Parameter(torch.randn(layers, experts, rank, rank))
        self.bias = nn.Parameter(torch.zeros(layers, width))
        self.gate = linear(width, experts).requires_grad_(experts > 1)  # a single expert always has the weight 1

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, width]` -> `[batch, width]`."""
        crossed = x
        for u, v, c, bias in zip(self.u, self.v, self.c, self.bias, strict=True):
            low = torch.tanh(torch.einsum("ewr,bw->ber", v, crossed))
            low = torch.tanh(torch.einsum("ers,bes->ber", c, low))
            experts = x[:, None] * (torch.einsum("ewr,ber->bew", u, low) + bias)
            crossed = crossed + torch.einsum("be,bew->bw", self.gate(crossed).softmax(1), experts)
        return crossed

    def norm(self) -> Tensor:
        """The sum of the norms of each layer's three stacks of matrices, `[]`."""
        norms = [torch.linalg.vector_norm(stack, dim=(1, 2, 3)) for stack in (self.u, self.v, self.c)]
        return torch.stack(norms).sum()


class DCNv2(DeepBackbone):
    """Cross layers with matrices, before or beside a deep tower with batch normalisation.

    From the paper: the cross layers, full or of low rank, and both structures. From RecBole: the penalty on the cross
    matrices, and gates that all layers share.

    Args:
        embedding_dim: length of each field's embedding.
        mlp: widths of the deep tower's hidden layers.
        cross_layers: number of layers.
        structure: the tower reads the cross layers' output (`stacked`), or the fields (`parallel`).
        experts: number of low-rank experts that replace each cross matrix; 0 keeps the matrix.
        rank: rank of the experts' matrices.
        reg_weight: weight of the norms of the cross matrices in the loss.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        embedding_dim: int = 16,
        mlp: tuple[int, ...] = (768, 768),
        cross_layers: int = 3,
        structure: Literal["stacked", "parallel"] = "stacked",
        experts: int = 0,
        rank: int = 128,
        reg_weight: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, embedding_dim, mlp, **kwargs)
        self.stacked, self.reg_weight = structure == "stacked", reg_weight
        self.cross_layers, self.experts, self.rank = cross_layers, experts, rank
        self.check(cross_layers=(1, inf), experts=(0, inf), rank=(1, inf), reg_weight=(0, inf))
        self.fields = self.embeddings(embedding_dim)
        width = len(self.fields.names) * embedding_dim
        self.cross = MixedCross(width, cross_layers, experts, rank) if experts else Cross(width, cross_layers)
        self.deep = self.tower(width, batch_norm=True)
        self.last = self.head(mlp[-1] + (0 if self.stacked else width))

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        x = self.fields(features).flatten(1)
        crossed = self.cross(x)
        hidden = self.deep(crossed, text) if self.stacked else torch.cat([crossed, self.deep(x, text)], 1)
        return torch.squeeze(self.last(hidden, text), -1)

    def penalty(self, features: Mapping[str, Tensor]) -> Tensor:
        """`reg_weight` times the norms of the cross matrices, `[]`."""
        return self.reg_weight * self.cross.norm()
