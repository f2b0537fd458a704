"""Rewards of explanations: the paper's two (Eq. 9 and 13), and the class that your own ones extend."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from expctr.ctr.encoder import SentenceEncoder
from expctr.data.batches import Batch
from expctr.distributed import all_gather_objects
from expctr.errors import UserError, check_range
from expctr.llm.sharding.fsdp import unsharded
from expctr.llm.yes_no import LCScorer
from expctr.rl.normalise import EPS
from expctr.rl.options import Baseline

Metric = Literal["mae", "brier", "log"]
Delta = Literal["abs", "signed", "relu"]


class ClickScorer(Protocol):
    """A CTR model that reads explanations (Eq. 12)."""

    def score(self, batch: Batch, text: Tensor | None = None, *, heldout: bool = False) -> Tensor:
        """Click probabilities, `[rows]`."""


@dataclass
class Scorers:
    """The models that a reward may query."""

    lc: LCScorer
    """The frozen language model."""
    ctr: ClickScorer | None = None
    encoder: SentenceEncoder | None = None
    untrained_texts: Callable[[Batch], list[str]] | None = None
    """An explanation of each row by the untrained model."""


class Reward(ABC):
    """Scores explanations; PPO maximises the weighted sum of a stage's normalised rewards (Eq. 10, 14, 16).

    A subclass sets `name` and defines `score`. List it in the config, under `stages.lc.rewards` or `stages.ic.rewards`,
    by its `class_path`. It then has its own curves in TensorBoard (`reward_NAME`) and its own column in the tables of
    explanations.

    Args:
        weight: factor of the normalised reward in the sum; 0 logs the reward without using it.
        baseline: what is subtracted before Eq. 10 normalises: the mean of the rollout `batch`, of the rows with the
            same `label`, of the other responses to the same `prompt` (needs rollout.group_size of at least 2), or the
            reward of a `reference` explanation of the same row (needs `reference`).
    """

    name: str
    """Names the curves and columns."""
    fix = "Check the code of this reward"
    """What to do if a score is NaN or infinite."""
    columns: dict[str, Tensor]
    """Scores behind the last rewards, `[rows]` each, by name; they are logged beside the reward."""

    def __init__(self, weight: float = 1.0, baseline: Baseline = "batch") -> None:
        self.weight, self.baseline = weight, baseline
        self.columns = {}
        check_range(f"rewards.{type(self).__name__}", self, weight=(0, inf))
        if weight == inf:
            raise UserError(f"rewards.{type(self).__name__}.weight must be finite")
        if baseline == "reference" and type(self).reference is Reward.reference:
            raise UserError(
                f"rewards.{type(self).__name__}.baseline: this reward has no reference. Fix: set baseline to batch, "
                "label or prompt, or define the method `reference`"
            )

    def attach(self, scorers: Scorers) -> None:  # noqa: B027  (most rewards need no model)
        """Take the models that `score` needs, once they are loaded."""

    @abstractmethod
    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        """The rewards of explanations of training rows.

        Args:
            batch: the rows, with titles and labels.
            texts: one explanation per row.

        Returns:
            Raw rewards, `[rows]`, on the batch's device.
        """

    def reference(self, batch: Batch) -> Tensor:
        """For `baseline: reference`: a reward of the same rows that the policy's explanations do not change.

        Args:
            batch: the rows that `score` has just scored.

        Returns:
            Raw rewards, `[rows]`, on the batch's device.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this reward, as plain numbers; by default nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """The inverse of `state_dict`."""

    def evaluate(self, batch: Batch, texts: Sequence[str], columns: Mapping[str, Any]) -> Tensor | None:
        """The rewards of explanations of held-out rows, for the log and the tables.

        Args:
            batch: the rows.
            texts: one explanation per row.
            columns: scores that were computed already (`s_u`, `s_r`, `s_0`), `[rows]` each.

        Returns:
            Raw rewards, `[rows]`; none where a score that they need is missing.
        """
        return score_rows(self, batch, texts)


def score_rows(reward: Reward, batch: Batch, texts: Sequence[str]) -> Tensor:
    """`Reward.score`, as float32.

    Raises:
        UserError: it is not one number per explanation on the batch's device.
    """
    try:
        values = reward.score(batch, texts)
    except Exception as error:
        error.add_note(f"in the reward {reward.name}")
        raise
    for name, column in {f"reward {reward.name}": values, **reward.columns}.items():
        _check_rows(name, column, batch, "score")
    return values.detach().float()


