"""What `expctr plan` prints."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from expctr.data.options import SampleOptions
from expctr.errors import UserError
from expctr.llm.loading import LLMOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning import output
from expctr.planning.blueprint import Blueprint
from expctr.planning.memory import Sizes, forecast_memory, peak_bytes
from expctr.planning.output import QLORA_MICRO, QLORA_ROWS, PlanOptions, forecast_qlora, lower_memory, print_plan
from expctr.training.scheduler import make_plan

OPTIONS = PlanOptions(1, "80GB", None, False, None, 312.0, 0.3, 1600.0, 10.0, False)


@pytest.fixture(scope="module")
def blueprint(bare: LLMOptions) -> Blueprint:
    """One for all tests: it keeps what it has traced."""
    return Blueprint(bare, torch.bfloat16, on_cpu=False)


@pytest.fixture
def printed(
    bare: LLMOptions, blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    monkeypatch.setattr(output, "Blueprint", lambda *_: blueprint)

    def printed(max_samples: int | None = 100, **options: Any) -> str:
        data = SimpleNamespace(
            rollout_batch_size=8,
            eval_batch_size=8,
            ctr_batch_size=8,
            splits=None,
            options=SampleOptions(max_samples=max_samples),
        )
        print_plan(PPOExplainerModule(llm=bare), data, make_plan(1, 1, 1, 1), 1, replace(OPTIONS, **options))
        return capsys.readouterr().out

    return printed


def test_it_fits_in_a_hundred_columns(printed: Callable[..., str]) -> None:
    out = printed()
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
    assert "Hours on a CPU are not forecast" in printed(processor=True)


def test_without_a_number_of_samples_it_asks_for_one(printed: Callable[..., str]) -> None:
    assert "--samples" in printed(max_samples=None)
    assert ": 100 samples" in " ".join(printed(max_samples=None, samples=100).split())
    assert ": at most 100 samples" in " ".join(printed(max_samples=100).split())


def test_json_is_one_line_of_bytes(printed: Callable[..., str]) -> None:
    peak = json.loads(printed(json=True))["peak"]
    found = json.loads(printed(json=True, memory=f"{0.9 * peak / 1e6}MB"))
    assert found["overlay"] is None
    assert found["memory"] == int(0.9 * peak / 1e6 * 1e6) < found["peak"] == peak
    assert found["changes"]
    assert found["peak"] == max(sum(parts.values()) for phases in found["stages"].values() for parts in phases.values())
    assert list(found["changes"].values()) == sorted(found["changes"].values(), reverse=True)
    assert found["work"]["lc"]["batches"] == 10
    assert found["hours"] > 0
    assert json.loads(printed(json=True, processor=True))["hours"] is None


@pytest.mark.cli
def test_changes_lower_the_peak_until_it_fits(bare: LLMOptions, blueprint: Blueprint) -> None:
    explainer, size = PPOExplainerModule(llm=bare), Sizes(1, 64, 64, 32, 200, 20)
    peak = peak_bytes(forecast_memory(blueprint, explainer, size))
    *others, (_, last) = lower_memory(blueprint, explainer, size, peak, peak // 2)
    assert last <= peak // 2 < min([peak, *(bytes_ for _, bytes_ in others)])
    assert not list(lower_memory(blueprint, explainer, size, peak, peak))


def test_it_names_the_overlay_for_several_devices(printed: Callable[..., str]) -> None:
    whole = json.loads(printed(json=True, devices=4))
    assert whole["overlay"] == "ddp"
    tight = " ".join(printed(devices=4, memory=f"{(whole['peak'] - 1) / 1e6}MB").split())
    assert "Fits: " in tight
    assert "with --config fsdp --trainer.devices 4, which shares the weights while it learns" in tight


def test_it_says_where_nothing_is_enough(printed: Callable[..., str]) -> None:
    out = " ".join(printed(memory="0.01MB").split())
    assert out.index("hours on") < out.index("Changes that lower the memory"), "which take longest"
    assert "None of them is enough: the base alone takes 0.0 GB." in out


def test_it_names_what_limits_decoding(printed: Callable[..., str]) -> None:
    assert "limited by starting" in " ".join(printed().split())
    assert "limited by reading weights and cache" in " ".join(printed(launch_us=0.0, bandwidth=1.0).split())


@pytest.mark.cli
def test_a_base_in_4_bits_is_named_where_it_would_fit(bare: LLMOptions, blueprint: Blueprint) -> None:
    overlay = yaml.safe_load((Path(__file__).parents[2] / "configs" / "qlora.yaml").read_text())
    explained, data = overlay["model"]["init_args"]["explainer"], overlay["data"]["init_args"]
    assert explained["llm"] == {"quantization": "nf4"}
    assert explained["ppo"] == {"gradient_checkpointing": True, "micro_batch_size": QLORA_MICRO}
    assert set(data.values()) == {QLORA_ROWS}
    explainer, size = PPOExplainerModule(llm=bare), Sizes(1, 64, 64, 32, 200, 20)
    peak = peak_bytes(forecast_memory(blueprint, explainer, size))
    lowered = forecast_qlora(blueprint, explainer, size, peak, peak // 2)
    assert lowered is not None
    assert 0 < lowered <= peak // 2
    assert forecast_qlora(blueprint, explainer, size, peak, lowered - 1) is None
    assert forecast_qlora(blueprint, explainer, size, peak, peak) is None
    assert not explainer.ppo.gradient_checkpointing


def test_a_share_is_no_more_than_all() -> None:
    with pytest.raises(UserError, match=r"plan\.utilisation"):
        replace(OPTIONS, utilisation=1.5)
