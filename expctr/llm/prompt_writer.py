"""How a prompt is written: the titles, the limits on its length, and the chat template.

The chat template is filled in without thinking and with a fixed date, so that an answer follows the prompt at once, and
prompts are the same on every day.

Titles are untrusted: control characters and the tokenizer's control tokens are removed from them, and double quotes,
which templates put around them, become single ones. Titles, and prompts with a history, have a maximum length in
tokens; cut titles are counted.

`expctr export` copies this file, so that a prompt can be written without expctr. It imports nothing but `untrusted`.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from expctr.untrusted import ControlTokens, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_SWITCHES = ("enable_thinking", "thinking", "reasoning")
"""Variables of chat templates that say whether the model thinks before it answers."""
_OPEN_THOUGHTS = re.compile(r"([<\[◁])((?:\w+:)?(?:think|thought|reason)\w*)([>\]▷])\s*$", re.IGNORECASE)
_DATE_CODES = [*(f"%{code}" for code in "aAbBcCdDeFgGhHIjmMpRSTuUVwWxXyYZ"), "%-d", "%-m"]
_MAX_TITLES = 2**16  # that are remembered
SAMPLE_MESSAGE = "?"
"""A message that shows what a chat template writes around it."""


class ChatTemplate:
    """A tokenizer's chat template, with a fixed date and without thinking.

    Thinking is turned off by the template's own variable, or else by an empty block of thoughts; unless the given
    variables turn it on.

    Args:
        tokenizer: has the template.
        variables: of the template.
        today: the day that the template prints as today, YYYY-MM-DD.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", variables: Mapping[str, Any], today: str) -> None:
        day = date.fromisoformat(today)
        self._tokenizer = tokenizer
        self._text = _dated(day) + tokenizer.get_chat_template()
        unset = [name for name in _SWITCHES if name not in variables]
        self._variables = {**variables, **dict.fromkeys(unset, False)}
        self._end = ""
        start = self._fill(SAMPLE_MESSAGE, variables)
        off = {name: self._fill(SAMPLE_MESSAGE, {**variables, name: False}) for name in unset}
        self.turned_off = [f"{name}: false" for name, text in off.items() if text != start]
        """What turns thinking off; empty if the template does not turn it on."""
        thoughts = _OPEN_THOUGHTS.search(self.write(SAMPLE_MESSAGE))
        if thoughts and not any(self._variables[name] for name in _SWITCHES):
            self._end = "\n{}/{}{}\n\n".format(*thoughts.groups())
            self.turned_off.append(f"an empty block of {thoughts[0].strip()}")

    def write(self, message: str) -> str:
        """The text of one user message, followed by the start of the answer."""
        return self._fill(message, self._variables) + self._end

    def _fill(self, message: str, variables: Mapping[str, Any]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": message}],
                chat_template=self._text,
                add_generation_prompt=True,
                tokenize=False,
                **variables,
            )
        )


def _dated(day: date) -> str:
    """The beginning of a template in which `strftime_now` is about this day, in place of transformers' function.

    It is a macro, because variables of a template cannot be functions. The line break at its end is trimmed, and keeps
    the template at the start of a line.
    """
    known = "".join(f"|replace({code!r}, {day.strftime(code)!r})" for code in _DATE_CODES)
    return "{% macro strftime_now(form) %}{{ form" + known + " }}{% endmacro %}\n"


def _latest(liked: Sequence[str], disliked: Sequence[str], count: int) -> tuple[Sequence[str], Sequence[str]]:
    """So many titles of a history: the oldest of the longer list is dropped first."""
    likes, dislikes = len(liked), len(disliked)
    while likes + dislikes > count:
        if likes >= dislikes:
            likes -= 1
        else:
            dislikes -= 1
    return liked[len(liked) - likes :], disliked[len(disliked) - dislikes :]


