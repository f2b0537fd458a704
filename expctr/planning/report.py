"""What `expctr plan` prints."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from expctr.errors import check_range
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.forecast import PARTS, Sizes, highest, memory, parse_memory, sizes
from expctr.planning.work import Work, hours, work
from expctr.stages.plan import PlanEntry


@dataclass
class PlanOptions:
    """What a run is planned for; `cli.Trainer.plan` says what each means."""

    devices: int
    memory: str
    prompt_tokens: int | None
    processor: bool
    samples: int | None
    tflops: float
    utilisation: float
    json: bool

    def __post_init__(self) -> None:
        check_range("plan", self, samples=(1, inf), prompt_tokens=(2, inf), tflops=(1e-3, inf), utilisation=(1e-3, 1))


def report(explainer: PPOExplainerModule, data: Any, plan: Sequence[PlanEntry], asked: PlanOptions) -> None:
    """Print memory, whether it fits, what would lower it, and the run's work; `llm.dtype: auto` counts as bfloat16."""
    limit, size = parse_memory(asked.memory), sizes(explainer, data, asked.devices, asked.prompt_tokens)
    dtype = torch.bfloat16 if explainer.llm.dtype == "auto" else getattr(torch, explainer.llm.dtype)
    model = Blueprint(explainer.llm, dtype, asked.processor)
    stages = memory(model, explainer, size)
    peak, count = highest(stages), asked.samples or (None if data.splits else data.options.max_samples)
    mends = lowered(model, explainer, size, peak, limit)
    works = {}
    if count:
        works = work(model, explainer, size, plan, _splits(count, data.options.fractions), data.ctr_batch_size)
    took = hours(sum(works.values(), Work()), asked.devices, asked.tflops, asked.utilisation)
    if asked.json:
        found = {"parameters": model.size, "peak": peak, "memory": limit, "stages": stages, "changes": dict(mends)}
        print(json.dumps({**found, "work": {stage: w._asdict() for stage, w in works.items()}, "hours": took}))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=100)
    console.print(show(stages))
    console.print(
        f"{'Fits' if peak <= limit else 'Does not fit'}: {peak / 1e9:.1f} of {limit / 1e9:.1f} GB, prompts of "
        f"{size.prompt_tokens} tokens. CTR models, the encoder, sharding's buffers and the device's own context are "
        "not counted."
    )
    if peak > limit:
        console.print("What would lower it, each with those before it:")
    for what, bytes_ in mends:  # each takes seconds
        console.print(f"  {what}: {bytes_ / 1e9:.1f} GB")
    if not works:
        console.print("Steps, tokens and hours need --samples N: how many there will be is not in the config.")
        return
    console.print(show_work(works))
    console.print(
        f"{took:.1f} hours on {asked.devices} x {asked.tflops:g} TFLOP/s at a utilisation of {asked.utilisation:.0%}: "
        f"{'' if asked.samples else 'at most '}{count} samples, every prompt of {size.prompt_tokens} tokens and every "
        f"response of {size.response_tokens}, which is the most they can be; CTR stages to their last epoch. CTR "
        "models, the encoder and the test's audit take no share of it."
    )


def lowered(
    model: Blueprint, explainer: PPOExplainerModule, size: Sizes, peak: int, limit: int
) -> Iterator[tuple[str, int]]:
    """Changes that lower the peak, each made on top of those before it, until it fits; and the peak then."""
    group = explainer.rollout_options.group_size
    for name in ("micro", "batch", "batch", "prompt", "devices"):
        if peak <= limit:
            return
        half = max(size.devices * group, size.rollout_rows // 2 // group * group)
        shown = max(size.devices, min(size.eval_rows, half // group))
        what, changed = {
            "micro": ("ppo.micro_batch_size 1", replace(size, micro_rows=1)),
            "batch": (
                f"data.rollout_batch_size {half // group}, data.eval_batch_size {shown}",
                replace(size, rollout_rows=half, eval_rows=shown),
            ),
            "prompt": (f"prompts.prompt_tokens {size.prompt_tokens // 2}", _shorter(size)),
            "devices": (f"{2 * size.devices} devices", replace(size, devices=2 * size.devices)),
        }[name]
        if name == "devices" and size.rollout_rows // group < 2 * size.devices:
            continue
        then = highest(memory(model, explainer, changed))
        if then < 0.99 * peak:
            size, peak = changed, then
            yield what, peak


def show(stages: dict[str, dict[str, Counter[str]]]) -> Table:
    """Each stage at its highest phase."""
    unit, scale = ("GB", 1e9) if highest(stages) >= 1e9 else ("MB", 1e6)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{unit} on each device, at the highest moment")
    for name in ("stage", "in"):
        table.add_column(name)
    for name in (*PARTS, "all"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage, phases in stages.items():
        phase, parts = max(phases.items(), key=lambda item: item[1].total())
        table.add_row(stage, phase, *(f"{n / scale:.2f}" for n in (*(parts[part] for part in PARTS), parts.total())))
    return table


def show_work(works: dict[str, Work]) -> Table:
    """The work of each stage, and all of it."""
    table = Table("stage", box=box.SIMPLE_HEAD, title="The language model's work, over all devices")
    for name in ("batches", "optimizer steps", "tokens", "TFLOP"):
        table.add_column(name, justify="right")
    for stage, w in {**works, "all": sum(works.values(), Work())}.items():
        table.add_row(stage, f"{w.batches:,}", f"{w.steps:,}", f"{w.tokens:,}", f"{w.flops / 1e12:,.0f}")
    return table


def _shorter(size: Sizes) -> Sizes:
    return replace(size, prompt_tokens=max(2, size.prompt_tokens // 2))


def _splits(count: int, fractions: Sequence[float]) -> tuple[int, int, int]:
    train, val = (round(count * share) for share in fractions[:2])
    return train, val, count - train - val
