"""What a plan of stages is made of; `training.stages` makes it."""

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