class PromptWriter:
    """Writes prompts for one tokenizer, whose chat template is applied if it has one.

    Args:
        tokenizer: of the base.
        nouns: what items and people are called; fields of the templates.
        none: text for an empty list of titles.
        title_tokens: titles are cut after this many tokens.
        prompt_tokens: maximum length of a prompt with a history.
        template_kwargs: variables of the chat template.
        date: the day that the chat template prints as today, YYYY-MM-DD.
    """

    error: ClassVar[type[ValueError]] = ValueError

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        nouns: Mapping[str, str],
        none: str,
        title_tokens: int,
        prompt_tokens: int,
        template_kwargs: Mapping[str, Any],
        date: str,
    ) -> None:
        self.tokenizer, self.nouns, self.none = tokenizer, nouns, none
        self.title_tokens, self.prompt_tokens = title_tokens, prompt_tokens
        self.cut = {"titles": 0, "history_titles": 0}
        """Number of titles cut, and of history titles dropped."""
        self._titles: dict[str, tuple[str, bool]] = {}
        self._control = ControlTokens(tokenizer)
        self.chat = None if tokenizer.chat_template is None else ChatTemplate(tokenizer, template_kwargs, date)

    def with_history(
        self, template: str, liked: Sequence[str], disliked: Sequence[str], target: str
    ) -> tuple[list[int], list[str], list[str], str]:
        """Token ids of a prompt with a history, and the titles as it shows them: liked, disliked and the target.

        Until the prompt fits into `prompt_tokens`, the oldest title of its longer history is dropped.

        Raises:
            ValueError: it is too long without a history.
        """
        liked, disliked = [self.title(title) for title in liked], [self.title(title) for title in disliked]
        target = self.title(target)

        def write(likes: Sequence[str], dislikes: Sequence[str]) -> list[int]:
            return self.encode(self.fill(template, liked=[*likes], disliked=[*dislikes], target=target))

        ids = write(liked, disliked)
        if len(ids) > self.prompt_tokens:
            titles, shorter = len(liked) + len(disliked), partial(_latest, liked, disliked)
            fitting = bisect_right(range(titles), self.prompt_tokens, key=lambda count: len(write(*shorter(count))))
            liked, disliked = shorter(max(0, fitting - 1))
            ids = write(liked, disliked)
            self.cut["history_titles"] += titles - len(liked) - len(disliked)
        if len(ids) > self.prompt_tokens:
            raise self.error(
                f"a prompt without history is {len(ids)} tokens long, over prompts.prompt_tokens="
                f"{self.prompt_tokens}. Fix: raise it, or shorten the template or prompts.title_tokens"
            )
        return ids, [*liked], [*disliked], target

    def encode(self, message: str) -> list[int]:
        """Token ids of one user message, followed by the start of the answer."""
        bare = self.chat is None  # a chat template writes its special tokens itself
        ids = self.tokenizer(self.in_template(message), add_special_tokens=bare, verbose=False).input_ids
        ended = len(ids) > 1 and bare and ids[-1] == self.tokenizer.eos_token_id  # some tokenizers end each text
        return list(ids[:-1] if ended else ids)

    def in_template(self, message: str) -> str:
        """The text that `encode` encodes: the message in the chat template, if there is one."""
        return message if self.chat is None else self.chat.write(message)

    def clean(self, text: str) -> str:
        """Text on one line, without control characters and control tokens."""
        return self._control.remove(one_line(text))

    def title(self, raw: str) -> str:
        """A title as prompts show it: cleaned, without double quotes, and cut after `title_tokens`."""
        if raw not in self._titles:
            if len(self._titles) == _MAX_TITLES:
                self._titles.clear()
            text = self._without_quotes(self.clean(raw[: 64 * self.title_tokens]))
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            offsets = encoded["offset_mapping"]
            cut = len(offsets) > self.title_tokens
            if cut:
                text = self.clean(text[: offsets[self.title_tokens - 1][1]].rstrip() + "...")
            self._titles[raw] = text, cut
        text, cut = self._titles[raw]
        self.cut["titles"] += cut
        return text

    def _without_quotes(self, text: str) -> str:
        """A title that templates can put in double quotes, also where the tokenizer makes them of other characters."""
        text = re.sub('["\uff02]', "'", text)
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        if normalizer is None or '"' not in normalizer.normalize_str(text):
            return text
        return "".join(c if c.isalnum() or c in " ,.!?:;&()-" else " " for c in text)

    def fill(self, template: str, **values: str | list[str]) -> str:
        """A template with its fields filled in; lists of titles are quoted."""
        quoted = {k: ", ".join(f'"{t}"' for t in v) for k, v in values.items() if not isinstance(v, str)}
        filled = {k: quoted.get(k, v) or self.none for k, v in values.items()}
        return template.format(**self.nouns, **filled)
