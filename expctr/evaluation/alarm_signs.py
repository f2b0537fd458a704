"""The signs of reward hacking that `alarms` watches: pure functions of texts and scores."""

from collections.abc import Sequence

NGRAM = 3
"""Length of the n-grams that `repeated` counts. Shorter ones also repeat in good sentences."""


def unique(texts: Sequence[str], samples: Sequence[int]) -> float:
    """Distinct sentences per distinct sample, at most 1, since several responses to one prompt may agree."""
    return min(1.0, len(set(texts)) / max(1, len(set(samples))))


def words(texts: Sequence[str]) -> float:
    """Mean number of words."""
    return sum(len(text.split()) for text in texts) / max(1, len(texts))


def repeated(texts: Sequence[str], n: int = NGRAM) -> float:
    """Share of a sentence's n-grams that occurred in it before (0 in a shorter sentence), averaged over sentences."""
    return sum(_repeated(text.lower().split(), n) for text in texts) / max(1, len(texts))


def _repeated(tokens: list[str], n: int) -> float:
    ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def positive(scores: Sequence[float]) -> float:
    """Share of scores above 0.5."""
    return sum(score > 0.5 for score in scores) / max(1, len(scores))


def saturated(scores: Sequence[float], margin: float = 0.02) -> float:
    """Share of scores within `margin` of 0 or 1."""
    return sum(min(score, 1 - score) <= margin for score in scores) / max(1, len(scores))


def reward_gap(
    train: Sequence[float], train_labels: Sequence[float], held_out: Sequence[float], held_out_labels: Sequence[float]
) -> float:
    """Mean training reward minus mean held-out reward, taken within each label.

    The difference of a label is weighted by its share of the held-out rows. Otherwise a policy that says the same about
    everyone would have a gap wherever training batches are balanced. A label that either side lacks is left out.
    """
    total, rows = 0.0, 0
    for label in (0, 1):
        ours = [reward for reward, y in zip(train, train_labels, strict=True) if y == label]
        theirs = [reward for reward, y in zip(held_out, held_out_labels, strict=True) if y == label]
        if ours and theirs:
            total += len(theirs) * (sum(ours) / len(ours) - sum(theirs) / len(theirs))
            rows += len(theirs)
    return total / max(1, rows)
