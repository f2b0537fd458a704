"""The memory forecast of a small Llama, worked by hand."""

from pathlib import Path

import pytest
import torch

from expctr.errors import UserError
from expctr.llm.loading import LLMOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.memory import Sizes, forecast_memory, parse_memory, peak_bytes


def test_what_it_holds_at_rest(bare: LLMOptions) -> None:
    blueprint = Blueprint(bare, torch.bfloat16, on_cpu=False)
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64  # q and o, k and v, the MLP
    assert blueprint.decoder_size == 2 * layer
    assert blueprint.base_size == 100 * 32 + 2 * (layer + 2 * 32) + 32
    assert blueprint.base_bytes == 2 * blueprint.base_size
    assert blueprint.cache_bytes == 2 * 2 * 2 * 8 * 2  # keys and values, layers, heads, width, bytes
    assert blueprint.adapter_size == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96)


def test_more_devices_hold_less_and_more_rows_hold_more(bare: LLMOptions) -> None:
    explainer = PPOExplainerModule(llm=bare)
    blueprint = Blueprint(bare, torch.bfloat16, on_cpu=False)
    one = forecast_memory(blueprint, explainer, Sizes(1, 16, 4, 2, 40, 10))
    four = forecast_memory(blueprint, explainer, Sizes(4, 16, 4, 2, 40, 10))
    assert one["lc"]["train"]["optimizer"] == 2 * 4 * (blueprint.adapter_size + blueprint.critic_size)
    assert four["lc"]["train"]["optimizer"] == one["lc"]["train"]["optimizer"] // 4
    assert peak_bytes(four) < peak_bytes(one)
    more = forecast_memory(blueprint, explainer, Sizes(1, 16, 4, 4, 40, 10))
    assert more["lc"]["train"]["activations"] > one["lc"]["train"]["activations"]


def test_memory_has_a_known_unit() -> None:
    assert (parse_memory("80GB"), parse_memory("2 GiB")) == (80 * 10**9, 2**31)
    with pytest.raises(UserError, match="must be like 80GB"):
        parse_memory("80 gigs")


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        Blueprint(LLMOptions(path=str(tmp_path)), torch.bfloat16, on_cpu=False)


def test_layers_computed_again_hold_less(bare: LLMOptions) -> None:
    blueprint = Blueprint(bare, torch.float32, on_cpu=True)
    plain, recomputed = (blueprint.learn(4, 60, 20, False, False, recompute) for recompute in (False, True))
    assert recomputed["activations"] < plain["activations"] / 1.3


def test_two_traces_of_one_thing_agree(bare: LLMOptions) -> None:
    first, second = (Blueprint(bare, torch.bfloat16, on_cpu=False) for _ in range(2))
    assert first.prefill(3, 40, True) == second.prefill(3, 40, True)
    assert first.decode(3, 40, 8, True, False) == second.decode(3, 40, 8, True, False)
