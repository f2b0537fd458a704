"""Layers that several models of the zoo are made of.

A weight that cannot change the output is frozen: its gradient is made of rounding errors, and Adam, which divides a
gradient by its size, would make full steps of them. Frozen weights stay in the state dict, so that checkpoints which
hold them load. `tests/invariants/test_every_weight_matters.py` looks for such weights in every model.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.fusion import FusedLinear
from expctr.distributed import all_sum, all_sum_with_gradient, world_size
from expctr.errors import UserError


def linear(width: int, out: int, bias: bool = True) -> nn.Linear:
    """A linear layer with RecBole's initial weights."""
    layer = nn.Linear(width, out, bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class SelfAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` of a sequence to itself, with the keys' bias frozen.

    The keys' bias b adds q . b to all scores of a query q, and the softmax over these scores takes it off again. It is
    the middle third of `in_proj_bias`, whose gradient is exactly 0 there. To be made with `batch_first=True`.
    """

    def forward(self, query: Tensor, *same: Any, **masks: Any) -> tuple[Tensor, None]:
        """As torch's, without the attention weights: `[batch, length, dim]`, and nothing.

        Key and value (`same`) must be `query`; masks are given by name.
        """
        x = query.transpose(0, 1)
        of_query, of_key, of_value = self.in_proj_bias.chunk(3)
        out, _ = F.multi_head_attention_forward(
            *(x, x, x, self.embed_dim, self.num_heads, self.in_proj_weight),
            torch.cat([of_query, of_key.detach(), of_value]),
            *(None, None, False, self.dropout, self.out_proj.weight, self.out_proj.bias),
            training=self.training,
            **{**masks, "need_weights": False},
        )
        return out.transpose(0, 1), None


class BatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over the rows of all ranks, so that several ranks learn what one would.

    A training batch of a single row has no variance: it is normalised by the running statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, features]` -> `[batch, features]`."""
        if not self.training:
            return super().forward(x)
        rows = all_sum(torch.tensor(float(len(x)), device=x.device))
        if rows < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if world_size() == 1:
            return super().forward(x)
        mean = all_sum_with_gradient(x.sum(0)) / rows
        variance = all_sum_with_gradient((x - mean).square().sum(0)) / rows
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * rows / (rows - 1), self.momentum)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


class DeepTower(nn.Module):
    """The deep part of a CTR model: dropout, linear layer, activation, for each hidden layer (RecBole's order).

    With `batch_norm`, a layer's bias is frozen at 0, since the normalisation between it and its activation subtracts
    it. z joins the layer with the index `text_layer`; none if `text_dim` is 0.

    Raises:
        UserError: `hidden` names no layer, or one without units.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        dropout: float,
        text_dim: int = 0,
        *,
        activation: Callable[[Tensor], Tensor] = F.relu,
        batch_norm: bool = False,
        text_layer: int = 0,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise UserError(f"mlp must name the width of one hidden layer or more, not {list(hidden)}")
        joins = range(len(hidden))[text_layer]
        self.layers = nn.ModuleList(
            FusedLinear(before, after, text_dim if level == joins else 0, dropout)
            for level, (before, after) in enumerate(pairwise([width, *hidden]))
        )
        self.norms = nn.ModuleList(BatchNorm(size) if batch_norm else nn.Identity() for size in hidden)
        for layer in self.layers:
            cast("FusedLinear", layer).x.bias.requires_grad_(not batch_norm)
        self.activation = activation

    @property
    def weights(self) -> list[Tensor]:
        """The matrices W_x of all layers."""
        return [cast("FusedLinear", layer).x.weight for layer in self.layers]

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        """`[batch, width]` and `[batch, text_dim]` -> the last hidden layer `[batch, hidden[-1]]`."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.activation(norm(layer(x, text)))
        return x
