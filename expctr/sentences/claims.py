"""What sentences say that a user liked or disliked before, and whether it is so. Pure functions of strings.

A claim is a word such as "liked", "disliked" or "did not enjoy", and each title of the history that comes after it in
the same sentence, up to the next such word or a modal: `liked "Heat" and "Fargo", but hated "Casper"` makes three. The
title may come first, too: `"Heat" and "Fargo" were liked`, `"Heat", which they liked`, `with "Heat" liked`. No claim is
made of a title that the user both liked and disliked. The lexicon is English. It reads plain sentences, and misreads
some of free prose, with lists and asides.
"""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from expctr.sentences.verdicts import BARE, MODALS, QUOTED, blanked, negates, title_pattern

_PAST = dict.fromkeys(["liked", "loved", "enjoyed", "adored", "appreciated", "praised", "favored", "favoured"], 1)
_PAST |= dict.fromkeys(["disliked", "hated", "detested", "loathed", "despised", "rejected", "avoided"], -1)
_NEAR = 3
"""Words before one, in the same clause, that may negate it."""
_PASSIVE = {"was", "were", "been", "wasn't", "weren't"}
_RELATIVE = {"which", "that"}
_RELATIVE_REACH = 5
"""Largest distance in words between "which" and its verb: "which the viewer did not like"."""
_ADVERBS = {"also", "so", "very", "quite", "much", "well", "both", "all", "always", "once", "have", "has", "had"}
_LIST = {",", "and", "or", "both", "all"}
_CLAUSES = {",", "and", "but", "or"}
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[.;!?,]")


class Claims(NamedTuple):
    """What a sentence says about titles of the history."""

    total: int
    wrong: list[str]
    """Titles that it says were liked, and were disliked; or the other way round."""


def claims_of(text: str, liked: Sequence[str], disliked: Sequence[str]) -> Claims:
    """The claims of a sentence.

    Args:
        text: the sentence.
        liked: titles as the prompt shows them.
        disliked: likewise.
    """
    truth = {title: sign for titles, sign in ((liked, 1), (disliked, -1)) for title in titles if title}
    mentions: list[tuple[int, str]] = []
    for title in sorted(truth, key=len, reverse=True):  # "Alien" is not named by "Alien 3"
        mentions += [(found.start(), title) for found in title_pattern(title).finditer(text)]
        text = blanked(text, title_pattern(title))
    text = blanked(text, QUOTED)  # other titles
    tokens = [(token.start(), token[0].lower().replace("’", "'")) for token in _TOKEN.finditer(text)]
    words = [word for _, word in tokens]
    both = {*liked} & {*disliked}
    places = [(sum(at < start for at, _ in tokens), title) for start, title in sorted(mentions)]
    said = [(title, _said_after(place, words) or _said_before(place, words)) for place, title in places]
    claims = [(title, sign) for title, sign in said if sign and title not in both]
    return Claims(len(claims), [title for title, sign in claims if sign != truth[title]])


def _said_before(place: int, words: Sequence[str]) -> int:
    """1 if the words before a place say that somebody liked what follows, -1 for disliked, 0 for neither."""
    for i in range(place - 1, -1, -1):
        word, before = words[i], words[max(0, i - _NEAR) : i]
        before = before[max((j + 1 for j, other in enumerate(before) if other in _CLAUSES), default=0) :]
        if word in MODALS or word in {*".;!?"}:
            return 0
        if sign := _sign(word, before):
            is_passive = _PASSIVE & {*takewhile(_may_be_passive, words[:i][::-1])}
            return 0 if is_passive else sign
    return 0


def _said_after(place: int, words: Sequence[str]) -> int:
    """The same of the words after a place: `were liked`, or `, which they liked`. Others of a list may come between."""
    is_with = next((word for word in reversed(words[:place]) if word not in _LIST), "") == "with"
    while place < len(words) and words[place] in _LIST:
        place += 1
    reach = _RELATIVE_REACH if words[place : place + 1] and words[place] in _RELATIVE else 0
    for i in range(place, min(len(words), place + max(reach, _NEAR) + 1)):
        between = words[place:i]
        if words[i] in _CLAUSES | {*".;!?"}:
            return 0
        if sign := _sign(words[i], between):
            is_said = all(map(_may_be_passive, between)) and (is_with or _PASSIVE & {*between})
            return sign if reach or is_said else 0
    return 0


def _may_be_passive(word: str) -> bool:
    """Whether a word may stand before "liked" in the passive, as in "have never really been liked"."""
    return word in _PASSIVE | _ADVERBS or word.endswith("ly") or negates(word)


def _sign(word: str, before: Sequence[str]) -> int:
    """1 for "liked" or "like" after "did", -1 for "disliked", turned by the negations before; 0 for other words."""
    is_bare = word in BARE and any(other in ("did", "didn't") for other in before)
    sign = _PAST.get(word, BARE.get(word, 0) if is_bare else 0)
    return -sign if sum(map(negates, before)) % 2 else sign
