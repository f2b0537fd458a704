"""The plan of a run: which stage each epoch belongs to (paper 4.3.2), and the learning rate over it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple, overload

StageKind = Literal["lc", "ctr", "ic"]


class PlanEntry(NamedTuple):
    """One epoch of the plan."""

    stage: StageKind
    iteration: int
    """0 for the LC stage, then 1, 2, ... for each round of CTR and IC."""
    stage_epoch: int
    """Which epoch of its stage, from 0."""
    last: bool
    """Is it the last epoch that its stage may take?"""
    seed_epoch: int
    """Which epoch of the whole plan, from 0, as if no stage stopped early. It seeds what is drawn in this epoch."""

    @property
    def name(self) -> str:
        """For files and logs: `lc`, `ctr1`, `ic1`, ..."""
        return self.stage if self.stage == "lc" else f"{self.stage}{self.iteration}"


class Plan(Sequence[PlanEntry]):
    """The epochs that a run trains, in order. A stage that stops early takes its remaining epochs out.

    Args:
        entries: all epochs, as if no stage stopped early.
    """

    def __init__(self, entries: Iterable[PlanEntry] = ()) -> None:
        self.full = list(entries)
        self.stopped: dict[str, int] = {}
        """Number of epochs of each stage that stopped early, by the stage's name."""

    @property
    def _entries(self) -> list[PlanEntry]:
        return [entry for entry in self.full if entry.stage_epoch < self.stopped.get(entry.name, len(self.full))]

    @overload
    def __getitem__(self, index: int) -> PlanEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[PlanEntry]: ...

    def __getitem__(self, index: int | slice) -> PlanEntry | list[PlanEntry]:
        return self._entries[index]

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def at(self, epoch: int) -> PlanEntry:
        """The entry of the trainer's epoch; the last one after the end."""
        return self[min(epoch, len(self) - 1)]

    def stop(self, entry: PlanEntry) -> None:
        """End the entry's stage after this epoch."""
        self.stopped[entry.name] = entry.stage_epoch + 1

    def policy_epochs(self) -> list[int]:
        """Epochs of each LC and IC stage, in order."""
        stages = groupby(self, key=lambda entry: entry.name)
        return [len(list(entries)) for name, entries in stages if not name.startswith("ctr")]


def make_plan(lc_epochs: int, rounds: int, ctr_epochs: int, ic_epochs: int) -> Plan:
    """LC, then CTR and IC in each round."""
    lengths: list[tuple[StageKind, int, int]] = [("lc", 0, lc_epochs)]
    for iteration in range(1, rounds + 1):
        lengths += [("ctr", iteration, ctr_epochs), ("ic", iteration, ic_epochs)]
    epochs = [(stage, iteration, i, i == length - 1) for stage, iteration, length in lengths for i in range(length)]
    return Plan(PlanEntry(*epoch, seed_epoch) for seed_epoch, epoch in enumerate(epochs))


def lr_factor(step: int, stages: Sequence[int], warmup: int, final: float) -> float:
    """Share of the policy's learning rate at a step.

    Args:
        step: of all the policy's optimizer steps, from 0.
        stages: steps of each LC and IC stage.
        warmup: steps during which it rises.
        final: what is left of it at the end of each stage.
    """
    place = step
    for length in stages:
        if place < length:
            return min(1.0, (step + 1) / warmup) * (1 - (1 - final) * place / max(1, length - 1))
        place -= length
    return final  # LambdaLR calls this once more after the last step
