"""Plots of the tools: panels side by side with a light grid, drawn without a display."""

from pathlib import Path

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise SystemExit("figures need matplotlib. Fix: bash tools/setup.sh, or pip install -e '.[tools]'") from error


def figure(title: str, panels: int) -> tuple[Figure, list[Axes]]:
    made = Figure(figsize=(5.5 * panels, 4), dpi=120, layout="constrained")  # pyplot would need a display
    made.suptitle(title)
    row = list(made.subplots(1, panels, squeeze=False)[0])
    for axes in row:
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return made, row


def save(made: Figure, path: Path) -> None:
    """Write the figure with one legend for all panels. A viewer that has the file open never sees half of it."""
    handles = [handle for axes in made.axes for handle in axes.get_legend_handles_labels()[0]]
    once = {str(handle.get_label()): handle for handle in handles}
    made.legend(once.values(), once.keys(), loc="outside lower center", ncols=len(once), frameon=False)
    aside = path.with_suffix(f".tmp{path.suffix}")
    made.savefig(aside)
    aside.replace(path)
