"""Did training help, and is the explanation true to the model? What may be said of a run, in words that its intervals
bear out.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from expctr.report.compare import Estimate, auc, auc_gain, mean, overlap_gain
from expctr.report.figures import interval
from expctr.report.run import Run, aligned, estimate, number, section

Finding = Literal["higher", "lower", "not told apart"]


class Comparison(NamedTuple):
    """Two AUCs on the same test rows."""

    title: str
    """What is compared, as a chart's label."""
    first: str
    """What the one is."""
    second: str
    """What the other is, which is asked whether it is higher."""
    values: tuple[float, float]
    gain: Estimate
    paired: bool
    """Whether the interval of the gain is from the same resampled users; if not, it is wider than need be."""

    @property
    def finding(self) -> Finding:
        """Which is higher, if its interval leaves out 0."""
        return "higher" if self.gain.low > 0 else "lower" if self.gain.high < 0 else "not told apart"


class Fact(NamedTuple):
    """A share of the explanations."""

    title: str
    value: Estimate
    chance: float | None = None
    """What it would be by chance."""


class Answer(NamedTuple):
    """What the first screen says to a question."""

    question: str
    word: str
    """The shortest answer: Yes, Partly, Mixed, No, Not shown, Unknown."""
    why: str
    """A sentence on what the word rests on."""
    comparisons: list[Comparison]
    facts: list[Fact]
    cautions: list[tuple[str, str]]
    """What the word must not hide, each with its numbers."""


_PAIRS = (
    ("Verdict read from the sentence", "before training", "after training", "s_u_untrained", "s_u"),
    ("Click model, on these sentences", "before training", "after training", "s_r_untrained", "s_r"),
    ("Click model, with a sentence at all", "without text", "with its own", "s_0", "s_r"),
    ("Click model, sentence of this row", "another row's", "its own", "s_r_exchanged", "s_r"),
)
"""Title, what is compared, and the columns of test.parquet."""

_SOURCES = {
    "s_u": ("systems", "ExpCTR-LLM"),
    "s_r": ("systems", "ExpCTR-Aug"),
    "s_u_untrained": ("sources", "ExpCTR-LLM, untrained"),
    "s_r_untrained": ("sources", "ExpCTR-Aug, explanations of the untrained model"),
    "s_r_exchanged": ("sources", "ExpCTR-Aug, explanations of other rows"),
    "s_0": ("sources", "ExpCTR-Aug, none (z = 0)"),
}
"""Where table.json has the same systems."""


def answers(run: Run) -> list[Answer]:
    """The first screen's two questions, as far as the run has what answers them."""
    verdict, clicks, text, own = (compared(run, *pair) for pair in _PAIRS)
    return [_training(run, verdict, clicks, text), _truth(run, own)]


def compared(run: Run, title: str, first: str, second: str, one: str, other: str) -> Comparison | None:
    """Two systems: on the rows if they are there, else by table.json's intervals."""
    if rows := aligned(run, one, other):
        (a, b), labels, users = rows
        if not math.isnan(auc(a, labels)):
            gain = auc_gain(a, b, labels, users)
            return Comparison(title, first, second, (auc(a, labels), auc(b, labels)), gain, paired=True)
    known = [estimate(section(run.table, *_SOURCES[name]).get("auc")) for name in (one, other)]
    return _apart(title, first, second, *known)


def sentence(comparison: Comparison) -> str:
    """A comparison in words and numbers."""
    a, b = comparison.values
    said = {
        "higher": f"AUC is higher {comparison.second}" if comparison.second.startswith(("after", "with")) else "",
        "lower": f"AUC is lower {comparison.second}" if comparison.second.startswith(("after", "with")) else "",
        "not told apart": "Not told apart",
    }[comparison.finding] or f"AUC is {comparison.finding} with {comparison.second}"
    numbers = f"{a:.3f} {comparison.first}, {b:.3f} {comparison.second}"
    return f"{said}: {numbers}; difference {interval(comparison.gain, signed=True)}."


def _training(run: Run, verdict: Comparison | None, clicks: Comparison | None, text: Comparison | None) -> Answer:
    question = "Did training help?"
    known = [c for c in (verdict, clicks) if c]
    found = [c.finding for c in known]
    if not known:
        word, why = "Unknown", "The run has no test of the explanations before and after training."
    elif "lower" in found and "higher" in found:
        word, why = "Mixed", "It made one of the two predictions better and the other worse."
    elif "lower" in found:
        word, why = "No", "It made predictions worse than the untrained model's explanations do."
    elif found == ["higher", "higher"]:
        word, why = "Yes", "Both predictions are better with the trained model's explanations."
    elif verdict and verdict.finding == "higher":
        word = "Partly"
        why = "The sentence's own verdict became better" + (
            "; whether the click model gained by it is not told apart from chance." if clicks else "."
        )
    elif "higher" in found:
        word, why = "Partly", "The click model gains by it; the sentence's own verdict is not told apart."
    else:
        word, why = "Not shown", "Before and after training are not told apart: a difference may be chance."
    return Answer(question, word, why, [c for c in (verdict, clicks, text) if c], [], _cautions(run))


