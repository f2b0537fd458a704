"""Prompts: templates -> text -> token ids (paper 4.1, 4.2.2).

`prompt_writer.py` writes the text, and keeps titles and prompts within their limits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from inspect import signature
from math import inf
from string import Formatter
from typing import Any

from jinja2 import TemplateError
from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedTokenizerBase

from expctr.data.batches import Nouns, SampleText
from expctr.errors import UserError, check_range
from expctr.llm.loading import check_chat_template
from expctr.llm.prompt_writer import SAMPLE_MESSAGE, PromptWriter
from expctr.untrusted import printable

_FIELDS = {
    "explanation": {"liked", "disliked", "target"},
    "lc": {"reason"},
    "lc_titled": {"reason", "target"},
    "icl": {"liked", "disliked", "target"},
}
_NOUNS = {"item", "items", "person", "activity"}


@dataclass
class PromptOptions:
    """Prompt templates and length limits. `{item}`, `{items}`, `{person}`, `{activity}` are the dataset's nouns."""

    explanation: str = (
        "You are a helpful online recommendation assistant with access to a vast database of {items} and {person} "
        "reviews. A customer has provided you with information about their {activity} preferences:\n"
        "The liked {items}: {liked}.\n"
        "The disliked {items}: {disliked}.\n"
        'Considering the preference of the customer, predict how the customer will consider "{target}" and give a '
        "reason. The answer should be within one sentence."
    )
    """Asks for the explanation (paper 4.1). Fields: {liked}, {disliked}, {target}."""
    lc: str = (
        "Given how the user thinks about a {item}, identify whether the user will like the target {item} by answering "
        '"Yes." or "No."\n'
        "The user thought: {reason}\n"
        "Whether the user will like the target {item} target:"
    )
    """Asks for the user's choice given an explanation (paper 4.2.2, which never names the target). Field: {reason}."""
    lc_titled: str = (
        "Given how the user thinks about a {item}, identify whether the user will like the target {item} by answering "
        '"Yes." or "No."\n'
        "The user thought: {reason}\n"
        'Whether the user will like the target {item} "{target}":'
    )
    """As `lc`, with the target's title; used if `lc.include_title` is set. Fields: {reason}, {target}."""
    icl: str = (
        "Given the user's preference, identify whether the user will like the target {item} by answering "
        '"Yes." or "No."\n'
        "The liked {items}: {liked}.\n"
        "The disliked {items}: {disliked}.\n"
        'Whether the user will like the target {item} "{target}":'
    )
    """Asks the language model directly (the ICL row of Table 1). Fields: {liked}, {disliked}, {target}."""
    none: str = "none"
    """Text for an empty list of liked or disliked items."""
    title_tokens: int = 32
    """Titles are cut after this many tokens."""
    prompt_tokens: int = 640
    """Maximum length of a prompt. Until a prompt fits, the oldest title of its longer history is dropped."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the base's chat template, such as `reasoning_effort: low`. Without them, a template that lets the
    model think before it answers gets `enable_thinking: false` (or `thinking`, `reasoning`), or an empty block of
    thoughts, because Yes or No is read from the first token of the answer."""
    date: str = "2024-07-26"
    """The day that chat templates print as today's, so that prompts do not change from day to day."""

    def __post_init__(self) -> None:
        check_range("prompts", self, title_tokens=(1, inf), prompt_tokens=(1, inf))
        try:
            date.fromisoformat(self.date)
        except ValueError:
            raise UserError(f"prompts.date is {self.date!r}. Fix: give a day as 2024-07-26") from None
        arguments = {*signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "messages"}
        if taken := self.template_kwargs.keys() & arguments:
            raise UserError(
                f"prompts.template_kwargs: {sorted(taken)} are arguments of apply_chat_template. Fix: give variables "
                "of the chat template"
            )
        for name, allowed in _FIELDS.items():
            try:
                used = {field for _, field, _, _ in Formatter().parse(getattr(self, name)) if field is not None}
            except ValueError as error:
                raise ValueError(f"prompts.{name} is not a template: {error} (write a literal brace twice)") from None
            if unknown := used - allowed - _NOUNS:
                raise ValueError(
                    f"prompts.{name} has unknown field(s) {sorted(unknown)}: it may use {sorted(allowed | _NOUNS)} "
                    "(write a literal brace twice)"
                )
            if name != "icl" and not allowed <= used:
                raise ValueError(f"prompts.{name} must contain {sorted('{' + f + '}' for f in allowed - used)}")


