"""Base of the sequential models: they read the history in its order, and score the target by a dot product.

Their papers train them to predict the next item, among all items or drawn negatives. Here they are trained as every
model of the zoo is, by the cross-entropy of the labelled target. The history holds disliked items as well as liked
ones, and a mark on each item's vector tells them apart (`HistoryVectors`). All marks are zero at first.
"""

from collections.abc import Mapping
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expctr.ctr.cpu.dropout import Dropout
from expctr.ctr.embedding import FieldEmbeddings, HistoryVectors
from expctr.ctr.zoo.base import CTRBackbone
from expctr.ctr.zoo.layers import SelfAttention
from expctr.data.features import PADDING, Vocabulary

STYLE = "-style"
"""Ends the names of models that are trained otherwise than published: on labelled targets, not on the next item."""


def start_normal(table: FieldEmbeddings, std: float) -> None:
    """Draw a table from a normal distribution around zero; padding stays zero."""
    with torch.no_grad():
        table.weight.normal_(0, std)[PADDING].zero_()


def at_last(states: Tensor, lengths: Tensor) -> Tensor:
    """The state at each history's last item; for an empty history, the one at the first position.

    `[batch, history, dim]` and `[batch]` -> `[batch, dim]`.
    """
    return states[torch.arange(len(states), device=states.device), (lengths - 1).clamp_min(0)]


class SequentialBackbone(CTRBackbone):
    """A model whose logit is the dot product of the history's state and the target's vector.

    A subclass implements `state`. Side features are not read.

    Args:
        embedding_dim: length of an item's vector.
    """

    def __init__(self, vocabulary: Vocabulary, text_dim: int = 0, embedding_dim: int = 64, **kwargs: Any) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.history, self.embedding_dim = self.need_history(), embedding_dim
        self.check(embedding_dim=(1, inf))
        self.items = self.embeddings(embedding_dim, ["target"])
        self.past = HistoryVectors(embedding_dim)
        self.text = self.text_logit()

    @classmethod
    def title(cls) -> str:
        """What tables call it."""
        return cls.__name__ + STYLE

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        target = self.items.look_up("target", features["target"])
        vectors, lengths = self.past(self.items, features)
        logit: Tensor = self.text((self.state(vectors, lengths, features) * target).sum(-1), text)
        return logit

    def state(self, vectors: Tensor, lengths: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """What a subclass implements: the history in one vector, `[batch, embedding_dim]`.

        Args:
            vectors: of the items, oldest first, `[batch, history, embedding_dim]`; zeros at padding, which comes last.
            lengths: of the histories, `[batch]`; 0 is possible.
            features: as `forward` takes them.
        """
        raise NotImplementedError


class TransformerBackbone(SequentialBackbone):
    """A sequential model with BERT's encoder: learned positions, LayerNorm after each residual sum.

    Args:
        layers: number of transformer layers.
        heads: attention heads per layer; their number divides `embedding_dim`.
        inner: width of the feed-forward layers.
        activation: of the feed-forward layers.
        dropout: dropout on the input and on each residual branch.
        attention_dropout: dropout on the attention's weights.
        layer_norm_eps: added to the variance in each LayerNorm.
        init_std: standard deviation of the initial weights and vectors.
    """

    more_positions = 0  # beyond those of the longest history

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        *,
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        activation: Literal["gelu", "relu"] = "gelu",
        dropout: float = 0.5,
        attention_dropout: float = 0.5,
        layer_norm_eps: float = 1e-12,
        init_std: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        dim, self.layer_norm_eps, self.init_std = self.embedding_dim, layer_norm_eps, init_std
        self.layers, self.heads, self.inner, self.activation = layers, heads, inner, activation
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.check(layers=(1, inf), heads=(1, inf), inner=(1, inf), dropout=(0, 1), attention_dropout=(0, 1))
        self.check(layer_norm_eps=(0, inf), init_std=(0, inf))
        if dim % heads:
            raise ValueError(f"{type(self).__name__}.heads must divide embedding_dim: {heads} heads, length {dim}")
        self.positions = nn.Parameter(torch.empty(self.history + self.more_positions, dim))
        self.enter = nn.Sequential(nn.LayerNorm(dim, layer_norm_eps), Dropout(dropout))
        self.encoder = nn.ModuleList(self._layer() for _ in range(layers))
        start_normal(self.items, init_std)
        nn.init.normal_(self.positions, std=init_std)
        self.start(self.encoder)

    def _layer(self) -> nn.TransformerEncoderLayer:
        # torch's layer has one dropout more than BERT's, and one rate for all of them
        sizes = self.embedding_dim, self.heads, self.inner
        layer = nn.TransformerEncoderLayer(*sizes, self.dropout, self.activation, self.layer_norm_eps, batch_first=True)
        layer.dropout.p = 0.0
        with torch.random.fork_rng(devices=[]):  # `start` draws its weights
            layer.self_attn = SelfAttention(self.embedding_dim, self.heads, self.attention_dropout, batch_first=True)
        return layer

    def start(self, module: nn.Module) -> None:
        """Draw the initial weights as BERT does: matrices normal, biases zero; LayerNorms keep theirs."""
        for parameter in module.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=self.init_std)
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def encode(self, vectors: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Every position's state, `[batch, positions, embedding_dim]`; there may be fewer positions than the model has.

        With `lengths` (`[batch]`, at least 1), each position sees the first `lengths` ones. Without, each position sees
        itself and those before it, so that padding does not change the state of the last item.
        """
        at = torch.arange(vectors.shape[1], device=vectors.device)
        causal = at > at[:, None] if lengths is None else None
        padding = None if lengths is None else at >= lengths[:, None]
        states: Tensor = self.enter(vectors + self.positions[: len(at)])
        for layer in self.encoder:
            states = layer(states, causal, padding, is_causal=lengths is None)
        return states
