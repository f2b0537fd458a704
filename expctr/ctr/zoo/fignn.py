"""Fi-GNN (Li et al., "Fi-GNN: Modeling Feature Interactions via Graph Neural Networks for CTR Prediction", CIKM
2019).
"""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.cpu.dropout import Dropout
from expctr.ctr.zoo.base import CTRBackbone
from expctr.ctr.zoo.layers import SelfAttention, linear
from expctr.data.features import Vocabulary
from expctr.errors import UserError


class GraphLayer(nn.Module):
    """A step of message passing: each field receives the weighted states of the others, through matrices per field."""

    def __init__(self, fields: int, dim: int) -> None:
        super().__init__()
        self.w_in = nn.Parameter(torch.empty(fields, dim, dim))
        self.w_out = nn.Parameter(torch.empty(fields, dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.xavier_normal_(self.w_in)
        nn.init.xavier_normal_(self.w_out)

    def forward(self, edges: Tensor, states: Tensor) -> Tensor:
        """`[batch, fields, fields]` and `[batch, fields, dim]` -> `[batch, fields, dim]`."""
        messages = torch.einsum("fij,bfj->bfi", self.w_out, states)
        return torch.einsum("fij,bfj->bfi", self.w_in, edges @ messages) + self.bias


class FiGNN(CTRBackbone):
    """Fields are the nodes of a complete graph whose edges are attention weights; a GRU cell updates their states.

    The architecture is the paper's, as RecBole implements it. Without a deep tower, the explanation joins the logit.

    Args:
        embedding_dim: length of each field's embedding.
        attention_dim: length of a node's state.
        layers: number of steps of message passing, plus 1.
        heads: attention heads of the self-attention that makes the first states.
        dropout: dropout of the projected fields.
        attention_dropout: dropout of the attention weights.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        text_dim: int = 0,
        embedding_dim: int = 10,
        attention_dim: int = 16,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        attention_dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.attention_dim, self.layers, self.heads = attention_dim, layers, heads
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.check(attention_dim=(1, inf), layers=(1, inf), heads=(1, inf), dropout=(0, 1), attention_dropout=(0, 1))
        if attention_dim % heads:
            raise UserError(f"FiGNN.heads must divide attention_dim: {heads} heads, length {attention_dim}")
        self.fields = self.embeddings(embedding_dim)
        count = len(self.fields.names)
        if count < 2:
            raise UserError("FiGNN passes messages between fields: data.fields must leave two or more (null keeps all)")
        self.project = linear(embedding_dim, attention_dim)
        self.drop = Dropout(dropout)
        self.attention = SelfAttention(attention_dim, heads, attention_dropout, batch_first=True)
        nn.init.xavier_normal_(self.attention.out_proj.weight)
        self.residual = linear(embedding_dim, attention_dim)
        self.edge = linear(2 * attention_dim, 1, bias=False)
        self.graph = nn.ModuleList(GraphLayer(count, attention_dim) for _ in range(layers - 1))
        self.gate = nn.GRUCell(attention_dim, attention_dim).requires_grad_(layers > 1)  # unused without messages
        self.edge.requires_grad_(layers > 1 and count > 2)  # of two nodes, each always has the weight 1
        self.node_score = linear(attention_dim, 1, bias=False)
        self.node_weight = linear(count * attention_dim, count, bias=False)
        self.text = self.text_logit()

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        fields: Tensor = self.fields(features)
        projected = self.drop(self.project(fields))
        attended, _ = self.attention(projected, projected, projected)
        first = F.relu(attended + self.residual(fields))
        edges, states = self.edges(first), first
        for layer in self.graph:
            received = layer(edges, states)
            states = self.gate(received.flatten(0, 1), states.flatten(0, 1)).view_as(first) + first
        score = self.node_score(states).squeeze(-1)
        logit: Tensor = self.text((self.node_weight(states.flatten(1)) * score).sum(1), text)
        return logit

    def edges(self, states: Tensor) -> Tensor:
        """The weight of the message to each node (row) from each other (column); 0 from itself.

        `[batch, fields, attention_dim]` -> `[batch, fields, fields]`; each row has the sum 1.
        """
        source, other = self.edge.weight.view(2, -1)  # a product with each pair's concatenation
        scores = F.leaky_relu((states @ source)[:, :, None] + (states @ other)[:, None, :], 0.01)
        itself = torch.eye(states.shape[1], dtype=torch.bool, device=states.device)
        return scores.masked_fill(itself, -torch.inf).softmax(-1)
