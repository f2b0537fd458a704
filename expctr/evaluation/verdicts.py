"""What a sentence says the user will do: its verdict, found by a small lexicon. Pure functions of strings.

A verdict is a modal ("will", "might", "is unlikely to", ...) and, within a few words, the first word of the lexicon:
"will surely love", "may not care for", "should be a good match". What a user liked or disliked before is told in the
past tense and is no verdict. Where a sentence has several, the first counts; what follows it mostly gives reasons. A
sentence without a modal is judged by the last word of the lexicon in the present tense ("is a poor match", "dislikes"),
which mostly follows the reasons. Negations turn a verdict around. Words inside titles do not count. The lexicon is
English.
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
_PAST = {"loved", "liked", "enjoyed", "hated", "disliked"}  # verdicts only after a modal: "will be liked"
_BARE = {word for side in (_KIND, _UNKIND) for word in side["verbs"].split()}
_POLARITY = {word: sign for sign, side in ((1, _KIND), (-1, _UNKIND)) for word in " ".join(side.values()).split()}
_THIRD = {f"{verb}s": _POLARITY[verb] for verb in _BARE}
_WILL = "will would should shall may might could can won't wouldn't shouldn't couldn't can't cannot"
_TO = "likely unlikely going expected bound"
_MODALS = {*f"{_WILL} {_TO}".split()}
_NOT = "not never hardly scarcely barely rarely nor neither unlikely cannot"
_NEGATIONS = set(_NOT.split())
_REACH = 6
"""Words between a modal and its verdict, at most."""

_SHORT = 3

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[.;!?]")
QUOTED = re.compile(r"""(?<!\w)["“«](\S(?:[^"“”«»]*\S)?)["”»](?!\w)""")
"""A span in double quotes."""


class Verdict(NamedTuple):
    """A verdict, and where in the sentence its words stand."""

    start: int
    end: int
    polarity: int
    """1: the user will like it; -1: will not."""


def polarity(text: str, titles: Sequence[str] = ()) -> int:
    """1 where a sentence says that the user will like the target, -1 where that they will not, 0 where neither.

    Args:
        text: the sentence.
        titles: whose words are not the sentence's own; what stands in double quotes is a title anyway.
    """
    found = verdicts(text, titles)
    return found[0].polarity if found else 0


def without_verdicts(text: str, titles: Sequence[str] = ()) -> str:
    """The sentence without the words of any verdict: from the modal, or a negation, to the verdict's own word."""
    for verdict in verdicts(text, titles):  # they may overlap
        text = text[: verdict.start] + " " * (verdict.end - verdict.start) + text[verdict.end :]
    return " ".join(text.split())


def verdicts(text: str, titles: Sequence[str] = ()) -> list[Verdict]:
    """All verdicts of a sentence, the one that counts first.

    Args:
        text: the sentence.
        titles: whose words are not the sentence's own.
    """
    tokens = list(_TOKEN.finditer(_blank(text, titles)))
    words = [token[0].lower().replace("’", "'") for token in tokens]
    modal, done = [], -1
    for i, word in enumerate(words):
        if i <= done or not (word in _MODALS or word.endswith("'ll")):
            continue
        for j in range(i + 1, min(len(words), i + 1 + _REACH)):
            if words[j] in ".;!?":
                break
            if words[j] in _POLARITY and not (words[j] == "like" and words[j - 1] in ("be", "look", "sound")):
                start = i - 1 if i and _negates(words[i - 1]) else i
                sign = _POLARITY[words[j]] * (-1) ** sum(map(_negates, words[start:j]))
                modal.append(Verdict(tokens[start].start(), tokens[j].end(), sign))
                done = j
                break
    if modal:
        return modal
    present = []
    for j, word in enumerate(words):
        asked = any(before in ("do", "does", "don't", "doesn't") for before in words[max(0, j - 3) : j])
        sign = _THIRD.get(word, 0 if word in _PAST or (word in _BARE and not asked) else _POLARITY.get(word, 0))
        if sign:
            negations = [i for i in range(max(0, j - 3), j) if _negates(words[i])]
            start = tokens[min([*negations, j])].start()
            present.append(Verdict(start, tokens[j].end(), sign * (-1) ** len(negations)))
    return present[::-1]


def _blank(text: str, titles: Sequence[str]) -> str:
    """The text, of the same length, with spaces for titles and what is quoted."""
    spans = [*map(title_pattern, sorted(filter(None, titles), key=len, reverse=True)), QUOTED]
    for span in spans:
        text = span.sub(lambda found: " " * len(found[0]), text)
    return text


@lru_cache(20_000)  # re's own keeps 512, and compiling takes longer than looking
def title_pattern(title: str) -> re.Pattern[str]:
    """Finds a title as it is: in quotes, or as a name of its own and no part of a longer one.

    One as short as "It" is found in quotes only.
    """
    words = re.escape(title)
    bare = "" if len(title) <= _SHORT else rf"|(?<!\w){words}(?!\w|:?\s+[A-Z\d])"
    return re.compile(rf"""["“«]{words}[,.]?["”»]{bare}""")


def _negates(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't")
