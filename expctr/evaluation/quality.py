"""Quality of explanations as texts: their diversity, the titles that they name, and whether they agree with the scores.

`measure` returns these, each with a 95% interval over users:

| measure | meaning |
|---|---|
| words | mean number of words per sentence |
| empty | share of rows without a sentence; the shares below are of the other rows |
| distinct_1, distinct_2 | distinct words, and pairs of words, divided by all of them (Li et al., NAACL 2016) |
| unique | distinct sentences, divided by all sentences |
| names_history, names_target | share that names a title of the history; the target's title |
| invented | share that names a title which the prompt does not contain (`titles`) |
| invented_garbled | share that names such a title which resembles a title of the prompt |
| invented_elsewhere | share that names such a title which is, or resembles, another title of the catalogue |
| claims | share that says of a title of the history that the user liked or disliked it (`claims`) |
| claims_wrong | share of these that are wrong about one |
| verdict | share that says whether the user will like the target (`verdicts`) |
| verdict_positive | share of these verdicts that are positive |
| verdict_agrees_s_u, _s_r, _label | share of these verdicts on the same side of 0.5 as the score, or as the label |
| reviewed | share of rows with the user's own review of the target, if any row has one |
| bleu, rouge_l, bertscore | similarity to that review, over the rows that have one |
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

from expctr.metrics import UNDEFINED, mean_estimates
from expctr.sentences.claims import Claims
from expctr.sentences.titles import Mentions
from expctr.systems import MEASURES, Estimate

REVIEW_WORDS = 256
"""Only this many words of a review are read, because the time of ROUGE grows with the product of both lengths."""

TokenVectors = Callable[[Sequence[str]], Sequence[Tensor]]
"""Vectors of each text's tokens, `[tokens, dim]` per text."""


def measure(
    texts: Sequence[str],
    mentions: Sequence[Mentions],
    verdicts: Sequence[int],
    labels: Sequence[float],
    users: Tensor,
    scores: Mapping[str, Sequence[float]],
    claims: Sequence[Claims],
    *,
    titled: Sequence[bool],
    reviews: Sequence[str | None] = (),
    token_vectors: TokenVectors | None = None,
) -> dict[str, Estimate]:
    """All measures of one model's explanations, by name; NaN where no row has the measure.

    Args:
        texts: the explanations.
        mentions: the titles that each one names.
        verdicts: the verdict of each: 1, -1, or 0 for none (`verdicts.polarity`).
        labels: 0 or 1.
        users: the user of each row, integers `[rows]`.
        scores: the rows' scores by name (`s_u`, `s_r`).
        claims: what each one says that the user liked or disliked.
        titled: whether a row's prompt contains a title of the history.
        reviews: the users' own reviews of the targets: one value per row, or no values.
        token_vectors: of the encoder for BERTScore, which is left out without one.
    """
    written = torch.tensor([bool(text.strip()) for text in texts])
    judged = written & (torch.tensor(verdicts) != 0)
    positive, claiming = torch.tensor(verdicts) > 0, torch.tensor([found.total > 0 for found in claims])

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
        "claims": share([found.total > 0 for found in claims], written),
        "claims_wrong": share([len(found.wrong) > 0 for found in claims], written & claiming),
        "verdict": share(judged, written),
        "verdict_positive": share(positive, judged),
    }
    for name, values in (*scores.items(), ("label", labels)):
        columns[f"verdict_agrees_{name}"] = share((torch.tensor(values) > 0.5) == positive, judged)
    if any(reviews):
        columns |= likeness(texts, reviews, token_vectors)
    by_user: dict[int, list[str]] = {}
    for user, text in zip(users.tolist(), texts, strict=True):
        by_user.setdefault(user, []).append(text.strip())
    words = [[*map(_words, own)] for own in by_user.values()]
    estimates = mean_estimates(columns, users)
    diversity = {
        "distinct_1": distinct([list(chain(*rows)) for rows in words]),
        "distinct_2": distinct([list(chain(*map(pairwise, rows))) for rows in words]),
        "unique": distinct([[*filter(None, own)] for own in by_user.values()]),
    }
    first = {name: estimates.pop(name) for name in ("words", "empty")}
    return first | diversity | estimates


def distinct(users: Sequence[Sequence[Hashable]], z: float = 1.96) -> Estimate:
    """Number of distinct things, divided by the number of all things, such as the words of each user's rows.

    The interval is the jackknife's, `z` standard errors to either side: a bootstrap draws users twice, which would
    lower any measure of distinctness.
    """
    counts = Counter(chain(*users))
    total, kinds, n = counts.total(), len(counts), len(users)
    if not total:
        return UNDEFINED
    without = []  # one user left out at a time
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
    """Similarity of explanations to the users' own reviews, one value per row; NaN where there is no review.

    BLEU is per sentence (`bleu`), ROUGE-L is its F1 (torchmetrics). Both compare words in lower case without
    punctuation. HTML in a review, which Amazon's reviews contain, is removed. An empty explanation has similarity 0.

    Returns:
        `reviewed` (1 or 0), `bleu`, `rouge_l`, and `bertscore` if there is an encoder.
    """
    own = {i: plain for i, review in enumerate(reviews) if (plain := _plain(review or ""))}
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


def _plain(review: str) -> str:
    """The first words of a review, without HTML."""
    plain = html.unescape(re.sub(r"<[a-zA-Z/][^<>]*>", " ", review))
    return " ".join(plain.split()[:REVIEW_WORDS])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def bleu(text: Sequence[str], reference: Sequence[str], longest: int = 4) -> float:
    """BLEU of one sentence, with one added to the counts of n-grams of two words and more (Lin & Och, COLING 2004).

    torchmetrics' BLEU is 0 wherever the two texts share no four words in a row, smoothed or not.
    """
    log = min(0.0, 1 - len(reference) / len(text)) if text else 0.0  # log of the brevity penalty
    for n in range(1, longest + 1):
        ours, theirs = (Counter(zip(*(part[i:] for i in range(n)), strict=False)) for part in (text, reference))
        common, added = (ours & theirs).total(), int(n > 1)
        if not common + added:
            return 0.0
        log += math.log((common + added) / (ours.total() + added)) / longest
    return math.exp(log)


def bertscore(text: Tensor, reference: Tensor) -> float:
    """F1 of greedily matched token vectors, without rescaling (Zhang et al., ICLR 2020).

    Both are `[tokens, dim]`. torchmetrics' BERTScore drops each text's first and last token, which not every encoder
    adds.
    """
    if not len(text) or not len(reference):
        return 0.0
    alike = F.normalize(text, dim=1) @ F.normalize(reference, dim=1).T
    precision, recall = float(alike.amax(1).mean()), float(alike.amax(0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def lines(quality: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """What `test` prints, one line per measure, of the trained and of the untrained model."""
    shown = []
    for name, measure in MEASURES.items():
        values = [part[name].value for who in ("trained", "untrained") if name in (part := quality.get(who, {}))]
        if measure.printed and not all(map(math.isnan, values)):
            trained, *untrained = map(measure.format, values)
            shown.append(f"- {measure.heading}: {trained}" + "".join(f" (untrained {value})" for value in untrained))
    return shown
