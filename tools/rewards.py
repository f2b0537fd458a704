"""Did the rewards rise? Mean raw reward in the first and the last tenth of each stage of a run.

Usage: python tools/rewards.py RUN_FOLDER
"""

import sys
from statistics import fmean

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator


def main() -> None:
    """Read the run's TensorBoard events and print a line a curve."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    events = EventAccumulator(sys.argv[1], size_guidance={SCALARS: 0})
    events.Reload()
    names = [f"{stage}/reward_{part}" for stage in ("lc", "ic") for part in ("lc", "ic")]
    found = [name for name in names if name in events.Tags()["scalars"]]
    if not found:
        raise SystemExit(f"{sys.argv[1]} has no reward curves: give the folder of a run that has trained")
    for name in found:
        by_step = {event.step: event.value for event in events.Scalars(name)}  # a resumed run has some steps twice
        values = [by_step[step] for step in sorted(by_step)]
        tenth = max(1, len(values) // 10)
        first, last = fmean(values[:tenth]), fmean(values[-tenth:])
        print(f"{name:14} {first:.3f} -> {last:.3f}   (first and last tenth of {len(values)} rollout batches)")


if __name__ == "__main__":
    main()
