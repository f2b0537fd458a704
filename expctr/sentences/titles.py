"""Titles in a sentence: finds them, and tells whether its prompt contained them. Pure functions of strings.

A sentence names a title if it contains it as the prompt shows it, or in quotes in another usual form: without the year
or the subtitle, with the article at the other end, in other case or punctuation. Any other text in double quotes, and
any other run of at least two capitalised words (joined by words such as "of" and "the"), is an invented title. A single
capitalised word and the first word of a sentence do not count, unless the catalogue has such a title.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from expctr.data.batches import SampleText
from expctr.sentences.verdicts import QUOTED, title_pattern

GARBLED = 0.75
"""Similarity (difflib's ratio) above which an invented title is a garbled title of the prompt."""
KNOWN = 0.9
"""Similarity above which an invented title is a title of the catalogue."""

_CAPITAL = r"A(?:\w{1,2}\.|(?:[\w'’-]|\.(?=\w))*)"  # for text whose capitals are all replaced by A
_JOIN = r"(?:of|and|the|in|to|a|an|for|with|on|at|by|from|de|la|le|du|del|der|&)"
_RUN = re.compile(rf"(?<!\w){_CAPITAL}(?:[:]?\s+(?:{_JOIN}\s+){{0,3}}(?:{_CAPITAL}|\d+))+(?:, (?:Ahe|An?)(?!\w))?")
_SENTENCE = re.compile(r"(?:^|[.!?]\s+)\W*$")
_FIRST = re.compile(rf"\S+\s+(?:{_JOIN}\s+)*")
_ARTICLE_LAST = re.compile(r"^(.*), (the|a|an|la|le|les|l'|el|los|las|il|der|die|das)$")
_ARTICLE_FIRST = re.compile(r"^(?:the|a|an)\s+")
_SUBTITLE = re.compile(r"\s*[:(]|\s+-\s+|\.\.\.$")
_PART = 4
"""Shortest part of a prompt's title that counts as that title, garbled."""
_COMMON = 200
"""A word that occurs in more titles than this is not used to find similar titles."""


class Invented(NamedTuple):
    """A title that the prompt does not contain."""

    text: str
    """As the sentence has it."""
    garbled: bool
    """It resembles a title of the history, or the target's title."""
    elsewhere: bool
    """It is, or resembles, another title of the catalogue."""


class Mentions(NamedTuple):
    """The titles that a sentence names."""

    history: bool
    target: bool
    invented: list[Invented]


class TitleFinder:
    """Finds titles in sentences.

    Args:
        catalogue: all titles.
        names: capitalised words that are not titles, such as authors and genres.
    """

    def __init__(self, catalogue: Iterable[str], names: Iterable[str] = ()) -> None:
        self._forms = {form for title in catalogue for form in forms(title)}
        self._names = {" ".join(_WORD.findall(name.casefold())) for name in names}
        self._by_word: dict[str, list[str]] = defaultdict(list)
        for form in sorted(self._forms):
            for word in {*form.split()}:
                self._by_word[word].append(form)

    def find(self, text: str, given: SampleText) -> Mentions:
        """The titles in a sentence, whose prompt shows the titles `given`."""
        history = [title for title in given.liked + given.disliked if title]
        named = {title: False for title in [given.target, *history] if title}
        for title in sorted(named, key=len, reverse=True):  # "Alien" is not named by "Alien 3"
            text, count = title_pattern(title).subn(" | ", text)
            named[title] = count > 0
        given_forms = {form: title for title in named for form in forms(title)}
        invented = []
        for candidate in self._candidates(text, given_forms.keys()):
            main = _form(candidate)
            if main in given_forms:
                named[given_forms[main]] = True
            elif main and main not in self._names:
                invented.append(self._invented(candidate, main, tuple(given_forms)))
        named_history = any(named[title] for title in history)
        return Mentions(named_history, named.get(given.target, False), list(dict.fromkeys(invented)))

    def _candidates(self, text: str, given: Collection[str]) -> list[str]:
        """Possible titles, in the order of the text: quoted spans, and runs of capitalised words."""
        found = []
        for span in QUOTED.finditer(text):
            inside = span[1].strip(" ,.;|")
            if any(character.isupper() or character.isdigit() for character in inside):
                found.append((span.start(), inside))
        rest = QUOTED.sub(lambda span: "|".ljust(len(span[0])), text)
        shape = "".join("A" if character.isupper() else character for character in rest)
        for run in _RUN.finditer(shape):
            whole, start = rest[run.start() : run.end()].rstrip(" .'’-"), run.start()
            if not self._is_known(whole, given):
                if _SENTENCE.search(shape[:start]):  # the first word of a sentence is always capitalised
                    start += len(_FIRST.match(run[0])[0])  # type: ignore[index]
                whole = rest[start : run.end()].rstrip(" .'’-")
            parts = re.split(r"\s+and\s+", whole)
            if self._is_known(whole, given) or not any(self._is_known(part, given) for part in parts):
                parts = [whole] if len(re.findall(rf"(?<!\w){_CAPITAL}", shape[start : run.end()])) >= 2 else []
            found += [(start, part) for part in parts]
        return [words for _, words in sorted(found, key=itemgetter(0))]

    def _is_known(self, title: str, given: Collection[str]) -> bool:
        return (form := _form(title)) in given or form in self._forms

    def _invented(self, text: str, form: str, given: Sequence[str]) -> Invented:
        if form in self._forms:
            return Invented(text, False, True)
        part = len(form) >= _PART and any(form in other for other in given)
        if part or _alike(form, given, GARBLED):
            return Invented(text, True, False)
        near = {other for word in {*form.split()} if len(o := self._by_word[word]) <= _COMMON for other in o}
        return Invented(text, False, _alike(form, sorted(near), KNOWN))


@lru_cache(100_000)
def forms(title: str) -> tuple[str, ...]:
    """The usual forms of a title such as "Usual Suspects, The (1995)", in lower case, without article, year and
    punctuation; the full form first.
    """
    title = " ".join(title.casefold().replace("’", "'").split())  # the patterns are quadratic in white space
    full = re.sub(r"\s*\(\d{4}\)$", "", title).strip(" ,.;")
    parts = [full, _SUBTITLE.split(full, maxsplit=1)[0]]
    return tuple(dict.fromkeys(form for part in parts if (form := _plain(part))))


def _form(title: str) -> str:
    return next(iter(forms(title)), "")


def _plain(title: str) -> str:
    if article := _ARTICLE_LAST.match(title):
        title = article[1]
    words = _WORD.findall(_ARTICLE_FIRST.sub("", title))
    return " ".join(words or _WORD.findall(title))


_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def _alike(form: str, others: Sequence[str], least: float) -> bool:
    return bool(get_close_matches(form, others, n=1, cutoff=least))
