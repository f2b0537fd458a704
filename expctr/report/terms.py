"""The terms of a report, each with an explanation: shown on hover, and listed at the end for phones and for print."""

import re
from collections.abc import Sequence

from markupsafe import Markup, escape

from expctr.report.run import Run, backbone
from expctr.systems import COMPARISONS, METRICS, SIMPLE, SYSTEMS, of_backbone

_OTHERS = {
    "T": "The temperature with the lowest LogLoss on the validation rows. Logits are divided by it, which changes no "
    "ranking. Above 1, scores are too extreme.",
    "ROC": "Share of liked rows above a threshold (true positive rate) against that of disliked rows above it (false "
    "positive rate), for every threshold.",
    "LC": "The first stage: the language model learns to write sentences whose verdict, as the frozen language model "
    "reads it, is the label.",
    "CTR": "Click-through rate: the share of items that are clicked, here liked. In a CTR stage, the CTR model learns "
    "from the sentences.",
    "IC": "The last stage of a round: the language model learns to write sentences that make the CTR model's score "
    "better.",
    "LC reward": "Reward of a sentence in the LC stage: how close s_u is to the label.",
    "IC reward": "Reward of a sentence in the IC stage: what it does to the CTR model's score.",
    "KL": "Kullback-Leibler divergence: how far the trained language model has moved from the untrained one.",
    "Entropy": "How open the choice of the next token is. Near 0, the model always writes the same.",
    "Item": "The item in question, below it the user's history.",
    "Label": "Whether the user liked the item.",
    "Before training": "The sentence of the untrained language model.",
    "After training": "The sentence of the trained language model.",
    "Verdict": "What the frozen language model reads in the sentence: liked if s_u is above 0.5. It is right if it is "
    "the label.",
    "s_u": "Score of ExpCTR-LLM: the frozen language model's probability of a like, after reading the sentence. "
    "± is the spread over several sentences for the same row.",
    "s_r": "Score of ExpCTR-Aug: the CTR model's probability of a like, with the sentence. ± is the spread over "
    "several sentences for the same row.",
    "s_0": "The CTR model's probability of a like, without the sentence.",
    "Stage": "The stage that wrote the sentence; test: the trained model, on test rows.",
    "Run": "The letter of the run, as in the title.",
    "swapped history": "Liked titles of the prompt become disliked, and disliked ones liked.",
    "one title dropped": "A title is left out of the prompt's history.",
    "another target": "The prompt asks about another item.",
    "warm": "A user or an item that the training rows contain.",
    "cold": "A user or an item that the training rows do not contain.",
    "bootstrap": "The bounds of an interval come from many random samples of the test data, drawn with replacement.",
}
"""By name, besides metrics and systems."""


class Terms(dict[str, str]):
    """What a report's terms mean, by name: its metrics and systems, and what else it speaks of."""

    def __init__(self, runs: Sequence[Run]) -> None:
        metrics = {metric.name: f"{metric.about} The {metric.better}, the better." for metric in METRICS.values()}
        named = [(of_backbone(system, backbone(run)), system) for run in runs for system in (*SIMPLE, *SYSTEMS)]
        named += [(of_backbone(system, backbone(run)), system) for run in runs for system in COMPARISONS]
        systems = {name: f"{system.heading[0].upper()}{system.heading[1:]}." for name, system in named}
        super().__init__(metrics | systems | _OTHERS)
        names = sorted(self, key=len, reverse=True)  # "LC reward" before "LC"
        self._pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, names))})(?![\w-])")

    def mark(self, text: str) -> Markup:
        """Text as HTML, in which each term links to its explanation and shows it on hover."""
        parts = self._pattern.split(text)
        marked = [self._link(part) if i % 2 else escape(part) for i, part in enumerate(parts)]
        return Markup().join(marked)

    def _link(self, name: str) -> Markup:
        return Markup('<a class="term" href="#{}" title="{}">{}</a>').format(anchor(name), self[name], name)


def anchor(name: str) -> str:
    """The id of a term's explanation."""
    return "term-" + "".join(c if c.isalnum() else f"-{ord(c):x}-" for c in name)
