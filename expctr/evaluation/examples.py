"""Examples of explanations for people: sentences before and after training."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from rich.console import Console
from rich.text import Text

from expctr.data.batches import SampleText
from expctr.untrusted import printable

_LONGEST = 1000
"""Characters of a title or an explanation on the console."""


def before_and_after(
    columns: Mapping[str, list[Any]], texts: Mapping[int, SampleText], count: int
) -> list[dict[str, Any]]:
    """The first tested explanations, beside those that the untrained model writes for the same prompts."""
    rows = zip(*(columns[name] for name in ("sample", "label", "text_untrained", "text")), strict=True)
    return [
        {"target": texts[sample].target, "label": int(label), "before": before, "after": after}
        for sample, label, before, after in islice(rows, count)
    ]


def print_examples(examples: list[dict[str, Any]], console: Console) -> None:
    """Print what `before_and_after` returns."""
    for row in examples:
        target, before, after = (printable(row[name], _LONGEST) for name in ("target", "before", "after"))
        console.print(Text(f"\n{target} ({'liked' if row['label'] else 'disliked'})", style="bold"))
        console.print(Text(f"  before: {before}\n  after:  {after}"))
