"""Rewards of explanations (Eq. 9, 10, 13): tensors in, tensors out.

Means and deviations run over the rollout batch of all ranks, so that a run on two devices equals a run on one.
"""

from typing import Literal

from torch import Tensor

from expctr.rl.normalise import EPS

Metric = Literal["mae", "brier", "log"]
Delta = Literal["abs", "signed", "relu"]


def alignment(scores: Tensor, labels: Tensor, metric: Metric = "mae") -> Tensor:
    """How well scores agree with the user's choice; at most 1 (Eq. 9).

    `mae` is the paper's 1 - |y - s|. It is linear in s, so the best score is always 0 or 1, however unsure the
    evidence; `brier` and `log` are proper scores, whose best s is the true probability.

    Args:
        scores: probabilities of a liking, `[batch]`.
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
    """The last term of Eq. 13: what the explanation changed in the CTR model's score.

    `abs` is the paper's |s - s0|, which rewards any change, a harmful one too. `signed` is the error that the text
    took away, |y - s0| - |y - s|; `relu` the same, harm counted as nothing.

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