class Prompts(PromptWriter):
    """Writes prompts for one dataset and one tokenizer, whose chat template is applied if it has one."""

    error = UserError

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: PromptOptions, nouns: Nouns) -> None:
        for name in options.template_kwargs:
            if not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
                raise UserError(
                    f"prompts.template_kwargs: {tokenizer.name_or_path} has no chat template that reads {name!r}. Fix: "
                    "give variables of the template (chat_template.jinja, or tokenizer_config.json)"
                )
        limits = options.title_tokens, options.prompt_tokens
        try:
            super().__init__(tokenizer, vars(nouns), options.none, *limits, options.template_kwargs, options.date)
        except TemplateError as error:
            raise UserError(
                f"the chat template of {tokenizer.name_or_path} cannot be filled in: {error}. Fix: give its variables "
                "by prompts.template_kwargs, or choose another base (llm.path)"
            ) from error
        if self.chat:
            check_chat_template(tokenizer, tokenizer.name_or_path, options.template_kwargs)
        self.options = options
        if self.chat and self.chat.turned_off:
            means = ", ".join(self.chat.turned_off)
            rank_zero_info(f"{printable(tokenizer.name_or_path)} would think before it answers; turned off by {means}")

    def reset_counts(self) -> None:
        """Set `cut` to 0. The names stay, so that all ranks add up the same ones."""
        self.cut.update(dict.fromkeys(self.cut, 0))

    def explanation(self, texts: Sequence[SampleText]) -> list[list[int]]:
        """Token ids of prompts that ask for an explanation."""
        return [self._with_history(self.options.explanation, text)[0] for text in texts]

    def shown(self, text: SampleText) -> SampleText:
        """The titles as an explanation prompt shows them, without dropped ones."""
        return self._with_history(self.options.explanation, text)[1]

    def icl(self, texts: Sequence[SampleText]) -> list[list[int]]:
        """Token ids of prompts that ask directly for the user's choice."""
        return [self._with_history(self.options.icl, text)[0] for text in texts]

    def lc(self, texts: Sequence[SampleText], reasons: Sequence[str], include_title: bool) -> list[list[int]]:
        """Token ids of prompts that ask for the user's choice given an explanation (Eq. 8)."""
        template = self.options.lc_titled if include_title else self.options.lc
        titles = [self.title(text.target) if include_title else "" for text in texts]
        return [
            self.encode(self.fill(template, reason=self.clean(reason), target=target))
            for reason, target in zip(reasons, titles, strict=True)
        ]

    def longest(self, include_title: bool) -> int:
        """The most tokens of a prompt: of one with a history, or of the LC question without its explanation."""
        question = self.lc([SampleText("", (), ())], [""], include_title)[0]
        return max(self.prompt_tokens, len(question) + self.title_tokens)

    def chat_sample(self) -> str:
        """What the chat template writes around a message. Checkpoints hold it, for `check_same_chat`."""
        return self.in_template(SAMPLE_MESSAGE)

    def check_same_chat(self, then: str) -> None:
        """Refuse to go on with a run if the chat template writes something else than it did for that run.

        Args:
            then: what `chat_sample` was.

        Raises:
            UserError: it is different now.
        """
        now = self.chat_sample()
        if then not in (now, self.in_template("")):  # older runs have the template around an empty message
            shorter = min(len(now), len(then))
            same = next((i for i in range(shorter) if now[i] != then[i]), shorter)
            shown = [repr(text[max(0, same - 20) : same + 40]) for text in (now, then)]
            raise UserError(
                f"the chat template of {self.tokenizer.name_or_path} writes {shown[0]}, and the run was trained with "
                f"{shown[1]}. Fix: give the tokenizer, prompts.template_kwargs and prompts.date of the run"
            )

    def ending(self, template: str) -> str:
        """A template's last line with empty fields, in the chat template, if there is one; the answer follows it."""
        empty = dict.fromkeys(set().union(*_FIELDS.values()), "")
        return self.in_template(template.format(**self.nouns, **empty).rsplit("\n", 1)[-1])

    def _with_history(self, template: str, text: SampleText) -> tuple[list[int], SampleText]:
        ids, liked, disliked, target = self.with_history(template, text.liked, text.disliked, text.target)
        return ids, SampleText(target, tuple(liked), tuple(disliked))
