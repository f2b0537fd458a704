"""The curves and the alarms that a run wrote for TensorBoard."""

from collections.abc import Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple

from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator

Curves = dict[str, dict[int, float]]
"""Scalars: tag -> step -> value, in the order of the steps."""
Plan = list[tuple[str, list[int]]]
"""A run's stages in order, each with its name and its logged steps."""

_ALARMS = "alarms/text_summary"


class Events(NamedTuple):
    """A run's event files, read together."""

    curves: Curves
    alarms: list[str]
    """The messages of `Alarms`, in the order of the steps."""


def read_events(folder: Path | str) -> Events:
    """Read a run's curves and alarms. Where a resumed run logged a step twice, the later value counts."""
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, TENSORS: 0})
    events.Reload()
    tags = events.Tags()
    curves = {}
    for tag in tags["scalars"]:
        by_step = {event.step: event.value for event in events.Scalars(tag)}
        curves[tag] = dict(sorted(by_step.items()))
    texts = events.Tensors(_ALARMS) if _ALARMS in tags["tensors"] else []
    alarms = {(event.step, value) for event in texts for value in event.tensor_proto.string_val}
    return Events(curves, [value.decode(errors="replace") for _, value in sorted(alarms)])


def stages(curves: Curves) -> Plan:
    """The run's stages in order, each with its name (`LC`, `CTR 1`, `IC 1`, ...) and its logged steps."""
    marks = {"lc/reward_lc": "LC", "ctr/loss": "CTR", "ctr/loss_without_text": "CTR", "ic/reward_ic": "IC"}
    steps = sorted((step, stage) for tag, stage in marks.items() for step in curves.get(tag, ()))
    made: Plan = []
    rounds = {"LC": 0, "CTR": 0, "IC": 0}
    for stage, group in groupby(dict(steps).items(), key=lambda pair: pair[1]):
        rounds[stage] += 1
        name = "LC" if stage == "LC" else f"{stage} {rounds[stage]}"
        made.append((name, [step for step, _ in group]))
    return made


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Running means over each value and up to `reach` neighbours on either side."""
    sums = [0.0, *accumulate(values)]
    bounds = ((max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in bounds]
