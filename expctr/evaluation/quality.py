"""What explanations are like to read, and whether they are true to their scores: numbers of a table of sentences.

`measure` gives, each with a 95% interval over users:

| metric | of what |
|---|---|
| words | mean words a sentence |
| empty | share of rows without a sentence; the shares below are of the others |
| distinct_1, distinct_2 | distinct words, and pairs of words, over all of them (Li et al., NAACL 2016) |
| unique | distinct sentences over all of them |
| names_history, names_target | share naming a title of the history, the target's |
| invented | share naming a title that is in neither (`titles`); of these |
| invented_garbled, invented_elsewhere | ... one that resembles a given title, another title of the catalogue |
| verdict | share that says whether the user will like the target (`verdicts`); of these |
| verdict_positive | ... that he will |
| verdict_agrees_s_u, _s_r, _label | ... share in which the score is on the same side of one half, and the label |
| reviewed | share of rows with the user's own review of the target, where any has one; of these |
| bleu, rouge_l, bertscore | ... likeness to it |
"""

import html
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.text import rouge_score

from expctr.evaluation.titles import Mentions
from expctr.metrics import UNDEFINED, Estimate, mean_estimates

REVIEW_WORDS = 256
"""A review is read up to this many words: ROUGE's time grows with the product of both lengths."""

TokenVectors = Callable[[Sequence[str]], Sequence[Tensor]]
"""Vectors of each text's tokens, `[tokens, dim]` a text."""


def measure(
    texts: Sequence[str],
    mentions: Sequence[Mentions],
    verdicts: Sequence[int],
    labels: Sequence[float],
    users: Tensor,
    scores: Mapping[str, Sequence[float]],
    *,
    titled: Sequence[bool],
    reviews: Sequence[str | None] = (),
    token_vectors: TokenVectors | None = None,
) -> dict[str, Estimate]:
    """All metrics of one model's explanations.

    Args:
        texts: the explanations.
        mentions: the titles that each names.
        verdicts: what each says: 1, -1, or 0 where nothing (`verdicts.polarity`).
        labels: 0 or 1.
        users: whose rows they are, integers `[rows]`.
        scores: by name (`s_u`, `s_r`), the rows' scores.
        titled: whether a row's prompt has any title of a history.
        reviews: the users' own words on the targets; none, or a value a row.
        token_vectors: of the encoder that BERTScore uses; without one it is left out.

    Returns:
        By name; nan where no row has the metric.
    """
    written = torch.tensor([bool(text.strip()) for text in texts])
    said = written & (torch.tensor(verdicts) != 0)
    positive = torch.tensor(verdicts) > 0

    def share(values: Sequence[float] | Tensor, of: Tensor) -> Tensor:
        return torch.where(of, torch.as_tensor(values).double(), math.nan)

    invented = [m.invented for m in mentions]
    columns = {
        "words": share([len(text.split()) for text in texts], written),
        "empty": (~written).double(),
        "names_history": share([m.history for m in mentions], written & torch.tensor(titled)),
        "names_target": share([m.target for m in mentions], written),
        "invented": share([len(found) > 0 for found in invented], written),
        "invented_garbled": share([any(title.garbled for title in found) for found in invented], written),
        "invented_elsewhere": share([any(title.elsewhere for title in found) for found in invented], written),
        "verdict": share(said, written),
        "verdict_positive": share(positive, said),
    }
    for name, values in (*scores.items(), ("label", labels)):
        columns[f"verdict_agrees_{name}"] = share((torch.tensor(values) > 0.5) == positive, said)
    if any(reviews):
        columns |= likeness(texts, reviews, token_vectors)
    words: dict[int, list[list[str]]] = {}
    sentences: dict[int, list[str]] = {}
    for user, text in zip(users.tolist(), texts, strict=True):
        words.setdefault(user, []).append(_words(text))
        sentences.setdefault(user, []).extend([text.strip()] if text.strip() else [])
    estimates = mean_estimates(columns, users)
    diversity = {
        "distinct_1": distinct([list(chain(*rows)) for rows in words.values()]),
        "distinct_2": distinct([list(chain(*map(pairwise, rows))) for rows in words.values()]),
        "unique": distinct([*sentences.values()]),
    }
    first = {name: estimates.pop(name) for name in ("words", "empty")}
    return first | diversity | estimates


