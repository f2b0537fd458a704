"""Yes/no questions to the language model: the score of Eq. 8, and the prompts that it is read from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from expctr.data.batches import SampleText
from expctr.errors import UserError
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import pad_left, parts
from expctr.llm.prompts import Prompts

MOST_LOGITS = 2**24
"""How many logits a score makes at a time."""


@dataclass
class LCOptions:
    """How the frozen base scores an explanation (Eq. 8)."""

    score: Literal["prob", "logit"] = "prob"
    """`prob`: the softmax over the two answers' *probabilities*, as Eq. 8 is printed; within [0.27, 0.73] at T = 1.
    `logit`: over their log-probabilities, i.e. p(yes) / (p(yes) + p(no)) at T = 1."""
    temperature: float = 1.0
    """T of Eq. 8."""
    positive: list[str] = field(default_factory=lambda: ["Yes"])
    """Answers that mean a liking; their probabilities are summed."""
    negative: list[str] = field(default_factory=lambda: ["No"])
    """Answers that mean a dislike."""
    include_title: bool = False
    """Name the target in the prompt. The paper's template does not."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"lc.temperature is {self.temperature}: it must be above 0")
        if not self.positive or not self.negative:
            raise ValueError("lc.positive and lc.negative each need at least one answer")


class Answers(NamedTuple):
    """Token ids of the answers."""

    positive: list[int]
    negative: list[int]


def answer_tokens(model: LanguageModel, prompt: str, options: LCOptions) -> Answers:
    """The single tokens of the answers, as they follow a template's last character.

    Args:
        model: the language model.
        prompt: the last line of a prompt, as `Prompts` would end it.
        options: the answers' words.

    Raises:
        UserError: an answer is not one token of this vocabulary.
    """
    tokenizer = model.tokenizer
    chat = tokenizer.chat_template is not None

    def token(word: str) -> int:
        if chat or prompt[-1:].isspace():
            ids = tokenizer(word, add_special_tokens=False).input_ids
        else:  # the answer follows a colon: its natural form has a leading space
            head = tokenizer(prompt, add_special_tokens=False).input_ids
            whole = tokenizer(f"{prompt} {word}", add_special_tokens=False).input_ids
            ids = whole[len(head) :] if whole[: len(head)] == head else whole
        if len(ids) != 1:
            raise UserError(
                f"lc.positive/lc.negative: {word!r} is {len(ids)} tokens for {model.options.path}, and Eq. 8 reads the "
                "first token only; choose words that are one token each (such as Yes and No, or yes and no)"
            )
        if ids[0] == tokenizer.unk_token_id:
            raise UserError(f"lc.positive/lc.negative: {word!r} is not in the vocabulary of {model.options.path}")
        return int(ids[0])

    # variants may be one token (in a vocabulary without capitals): its probability counts once
    answers = Answers(*(list(dict.fromkeys(map(token, words))) for words in (options.positive, options.negative)))
    if shared := set(answers.positive) & set(answers.negative):
        raise UserError(f"lc.positive and lc.negative share the token(s) {sorted(shared)}: no answer can be told apart")
    return answers


@torch.no_grad()
def yes_no_scores(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Answers,
    options: LCOptions,
    adapter: bool = False,
) -> Tensor:
    """Scores s_u of prompts (Eq. 8); equal prompts are computed once.

    Args:
        model: the language model.
        prompts: token ids.
        answers: the answers' tokens.
        options: how a score is made of them.
        adapter: the tuned model, or the frozen base.

    Returns:
        Probabilities of a liking, float32 `[prompts]`.
    """
    keys = [tuple(prompt) for prompt in prompts]
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    scores = torch.empty(len(place), device=model.device)
    for part in parts(model, list(place), adapter):
        scores[part.rows] = answer_scores(model, part.last, answers, options)
    return scores[[place[key] for key in keys]]


