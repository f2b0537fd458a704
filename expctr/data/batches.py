"""Batches of samples, their order in an epoch, and a loader that can resume anywhere."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from expctr.data.features import Features
from expctr.distributed import rank, world_size
from expctr.errors import UserError
from expctr.seeding import seed_of


@dataclass(frozen=True)
class Nouns:
    """What the items and the people of a dataset are called; fills the prompt templates."""

    item: str = "item"
    """One item: book, movie, product."""
    items: str = "items"
    """Several of them."""
    person: str = "customer"
    """Who rates them: reader, viewer, customer."""
    activity: str = "shopping"
    """What that person does with them: reading, viewing, shopping."""


class SampleText(NamedTuple):
    """The titles of one sample. Histories run from the oldest to the newest item."""

    target: str
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()


@dataclass
class Batch:
    """Rows of samples as the models take them.

    Attributes:
        sample: the samples' ids, stable over epochs, splits and resumes, int64 `[batch]`.
        label: 1 for liked, 0 for disliked, float32 `[batch]`.
        features: what the CTR model reads, by field name: indices, int64 `[batch]`, or `[batch, values]` with 0 as
            padding for the fields that hold several values (genres, `liked`, `disliked`); numbers, float32 `[batch]`,
            NaN where one is missing.
        texts: the titles, one entry per row; empty where the stage reads no titles.
    """

    sample: Tensor
    label: Tensor
    features: dict[str, Tensor]
    texts: list[SampleText] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device. Lightning moves what has no such method by copying it deeply, titles too."""
        return self._map(lambda values: values.to(device), self.texts)

    def select(self, rows: Tensor) -> "Batch":
        """Some of the rows, by a bool mask `[batch]`."""
        texts = [text for text, kept in zip(self.texts, rows.tolist(), strict=True) if kept] if self.texts else []
        return self._map(lambda values: values[rows], texts)

    def repeat(self, times: int) -> "Batch":
        """Each row so many times, next to each other."""
        if times == 1:
            return self
        texts = [text for text in self.texts for _ in range(times)]
        return self._map(lambda values: values.repeat_interleave(times, 0), texts)

    def _map(self, change: Callable[[Tensor], Tensor], texts: list[SampleText]) -> "Batch":
        features = {name: change(values) for name, values in self.features.items()}
        return Batch(change(self.sample), change(self.label), features, texts)


class SampleTable(Batch):
    """All rows of a split, with their titles."""

    @classmethod
    def from_samples(cls, samples: pl.DataFrame, features: Features) -> "SampleTable":
        """Encodes rows of `samples.make_samples`; a label that is null becomes NaN."""
        titles = samples.select("target_title", "liked_titles", "disliked_titles").iter_rows()
        known: dict[str, str] = {}  # each title once, because polars makes a new text of each occurrence

        def once(texts: Iterable[str]) -> tuple[str, ...]:
            return tuple(known.setdefault(text, text) for text in texts)

        return cls(
            torch.from_numpy(samples["sample"].to_numpy().copy()),
            torch.from_numpy(samples["label"].cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()),
            features.encode(samples),
            [SampleText(once([target])[0], once(liked), once(disliked)) for target, liked, disliked in titles],
        )

    def batch(self, indices: Tensor | Sequence[int], with_text: bool = True) -> Batch:
        """Slices the rows at some positions in this table."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        texts = [self.texts[i] for i in rows.tolist()] if with_text else []
        return self._map(lambda values: values.index_select(0, rows), texts)  # a quarter of the time of values[rows]


class BatchSpec(NamedTuple):
    """Which batches to make of a split."""

    size: int
    """Rows per batch over all ranks, at most."""
    titles: bool = False
    """Also give the titles."""
    epoch: int | None = None
    """Orders the rows; none: as they stand."""
    balanced: bool = False
    """As many liked as disliked rows in each batch."""
    rows: Tensor | None = None
    """Positions of the rows to use; none: all of them."""


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
