"""Untrusted text and its cleaning: titles, explanations, and names in files.

Such text must not control its reader: a terminal, by control characters; a person, by invisible characters; a language
model, by control tokens.
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
_MARKS = re.compile(r"""(?<!<)<++[^\s<>{}'"]++>+|\[/?[A-Z][A-Z_]*\]""")
_PLAIN = " ,.'!?:;&()-"


def printable(text: str, most: int | None = None) -> str:
    """Text for a terminal: no escape sequences, line breaks or changes of direction, cut after `most` characters."""
    shown = "".join(c if c.isprintable() else " " for c in text[:most])
    return shown if len(shown) == len(text) else f"{shown}..."


def one_line(text: str) -> str:
    """Text without control characters, invisible characters and repeated white space.

    The joiners U+200C and U+200D stay between characters that they join, as in Persian and Indic words and in emoji.
    """
    text = _INVISIBLE.sub("", _BREAKS.sub(" ", text))
    return " ".join(_LOOSE_JOINERS.sub("", text).split())


def replace_surrogates(text: str, by: str = "\ufffd") -> str:
    """Text without halves of surrogate pairs, which JSON and Python can write, and UTF-8 cannot."""
    return text if text.isascii() else _SURROGATES.sub(by, text)


class ControlTokens:
    """Removes a tokenizer's control tokens from text.

    These are special tokens, tokens other than words that were added to the vocabulary, and marks such as `[INST]` that
    the chat template writes as ordinary text. Texts are tokenized to find them, because a normaliser may turn
    harmless-looking letters into a control token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._names = {i: t.content for i, t in added if t.special or re.search(r"[^\w\s]", t.content)}
        self._names |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        # unknown characters have this id too; the literal mark is found in the text instead
        self._names.pop(tokenizer.unk_token_id, None)
        marks = _MARKS.findall(f"{tokenizer.chat_template} {tokenizer.unk_token}")
        self._marks = {_folded(mark): mark for mark in marks}
        longest_first = sorted(self._marks, key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def remove(self, text: str) -> str:
        """Replace control tokens by spaces, on one line; a text without any is returned unchanged.

        If the rest still contains a control token, only letters, digits and plain punctuation stay. Lone surrogates
        become U+FFFD.
        """
        text = replace_surrogates(text)
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
    # character by character: NFKC of a whole text takes quadratic time on a run of accents
    return "".join(unicodedata.normalize("NFKC", c) for c in text).casefold()