@torch.no_grad()
def answer_scores(model: LanguageModel, states: Tensor, answers: Answers, options: LCOptions) -> Tensor:
    """Eq. 8 after the last tokens of prompts, `[prompts, hidden]` -> `[prompts]`.

    Where the normaliser cancels the answers' rows of the output layer are all that is computed; else so many prompts
    at a time that at most `MOST_LOGITS` logits exist.
    """
    if options.score == "logit":
        split = len(answers.positive)
        few = [*answers.positive, *answers.negative]
        here = Answers(list(range(split)), list(range(split, len(few))))
        return yes_no(model.logits(states, few), here, options)
    chunks = states.split(max(1, MOST_LOGITS // model.vocabulary))
    return torch.cat([yes_no(model.logits(chunk), answers, options) for chunk in chunks])


def next_token_logits(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Logits of the token after each prompt, float32 `[prompts, vocabulary]`, with gradient for the adapter.

    The adapter acts on every token, whatever `llm.adapter_scope` says.
    """
    ids, mask = pad_left(prompts, model.pad_id, model.device)
    return model.logits(model.hidden(ids, mask, adapter=True).states[:, -1])


def yes_no(logits: Tensor, answers: Answers, options: LCOptions) -> Tensor:
    """Eq. 8 on the logits of the first answer token, `[batch, vocabulary]` -> `[batch]`.

    Under `score: logit` any tokens may be left out but the answers.
    """
    logprobs = logits.log_softmax(-1)
    pair = torch.stack([logprobs[:, list(ids)].logsumexp(-1) for ids in answers], -1)
    if options.score == "prob":
        pair = pair.exp()
    return (pair / options.temperature).softmax(-1)[:, 0]


class LCScorer:
    """Scores explanations by the question whether their reader will like the target (Eq. 8), asked of the frozen base.

    Args:
        model: the language model; its adapter is off.
        prompts: writes the question, by the template `prompts.lc`, or `prompts.lc_titled` with `lc.include_title`.
        options: the answers, and how their probabilities become a score.
    """

    def __init__(self, model: LanguageModel, prompts: Prompts, options: LCOptions) -> None:
        self.model, self.prompts, self.options = model, prompts, options
        template = prompts.options.lc_titled if options.include_title else prompts.options.lc
        self.answers = answer_tokens(model, prompts.ending(template), options)

    def scores(self, samples: Sequence[SampleText], texts: Sequence[str]) -> Tensor:
        """Probability that the user likes the target, given an explanation: s_u of Eq. 8, float32 `[rows]`.

        Args:
            samples: titles of each row.
            texts: one explanation per row.
        """
        prompts = self.prompts.lc(samples, texts, self.options.include_title)
        return yes_no_scores(self.model, prompts, self.answers, self.options)

    def gap(self, samples: Sequence[SampleText]) -> tuple[float, float]:
        """Does the score tell a sentence of liking from one of dislike? Each sentence names the row's target.

        Returns:
            The mean difference of the two scores, and the share of rows that score the liking higher (a tie counts
            0.5).
        """
        liked, disliked = (
            self.scores(samples, [f'The user will likely {verb} "{self.prompts.title(s.target)}".' for s in samples])
            for verb in ("enjoy", "dislike")
        )
        order = (liked > disliked).float() + 0.5 * (liked == disliked).float()
        return float((liked - disliked).mean()), float(order.mean())


class DirectQuestion:
    """Asks by the template `prompts.icl`, for one of two answers.

    Args:
        model: who is asked.
        prompts: writes the question.
        options: the answers, and how a score is made of them.
    """

    def __init__(self, model: LanguageModel, prompts: Prompts, options: LCOptions) -> None:
        self.model, self.prompts, self.options = model, prompts, options
        self.answers = answer_tokens(model, prompts.ending(prompts.options.icl), options)

    def scores(self, samples: Sequence[SampleText], adapter: bool = False) -> Tensor:
        """How likely a liking is, by Eq. 8, `[rows]`; without gradient.

        Args:
            samples: titles of each row.
            adapter: ask the tuned model, not the base.
        """
        return yes_no_scores(self.model, self.prompts.icl(samples), self.answers, self.options, adapter)

    def losses(self, samples: Sequence[SampleText], labels: Tensor) -> Tensor:
        """Cross-entropy of the right answer's token among the whole vocabulary, the adapter on, `[rows]`.

        Where `lc` names several words for an answer, the first is the one taught.

        Args:
            samples: titles of each row.
            labels: `[rows]`.
        """
        logits = next_token_logits(self.model, self.prompts.icl(samples))
        right = torch.where(labels > 0.5, self.answers.positive[0], self.answers.negative[0])
        return F.cross_entropy(logits, right, reduction="none")
