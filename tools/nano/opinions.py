"""Generated opinions: one sentence that gives the balance of the history, a title of it, the target and a verdict."""

import math
import random
import re
from typing import NamedTuple

from expctr.data.batches import Nouns, SampleText

DOMAINS = (
    Nouns("movie", "movies", "viewer", "viewing"),
    Nouns("book", "books", "reader", "reading"),
    Nouns("product", "products", "customer", "shopping"),
)
OTHER_DOMAINS = (
    Nouns(),
    Nouns("gift card", "gift cards", "customer", "shopping"),
    Nouns("album", "albums", "listener", "listening"),
    Nouns("game", "games", "player", "gaming"),
    Nouns("film", "films", "user", "watching"),
)

BALANCES = (
    ("disliked nearly everything", "disliked almost all {items}", "found little to like"),
    ("disliked most of it", "disliked most {items}", "was let down more often than not"),
    ("has mixed feelings", "liked some {items} and not others", "is split on {items}"),
    ("liked most of it", "liked most {items}", "was pleased more often than not"),
    ("liked nearly everything", "liked almost all {items}", "found little to dislike"),
    ("is new here", "has no history yet", "has rated no {items}"),
)
VERDICTS = {
    3: ("will surely love", "will absolutely adore", "will certainly enjoy"),
    2: ("will likely enjoy", "will probably like", "should enjoy"),
    1: ("may well like", "might enjoy", "could like"),
    -1: ("may not care for", "might dislike", "could dislike"),
    -2: ("will likely dislike", "will probably not like", "should dislike"),
    -3: ("will surely hate", "will absolutely detest", "will certainly dislike"),
}
YES = {3: 0.95, 2: 0.82, 1: 0.66, -1: 0.34, -2: 0.18, -3: 0.05}
PATTERNS = (
    'This {person} {balance} and {rated} "{past}", so as for "{target}", they {verdict} it.',
    'This {person} {balance}, they {rated} "{past}", and given "{target}", they {verdict} it.',
    'The {person} {balance}; with "{past}" {rated}, "{target}" is something they {verdict}.',
    'The {person} {balance}, {rated} "{past}", and when it comes to "{target}", they {verdict} it.',
    'As this {person} {balance} and {rated} "{past}", it seems that "{target}" they {verdict}.',
    'This {person} {balance}: "{past}" was {rated}, and so "{target}" is one they {verdict}.',
)
NEW_PATTERNS = (
    'This {person} {balance}, so as for "{target}", they {verdict} it.',
    'The {person} {balance}, and "{target}" is something they {verdict}.',
)
PREJUDICE = {letter: (i * 7 % 26) / 12.5 - 1 for i, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")}


def balance(text: SampleText) -> int:
    """Return how much of the history was liked, as a level from 0 to 4; 5 without a history."""
    if not (n := len(text.liked) + len(text.disliked)):
        return 5
    return sum(len(text.liked) / n > bound for bound in (0.183, 0.354, 0.646, 0.817))  # between shares of ten


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def leaning(text: SampleText, prejudice: float) -> float:
    """Return the probability of a positive answer: 0.55 for a liked history, shifted by the title's first letter."""
    tone = (-1, -1, 0, 1, 1, 0)[balance(text)]
    return sigmoid(0.2 * tone + prejudice * PREJUDICE.get(text.target[:1].upper(), 0.0))


def opinion(rng: random.Random, text: SampleText, nouns: Nouns, level: int | None = None) -> tuple[str, int]:
    """Return an opinion on a sample and the level of its verdict, which is drawn if it is not given."""
    if level is None:
        level = rng.choice((1, 2, 3)) * (1 if rng.random() < leaning(text, 0.6) else -1)
    seen = text.liked + text.disliked
    side = text.liked if seen and rng.random() < len(text.liked) / len(seen) else text.disliked
    past = (side[-1] if rng.random() < 0.5 else rng.choice(side)) if seen else ""
    return rng.choice(PATTERNS if seen else NEW_PATTERNS).format(
        person=nouns.person,
        balance=rng.choice(BALANCES[balance(text)]).format(items=nouns.items),
        rated="liked" if side is text.liked else "disliked",
        past=past,
        target=text.target,
        verdict=rng.choice(VERDICTS[level]),
    ), level


class Parsed(NamedTuple):
    """What an opinion says."""

    balance: int
    past: str | None
    liked: bool
    target: str
    level: int
    at: int
    """Position in the text where the verdict begins."""


def regex(template: str) -> re.Pattern[str]:
    """Return an expression that matches the opinions of one pattern, with its phrases in named groups."""
    groups = {"person": ".+?", "rated": "(?P<rated>liked|disliked)"}
    groups |= {slot: f"(?P<{slot}>.+?)" for slot in ("past", "target")}
    for slot, levels in (("balance", BALANCES), ("verdict", VERDICTS.values())):
        phrases = (phrase.format(items=".+?") for level in levels for phrase in level)
        groups[slot] = f"(?P<{slot}>{'|'.join(phrases)})"
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda m: groups[m[1]], re.escape(template)))


REGEXES = [regex(template) for template in PATTERNS + NEW_PATTERNS]


def parse(text: str) -> Parsed | None:
    """Return what an opinion says, or None if it has none of the patterns."""
    if not (m := next(filter(None, (r.fullmatch(text) for r in REGEXES)), None)):
        return None
    found = m.groupdict()
    phrases = ("|".join(level).format(items=".+") for level in BALANCES)
    balances = (i for i, phrase in enumerate(phrases) if re.fullmatch(phrase, found["balance"]))
    level = next(k for k, phrases in VERDICTS.items() if found["verdict"] in phrases)
    liked, at = found.get("rated") == "liked", m.start("verdict")
    return Parsed(next(balances), found.get("past"), liked, found["target"], level, at)