def reference_rows(reward: Reward, batch: Batch) -> Tensor:
    """`Reward.reference`, as float32.

    Raises:
        UserError: it is not one number per row on the batch's device.
    """
    values = reward.reference(batch)
    _check_rows(f"the reference of reward {reward.name}", values, batch, "reference")
    return values.detach().float()


def _check_rows(name: str, values: object, batch: Batch, method: str) -> None:
    rows, device = len(batch), batch.label.device
    if not isinstance(values, Tensor) or values.shape != (rows,) or values.device != device:
        found = (
            f"shape {list(values.shape)} on {values.device}" if isinstance(values, Tensor) else type(values).__name__
        )
        raise UserError(
            f"{name} is of {found}, for {rows} explanations: Reward.{method} must return one number per explanation, a "
            f"tensor [rows] on {device}"
        )


class LCAlignment(Reward):
    """The LC reward: how well the frozen language model can tell the user's choice from the explanation (Eq. 8, 9).

    Args:
        weight: factor in the sum of rewards.
        metric: `mae`: 1 - |y - s| (Eq. 9), which favours overconfident scores; `brier` and `log`: proper scores.
        baseline: as of `Reward`; the reference is an explanation by the untrained model, sampled once per row.
    """

    name = "lc"
    fix = "Load the base in float32 (model.explainer.llm.dtype)"

    def __init__(self, weight: float = 1.0, metric: Metric = "mae", baseline: Baseline = "batch") -> None:
        super().__init__(weight, baseline)
        self.metric = metric
        self._untrained_scores: dict[int, float] = {}
        """s_u of the untrained model's explanations, by sample."""

    def attach(self, scorers: Scorers) -> None:
        """Takes the frozen language model, and who writes the untrained model's explanations."""
        self._scorer, self._untrained_texts = scorers.lc, scorers.untrained_texts

    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        """Eq. 9 of the scores s_u."""
        self.columns = {"s_u": self._scorer.scores(batch.texts, texts)}
        return self._reward(self.columns, batch.label)

    def reference(self, batch: Batch) -> Tensor:
        """Eq. 9 of the untrained model's explanations, each sampled and scored once; all ranks keep all scores."""
        assert self._untrained_texts is not None
        samples = batch.sample.tolist()
        first = {sample: i for i, sample in reversed([*enumerate(samples)])}  # of several responses to a prompt
        new = [sample not in self._untrained_scores and first[sample] == i for i, sample in enumerate(samples)]
        rows = batch.select(torch.tensor(new, dtype=torch.bool, device=batch.label.device))
        texts = self._untrained_texts(rows)
        with unsharded(self._scorer.model):
            scores = self._scorer.scores(rows.texts, texts)
        for scored in all_gather_objects(dict(zip(rows.sample.tolist(), scores.tolist(), strict=True))):
            self._untrained_scores |= scored
        kept = torch.tensor([self._untrained_scores[sample] for sample in samples], device=batch.label.device)
        return self._reward({"s_u": kept}, batch.label)

    def state_dict(self) -> dict[str, Any]:
        """The scores of the untrained model's explanations, by sample."""
        return {"untrained_scores": dict(self._untrained_scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._untrained_scores = dict(state.get("untrained_scores", {}))

    def evaluate(self, batch: Batch, texts: Sequence[str], columns: Mapping[str, Any]) -> Tensor | None:
        """Eq. 9 of the scores s_u that are there."""
        return self._reward(columns, batch.label) if "s_u" in columns else None

    def _reward(self, columns: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return alignment(columns["s_u"], labels, self.metric)


class ICAlignment(Reward):
    """The IC reward: how well the CTR model predicts with the explanation, and what the explanation adds (Eq. 13).

    Args:
        weight: factor in the sum of rewards.
        metric: as of `LCAlignment`.
        delta: `abs`: |s - s0| (Eq. 13), which rewards any change of the score, even a harmful one; `signed`:
            |y - s0| - |y - s|; `relu`: the same, with harm counted as 0.
        baseline: as of `Reward`; the reference is no explanation at all (z = 0), so that the gain is what the
            explanation adds.
    """

    name = "ic"
    fix = "Lower the learning rate of the CTR model (model.ctr.options.lr)"

    def __init__(
        self, weight: float = 1.0, metric: Metric = "mae", delta: Delta = "abs", baseline: Baseline = "batch"
    ) -> None:
        super().__init__(weight, baseline)
        self.metric, self.delta = metric, delta

    def attach(self, scorers: Scorers) -> None:
        """Takes the CTR model and the sentence encoder.

        Raises:
            UserError: there is none.
        """
        if scorers.ctr is None or scorers.encoder is None:
            raise UserError(
                "ICAlignment needs a CTR model: list ICAlignment under stages.ic.rewards of an ExpCTRModule"
            )
        self._ctr, self._encoder = scorers.ctr, scorers.encoder

    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        """Eq. 13 of the scores s_r and, at z = 0, s_0; by the cross-fitted model that never saw the row."""
        vectors = self._encoder.vectors(texts, batch.label.device)
        scores = {"s_r": self._ctr.score(batch, vectors, heldout=True), "s_0": self._ctr.score(batch, heldout=True)}
        self.columns = {**scores, "text_gain": self._gain(scores, batch.label)}
        return self._reward(scores, batch.label)

    def reference(self, batch: Batch) -> Tensor:
        """Eq. 13 with s_0 in place of s_r: 1 - |y - s_0|."""
        return self._reward({"s_r": self.columns["s_0"], "s_0": self.columns["s_0"]}, batch.label)

    def evaluate(self, batch: Batch, texts: Sequence[str], columns: Mapping[str, Any]) -> Tensor | None:
        """Eq. 13 of the scores that are there."""
        return self._reward(columns, batch.label) if {"s_r", "s_0"} <= columns.keys() else None

    def _reward(self, columns: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return alignment(columns["s_r"], labels, self.metric) + self._gain(columns, labels)

    def _gain(self, columns: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return text_gain(columns["s_r"], columns["s_0"], labels, self.delta)


class LengthPenalty(Reward):
    """Minus the number of words beyond a limit.

    Args:
        weight: factor in the sum of rewards.
        limit: words that cost nothing.
        baseline: as of `Reward`; there is no reference.
    """

    name = "length"

    def __init__(self, weight: float = 1.0, limit: int = 30, baseline: Baseline = "batch") -> None:
        super().__init__(weight, baseline)
        self.limit = limit
        check_range("rewards.LengthPenalty", self, limit=(0, inf))

    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        """0 up to the limit, then -1 per word."""
        excess = [max(0, len(text.split()) - self.limit) for text in texts]
        return -torch.tensor(excess, dtype=torch.float32, device=batch.label.device)


def alignment(scores: Tensor, labels: Tensor, metric: Metric = "mae") -> Tensor:
    """How well scores agree with the user's choice; at most 1 (Eq. 9).

    `mae` is the paper's 1 - |y - s|. It is linear in s, so the best score is always 0 or 1, however weak the evidence.
    `brier` and `log` are proper scores: their best s is the true probability.

    Args:
        scores: probabilities that the user likes the target, `[batch]`.
        labels: 0 or 1, `[batch]`.
        metric: `mae` 1 - |y - s|, `brier` 1 - (y - s)^2, `log` 1 + log p(y).

    Returns:
        `[batch]`.
    """
    error = (labels - scores).abs()
    if metric == "mae":
        return 1 - error
    if metric == "brier":
        return 1 - error**2
    return 1 + (1 - error).clamp_min(EPS).log()


def text_gain(scores: Tensor, scores_without_text: Tensor, labels: Tensor, delta: Delta = "abs") -> Tensor:
    """The last term of Eq. 13: how the explanation changed the CTR model's score.

    `abs` is the paper's |s - s0|, which rewards any change, even a harmful one. `signed` is the error that the text
    removed, |y - s0| - |y - s|. `relu` is the same with harm counted as 0.

    Args:
        scores: the CTR model's scores with the explanation, `[batch]`.
        scores_without_text: its scores with z = 0, `[batch]`.
        labels: 0 or 1, `[batch]`.
        delta: which of the three.

    Returns:
        `[batch]`, within [-1, 1].
    """
    if delta == "abs":
        return (scores - scores_without_text).abs()
    gain = (labels - scores_without_text).abs() - (labels - scores).abs()
    return gain.clamp_min(0) if delta == "relu" else gain
