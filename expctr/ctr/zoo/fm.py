"""FM (Rendle, "Factorization Machines", ICDM 2010)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from expctr.ctr.zoo.base import CTRBackbone
from expctr.ctr.zoo.deepfm import pairwise_interactions
from expctr.data.features import Vocabulary


class FM(CTRBackbone):
    """First-order weights and the inner products of all pairs of fields.

    Args:
        embedding_dim: length of each field's embedding.
    """

    def __init__(self, vocabulary: Vocabulary, text_dim: int = 0, embedding_dim: int = 10, **kwargs: Any) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.fields = self.embeddings(embedding_dim, first_order=True)
        self.text = self.text_logit()

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        fields: Tensor = self.fields(features)
        logit: Tensor = self.text(fields[..., -1].sum(1) + pairwise_interactions(fields[..., :-1]), text)
        return logit
