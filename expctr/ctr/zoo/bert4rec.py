"""BERT4Rec (Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer", CIKM 2019).

The paper trains the model to guess masked items of the history. Here it is trained by the cross-entropy of the
labelled target (`expctr.ctr.zoo.sequential`). The mask stands after the last item, for the target, as in the paper's
predictions.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expctr.ctr.zoo.sequential import TransformerBackbone
from expctr.data.features import Vocabulary


class BERT4Rec(TransformerBackbone):
    """Self-attention in both directions over the history and a mask after it; the mask's state meets the target.

    Each item has a bias, which is added to the logit. An empty history consists of the mask alone, so the logit depends
    on the target alone. RecBole drops the oldest item of every history to make room for the mask; here there is one
    more position instead.

    Args:
        dropout: dropout on the input and on each residual branch.
        attention_dropout: dropout on the attention's weights.
    """

    more_positions = 1  # for the mask

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        *,
        dropout: float = 0.2,
        attention_dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, dropout=dropout, attention_dropout=attention_dropout, **kwargs)
        dim = self.embedding_dim
        self.mask = nn.Parameter(torch.empty(dim))
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, self.layer_norm_eps))
        self.item_bias = self.embeddings(1, ["target"])
        nn.init.normal_(self.mask, std=self.init_std)
        nn.init.zeros_(self.item_bias.weight)
        self.start(self.out)

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        return super().logits(features, text) + self.item_bias.look_up("target", features["target"]).squeeze(-1)

    def state(self, vectors: Tensor, lengths: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        rows = torch.arange(len(vectors), device=vectors.device)
        masked = torch.cat([vectors, torch.zeros_like(vectors[:, :1])], dim=1)
        masked[rows, lengths] = self.mask
        state: Tensor = self.out(self.encode(masked, lengths + 1)[rows, lengths])
        return state
