"""Reward curves of a run (Figure 3), drawn into `RUN_FOLDER/rewards.png`.

Prints the mean raw reward in the first and the last tenth of each stage.

    python -m tools.reward_curves RUN_FOLDER
"""

import sys
from bisect import bisect_right
from functools import partial
from pathlib import Path
from statistics import fmean

from expctr.report.curves import Curves, read_events, smooth, stages
from tools.plots import figure, save

CURVES = [f"{stage}/reward_{part}" for stage in ("lc", "ic") for part in ("lc", "ic")]
LABELS = {"lc": "LC reward (Eq. 9)", "ic": "IC reward (Eq. 13)"}


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    curves = read_events(sys.argv[1]).curves
    found = [name for name in CURVES if name in curves]
    if not found:
        raise SystemExit(f"{sys.argv[1]} has no reward curves. Fix: give the folder of a run that has trained")
    for name in found:
        values = list(curves[name].values())
        tenth = max(1, len(values) // 10)
        first, last = fmean(values[:tenth]), fmean(values[-tenth:])
        print(f"{name:14} {first:.3f} -> {last:.3f}   (first and last tenth of {len(values)} rollout batches)")
    draw(curves, Path(sys.argv[1]))


def draw(curves: Curves, run: Path) -> None:
    """Draw one panel per reward: raw, smoothed within each stage, and on the validation split if it was logged."""
    plan = stages(curves)
    # x is the rollout batch, not the step: a CTR stage has many steps without rollouts, which would take all the width
    rollouts = [step for name, steps in plan if not name.startswith("CTR") for step in steps]
    place = partial(bisect_right, rollouts)
    reach = max(1, len(rollouts) // 40)
    rewards = {part: curves.get(f"lc/reward_{part}", {}) | curves.get(f"ic/reward_{part}", {}) for part in LABELS}
    shown = {part: values for part, values in rewards.items() if values}
    picture, panels = figure(str(run), len(shown))
    for axes, (part, values) in zip(panels, shown.items(), strict=True):
        write = partial(axes.text, transform=axes.get_xaxis_transform(), fontsize=8)
        for name, steps in plan:
            here = [step for step in steps if step in values]
            if name.startswith("CTR"):
                x = place(steps[0]) + 0.5
                axes.axvline(x, color="0.4", linestyle=":", linewidth=1)
                write(x, 0.99, name, rotation=90, ha="left", va="top", clip_on=True)
            elif here:
                raw = [values[step] for step in here]
                axes.plot([*map(place, here)], raw, color="C0", alpha=0.35, linewidth=1, label="rollout batch")
                label = f"mean of {2 * reach + 1}"
                axes.plot([*map(place, here)], smooth(raw, reach), color="C0", linewidth=2, label=label)
                write((place(here[0]) + place(here[-1])) / 2, 1.02, name, ha="center")
        val = curves.get(f"val/reward_{part}", {})
        if val:
            axes.plot([*map(place, val)], [*val.values()], "o", color="C1", markersize=5, label="validation")
        reached = [*map(place, values), *map(place, val)]
        axes.set_xlim(min(reached) - 0.5, max(reached) + 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="rollout batch", ylabel=LABELS[part])
    save(picture, run / "rewards.png")


if __name__ == "__main__":
    main()
