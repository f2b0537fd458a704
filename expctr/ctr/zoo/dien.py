"""DIEN (Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction", AAAI 2019)."""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.ctr.zoo.din import InterestBackbone, TargetAttention
from expctr.ctr.zoo.layers import linear
from expctr.data.features import FIRST, PADDING, Vocabulary
from expctr.distributed import all_sum


class AUGRU(nn.Module):
    """A GRU whose update gate is scaled by attention: an item without attention leaves the state unchanged."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.x, self.h = linear(dim, 3 * dim), linear(dim, 3 * dim)

    def forward(self, inputs: Tensor, attention: Tensor) -> Tensor:
        """The last state: `[batch, history, dim]` and `[batch, history]` -> `[batch, dim]`.

        Attention goes from 0, which keeps the state (at padding, for instance), to 1, a full step.
        """
        projected, state = self.x(inputs), torch.zeros_like(inputs[:, 0])
        for step in range(inputs.shape[1]):
            reset, update, new = projected[:, step].chunk(3, dim=1)
            reset_h, update_h, new_h = self.h(state).chunk(3, dim=1)
            candidate = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
            share = attention[:, step, None] * torch.sigmoid(update + update_h)
            state = (1 - share) * state + share * candidate
        return state


class DIEN(InterestBackbone):
    """A GRU reads interests from the history, a second one with attention to the target (AUGRU) evolves them, and the
    last state enters the deep tower.

    From the paper: both GRUs, and the auxiliary loss, in which the inner product of an interest and an item tells the
    next item from a random one. (RecBole has a linear network there, to which interest and item contribute separate
    terms: it cannot learn what comes next.) From RecBole: attention by DIN's network, with scores divided by the square
    root of the vectors' length, where the paper has a bilinear form; batch normalisation in the tower; and
    x * sigmoid(x) as "Dice".

    Args:
        alpha: weight of the auxiliary loss.
    """

    def __init__(self, vocabulary: Vocabulary, text_dim: int = 0, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(vocabulary, text_dim, **kwargs)
        self.alpha = alpha
        self.check(alpha=(0, inf))
        self.extractor = nn.GRU(self.embedding_dim, self.embedding_dim, batch_first=True)
        self.attention = TargetAttention(self.embedding_dim, self.mlp)
        self.attention.score[-1].bias.requires_grad_(False)  # added to all scores before a softmax
        self.evolution = AUGRU(self.embedding_dim)
        self.deep = self.tower((2 + len(self.others)) * self.embedding_dim, activation=F.silu, batch_norm=True)
        self.last = self.head(self.mlp[-1])

    def interest(self, target: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """The interest after the last item, zeros for an empty history.

        `[batch, dim]`, `[batch, history, dim]` (oldest first) and the lengths `[batch]` -> `[batch, dim]`.
        """
        interests, _ = self.extractor(items)
        there = torch.arange(items.shape[1], device=lengths.device) < lengths[:, None]
        scores = self.attention(target, interests).masked_fill(~there, torch.finfo(items.dtype).min)
        last: Tensor = self.evolution(interests, scores.softmax(1) * there)
        return last

    def logits(self, features: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        target, others = self.vectors(features)
        evolved = self.interest(target, *self.past(self.fields, features))
        return torch.squeeze(self.last(self.deep(torch.cat([evolved, target, others], 1), text), text), -1)

    def penalty(self, features: Mapping[str, Tensor]) -> Tensor:
        """`alpha` times the auxiliary loss, with negatives drawn from torch's global generator, `[batch]`."""
        return self.alpha * self.auxiliary_loss(features, self.draw_negatives(features["history"]))

    def draw_negatives(self, items: Tensor) -> Tensor:
        """Draw another known item for each item, all equally likely; `[...]` -> `[...]`."""
        known = self.vocabulary.sizes["target"] - FIRST
        shift = torch.randint_like(items, 1, max(known, 2))  # along a circle of all known items
        other: Tensor = (items.clamp_min(FIRST) - FIRST + shift) % known
        return FIRST + other

    def auxiliary_loss(self, features: Mapping[str, Tensor], negatives: Tensor) -> Tensor:
        """How well each interest tells the next item from a random one (the paper's L_aux), `[batch]`.

        It is 0 for a history without a next item. Its mean over the rows of all ranks is the mean over all their steps.

        Args:
            features: as `forward` takes them.
            negatives: another item for each item of the history, `[batch, history]`. It gets the mark of the item that
                it replaces, since marks alone could tell them apart otherwise.
        """
        items, _ = self.past(self.fields, features)
        others, _ = self.past(self.fields, {**features, "history": negatives})
        interests = self.extractor(items)[0][:, :-1]
        there = features["history"][:, 1:] != PADDING
        positive, negative = ((interests * shown[:, 1:]).sum(-1) for shown in (items, others))
        losses = (F.softplus(-positive) + F.softplus(negative)) / 2
        steps, rows = all_sum(there.sum()), all_sum(torch.tensor(len(items), device=items.device))
        return (losses * there).sum(1) * rows / steps.clamp_min(1)