def _truth(run: Run, own: Comparison | None) -> Answer:
    question = "Is the explanation true to the model?"
    reason = _reason(run)
    agree = _agreement(run)
    expected = [
        Fact(f"Scores move as expected: {name}", value)
        for name, row in rows_of(run.table, "audit", "counterfactuals").items()
        if (value := estimate(row.get("expected")))
    ]
    measured = section(run.table, "quality", "trained")
    named = {
        "invented": "Sentences that name an invented title",
    }
    facts = [agree] if agree else []
    facts += [
        *expected,
        *(Fact(title, value) for key, title in named.items() if (value := estimate(measured.get(key)))),
    ]
    used = own is not None and own.finding == "higher"
    agrees = agree is not None and agree.value.low > (agree.chance or 0.5)
    if own is None and agree is None:
        word, why = "Unknown", "The run has no test of the click model with its explanations."
    elif used and agrees:
        word = "Yes" if reason and reason.finding == "higher" else "Partly"
        why = "The click model predicts by the sentence it is given, and takes its side more often than chance would"
        why += {
            "Yes": "; the reasons add to the verdict.",
            "Partly": "; that its reasons add to its verdict is not shown." if reason else ".",
        }[word]
        if not reason:
            why += " Whether the reasons matter, beside the verdict, was not tested here."
    elif used:
        word, why = (
            "Partly",
            "The click model predicts by the sentence given to it; that it takes its side may be chance.",
        )
    elif agrees:
        word, why = "Not shown", "Verdict and score agree, but another row's sentence would serve as well."
    else:
        word, why = "Not shown", "Nothing shows that the score rests on the sentence."
    return Answer(question, word, why, [c for c in (own, reason) if c], facts, [])


def _reason(run: Run) -> Comparison | None:
    """What a row's own reason is worth beside that of another row with its verdict; paired, where that was tested."""
    audit = {name: estimate(row.get("auc")) for name, row in rows_of(run.table, "audit", "ablations").items()}
    other, own = audit.get("shuffled within verdict"), audit.get("real")
    words = ("Click model, reasons beside the verdict", "another row's reasons for the same verdict", "its own")
    gain = estimate(section(run.table, "audit", "gain").get("reason"))
    if gain and other and own:
        return Comparison(*words, (other.value, own.value), gain, paired=True)
    return _apart(*words, other, own)


def _agreement(run: Run) -> Fact | None:
    """How often the sentence, as the frozen model reads it, and the click model's score take the same side; and how
    often they would if neither knew of the other.
    """
    if not (rows := aligned(run, "s_u", "s_r")):
        return None
    verdict, click = (scores > 0.5 for scores in rows.scores)
    chance = verdict.mean() * click.mean() + (1 - verdict.mean()) * (1 - click.mean())
    same = mean((verdict == click).astype(np.float64), rows.users)
    return Fact("Sentence and click score take the same side of 0.5", same, float(chance))


def _cautions(run: Run) -> list[tuple[str, str]]:
    """Systems whose scores are worse probabilities than a constant is."""
    constant, said = number(run.table.get("constant_logloss")), []
    for name in ("ExpCTR-LLM", "ExpCTR-Aug"):
        found = estimate(section(run.table, "systems", name).get("logloss"))
        if found and found.low > constant:
            said.append(
                (
                    f"{name}'s scores are not to be taken as probabilities",
                    f"LogLoss {interval(found)}; a constant has {constant:.3f}.",
                )
            )
    return said


def _apart(title: str, first: str, second: str, a: Estimate | None, b: Estimate | None) -> Comparison | None:
    if a is None or b is None:
        return None
    return Comparison(title, first, second, (a.value, b.value), overlap_gain(a, b), paired=False)


def rows_of(table: object, *path: str) -> dict[str, dict[str, object]]:
    """The rows at a path of table.json, those that are dictionaries."""
    return {name: section(row) for name, row in section(table, *path).items() if section(row)}


def right(scores: pl.Series, labels: pl.Series) -> Sequence[bool | None]:
    """Whether each verdict, a score above a half, is the label; `None` where either is missing."""
    return ((scores > 0.5).cast(pl.Float64) == labels.cast(pl.Float64)).to_list()
