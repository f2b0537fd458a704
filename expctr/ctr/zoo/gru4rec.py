"""GRU4Rec (Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016).

In the form of Tan et al., "Improved Recurrent Neural Networks for Session-based Recommendations", DLRS 2016: items
enter as embeddings, with dropout. Trained on labelled targets (`expctr.ctr.zoo.sequential`).
"""

from collections.abc import Mapping
from math import inf
from typing import Any

from torch import Tensor, nn

from expctr.ctr.cpu.dropout import Dropout
from expctr.ctr.zoo.sequential import SequentialBackbone, at_last
from expctr.data.features import Vocabulary


class GRU4Rec(SequentialBackbone):
    """A GRU without biases reads the history; a linear layer takes its last hidden state to the items' space.

    Before any item the hidden state is 0, so after an empty history the state is that layer's bias, and the logit a
    function of the target alone.

    Args:
        vocabulary: what it is built for.
        text_dim: length of the explanation's vector z; 0 makes a model without text.
        hidden: width of the GRU.
        layers: of the GRU.
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
        """As `SequentialBackbone.state`."""
        # Without biases a GRU's zero state stays zero over padding: the first position's is that of an empty history.
        hidden: Tensor = self.gru(self.enter(vectors))[0]
        state: Tensor = self.out(at_last(hidden, lengths))
        return state
