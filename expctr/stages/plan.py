"""What a plan of stages is made of; `training.stages` makes it."""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

Stage = Literal["lc", "ctr", "ic"]


class PlanEntry(NamedTuple):
    """One epoch of the plan."""

    stage: Stage
    iteration: int
    """0 for the LC stage, then 1, 2, ... for each round of CTR and IC."""
    step: int
    """Which epoch of its stage, from 0."""
    last: bool
    """Is it its stage's last?"""

    @property
    def name(self) -> str:
        """For files and logs: `lc`, `ctr1`, `ic1`, ..."""
        return self.stage if self.stage == "lc" else f"{self.stage}{self.iteration}"


def policy_stages(plan: Sequence[PlanEntry]) -> list[int]:
    """Epochs of each LC and IC stage, in order."""
    stages = groupby(plan, key=lambda entry: entry.name)
    return [len(list(entries)) for name, entries in stages if not name.startswith("ctr")]


def lr_factor(step: int, stages: Sequence[int], warmup: int, final: float) -> float:
    """Share of the policy's learning rate at a step.

    Args:
        step: of all the policy's optimizer steps, from 0.
        stages: steps of each LC and IC stage.
        warmup: steps in which it rises.
        final: what is left of it at the end of each stage.
    """
    place = step
    for length in stages:
        if place < length:
            return min(1.0, (step + 1) / warmup) * (1 - (1 - final) * place / max(1, length - 1))
        place -= length
    return final  # asked for once more, after the last step
