"""GRU4Rec (Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016).

From Tan et al., "Improved Recurrent Neural Networks for Session-based Recommendations", DLRS 2016, as in RecBole:
items enter as embeddings, with dropout. From RecBole: a GRU without biases, and the linear layer after it. Trained on
labelled targets (`expctr.ctr.zoo.sequential`).
"""

from collections.abc import Mapping
from math import inf
from typing import Any

from torch import Tensor, nn

from expctr.ctr.cpu.dropout import Dropout
from expctr.ctr.zoo.sequential import SequentialBackbone, at_last
from expctr.data.features import Vocabulary


class GRU4Rec(SequentialBackbone):
    """A GRU without biases reads the history; a linear layer maps its last hidden state to the items' space.

    The hidden state of an empty history is 0, so that the logit depends on the target alone.

    Args:
        hidden: length of the GRU's hidden state.
        layers: number of the GRU's layers.
        dropout: dropout on the items' vectors.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        *,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.hidden, self.layers, self.dropout = hidden, layers, dropout
        self.check(hidden=(1, inf), layers=(1, inf), dropout=(0, 1))
        self.enter = Dropout(dropout)
        self.gru = nn.GRU(self.embedding_dim, hidden, layers, bias=False, batch_first=True)
        self.out = nn.Linear(hidden, self.embedding_dim)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def state(self, vectors: Tensor, lengths: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        # Without biases, a zero state stays zero over padding: an empty history's first state is that before any item.
        hidden: Tensor = self.gru(self.enter(vectors))[0]
        state: Tensor = self.out(at_last(hidden, lengths))
        return state