def distinct(users: Sequence[Sequence[Hashable]], z: float = 1.96) -> Estimate:
    """Distinct things over all things.

    The interval is the jackknife's, since a bootstrap draws users twice, which no measure of distinctness can bear.

    Args:
        users: the things of each user, such as the words of all their rows.
        z: standard errors to each side.
    """
    counts = Counter(chain(*users))
    total, kinds, n = counts.total(), len(counts), len(users)
    if not total:
        return UNDEFINED
    without = []  # each user in turn
    for things in users:
        own = sum(counts[thing] == times for thing, times in Counter(things).items())
        without.append((kinds - own) / (total - len(things)) if total > len(things) else math.nan)
    left_out = torch.tensor(without, dtype=torch.float64)
    error = z * float(((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt())
    value = kinds / total
    return Estimate(value, max(0.0, value - error), min(1.0, value + error))


def likeness(
    texts: Sequence[str], reviews: Sequence[str | None], token_vectors: TokenVectors | None = None
) -> dict[str, Tensor]:
    """How like the users' own reviews explanations are, a value a row; nan where there is no review.

    BLEU is the sentence's (`bleu`), ROUGE-L its F1 (torchmetrics), both over words in lower case without punctuation;
    HTML in a review, which Amazon's have, does not count. An empty explanation is 0 like any review.

    Args:
        texts: the explanations.
        reviews: a value a row.
        token_vectors: of the encoder that BERTScore uses.

    Returns:
        `reviewed` (1 or 0), `bleu`, `rouge_l`, and `bertscore` if there is an encoder.
    """
    own = {i: said for i, review in enumerate(reviews) if (said := _said(review or ""))}
    names = ["bleu", "rouge_l", *(["bertscore"] if token_vectors else [])]
    columns = {name: torch.full((len(texts),), math.nan, dtype=torch.float64) for name in names}
    for i, review in own.items():
        ours, theirs = _words(texts[i]), _words(review)
        columns["bleu"][i] = bleu(ours, theirs)
        found = rouge_score(" ".join(ours), " ".join(theirs), normalizer=str, tokenizer=str.split, rouge_keys="rougeL")
        columns["rouge_l"][i] = float(found["rougeL_fmeasure"])
    if token_vectors:
        vectors = token_vectors([texts[i] for i in own]), token_vectors(list(own.values()))
        for i, a, b in zip(own, *vectors, strict=True):
            columns["bertscore"][i] = bertscore(a, b)
    return {"reviewed": torch.tensor([float(i in own) for i in range(len(texts))]), **columns}


def _said(review: str) -> str:
    """A review's first words, without HTML."""
    plain = html.unescape(re.sub(r"<[a-zA-Z/][^>]*>", " ", review))
    return " ".join(plain.split()[:REVIEW_WORDS])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def bleu(text: Sequence[str], reference: Sequence[str], longest: int = 4) -> float:
    """BLEU of one sentence: counts of two words and more have one added (Lin & Och, COLING 2004).

    torchmetrics' own is 0 wherever the two share no four words in a row, smoothed or not.

    Args:
        text: its words.
        reference: the other's.
        longest: words in a row that are counted, at most.
    """
    log = min(0.0, 1 - len(reference) / len(text)) if text else 0.0  # the brevity penalty's
    for n in range(1, longest + 1):
        ours, theirs = (Counter(zip(*(part[i:] for i in range(n)), strict=False)) for part in (text, reference))
        common, added = (ours & theirs).total(), int(n > 1)
        if not common + added:
            return 0.0
        log += math.log((common + added) / (ours.total() + added)) / longest
    return math.exp(log)


def bertscore(text: Tensor, reference: Tensor) -> float:
    """F1 of greedily matched token vectors, without rescaling (Zhang et al., ICLR 2020).

    torchmetrics' own leaves out each text's first and last token, which not every encoder adds.

    Args:
        text: `[tokens, dim]`.
        reference: `[other tokens, dim]`.
    """
    if not len(text) or not len(reference):
        return 0.0
    alike = F.normalize(text, dim=1) @ F.normalize(reference, dim=1).T
    precision, recall = float(alike.amax(1).mean()), float(alike.amax(0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


SHORT = {
    "words": "words",
    "unique": "unique sentences",
    "names_target": "name the target's title",
    "names_history": "name a title of the history",
    "invented": "name a title that they were not given",
    "invented_garbled": "... a garbled one of those given",
    "verdict": "say whether the user will like the target",
    "verdict_agrees_s_u": "... as s_u has it",
    "verdict_agrees_s_r": "... as s_r has it",
    "verdict_agrees_label": "... as the user did",
    "bleu": "BLEU against the user's review",
    "rouge_l": "ROUGE-L",
    "bertscore": "BERTScore",
}
"""The metrics that `test` prints, and what they are called."""


def lines(quality: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """The short form: a line a metric, of the trained and of the untrained model."""
    shown = []
    for name, label in SHORT.items():
        values = [
            part[name].value for part in (quality.get("trained", {}), quality.get("untrained", {})) if name in part
        ]
        if values and not all(map(math.isnan, values)):
            form = "{:.1f}" if name == "words" else "{:.3f}" if name in ("bleu", "rouge_l", "bertscore") else "{:.1%}"
            trained, *untrained = ("-" if math.isnan(value) else form.format(value) for value in values)
            shown.append(f"- {label}: {trained}" + "".join(f" (untrained {value})" for value in untrained))
    return shown
