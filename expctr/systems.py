"""The systems, metrics and comparisons of a result table, by name, column and heading.

The table, the report, TensorBoard and the tools take their names from here. This file imports nothing heavy, so that
`expctr report` starts without torch.
"""

import math
from typing import Literal, NamedTuple


class Estimate(NamedTuple):
    """A number and the bounds of its interval; NaN where undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def format(self, layout: str = "{} ({}–{})", sign: str = "") -> str:
        """The value with four decimals and its bounds with three; a dash for NaN.

        Args:
            layout: with places for the value and both bounds; used where the bounds are defined.
            sign: "+" to write the sign of positive numbers, too.
        """
        value = "-" if math.isnan(self.value) else f"{self.value:{sign}.4f}"
        if math.isnan(self.low + self.high):
            return value
        return layout.format(value, f"{self.low:{sign}.3f}", f"{self.high:{sign}.3f}")


class Bin(NamedTuple):
    """Rows with similar scores."""

    rows: int
    score: float
    """Their mean."""
    rate: Estimate
    """The share of ones among their labels, with Wilson's interval."""


class Metric(NamedTuple):
    """A metric of click probabilities."""

    key: str
    """In table.json, and in TensorBoard before the system's key: `val/auc_llm`."""
    name: str
    about: str
    """What it is, in a sentence."""
    higher_is_better: bool = False

    @property
    def heading(self) -> str:
        """The name with an arrow that points to better values."""
        return f"{self.name} {'↑' if self.higher_is_better else '↓'}"

    @property
    def better(self) -> str:
        """Which values are better: higher or lower."""
        return "higher" if self.higher_is_better else "lower"


_METRICS = (
    Metric("auc", "AUC", "Chance that a liked row scores above a disliked one; 0.5 is random.", higher_is_better=True),
    Metric("logloss", "LogLoss", "Mean negative logarithm of the probability that a score gives to the label."),
    Metric("mae", "MAE", "Mean absolute difference of score and label."),
    Metric("rmse", "RMSE", "Square root of the MSE."),
    Metric("mse", "MSE", "Mean squared difference of score and label."),
    Metric("gauc", "GAUC", "Mean of the users' own AUCs, weighted by their rows.", higher_is_better=True),
    Metric("ne", "NE", "Normalised entropy: LogLoss divided by that of the best constant score."),
    Metric("ece", "ECE", "Expected calibration error: mean distance of scores from the share of likes at them."),
)
METRICS = {metric.key: metric for metric in _METRICS}
"""By key, in the order of the paper's Table 1, which ends with RMSE. The paper names MSE in its text only;
`expctr.metrics.ctr_metrics` defines the others."""

FURTHER = ("gauc", "ne", "ece")
"""Group AUC, normalised entropy and expected calibration error, which the console shows in a table of their own."""

RESCALED = ("logloss", "ece")
"""Metrics that are also shown after a temperature, which changes no ranking."""
T_NOTE = (
    "T is the temperature with the lowest LogLoss on the validation rows; above 1, scores are too extreme. 100 is the "
    "end of the search: such scores tell nothing."
)
"""Stands below tables that show T."""

FEWEST_ROWS, FEWEST_OF_A_LABEL = 50, 10
"""A slice of the test rows with fewer has no metrics: they would be chance."""


class System(NamedTuple):
    """A model, together with the explanations that it reads."""

    key: str
    """In TensorBoard: `val/auc_llm`."""
    name: str
    """In table.json and scores.parquet."""
    column: str
    """Of its scores in explanations/test.parquet; empty where they are in scores.parquet alone."""
    heading: str = ""
    """What it is, in the report's table of metrics."""


ICL = System("icl", "ICL", "s_icl", "in-context learning: the untrained language model, asked directly")
PLAIN = System("plain", "DeepFM", "s_plain", "CTR model without text")
"""In table.json and scores.parquet it has the name of the run's backbone; this is the default backbone's."""
LLM = System("llm", "ExpCTR-LLM", "s_u", "language model, after reading its explanation")
AUG = System("aug", "ExpCTR-Aug", "s_r", "CTR model with the explanation")
SYSTEMS = (ICL, PLAIN, LLM, AUG)
"""The rows of a result table."""

SHARE = System("share", "Share liked", "", "logistic regression on the share of liked titles in the history")
SHARE_ITEM = System(
    "share_item", "Share + item rate", "", "logistic regression on the share of liked titles and the target's like rate"
)
SIMPLE = (SHARE, SHARE_ITEM)
"""Baselines without a model, first in every result table: what counting alone achieves on the same rows."""

TITLE = System("title", "DeepFM + title", "s_title", "CTR model with the target's title in place of the explanation")
UNTRAINED_TEXT = System(
    "untrained_text", "DeepFM + untrained sentences", "s_untrained_text", "CTR model trained on untrained explanations"
)
COMPARISONS = (TITLE, UNTRAINED_TEXT)
"""Models that are trained at test, to compare with; the table shows those that were."""


def of_backbone(system: System, backbone: str) -> str:
    """The name of a system in a run with another CTR model than the default one."""
    return system.name.replace(PLAIN.name, backbone)


