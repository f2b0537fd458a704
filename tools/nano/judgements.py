"""Judgements to learn: opinions of any shape, also changed, cut or garbled ones, with their probability of Yes."""

import math
import random

from expctr.data.batches import Nouns, SampleText
from tools.nano.opinions import VERDICTS, YES, opinion, sigmoid
from tools.nano.titles import syllables

ADVERBS = {
    3: ("surely", "certainly", "definitely", "absolutely", "undoubtedly"),
    2: ("likely", "probably", "most likely"),
    1: ("perhaps", "possibly", "maybe"),
}
KIND = ("love", "enjoy", "like", "adore", "appreciate", "be delighted by", "be pleased with")
UNKIND = ("hate", "dislike", "detest", "not like", "not enjoy", "not care for", "be disappointed by", "be bored by")
SHAPES = (
    'Based on the {person}\'s preferences, I predict that they {verdict} "{target}" because {reason}.',
    "They {verdict} it.",
    "They {verdict} it because {reason}.",
    'The {person} {verdict} "{target}", as {reason}.',
    "{Reason}, so I think the {person} {verdict} it.",
    'Considering that {reason}, the {person} {verdict} the {item} "{target}".',
    "The user {verdict} this {item}.",
    'I predict that the customer {verdict} "{target}" since {reason}',
    "{verdict}",
    'It is about "{target}": {reason}, and they {verdict} it',
)
REASONS = (
    "they liked {past}",
    "they disliked {past}",
    "{past} was liked",
    "{past} was disliked",
    "it is much like {past}",
    "it has little in common with {past}",
    "they {rated} most of it",
    "they {rated} nearly everything",
    "their tastes are mixed",
    "it fits the {items} that they {rated}",
)


def judged_text(rng: random.Random, text: SampleText, nouns: Nouns) -> tuple[str, float]:
    """Return a text that the judge may have to read, and the probability of Yes."""
    level = rng.choice(tuple(YES))
    reason, _ = opinion(rng, text, nouns, level)
    kind = rng.random()
    said = next(v for v in VERDICTS[level] if v in reason.rsplit('"', 1)[-1])
    head, tail = reason.rsplit(said, 1)
    if kind < 0.40:
        return reason, YES[level]
    if kind < 0.75:
        adverb, verb = rng.choice(ADVERBS[abs(level)]), rng.choice(KIND if level > 0 else UNKIND)
        verdict = rng.choice((said, f"will {adverb} {verb}", f"would {adverb} {verb}", f"{adverb} will {verb}"))
        if rng.random() < 0.2:  # the adverb may stand elsewhere, or a modal verb alone may express the doubt
            verdict = f"{rng.choice(('may', 'might', 'could'))} {verb}" if abs(level) == 1 else said
        seen = text.liked + text.disliked
        past = f'"{rng.choice(seen)}"' if seen else "little"
        fill = {**vars(nouns), "past": past, "rated": rng.choice(("liked", "disliked")), "target": text.target}
        because = rng.choice(REASONS).format(**fill)
        fill |= {"verdict": verdict, "reason": because, "Reason": because[:1].upper() + because[1:]}
        return rng.choice(SHAPES).format(**fill), YES[level]
    if kind < 0.85:  # words are missing, but the verdict is complete
        words = [w for w in head.split() if rng.random() > rng.choice((0.05, 0.2))]
        return f"{' '.join(words)} {said}{rng.choice((tail, '', ' it', '.', ' it ' + head))}", YES[level]
    if kind < 0.89:  # two verdicts: the mean of their odds
        other = rng.choice(tuple(YES))
        odds = (math.log(YES[level] / (1 - YES[level])) + math.log(YES[other] / (1 - YES[other]))) / 2
        joined = f"{said} it, {rng.choice(('but', 'and', 'or'))} they {rng.choice(VERDICTS[other])} it."
        return head + joined, sigmoid(odds)
    if kind < 0.95:
        return head[: rng.randrange(len(head))] if rng.random() < 0.5 else head, 0.5
    words = head.split() + [syllables(rng) for _ in range(rng.randint(0, 5))]
    return " ".join(rng.sample(words, rng.randint(0, len(words)))), 0.5
