"""The report's headline: whether sentences pay, whether training helped, and whether the explanations are faithful.

All numbers are read from table.json. The words follow from their intervals.
"""

import math
from typing import Literal, NamedTuple

from expctr.report.figures import interval
from expctr.report.run import Run, estimate, number, section
from expctr.systems import AUG, GAINS, LLM, METRICS, Estimate, Metric

Finding = Literal["better", "worse", "unclear"]


class Compared(NamedTuple):
    """A metric of two systems on the same test rows."""

    title: str
    values: tuple[float, float]
    phrases: tuple[str, str]
    """What tells the two systems apart, such as "after training"."""
    gain: Estimate
    """The second one's value minus the first one's."""
    metric: Metric = METRICS["auc"]

    @property
    def finding(self) -> Finding:
        """Whether the second system is better or worse, if the interval of the difference excludes 0."""
        if self.gain.low <= 0 <= self.gain.high or math.isnan(self.gain.low + self.gain.high):
            return "unclear"
        return "better" if (self.gain.low > 0) == self.metric.higher_is_better else "worse"

    @property
    def sentence(self) -> str:
        """The comparison in words and numbers."""
        (first, second), (a, b), difference = self.phrases, self.values, interval(self.gain, signed=True)
        name, unclear = self.metric.name, self.finding == "unclear"
        start = f"No difference in {name} shown" if unclear else f"{name} is {self.finding} {second}"
        return f"{start}: {a:.4f} {first}, {b:.4f} {second}; difference {difference}."


class Fact(NamedTuple):
    """A share of the explanations."""

    title: str
    value: Estimate
    chance: float | None = None
    """The share expected by chance."""

    @property
    def sentence(self) -> str:
        """The share with its interval, such as `71.2% (67.3% to 74.8%)`."""
        value, low, high = self.value
        shown = f"{value:.1%}" if math.isnan(low) else f"{value:.1%} ({low:.1%} to {high:.1%})"
        return shown + ("." if self.chance is None else f"; by chance {self.chance:.1%}.")


class Answer(NamedTuple):
    """The answer to one of the questions."""

    question: str
    word: str
    """In large letters, such as Yes, Partly, Mixed, No, Not shown or Unknown."""
    why: str
    """A sentence on the reason for the word."""
    comparisons: list[Compared]
    facts: list[Fact]
    cautions: list[tuple[str, str]]
    """What the word must not hide, each with its numbers."""


def headline(run: Run) -> list[Answer]:
    """The answers to all questions."""
    return [_sentences(run), _training(run), _faithfulness(run)]


def compared(run: Run, key: str, metric: str = "auc") -> Compared | None:
    """A comparison of `GAINS` by a metric; `None` where table.json does not have it."""
    entry = section(run.table, "gains", key)
    systems = section(run.table, "systems") | section(run.table, "sources")
    names = [name for key in ("first", "second") if isinstance(name := entry.get(key), str)]
    if len(names) < 2:
        return None
    first, second = (estimate(section(systems, name).get(metric)) for name in names)
    gain = estimate(entry.get(metric))
    if not (first and second and gain):
        return None
    title = GAINS[key].heading(names[0])
    return Compared(title, (first.value, second.value), GAINS[key].phrases, gain, METRICS[metric])


def _sentences(run: Run) -> Answer:
    found = [comparison for metric in ("auc", "logloss") if (comparison := compared(run, "aug_plain", metric))]
    parts = []
    for kind in ("better", "worse"):
        names = [comparison.metric.name for comparison in found if comparison.finding == kind]
        parts += [f"{kind} {names[0]}" if len(names) < len(found) else kind] if names else []
    word = ", ".join(parts) or ("no difference shown" if found else "unknown")
    plain = section(run.table, "gains", "aug_plain").get("first")
    why = f"{AUG.name} reads a sentence beside each row's fields; {plain} sees the same fields alone."
    if not found:
        why = _no_click_model(run) or (
            f"table.json does not compare {AUG.name} with the CTR model without sentences: older versions did not."
        )
        if AUG.name not in section(run.table, "systems"):
            why = f"This run has no {AUG.name}: its click model reads no sentences."
    titled = [c._replace(title=f"{c.metric.name}, {c.metric.better} is better") for c in found]
    if title := compared(run, "aug_title"):
        titled.append(title)
    question = "With sentences against without: are click predictions better?"
    return Answer(question, word[0].upper() + word[1:], why, titled, [], [])


def _no_click_model(run: Run) -> str:
    """Why nothing is known of sentences in the click model, if there was none yet where the test was made."""
    systems = section(run.table, "systems")
    if AUG.name not in systems or section(systems, AUG.name):
        return ""
    if str(section(run.config, "model").get("class_path")).endswith("PPOExplainerModule"):
        return f"This run trains no {AUG.name}."
    return f"The checkpoint that was tested has no {AUG.name} yet: its CTR stage had not ended. Resume the fit."