LLM_UNTRAINED = System("llm_untrained", "ExpCTR-LLM, untrained", "s_u_untrained")
AUG_UNTRAINED = System("aug_untrained", "ExpCTR-Aug, explanations of the untrained model", "s_r_untrained")
AUG_OTHER_ROW = System("aug_other_row", "ExpCTR-Aug, explanations of other rows", "s_r_exchanged")
AUG_NO_TEXT = System("aug_no_text", "ExpCTR-Aug, none (z = 0)", "s_0")
SOURCES = (LLM_UNTRAINED, AUG_UNTRAINED, AUG_OTHER_ROW, AUG_NO_TEXT)
"""The same trained models on other explanations: they show where the gain comes from."""


class Pair(NamedTuple):
    """Two systems on the same test rows; its gain is the second one's metric minus the first one's."""

    title: str
    first: System
    second: System
    phrases: tuple[str, str]
    """What tells the two apart, as in "0.512 before training, 0.603 after training"."""

    def heading(self, first: str) -> str:
        """The title, with the first system's name in this run, which may have another backbone."""
        return self.title.replace(self.first.name, first)


_SENTENCES = ("without sentences", "with sentences")
_TITLES = ("with titles", "with sentences")
_UNTRAINED = ("on untrained sentences", "on trained ones")
_TRAINING = ("before training", "after training")
_OTHER_ROW = ("with another row's sentence", "with its own sentence")
_NO_TEXT = ("without a sentence", "with its own sentence")
GAINS = {
    "aug_plain": Pair("ExpCTR-Aug against DeepFM", PLAIN, AUG, _SENTENCES),
    "aug_title": Pair("ExpCTR-Aug against DeepFM + title", TITLE, AUG, _TITLES),
    "aug_untrained_text": Pair("ExpCTR-Aug against DeepFM + untrained sentences", UNTRAINED_TEXT, AUG, _UNTRAINED),
    "llm_training": Pair("ExpCTR-LLM, before and after training", LLM_UNTRAINED, LLM, _TRAINING),
    "aug_training": Pair("ExpCTR-Aug, on sentences from before and after training", AUG_UNTRAINED, AUG, _TRAINING),
    "aug_text": Pair("ExpCTR-Aug, with and without a sentence", AUG_NO_TEXT, AUG, _NO_TEXT),
    "aug_own_row": Pair("ExpCTR-Aug, on its own and another row's sentence", AUG_OTHER_ROW, AUG, _OTHER_ROW),
}
"""The comparisons under `gains` in table.json, each by a paired bootstrap."""

ABLATIONS = {
    "real": "Its own sentence",
    "no verdict words": "Its own, without verdict words",
    "verdict only": "Its own verdict only",
    "shuffled within verdict": "Another row's, same verdict",
    "shuffled": "Another row's sentence",
    "untrained": "The untrained model's sentence",
    "none": "No sentence (z = 0)",
}
"""The sentences that the audit gives to ExpCTR-Aug: their keys in table.json, and headings."""


class Measure(NamedTuple):
    """A property of explanations as texts."""

    heading: str
    unit: Literal["share", "words", "score"] = "share"
    printed: bool = False
    """Whether `expctr test` prints it."""

    def format(self, value: float) -> str:
        """Shares as a percentage, words with one decimal, scores with three; a dash for NaN."""
        if math.isnan(value):
            return "-"
        return {"share": f"{value:.1%}", "words": f"{value:.1f}", "score": f"{value:.3f}"}[self.unit]


MEASURES = {
    "words": Measure("Words per sentence", "words", printed=True),
    "empty": Measure("Empty sentences"),
    "distinct_1": Measure("Distinct words, of all words", "score"),
    "distinct_2": Measure("Distinct word pairs, of all pairs", "score"),
    "unique": Measure("Distinct sentences, of all sentences", printed=True),
    "names_target": Measure("Name the target's title", printed=True),
    "names_history": Measure("Name a title of the history", printed=True),
    "invented": Measure("Name a title that is not in the prompt", printed=True),
    "invented_garbled": Measure("... a garbled title of the prompt", printed=True),
    "invented_elsewhere": Measure("... another title of the catalogue"),
    "claims": Measure("Say that the user liked or disliked a title of the history", printed=True),
    "claims_wrong": Measure("... and are wrong about one", printed=True),
    "verdict": Measure("Say whether the user will like the target", printed=True),
    "verdict_positive": Measure("... that the user will like it", printed=True),
    "verdict_agrees_s_u": Measure("... and agree with s_u", printed=True),
    "verdict_agrees_s_r": Measure("... and agree with s_r", printed=True),
    "verdict_agrees_label": Measure("... and agree with the label", printed=True),
    "reviewed": Measure("Rows with the user's own review"),
    "bleu": Measure("BLEU against the user's review", "score", printed=True),
    "rouge_l": Measure("ROUGE-L against the user's review", "score", printed=True),
    "bertscore": Measure("BERTScore against the user's review", "score", printed=True),
}
"""By key in table.json under `quality`, whose order the tables have."""
