"""Examples of explanations for people: a text table for TensorBoard, and sentences before and after training."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from rich.console import Console
from rich.text import Text

from expctr.data.batches import SampleText
from expctr.modules.staged import StagedModule
from expctr.untrusted import printable

_LONGEST = 1000
"""Characters of a title or an explanation on the console."""


def markdown_table(module: StagedModule, texts: Mapping[int, SampleText], count: int) -> str:
    """The last validation's first explanations, with labels, scores, rewards and prompts (of the titles in `texts`)."""
    shown = {name: values[:count] for name, values in module.evaluated.items()}
    numbers = {name: shown[name] for name in ("s_u", "reward_lc", "s_r", "s_0") if name in shown}
    lines = [f"| label | explanation | {' | '.join(numbers)} | prompt |", "|---" * (3 + len(numbers)) + "|"]
    for i, sample in enumerate(shown["sample"]):
        prompt = module.models.policy.prompts.explanation([texts[sample]])[0]
        cells = [
            f"{shown['label'][i]:.0f}",
            _escaped(shown["text"][i]),
            *(f"{values[i]:.3f}" for values in numbers.values()),
            _escaped(str(module.models.policy.model.tokenizer.decode(prompt))),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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


def _escaped(text: str) -> str:
    """Text in which neither Markdown nor HTML finds markup: every special character becomes an entity."""
    return "".join(c if c.isalnum() or c in " ,.'" else f"&#{ord(c)};" for c in text)
