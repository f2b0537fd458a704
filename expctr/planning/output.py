"""Output of `expctr plan`: a run's memory, whether it fits, how to lower it, and its work."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from expctr.errors import check_range
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.memory import COMPONENTS, Sizes, batch_sizes, forecast_memory, parse_memory, peak_bytes
from expctr.planning.workload import Rates, Workload, estimate_decoding, estimate_hours, estimate_workload
from expctr.stages.plan import PlanEntry

OVERLAYS = {
    None: "",
    "ddp": ", with --config ddp --trainer.devices {devices}, which holds all weights on each device",
    "fsdp": ", with --config fsdp --trainer.devices {devices}, which shares the weights while it learns",
}
QLORA_ROWS, QLORA_MICRO = 32, 8
"""Rows of a batch of rollouts or of an evaluation, and of a micro-batch, in `configs/qlora.yaml`."""


@dataclass
class PlanOptions:
    """Options of `expctr plan`, which its help text explains."""

    devices: int
    memory: str
    prompt_tokens: int | None
    processor: bool
    samples: int | None
    tflops: float
    utilisation: float
    bandwidth: float
    launch_us: float
    json: bool

    def __post_init__(self) -> None:
        check_range("plan", self, samples=(1, inf), prompt_tokens=(2, inf), tflops=(1e-3, inf), utilisation=(1e-3, 1))
        check_range("plan", self, bandwidth=(1e-3, inf), launch_us=(0, inf))


def print_plan(
    explainer: PPOExplainerModule, data: Any, plan: Sequence[PlanEntry], explanations: int, options: PlanOptions
) -> None:
    """Print memory, whether it fits, how to lower it, and the run's work; `llm.dtype: auto` counts as bfloat16."""
    limit = parse_memory(options.memory)
    size = batch_sizes(explainer, data, options.devices, options.prompt_tokens)
    dtype = torch.bfloat16 if explainer.llm.dtype == "auto" else getattr(torch, explainer.llm.dtype)
    blueprint = Blueprint(explainer.llm, dtype, options.processor)
    stages = forecast_memory(blueprint, explainer, size)
    if options.devices > 1:
        replicated = replace(size, replicated=True)
        whole = forecast_memory(blueprint, explainer, replicated)
        if peak_bytes(whole) <= limit:
            size, stages = replicated, whole
    overlay = "ddp" if size.replicated else "fsdp" if options.devices > 1 else None
    peak, count = peak_bytes(stages), options.samples or (None if data.splits else data.options.max_samples)
    changes = lower_memory(blueprint, explainer, size, peak, limit)
    in_4_bits = partial(forecast_qlora, blueprint, explainer, size, peak, limit)
    work = {}
    if count:
        train, val = (round(count * share) for share in data.options.fractions[:2])
        splits = train, val, count - train - val
        work = estimate_workload(blueprint, explainer, size, plan, splits, data.ctr_batch_size, explanations)
    total, hours, decoding = sum(work.values(), Workload()), None, None
    if not options.processor:
        rates = Rates(options.tflops, options.utilisation, options.bandwidth, options.launch_us)
        launches = 1 if explainer.llm.compile_decoding else blueprint.launches
        decoding = estimate_decoding(total, options.devices, rates, launches)
        hours = estimate_hours(total, options.devices, rates) + max(decoding.values())
    if options.json:
        memory = {"parameters": blueprint.base_size, "peak": peak, "memory": limit, "stages": stages}
        advice = {"overlay": overlay, "changes": dict(changes), "qlora": in_4_bits()}
        by_stage = {stage: workload._asdict() for stage, workload in work.items()}
        print(json.dumps({**memory, **advice, "work": by_stage, "hours": hours, "decoding_hours": decoding}))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=100)
    console.print(memory_table(stages))
    with_overlay = OVERLAYS[overlay].format(devices=options.devices)
    console.print(
        f"{'Fits' if peak <= limit else 'Does not fit'}: {peak / 1e9:.1f} of {limit / 1e9:.1f} GB (--memory), with "
        f"prompts of {size.prompt_tokens} tokens{with_overlay}. CTR models, the sentence encoder, buffers for sharding "
        "and the device's own context are not counted."
    )
    if work:
        console.print(workload_table(work))
        rate = f"{options.devices} x {options.tflops:g} TFLOP/s at a utilisation of {options.utilisation:.0%}"
        time = "Hours on a CPU are not forecast, but fit prints the time left"
        if decoding:
            kept = forecast_memory(blueprint, compiled(explainer), size)
            can_compile = overlay != "fsdp" and peak_bytes(kept) <= limit
            time = f"{hours:.1f} hours on {rate}; {describe_decoding(decoding, launches, options, can_compile)}"
        console.print(
            f"{time}. Counted: {'' if options.samples else 'at most '}{count} samples, every prompt and every response "
            f"at its maximum of {size.prompt_tokens} and {size.response_tokens} tokens, CTR stages trained to their "
            "last epoch. CTR models, the sentence encoder, and the test's audit, comparison models and temperature are "
            "not counted."
        )
    else:
        console.print("Steps, tokens and hours need --samples N, because the config does not say how many there are.")
    lowest = peak
    if peak > limit:
        console.print("Changes that lower the memory, each on top of those before:")
    for change, lowest in changes:  # each takes seconds to compute
        console.print(f"  {change}: {lowest / 1e9:.1f} GB")
    if lowest > limit:
        console.print(f"None of them is enough: the base alone takes {blueprint.base_bytes / 1e9:.1f} GB.")
    if packed := in_4_bits():
        shared = " --config ddp" if options.devices > 1 else ""
        console.print(f"Or with the base in 4 bits, --config qlora{shared}: {packed / 1e9:.1f} GB.")


