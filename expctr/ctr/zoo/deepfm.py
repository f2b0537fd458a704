"""DeepFM (Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from expctr.ctr.zoo.base import DeepBackbone
from expctr.data.features import Vocabulary


def pairwise_interactions(vectors: Tensor) -> Tensor:
    """The FM's second-order term: the sum over all pairs of fields of their inner product.

    `[batch, fields, dim]` -> `[batch]`, in time linear in the fields (Rendle 2010, lemma 3.1).
    """
    return 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(-1)


class DeepFM(DeepBackbone):
    """The sum of two logits, of a factorization machine and a deep tower over the same field embeddings."""

    def __init__(self, vocabulary: Vocabulary, text_dim: int = 0, **kwargs: Any) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.fields = self.embeddings(self.embedding_dim, first_order=True)
        self.deep = self.tower(len(self.fields.names) * self.embedding_dim)
        self.last = self.head(self.mlp[-1])  # also holds the FM's bias

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        fields: Tensor = self.fields(features)
        first_order, vectors = fields[..., -1].sum(1), fields[..., :-1]
        deep: Tensor = self.last(self.deep(vectors.flatten(1), text), text).squeeze(-1)
        return first_order + pairwise_interactions(vectors) + deep
