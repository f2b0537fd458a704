"""Batches in an order that is a pure function of (seed, epoch), so that a run can go on from any batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from expctr.data.batch import Batch
from expctr.distributed import rank, world_size
from expctr.errors import UserError
from expctr.seeding import seed_of


class EpochSampler:
    """The batches of one epoch, as lists of row numbers.

    Batches are near-equal in size: none is a left-over of a few rows, whose reward statistics would be noise. The
    rows of a batch are dealt to the ranks in turn, so the global batches are the same for any number of ranks.

    Args:
        size: rows in the split.
        batch_size: rows of a batch over all ranks, at most.
        seed: of the order.
        epoch: of the order; `None` for the rows as they stand.
        labels: where given (`[size]`), each batch holds as many liked as disliked rows: the scarcer label is repeated
            and the other one's rows take turns from epoch to epoch.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int = 0, epoch: int | None = None, labels: Tensor | None = None
    ) -> None:
        self.epoch = epoch
        generator = torch.Generator().manual_seed(seed_of(seed, epoch or 0))
        order = torch.arange(size) if epoch is None else torch.randperm(size, generator=generator)
        if labels is not None:
            fixed = torch.randperm(size, generator=torch.Generator().manual_seed(seed_of(seed)))
            sides = (fixed[labels[fixed] > 0.5], fixed[labels[fixed] <= 0.5])
            columns = [_turn(rows, size // 2, epoch or 0) for rows in sides]
            shuffled = [rows[torch.randperm(len(rows), generator=generator)] for rows in columns]
            place = torch.arange(size // 2)  # a repeated row comes a whole lap later: twice in a batch it would be one
            order = torch.stack([rows[place % len(rows)] for rows in shuffled], 1)  # cut between pairs only
            batch_size = max(1, batch_size // 2)
        count = max(1, -(-len(order) // batch_size))
        self.batches: Sequence[Tensor] = [part.flatten() for part in order.tensor_split(count)] if len(order) else []

    def __len__(self) -> int:
        return len(self.batches)

    def rows(self, index: int) -> Tensor:
        """This rank's rows of one batch."""
        return self.batches[index][rank() :: world_size()]


def _turn(rows: Tensor, size: int, epoch: int) -> Tensor:
    """An epoch's share of one label's rows, each once: at most `size`, from where the last epoch stopped."""
    if not len(rows):
        raise UserError("balanced batches need rows of both labels: turn data.balance_rollouts off, or check threshold")
    return rows[(epoch * size + torch.arange(min(size, len(rows)))) % len(rows)]


class ResumableLoader:
    """Batches by slicing, and the place in them.

    Lightning saves `state_dict()` of a loader that has one and gives it back before the first batch. A stock DataLoader
    resumed in mid-epoch would read its first rows again and never see others.
    """

    def __init__(self, order: EpochSampler, batch: Callable[[Tensor], Batch]) -> None:
        self.order, self.batch = order, batch
        self.start = self.seen = 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        self.seen, self.start = self.start, 0
        while self.seen < len(self.order):
            self.seen += 1  # before the yield: a checkpoint made while a batch is worked on counts it as done
            yield self.batch(self.order.rows(self.seen - 1))

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its batches were handed out."""
        return {"epoch": self.order.epoch, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches seen, if the state is of this epoch."""
        if state["epoch"] == self.order.epoch:
            self.start = state["seen"]