def describe_decoding(hours: Mapping[str, float], launches: int, options: PlanOptions, can_compile: bool) -> str:
    """How long decoding takes, and by what it is limited; hours are as `estimate_decoding` gives them."""
    limit = max(hours, key=lambda name: hours[name])
    others = max(value for name, value in hours.items() if name != "launches")
    reason = {
        "products": "its matrix products",
        "memory": f"reading weights and cache at {options.bandwidth:g} GB/s",
        "launches": f"starting {launches:,} kernels per step at {options.launch_us:g} us each",
    }[limit]
    advice = f" ({others:.1f} with llm.compile_decoding)" if limit == "launches" and can_compile else ""
    return f"{hours[limit]:.1f} of them are decoding{advice}, which is limited by {reason}"


def compiled(explainer: PPOExplainerModule) -> PPOExplainerModule:
    """The same run with compiled decoding."""
    changed = copy(explainer)
    changed.llm = replace(explainer.llm, compile_decoding=True)
    return changed


def forecast_qlora(
    blueprint: Blueprint, explainer: PPOExplainerModule, size: Sizes, peak: int, limit: int
) -> int | None:
    """The peak with `configs/qlora.yaml`, on several devices together with `configs/ddp.yaml`; None unless it fits, the
    base is in floats, and the config's own peak does not fit.
    """
    if peak <= limit or blueprint.bits or explainer.llm.gguf_file:
        return None
    llm = replace(explainer.llm, quantization="nf4")
    changed = copy(explainer)
    changed.ppo = replace(explainer.ppo, gradient_checkpointing=True)
    rows = QLORA_ROWS * explainer.rollout_options.group_size
    micro = min(QLORA_MICRO, -(-rows // size.devices))
    size = replace(size, rollout_rows=rows, eval_rows=QLORA_ROWS, micro_rows=micro, replicated=True)
    packed = Blueprint(llm, blueprint.model.causal.dtype, blueprint.on_cpu)
    lowered = peak_bytes(forecast_memory(packed, changed, size))
    return lowered if lowered <= limit else None


def lower_memory(
    blueprint: Blueprint, explainer: PPOExplainerModule, size: Sizes, peak: int, limit: int
) -> Iterator[tuple[str, int]]:
    """Yield changes that lower the peak until it fits, each on top of those before it, and the peak after each."""
    group = explainer.rollout_options.group_size
    for name in ("micro", "batch", "batch", "prompt", "devices"):
        half = max(size.devices * group, size.rollout_rows // 2 // group * group)
        eval_rows = max(size.devices, min(size.eval_rows, half // group))
        batch = f"data.rollout_batch_size {half // group}, data.eval_batch_size {eval_rows}"
        prompt_tokens = max(2, size.prompt_tokens // 2)
        change, changed = {
            "micro": ("ppo.micro_batch_size 1", replace(size, micro_rows=1)),
            "batch": (batch, replace(size, rollout_rows=half, eval_rows=eval_rows)),
            "prompt": (f"prompts.prompt_tokens {prompt_tokens}", replace(size, prompt_tokens=prompt_tokens)),
            "devices": (f"{2 * size.devices} devices with --config fsdp", replace(size, devices=2 * size.devices)),
        }[name]
        if peak <= limit or (name == "devices" and size.rollout_rows // group < changed.devices):
            return
        lowered = peak_bytes(forecast_memory(blueprint, explainer, changed))
        if lowered < 0.99 * peak:
            size, peak = changed, lowered
            yield change, peak


def memory_table(stages: dict[str, dict[str, Counter[str]]]) -> Table:
    """The phase of each stage that needs most memory."""
    unit, scale = ("GB", 1e9) if peak_bytes(stages) >= 1e9 else ("MB", 1e6)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{unit} on each device, at the peak")
    for name in ("stage", "phase"):
        table.add_column(name)
    for name in (*COMPONENTS, "total"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage, phases in stages.items():
        phase, found = max(phases.items(), key=lambda item: item[1].total())
        numbers = *(found[name] for name in COMPONENTS), found.total()
        table.add_row(stage, phase, *(f"{number / scale:.2f}" for number in numbers))
    return table


def workload_table(work: dict[str, Workload]) -> Table:
    """The work of each stage, and the total."""
    table = Table("stage", box=box.SIMPLE_HEAD, title="Work of the language model, over all devices")
    for name in ("batches", "optimizer steps", "tokens", "TFLOP"):
        table.add_column(name, justify="right")
    for stage, w in {**work, "total": sum(work.values(), Workload())}.items():
        table.add_row(stage, f"{w.batches:,}", f"{w.steps:,}", f"{w.tokens:,}", f"{w.flops / 1e12:,.0f}")
    return table
