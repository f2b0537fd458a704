"""What the models are fed: one sample's titles, and a batch of samples."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


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
    """A batch of samples.

    Attributes:
        sample: the samples' ids, stable over epochs, splits and resumes, int64 `[batch]`.
        label: 1 for liked, 0 for disliked, float32 `[batch]`.
        features: index tensors of the CTR model, by field name: int64 `[batch]`, or `[batch, values]` with 0 as
            padding for the fields that hold several values (genres, `liked`, `disliked`).
        texts: the titles, one entry a row; empty where the stage reads no titles.
    """

    sample: Tensor
    label: Tensor
    features: dict[str, Tensor]
    texts: list[SampleText] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device. Lightning moves what has no such method by copying it deeply, titles too."""
        features = {name: values.to(device) for name, values in self.features.items()}
        return Batch(self.sample.to(device), self.label.to(device), features, self.texts)

    def select(self, rows: Tensor) -> "Batch":
        """Some of the rows, by a bool mask `[batch]`, without their titles."""
        return Batch(
            self.sample[rows], self.label[rows], {name: values[rows] for name, values in self.features.items()}
        )

    def repeat(self, times: int) -> "Batch":
        """Each row so many times, next to each other."""
        if times == 1:
            return self
        return Batch(
            self.sample.repeat_interleave(times),
            self.label.repeat_interleave(times),
            {name: values.repeat_interleave(times, 0) for name, values in self.features.items()},
            [text for text in self.texts for _ in range(times)],
        )
