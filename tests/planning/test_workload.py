"""FLOPs as torch counts them, and the run's steps."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from expctr.llm.loading import LLMOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.memory import Sizes
from expctr.planning.workload import (
    Rates,
    Workload,
    count_pass,
    estimate_decoding,
    estimate_hours,
    estimate_workload,
    near_equal,
)
from expctr.rl.options import PPOOptions
from expctr.training.scheduler import make_plan

ROWS, LAYERS, RANK, WIDTH = 3, 2, 4, 32
UP = LAYERS * RANK * (32 + 16 + 16 + 32 + 64 + 64 + 32)
"""Weights of the adapter's second matrices: torch does not count `addmm_`."""
FIRST = 32 * (32 + 16 + 16) + 3 * WIDTH * RANK
"""Of the first layer's query, key and value and the adapter's first matrices there: no gradient goes to the words."""


def counted(trace: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        trace()
    return counter.get_total_flops()


def test_a_pass_costs_what_torch_counts(bare: LLMOptions) -> None:
    blueprint = Blueprint(replace(bare, adapter_scope="response"), torch.float32, on_cpu=True)
    off, on = (ROWS * count_pass(blueprint, 1, 39, adapter, 1).flops for adapter in (False, True))
    assert counted(lambda: blueprint.reference(ROWS, 40, 1, False)) == off
    assert counted(lambda: blueprint.reference(ROWS, 40, 1, True)) == on - 2 * ROWS * UP
    both = ROWS * count_pass(blueprint, 1, 39, True, 1, backward=True).flops
    assert counted(lambda: blueprint.learn(ROWS, 40, 1, False, False)) == both - 2 * ROWS * (UP + FIRST)


def test_gradient_checkpointing_costs_one_more_pass_of_the_layers(bare: LLMOptions) -> None:
    """By hand: a token meets a layer's weights (q and o 32 x 32, k and v 32 x 16, three of 32 x 64) and its adapter's
    (4 for each row and column of these), and with its own width each key and each value; and no logits.
    """
    blueprint = Blueprint(replace(bare, adapter_scope="response"), torch.float32, on_cpu=True)
    once, twice = (
        count_pass(blueprint, 1, 39, True, 1, backward=True, recompute=recompute) for recompute in (False, True)
    )
    weights = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    adapter = 4 * (2 * 64 + 2 * 48 + 3 * 96)
    attention = 40 * 2 * 32
    assert twice.flops - once.flops == 2 * LAYERS * (weights + adapter + attention)
    assert twice.tokens == once.tokens
    more = [counted(lambda a=recompute: blueprint.learn(ROWS, 40, 1, False, False, a)) for recompute in (True, False)]
    assert more[0] - more[1] == ROWS * (twice.flops - once.flops) - 2 * ROWS * UP


def test_a_token_sees_itself_and_those_before_it(bare: LLMOptions) -> None:
    blueprint = Blueprint(bare, torch.float32, on_cpu=True)
    one_by_one = sum((count_pass(blueprint, 1, seen, True, 1) for seen in range(7, 12)), Workload())
    assert count_pass(blueprint, 5, 7, True, 5) == one_by_one


@pytest.mark.parametrize("scope", ["all", "response"])
def test_the_work_of_a_run(bare: LLMOptions, scope: Any) -> None:
    explainer = PPOExplainerModule(llm=replace(bare, adapter_scope=scope), ppo=PPOOptions(epochs=3, minibatch_size=4))
    blueprint = Blueprint(explainer.llm, torch.float32, on_cpu=False)
    size = Sizes(1, 8, 8, 4, prompt_tokens=20, response_tokens=5)
    found = estimate_workload(blueprint, explainer, size, make_plan(2, 1, 7, 1), (18, 2, 2), ctr_batch=10)
    # batches of 6: two minibatches of 3 in each of three passes
    assert [(name, w.batches, w.steps) for name, w in found.items()] == [
        ("lc", 6, 36), ("ctr", 14, 14), ("ic", 3, 18), ("test", 0, 0)
    ]  # fmt: skip
    explained = 19 + 5 + 10
    again = 24 if scope == "all" else 5  # the reference, and three passes of PPO
    assert found["ic"].tokens == 18 * (explained + 4 * again) + 2 * explained
    assert found["lc"].tokens == 2 * found["ic"].tokens
    assert found["ic"].decode_steps == (3 + 1) * 5  # three batches of rollouts, one of validation
    own = 5 * 19 + 15  # keys and values of a row that its five steps read
    expected = found["ic"].decode_steps * blueprint.read_bytes + (18 + 2) * own * blueprint.cache_bytes
    assert found["ic"].decode_bytes == expected
    assert found["ctr"].tokens == 2 * (19 + 5)
    several = estimate_workload(blueprint, explainer, size, make_plan(2, 1, 7, 1), (18, 2, 2), 10, explanations=4)
    assert several["ctr"].tokens == 20 * (19 + 4 * 5)
    shared = 0 if scope == "all" else 19  # the untrained blueprint's prompts are the policy's
    assert found["test"].tokens == 2 * (2 * explained - shared + 20)
    explainer.ppo.gradient_checkpointing = True
    longer = estimate_workload(blueprint, explainer, size, make_plan(2, 1, 7, 1), (18, 2, 2), ctr_batch=10)
    new, seen = (24, 0) if scope == "all" else (5, 19)
    layers = count_pass(blueprint, new, seen, True, 0).flops
    assert longer["ic"].flops - found["ic"].flops == 18 * 3 * layers
    assert [longer[name] for name in ("ctr", "test")] == [found[name] for name in ("ctr", "test")]


def test_two_devices_read_their_weights_twice_and_take_as_many_steps(bare: LLMOptions) -> None:
    explainer, blueprint = PPOExplainerModule(llm=bare), Blueprint(bare, torch.float32, on_cpu=False)
    one, two = (
        estimate_workload(blueprint, explainer, Sizes(devices, 8, 8, 4, 20, 5), make_plan(1, 0, 0, 0), (18, 2, 2), 10)
        for devices in (1, 2)
    )
    assert two["lc"].decode_steps == one["lc"].decode_steps
    assert two["lc"].decode_bytes - one["lc"].decode_bytes == one["lc"].decode_steps * blueprint.read_bytes


def test_hours() -> None:
    """A thousandth of the products is decoding's."""
    rates = Rates(tflops=1000, utilisation=0.25, bandwidth=2000, launch_us=10)
    total = Workload(
        flops=int(3600 * 2e15), decode_flops=int(3600 * 2e12), decode_bytes=int(3600 * 4e12), decode_steps=36_000
    )
    assert estimate_hours(total, 4, rates) == pytest.approx(1.998)
    found = estimate_decoding(total, 4, rates, launches=1000)
    assert found == pytest.approx({"products": 0.002, "memory": 0.5, "launches": 0.1})


@pytest.mark.parametrize(("rows", "most"), [(10, 4), (7, 3), (5, 9), (1, 1), (0, 3), (13, 1)])
def test_batches_are_those_that_torch_splits_rows_into(rows: int, most: int) -> None:
    sizes = [len(batch) for batch in torch.arange(rows).tensor_split(max(1, -(-rows // most)))]
    assert {size: count for size, count in near_equal(rows, most).items() if count} == Counter(sizes)


def test_a_million_million_samples_are_planned_at_once() -> None:
    assert near_equal(10**12, 8) == {9: 0, 8: 125 * 10**9}
