"""Titles, explanations and names in files are text that somebody else wrote: it must not steer what reads it.

What it may steer: a terminal, by control characters; a reader, by invisible ones; a language model, by control tokens.
"""

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029]")
_INVISIBLE = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")  # or direction
_SEEN = r"[^\x00-\x7f\s\u200c\u200d]"
_LOOSE_JOINERS = re.compile(rf"(?<!{_SEEN})[\u200c\u200d]|[\u200c\u200d](?!{_SEEN})")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_MARKS = re.compile(r"""<+[^\s<>{}'"]+>+|\[/?[A-Z][A-Z_]*\]""")
_PLAIN = " ,.'!?:;&()-"


def printable(text: str, most: int | None = None) -> str:
    """Text for a terminal: no escape sequence, line break or change of direction, and at most so many characters."""
    shown = "".join(c if c.isprintable() else " " for c in text[:most])
    return shown if len(shown) == len(text) else f"{shown}..."


def one_line(text: str) -> str:
    """Text without control and invisible characters or runs of white space.

    The joiners U+200C and U+200D stay where they join: in Persian and Indic words, in emoji of several parts.
    """
    text = _INVISIBLE.sub("", _BREAKS.sub(" ", text))
    return " ".join(_LOOSE_JOINERS.sub("", text).split())


class ControlTokens:
    """The tokens of a tokenizer that mean something by themselves, to be kept out of a text.

    These are its special tokens, tokens added to its vocabulary other than words, and marks such as `[INST]` that its
    chat template writes as ordinary text. The tokenizer itself is asked what it makes of a text: a normaliser may
    make a control token of letters that look like none.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._names = {i: t.content for i, t in added if t.special or re.search(r"[^\w\s]", t.content)}
        self._names |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        # An unknown character has the same id as the mark: only the text tells them apart.
        self._names.pop(tokenizer.unk_token_id, None)
        marks = _MARKS.findall(f"{tokenizer.chat_template} {tokenizer.unk_token}")
        self._marks = {_folded(mark): mark for mark in marks}
        longest_first = sorted(self._marks, key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def out_of(self, text: str) -> str:
        """The text itself where it has no control token; else with spaces for them, on one line.

        A control token that is still read into the rest costs the text all but letters, digits and plain punctuation.
        Lone surrogates, which are no text, become U+FFFD.
        """
        text = _SURROGATES.sub("\ufffd", text)
        found = self._found(text)
        if not found:
            return text
        for name in sorted(found, key=len, reverse=True):
            text = text.replace(name, " ")
        text = " ".join(text.split())
        if self._found(text):
            text = " ".join("".join(c if c.isalnum() or c in _PLAIN else " " for c in text).split())
        return "" if self._found(text) else text

    def _found(self, text: str) -> set[str]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        marks = {self._marks[mark] for mark in self._mark.findall(_folded(text))}
        return marks | {self._names[i] for i in self._names.keys() & ids}


def _folded(text: str) -> str:
    # Of the whole text at once, NFKC takes time that grows with the square of a row of accents.
    return "".join(unicodedata.normalize("NFKC", c) for c in text).casefold()
