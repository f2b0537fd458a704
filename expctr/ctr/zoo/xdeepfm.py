"""xDeepFM (Lian et al., "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems", KDD
2018).
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.zoo.base import DeepBackbone
from expctr.ctr.zoo.layers import DeepTower, linear
from expctr.data.features import Vocabulary
from expctr.errors import UserError


class CIN(nn.Module):
    """The compressed interaction network: a layer's maps are weighted sums of the products of the layer before's maps
    with the fields (Eq. 6 of the paper). The output is their sum over the embedding's dimensions.

    Args:
        fields: number of fields.
        sizes: number of maps per layer, rounded down to an even one unless `direct`.
        direct: every map goes to the next layer and to the output; otherwise one half goes to each.
    """

    def __init__(self, fields: int, sizes: Sequence[int], direct: bool) -> None:
        super().__init__()
        self.direct = direct
        self.sizes = list(sizes) if direct else [size // 2 * 2 for size in sizes]
        if not self.sizes or min(self.sizes) < 1:
            raise UserError(
                f"xDeepFM.cin must name one layer or more, of 2 maps or more unless direct, not {list(sizes)}"
            )
        inputs = [fields, *(size if direct else size // 2 for size in self.sizes[:-1])]
        self.layers = nn.ModuleList(
            nn.Conv1d(before * fields, size, 1) for before, size in zip(inputs, self.sizes, strict=True)
        )
        for weight in self.weights:
            nn.init.xavier_normal_(weight)

    @property
    def weights(self) -> list[Tensor]:
        """The weights of all layers, `[maps, products, 1]`."""
        return [cast("nn.Conv1d", layer).weight for layer in self.layers]

    @property
    def out(self) -> int:
        return sum(self.sizes) if self.direct else sum(self.sizes[:-1]) // 2 + self.sizes[-1]

    def forward(self, fields: Tensor) -> Tensor:
        """`[batch, fields, dim]` -> `[batch, out]`."""
        hidden, shown = fields, []
        for level, layer in enumerate(self.layers):
            products = torch.einsum("bhd,bmd->bhmd", hidden, fields).flatten(1, 2)
            maps = F.relu(layer(products))
            if self.direct or level == len(self.layers) - 1:
                hidden = maps
                shown.append(maps)
            else:
                hidden, half = maps.chunk(2, dim=1)
                shown.append(half)
        return torch.cat(shown, dim=1).sum(-1)


class xDeepFM(DeepBackbone):  # noqa: N801  the paper's name
    """The sum of three logits: first-order weights, a compressed interaction network, and a deep tower.

    The architecture is the paper's. From RecBole: a ReLU after the deep tower's logit, and the penalty.

    Args:
        cin: number of maps per layer of the interaction network.
        direct: see `CIN`.
        reg_weight: weight of the norms of all matrices but the embeddings in the loss.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        cin: tuple[int, ...] = (100, 100, 100),
        direct: bool = False,
        reg_weight: float = 5e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.reg_weight = reg_weight
        self.check(reg_weight=(0, inf))
        self.fields = self.embeddings(self.embedding_dim, first_order=True)
        count, place = len(self.fields.names), 0 if self.fuse == "input" else -1
        self.deep = DeepTower(count * self.embedding_dim, (*self.mlp, 1), self.dropout, text_dim, text_layer=place)
        self.cin = CIN(count, cin, direct)
        self.cin_logit = linear(self.cin.out, 1)  # holds the model's bias

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        fields: Tensor = self.fields(features)
        first_order, vectors = fields[..., -1].sum(1), fields[..., :-1]
        both: Tensor = self.cin_logit(self.cin(vectors)) + self.deep(vectors.flatten(1), text)
        return first_order + both.squeeze(-1)

    def penalty(self, features: Mapping[str, Tensor]) -> Tensor:
        """`reg_weight` times the norms of the tower's, the network's and the first-order weights, `[]`."""
        weights = [*self.deep.weights, *self.cin.weights, self.fields.weight[:, -1]]
        return self.reg_weight * torch.stack([weight.norm() for weight in weights]).sum()
