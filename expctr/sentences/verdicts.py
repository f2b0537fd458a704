"""Verdicts of sentences, whether the user will like the target, found by a small lexicon. Pure functions of strings.

A verdict is a modal ("will", "might", "is unlikely to", ...) followed within a few words by a word of the lexicon:
"will surely love", "may not care for", "should be a good match". What a user liked or disliked before stands in the
past tense and is not a verdict. If a sentence has several verdicts, the first one counts, since the rest mostly gives
reasons. In a sentence without a modal, the last word of the lexicon in the present tense counts ("is a poor match",
"dislikes"), since it mostly follows the reasons. A negation reverses a verdict. Words inside titles do not count. The
lexicon is English.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_KIND = {
    "verbs": "love like enjoy adore appreciate cherish relish savor savour welcome recommend favor favour care appeal "
    "resonate delight please satisfy thrill captivate impress suit embrace",
    "others": "loved liked enjoyed appealing enjoyable engaging interesting entertaining satisfying delightful fun "
    "pleased delighted satisfied thrilled captivated impressed interested happy drawn good great perfect excellent "
    "ideal favorable favourable favorably favourably positive positively",
}
_UNKIND = {
    "verbs": "hate dislike detest loathe despise avoid reject skip resent disapprove disappoint bore annoy repel "
    "regret",
    "others": "hated disliked disappointed bored annoyed repelled unimpressed uninterested dissatisfied displeased "
    "unhappy boring dull unappealing unenjoyable disappointing unsatisfying uninteresting tedious bad poor weak "
    "unfavorable unfavourable unfavorably unfavourably negative negatively",
}
_PAST = {"loved", "liked", "enjoyed", "hated", "disliked"}  # a verdict only after a modal, as in "will be liked"
_POLARITY = {word: sign for sign, side in ((1, _KIND), (-1, _UNKIND)) for word in " ".join(side.values()).split()}
BARE = {verb: sign for sign, side in ((1, _KIND), (-1, _UNKIND)) for verb in side["verbs"].split()}
"""Verbs of liking (1) and of dislike (-1) in their first form."""
_THIRD = {f"{verb}s": sign for verb, sign in BARE.items()}
_WILL = "will would should shall may might could can won't wouldn't shouldn't couldn't can't cannot"
_TO = "likely unlikely going expected bound"
MODALS = {*f"{_WILL} {_TO}".split()}
"""Words with which verdicts begin."""
_NOT = "not never hardly scarcely barely rarely nor neither unlikely cannot"
_NEGATIONS = set(_NOT.split())
_REACH = 6
"""Largest distance in words between a modal and its verdict."""

_SHORT = 3

TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[.;!?]")
"""A word, or the end of a sentence."""
QUOTED = re.compile(r"""(?<!\w)["“«](\S(?:[^"“”«»]*\S)?)["”»](?!\w)""")
"""A span in double quotes."""


class Verdict(NamedTuple):
    """A verdict, and the position of its words in the sentence."""

    start: int
    end: int
    polarity: int
    """1: the user will like the target; -1: the user will not."""


def polarity(text: str, titles: Sequence[str] = ()) -> int:
    """1 if a sentence says that the user will like the target, -1 if it says that they will not, 0 if neither.

    Words of the titles do not count. Text in double quotes always counts as a title.
    """
    found = verdicts(text, titles)
    return found[0].polarity if found else 0


def without_verdicts(text: str, titles: Sequence[str] = ()) -> str:
    """The sentence without its verdicts, each from the modal or negation to the word of the lexicon."""
    for verdict in verdicts(text, titles):  # they may overlap
        text = text[: verdict.start] + " " * (verdict.end - verdict.start) + text[verdict.end :]
    return " ".join(text.split())


def verdicts(text: str, titles: Sequence[str] = ()) -> list[Verdict]:
    """All verdicts of a sentence, outside of titles. The first of the list is the one that counts."""
    tokens = list(TOKEN.finditer(_blank(text, titles)))
    words = [token[0].lower().replace("’", "'") for token in tokens]
    modal, done = [], -1
    for i, word in enumerate(words):
        if i <= done or not (word in MODALS or word.endswith("'ll")):
            continue
        for j in range(i + 1, min(len(words), i + 1 + _REACH)):
            if words[j] in ".;!?":
                break
            if words[j] in _POLARITY and not (words[j] == "like" and words[j - 1] in ("be", "look", "sound")):
                start = i - 1 if i and negates(words[i - 1]) else i
                sign = _POLARITY[words[j]] * (-1) ** sum(map(negates, words[start:j]))
                modal.append(Verdict(tokens[start].start(), tokens[j].end(), sign))
                done = j
                break
    if modal:
        return modal
    present = []
    for j, word in enumerate(words):
        question = any(before in ("do", "does", "don't", "doesn't") for before in words[max(0, j - 3) : j])
        sign = _THIRD.get(word, 0 if word in _PAST or (word in BARE and not question) else _POLARITY.get(word, 0))
        if sign:
            negations = [i for i in range(max(0, j - 3), j) if negates(words[i])]
            start = tokens[min([*negations, j])].start()
            present.append(Verdict(start, tokens[j].end(), sign * (-1) ** len(negations)))
    return present[::-1]


def _blank(text: str, titles: Sequence[str]) -> str:
    """The text at the same length, with titles and quoted spans replaced by spaces."""
    spans = [*map(title_pattern, sorted(filter(None, titles), key=len, reverse=True)), QUOTED]
    for span in spans:
        text = blanked(text, span)
    return text


def blanked(text: str, span: re.Pattern[str]) -> str:
    """The text at the same length, with spaces for what matches."""
    return span.sub(lambda found: " " * len(found[0]), text)


@lru_cache(20_000)  # re caches 512 patterns only, and compiling takes longer than searching
def title_pattern(title: str) -> re.Pattern[str]:
    """Matches a title in quotes, or unquoted where it is not part of a longer name.

    A title as short as "It" is matched in quotes only.
    """
    words = re.escape(title)
    bare = "" if len(title) <= _SHORT else rf"|(?<!\w){words}(?!\w|:?\s+[A-Z\d])"
    return re.compile(rf"""["“«]{words}[,.]?["”»]{bare}""")


def negates(word: str) -> bool:
    """Whether a word reverses what follows."""
    return word in _NEGATIONS or word.endswith("n't")
