"""A small search of CTR models' settings, for `tools.table1`: the same number of trials per model, scored on the
validation rows.
"""

import random
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from tools.runs import is_done, validation

GRID = {
    "options.lr": (3e-4, 1e-3, 3e-3),
    "options.weight_decay": (0.0, 1e-5, 1e-3),
    "backbone.dropout": (0.0, 0.2, 0.5),
    "backbone.embedding_dim": (10, 16, 64),
}
"""What the trials draw from, by the option after `--model.`. A model without dropout draws the others."""
SEED = 0
"""Of the draws."""

Settings = Mapping[str, float]
"""By the option after `--model.`; empty: the config's own."""


class Search(NamedTuple):
    """What the trials of one model found."""

    trials: list[Settings]
    validation: list[dict[str, float]]
    """AUC and LogLoss of each trial, at its best validation."""

    @property
    def best(self) -> Settings:
        """The settings with the lowest validation LogLoss."""
        scores = [found["logloss"] for found in self.validation]
        return self.trials[scores.index(min(scores))]

    def to_dict(self) -> dict[str, Any]:
        trials = [
            {"settings": dict(settings), "validation": found}
            for settings, found in zip(self.trials, self.validation, strict=True)
        ]
        return {"best": dict(self.best), "trials": trials}


def draw_settings(backbone: Collection[str], count: int) -> list[Settings]:
    """The settings of the trials: the config's own first, then draws from the grid without repetition.

    More trials begin with the same ones. Models with the same options have the same trials.

    Args:
        backbone: names of the model's options.
        count: of the trials; the whole grid has fewer than a hundred.
    """
    names = [name for name in GRID if name.startswith("options.") or name.removeprefix("backbone.") in backbone]
    drawn = [dict(zip(names, values, strict=True)) for values in product(*(GRID[name] for name in names))]
    random.Random(SEED).shuffle(drawn)
    return [{}, *drawn][:count]


def as_options(settings: Settings) -> list[str]:
    return [f"--model.{name}={value:g}" for name, value in settings.items()]


def shown(settings: Settings) -> str:
    """The settings in a few words."""
    return " ".join(f"{name.partition('.')[2]}={value:g}" for name, value in settings.items()) or "as configured"


def read_search(folders: list[Path], trials: list[Settings], monitor: str) -> Search | None:
    """What the trials found, from their run folders; `None` where one of them is not done."""
    if not all(map(is_done, folders)):
        return None
    found = [validation(folder, monitor) for folder in folders]
    return Search(trials, found) if all(found) and found else None
