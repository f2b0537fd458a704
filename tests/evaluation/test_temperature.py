"""Temperatures are of the validation rows, as the test's models score them, on any number of ranks."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expctr import metrics
from expctr.data.batches import Batch
from expctr.errors import UserError
from expctr.evaluation import temperature
from expctr.evaluation.result_writer import ResultWriter
from expctr.evaluation.temperature import fit_temperatures
from expctr.modules.scoring import ScoringModule

SCORES = torch.tensor([0.9, 0.9, 0.9, 0.1, 0.1, 0.1])
LABELS = torch.tensor([1.0, 1, 0, 0, 0, 1])


class Given(ScoringModule):
    """Scores each sample as it stands in `SCORES`."""

    name = "Given"

    def row_scores(self, batch: Batch) -> Tensor:
        return SCORES[batch.sample]


def batches(*samples: Sequence[int]) -> list[Batch]:
    rows = [torch.tensor(part, dtype=torch.long) for part in samples]
    return [Batch(sample, LABELS[sample], {}) for sample in rows]


def trainer(loader: list[Batch], limit: float = 1.0) -> Any:
    return SimpleNamespace(datamodule=SimpleNamespace(val_dataloader=lambda: loader), limit_val_batches=limit)


def test_it_is_that_of_all_validation_rows() -> None:
    """2 of 3 rows with the score 0.9 are liked, which is sigmoid(logit(0.9) / T) for T = log 9 / log 2."""
    found = fit_temperatures(trainer(batches([0, 1, 2, 3], [4, 5])), Given())
    assert found == {"score": pytest.approx(3.169925, rel=1e-5)}
    (limited,) = fit_temperatures(trainer(batches([0, 1, 2, 3], [4, 5]), limit=1), Given()).values()
    assert limited == metrics.fit_temperature(SCORES[:4], LABELS[:4])
    assert limited != pytest.approx(found["score"])


def test_the_ranks_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_temperatures(trainer(batches([0, 1, 2, 3, 4, 5])), Given())
    other = [temperature._columns(Given(), batch) for batch in batches([1, 3, 5], [])]  # a rank may have no rows
    monkeypatch.setattr("expctr.distributed.all_gather_objects", lambda mine: [mine, other])
    assert fit_temperatures(trainer(batches([0, 2], [4])), Given()) == whole  # to the last bit


def test_a_module_that_explains_is_scored_on_new_explanations() -> None:
    models = SimpleNamespace(
        policy=SimpleNamespace(
            model=nn.Linear(1, 1),
            direct=SimpleNamespace(scores=lambda texts: torch.full((len(texts),), 0.5)),
            evaluation=SimpleNamespace(samples=3),
        ),
        explain=lambda batch, count: (
            {"text": ["x"] * len(batch), "s_u": SCORES[batch.sample] if count == 3 else None},
            None,
        ),
    )
    module: Any = SimpleNamespace(models=models, device="cpu")
    loader = [Batch(batch.sample, batch.label, {}, ["prompt"] * len(batch)) for batch in batches([0, 1, 2], [3, 4, 5])]  # type: ignore[list-item]
    assert fit_temperatures(trainer(loader), module) == {"s_icl": 1, "s_u": pytest.approx(3.169925, rel=1e-5)}


def test_a_test_without_validation_rows_is_refused_at_its_start() -> None:
    tables = {"test": [0], "val": []}
    data = SimpleNamespace(table=tables.__getitem__)
    given: Any = SimpleNamespace(datamodule=data, limit_test_batches=1.0, fast_dev_run=False, is_global_zero=False)
    module: Any = None
    ResultWriter().setup(given, module, "test")
    with pytest.raises(
        UserError, match=r"results.temperature is fitted on validation rows.* Fix: set the middle share"
    ):
        ResultWriter(temperature=True).setup(given, module, "test")