def _training(run: Run) -> Answer:
    verdict, text = (compared(run, key) for key in ("llm_training", "aug_text"))
    # a CTR model that has learnt from untrained sentences is the fairer opponent, where it was trained
    ctr = compared(run, "aug_untrained_text") or compared(run, "aug_training")
    found = [comparison.finding for comparison in (verdict, ctr) if comparison]
    if not found:
        word, why = "Unknown", "table.json has no comparison of the explanations before and after training."
    elif {"better", "worse"} <= {*found}:
        word, why = "Mixed", "One of the two predictions became better and the other one worse."
    elif "worse" in found:
        word, why = "No", "Predictions are worse with the trained model's explanations than with the untrained model's."
    elif found == ["better", "better"]:
        word, why = "Yes", "Both predictions are better with the trained model's explanations."
    elif verdict and verdict.finding == "better":
        word, why = "Partly", f"{LLM.name} became better"
        why += f"; for {AUG.name}, the difference may be chance." if ctr else "."
    elif "better" in found:
        word, why = "Partly", f"{AUG.name} became better; for {LLM.name}, the difference may be chance."
    else:
        word, why = "Not shown", "The differences between before and after training may be chance."
    cautions, constant = [], number(run.table.get("constant_logloss"))
    for system in (LLM, AUG):  # whose scores may be worse probabilities than a constant
        logloss = estimate(section(run.table, "systems", system.name).get("logloss"))
        if logloss and logloss.low > constant:
            numbers = f"LogLoss {interval(logloss)}; a constant score has {constant:.4f}."
            after = section(run.table, "temperature", system.name)
            if rescaled := estimate(after.get("logloss")):
                numbers += f" With temperature {number(after.get('t')):.2f}, it is {interval(rescaled)}."
            cautions.append((f"The scores of {system.name} are not usable as probabilities", numbers))
    return Answer("Did training help?", word, why, [c for c in (verdict, ctr, text) if c], [], cautions)


def _faithfulness(run: Run) -> Answer:
    own_row, reason = compared(run, "aug_own_row"), _reason(run)
    agreed = section(run.table, "audit", "agreement")
    facts, agrees = [], False
    if share := estimate(agreed.get("share")):
        chance = number(agreed.get("chance"))
        agrees = share.low > (chance or 0.5)
        facts.append(Fact("Both models' scores are on the same side of 0.5", share, chance))
    facts += [
        Fact(f"A changed prompt has the expected effect: {kind}, {section(row).get('rows', '?')} rows", value)
        for kind, row in section(run.table, "audit", "counterfactuals").items()
        if (value := estimate(section(row).get("expected")))
    ]
    if invented := estimate(section(run.table, "quality", "trained").get("invented")):
        facts.append(Fact("Sentences that name an invented title", invented))
    if wrong := estimate(section(run.table, "quality", "trained").get("claims_wrong")):
        facts.append(Fact("Sentences on what the user liked or disliked that are wrong about a title", wrong))
    used = own_row is not None and own_row.finding == "better"
    if own_row is None and share is None:
        word = "Unknown"
        why = _no_click_model(run) or f"table.json has no test of {AUG.name} on other explanations."
    elif used and agrees:
        word = "Yes" if reason and reason.finding == "better" else "Partly"
        helped = "the sentence's reasons help in addition to its verdict"
        why = f"{AUG.name} uses the sentence, and agrees with its verdict more often than by chance. "
        if word == "Yes":
            why += helped.capitalize() + "."
        else:
            why += f"Whether {helped} {'is not clear' if reason else 'was not tested'}."
    elif used:
        word = "Partly"
        why = f"{AUG.name} uses the sentence, but its agreement with the sentence's verdict may be chance."
    elif agrees:
        word = "Not shown"
        why = f"{AUG.name} agrees with the sentence's verdict, but another row's sentence may serve as well."
    else:
        word, why = "Not shown", f"There is no evidence that the score of {AUG.name} depends on the sentence."
    comparisons = [comparison for comparison in (own_row, reason) if comparison]
    return Answer("Are the explanations faithful to the model?", word, why, comparisons, facts, [])


def _reason(run: Run) -> Compared | None:
    """The worth of a row's own reasons, compared with those of another row that has the same verdict."""
    ablations = section(run.table, "audit", "ablations")
    other, own = (estimate(section(ablations, name).get("auc")) for name in ("shuffled within verdict", "real"))
    gain = estimate(section(run.table, "audit", "gain").get("reason"))
    if not (other and own and gain):
        return None
    phrases = ("with another row's reasons for the same verdict", "with its own reasons")
    return Compared(f"{AUG.name}, reasons in addition to verdicts", (other.value, own.value), phrases, gain)
