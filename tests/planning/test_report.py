"""What the plan prints."""

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expctr.data.samples import SampleOptions
from expctr.errors import UserError
from expctr.llm.loading import LLMOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.forecast import Sizes, highest, memory
from expctr.planning.report import PlanOptions, lowered, report
from expctr.training.scheduler import make_plan

ASKED = PlanOptions(1, "80GB", None, False, None, 312.0, 0.3, False)


@pytest.fixture
def told(bare: LLMOptions, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def told(max_samples: int | None = 100, **asked: Any) -> str:
        data = SimpleNamespace(
            rollout_batch_size=8,
            eval_batch_size=8,
            ctr_batch_size=8,
            splits=None,
            options=SampleOptions(max_samples=max_samples),
        )
        report(PPOExplainerModule(llm=bare), data, make_plan(1, 1, 1, 1), replace(ASKED, **asked))
        return capsys.readouterr().out

    return told


def test_it_fits_in_a_hundred_columns(told: Callable[..., str]) -> None:
    out = told()
    expected = (
        "Fits: 0.0 of 80.0 GB",
        "MB on each device",
        "prompt cache",
        "activations",
        "optimizer steps",
        "hours on",
    )
    assert [part for part in expected if part not in out] == []
    assert max(map(len, out.splitlines())) <= 100


def test_without_a_number_of_samples_it_asks_for_one(told: Callable[..., str]) -> None:
    assert "--samples" in told(max_samples=None)
    assert ": 100 samples" in " ".join(told(max_samples=None, samples=100).split())
    assert ": at most 100 samples" in " ".join(told(max_samples=100).split())


def test_json_is_one_line_of_bytes(told: Callable[..., str]) -> None:
    found = json.loads(told(json=True, memory="1MB"))
    assert found["memory"] == 10**6 < found["peak"]
    assert found["peak"] == max(sum(parts.values()) for phases in found["stages"].values() for parts in phases.values())
    assert list(found["changes"].values()) == sorted(found["changes"].values(), reverse=True)
    assert found["work"]["lc"]["batches"] == 10
    assert found["hours"] > 0


def test_changes_lower_the_peak_until_it_fits(bare: LLMOptions) -> None:
    explainer, size = PPOExplainerModule(llm=bare), Sizes(1, 64, 64, 32, 200, 20)
    model = Blueprint(bare, torch.bfloat16, processor=False)
    peak = highest(memory(model, explainer, size))
    *others, (_, last) = lowered(model, explainer, size, peak, peak // 2)
    assert last <= peak // 2 < min([peak, *(bytes_ for _, bytes_ in others)])
    assert not list(lowered(model, explainer, size, peak, peak))


def test_a_share_is_no_more_than_all() -> None:
    with pytest.raises(UserError, match=r"plan\.utilisation"):
        replace(ASKED, utilisation=1.5)
