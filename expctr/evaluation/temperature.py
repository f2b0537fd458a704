"""Fits each system's temperature on the validation rows, for a test's result table."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import lightning as L
import torch

from expctr import metrics
from expctr.data.batches import Batch
from expctr.distributed import all_gather_columns
from expctr.llm.sharding.fsdp import unsharded
from expctr.modules.scoring import ScoringModule
from expctr.modules.staged import StagedModule
from expctr.systems import SYSTEMS


def fit_temperatures(trainer: L.Trainer, module: ScoringModule | StagedModule) -> dict[str, float]:
    """The temperature of every system that the module scores with, by the system's column.

    The validation rows are scored here with the weights that the test uses. Scores that training has logged would not
    do: the CTR stage validates on sampled explanations, and with other weights than those it ends with. All ranks call
    this, share the rows (those of `trainer.limit_val_batches`, at least one batch), and get the same result.
    """
    loader, limit = trainer.datamodule.val_dataloader(), trainer.limit_val_batches  # type: ignore[attr-defined]
    batches = max(1, limit if isinstance(limit, int) else int(limit * len(loader)))
    parts = [_columns(module, batch.to(module.device)) for batch in islice(loader, batches)]
    columns = all_gather_columns(parts, order="sample")  # in one order, for the same sums on any number of ranks
    values = {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items() if name != "sample"}
    labels = values.pop("label")
    return {name: metrics.fit_temperature(scores, labels) for name, scores in values.items()}


def _columns(module: ScoringModule | StagedModule, batch: Batch) -> Mapping[str, list[Any]]:
    """Sample ids, labels and the scores of one batch, one value per row."""
    if isinstance(module, ScoringModule):
        scores: dict[str, Any] = {"score": module.row_scores(batch)}
    else:
        with unsharded(module.models.policy.model):
            icl = module.models.policy.direct.scores(batch.texts)
        scores = module.models.explain(batch, module.models.policy.evaluation.samples)[0] | {"s_icl": icl}
    found = {"sample": batch.sample, "label": batch.label, **scores}
    names = ("sample", "label", "score", *(system.column for system in SYSTEMS))
    return {name: found[name].tolist() for name in names if name in found}
