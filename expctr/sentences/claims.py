"""What sentences say that a user liked or disliked before, and whether it is so. Pure functions of strings.

A claim is a word such as "liked", "disliked" or "did not enjoy", and each title of the history that comes after it in
the same sentence, up to the next such word or a modal: `liked "Heat" and "Fargo", but hated "Casper"` makes three. A
title that the user both liked and disliked is no claim. The lexicon is English. It reads plain sentences, and misreads
some of free prose, with lists and asides.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from expctr.sentences.verdicts import BARE, MODALS, QUOTED, blanked, negates, title_pattern

_PAST = dict.fromkeys(["liked", "loved", "enjoyed", "adored", "appreciated", "praised", "favored", "favoured"], 1)
_PAST |= dict.fromkeys(["disliked", "hated", "detested", "loathed", "despised", "rejected", "avoided"], -1)
_NEAR = 3
"""Words before one, in the same clause, that may negate it."""
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
    said = [(title, _said_before(sum(at < start for at, _ in tokens), words)) for start, title in sorted(mentions)]
    claims = [(title, sign) for title, sign in said if sign and title not in both]
    return Claims(len(claims), [title for title, sign in claims if sign != truth[title]])


def _said_before(place: int, words: Sequence[str]) -> int:
    """1 if the words before a place say that somebody liked what follows, -1 for disliked, 0 for neither."""
    for i in range(place - 1, -1, -1):
        word, before = words[i], words[max(0, i - _NEAR) : i]
        before = before[max((j + 1 for j, other in enumerate(before) if other in _CLAUSES), default=0) :]
        if word in MODALS or word in {*".;!?"}:
            return 0
        is_bare = word in BARE and any(other in ("did", "didn't") for other in before)
        if sign := _PAST.get(word, BARE.get(word, 0) if is_bare else 0):
            return -sign if sum(map(negates, before)) % 2 else sign
    return 0
