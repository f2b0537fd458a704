"""Two baselines without a model, which a CTR model should beat: what counting alone achieves.

*Share liked* knows one number of a row, the share of liked titles in its history. *Share + item rate* also knows how
often other training rows liked the target. Both are logistic regressions on log-odds, fitted on the training rows; how
strongly the rates are smoothed is chosen by LogLoss on the validation rows.
"""

from collections.abc import Iterable

import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from expctr.systems import SHARE, SHARE_ITEM

STRENGTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Candidates for the strength of the smoothing."""
DEFAULT_STRENGTH = 5.0
"""Where there are no validation rows to choose by."""


def simple_scores(samples: pl.DataFrame) -> dict[str, Tensor]:
    """The scores of both baselines.

    If the training rows have one label, all scores are that label; without training rows they are 0.5.

    Args:
        samples: the table of `make_samples`, all splits.

    Returns:
        Click probabilities of all rows, float64 `[rows]`, by the system's name.
    """
    split, labels = samples["split"], samples["label"].cast(pl.Float64).to_torch()
    train, val = ((split == name).to_torch() for name in ("train", "val"))
    rate = float(labels[train].mean()) if train.any() else 0.5
    if rate in (0, 1) or not train.any():
        return {system.name: torch.full_like(labels, rate) for system in (SHARE, SHARE_ITEM)}
    liked, disliked = (samples[name].list.len().cast(pl.Float64).to_torch() for name in ("liked", "disliked"))
    items = samples["target"].rank("dense").to_torch().long() - 1
    item_liked, item_rows = other_training_rows(items, labels, train)
    strengths = STRENGTHS if val.any() else (DEFAULT_STRENGTH,)
    shares = [smoothed_log_odds(liked, liked + disliked, rate, strength) for strength in strengths]
    item_rates = [smoothed_log_odds(item_liked, item_rows, rate, strength) for strength in strengths]

    share, alone = _best([[share] for share in shares], labels, train, val)
    _, both = _best([[*share, item_rate] for item_rate in item_rates], labels, train, val)
    return {SHARE.name: alone, SHARE_ITEM.name: both}


def smoothed_log_odds(ones: Tensor, rows: Tensor, rate: float, strength: float) -> Tensor:
    """Log-odds of the share of `ones` among `rows`, as if there were `strength` more rows with the share `rate`.

    All tensors have the shape `[n]`. Without rows the result is the log-odds of `rate`, which lies between 0 and 1.
    """
    return torch.logit((ones + strength * rate) / (rows + strength))


def other_training_rows(items: Tensor, labels: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """The training rows of each row's item, without the row itself.

    Args:
        items: the row's item, from 0, int64 `[rows]`.
        labels: 0 or 1, float64 `[rows]`.
        train: which rows are training rows, bool `[rows]`. The labels of the others have no effect.

    Returns:
        How many of them are liked, and how many there are, float64 `[rows]`.
    """
    weight = train.double()
    liked, rows = (torch.bincount(items, values)[items] - values for values in (weight * labels, weight))
    return liked, rows


def logistic_regression(inputs: Tensor, labels: Tensor, train: Tensor) -> Tensor:
    """Click probabilities of all rows, float64 `[rows]`, by scikit-learn's defaults.

    Args:
        inputs: float64 `[rows, inputs]`.
        labels: 0 or 1, `[rows]`.
        train: the rows that it is fitted on, bool `[rows]`; both labels must be among them.
    """
    from sklearn.linear_model import LogisticRegression  # its import takes a second

    model = LogisticRegression().fit(inputs[train].numpy(), labels[train].numpy())
    return torch.from_numpy(model.predict_proba(inputs.numpy())[:, 1])


def _best(
    candidates: Iterable[list[Tensor]], labels: Tensor, train: Tensor, val: Tensor
) -> tuple[list[Tensor], Tensor]:
    """The inputs with the lowest LogLoss on the validation rows, and the scores that they give."""
    scored = [(inputs, logistic_regression(torch.stack(inputs, 1), labels, train)) for inputs in candidates]
    return min(scored, key=lambda one: float(F.binary_cross_entropy(one[1][val], labels[val])))
