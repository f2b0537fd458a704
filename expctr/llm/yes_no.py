"""Yes/no questions to the language model: the LC score of an explanation (Eq. 8), and the direct question."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from expctr.data.batches import SampleText
from expctr.errors import UserError, check_range
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import pad_left, prefill_batches
from expctr.llm.prompts import Prompts

MAX_LOGITS = 2**24
"""Number of logits that exist at a time."""


@dataclass
class LCOptions:
    """How the frozen base scores an explanation (Eq. 8)."""

    score: Literal["prob", "logit"] = "prob"
    """`prob`: the softmax over the two answers' *probabilities*, as Eq. 8 is printed; within [0.27, 0.73] at T = 1.
    `logit`: the softmax over their log-probabilities, i.e. p(yes) / (p(yes) + p(no)) at T = 1."""
    temperature: float = 1.0
    """T of Eq. 8."""
    positive: list[str] = field(default_factory=lambda: ["Yes"])
    """Answers that mean "likes it"; their probabilities are summed."""
    negative: list[str] = field(default_factory=lambda: ["No"])
    """Answers that mean "does not like it"."""
    include_title: bool = False
    """Name the target in the prompt. The paper's template does not."""
    min_mass: float = 0.01
    """The smallest p(yes) + p(no) with which `fit` trains on the LC reward. Where both answers
    are improbable, which of them is likelier says little. ICL and TALLRec do not use it."""

    def __post_init__(self) -> None:
        check_range("lc", self, min_mass=(0, 1))
        if self.temperature <= 0:
            raise ValueError(f"lc.temperature is {self.temperature}: it must be above 0")
        if not self.positive or not self.negative:
            raise ValueError("lc.positive and lc.negative each need at least one answer")


class Answers(NamedTuple):
    """Token ids of the answers."""

    positive: list[int]
    negative: list[int]


class ScorerCheck(NamedTuple):
    """How an LC scorer answers, given a sentence of liking and one of dislike about each target."""

    gap: float  # mean difference of the two scores
    order: float  # share of targets where the sentence of liking has the higher score; a tie counts 0.5
    mass: float  # mean of p(yes) + p(no)
    likeliest: str  # the likeliest first token of an answer, to the first prompt


class LCScorer:
    """Scores explanations: the frozen base reads one and says whether the user will like the target (Eq. 8).

    The question is `prompts.lc`, or `prompts.lc_titled` if `lc.include_title` is set.
    """

    def __init__(self, model: LanguageModel, prompts: Prompts, options: LCOptions) -> None:
        self.model, self.prompts, self.options = model, prompts, options
        template = prompts.options.lc_titled if options.include_title else prompts.options.lc
        self.answers = answer_tokens(model, prompts.ending(template), options)

    def scores(self, samples: Sequence[SampleText], texts: Sequence[str]) -> Tensor:
        """Probability that the user likes the target, given an explanation: s_u of Eq. 8, float32 `[rows]`."""
        prompts = self.prompts.lc(samples, texts, self.options.include_title)
        return score_prompts(self.model, prompts, self.answers, self.options)

    def check(self, samples: Sequence[SampleText]) -> ScorerCheck:
        """Can the scorer tell a sentence of liking from one of dislike, and does it answer with yes or no at all?"""
        titles = [self.prompts.title(sample.target) for sample in samples]
        sentences = [f'The user will likely {verb} "{title}".' for verb in ("enjoy", "dislike") for title in titles]
        prompts = self.prompts.lc([*samples, *samples], sentences, self.options.include_title)
        pairs = prompt_answers(self.model, prompts, self.answers, normalised=True)
        liked, disliked = eq_8(pairs, self.options).chunk(2)
        order = (liked > disliked).float() + 0.5 * (liked == disliked).float()
        (first,) = prefill_batches(self.model, prompts[:1], adapter=False)
        return ScorerCheck(
            gap=float((liked - disliked).mean()),
            order=float(order.mean()),
            mass=float(pairs.exp().sum(1).mean()),
            likeliest=str(self.model.tokenizer.decode(self.model.logits(first.last).argmax(-1))),
        )


class DirectQuestion:
    """Asks directly whether the user will like the target: rows ICL and TALLRec of the paper's Table 1."""

    def __init__(self, model: LanguageModel, prompts: Prompts, options: LCOptions) -> None:
        self.model, self.prompts, self.options = model, prompts, options
        self.answers = answer_tokens(model, prompts.ending(prompts.options.icl), options)

    def scores(self, samples: Sequence[SampleText], adapter: bool = False) -> Tensor:
        """Probability that the user likes the target, by Eq. 8, float32 `[rows]`; without gradient."""
        return score_prompts(self.model, self.prompts.icl(samples), self.answers, self.options, adapter)

    def losses(self, samples: Sequence[SampleText], labels: Tensor) -> Tensor:
        """Cross-entropy of the right answer's token over the whole vocabulary, with the adapter on, `[rows]`.

        If an answer has several tokens (words of `lc`, or spellings of a word), the first one is taught. The adapter
        acts on every token, whatever `llm.adapter_scope` is.
        """
        ids, mask = pad_left(self.prompts.icl(samples), self.model.pad_id, self.model.device)
        logits = self.model.logits(self.model.hidden(ids, mask, adapter=True)[:, -1])
        right = torch.where(labels > 0.5, self.answers.positive[0], self.answers.negative[0])
        return F.cross_entropy(logits, right, reduction="none")


def answer_tokens(model: LanguageModel, prompt: str, options: LCOptions) -> Answers:
    """Find the tokens of the answers, as they follow the last line of a prompt (`Prompts.ending`).

    A word may have two tokens: one that continues the prompt, and one of the word alone. In a SentencePiece vocabulary
    the latter begins with a space, and which of the two a chat model has learnt to answer with depends on the model.

    Raises:
        UserError: an answer is not a single token of this vocabulary.
    """
    tokenizer = model.tokenizer
    head = tokenizer(prompt, add_special_tokens=False).input_ids
    # after a colon the natural form of a word has a leading space
    space = "" if tokenizer.chat_template is not None or prompt[-1:].isspace() else " "

    def tokens(word: str) -> list[int]:
        alone = tokenizer(word, add_special_tokens=False).input_ids
        whole = tokenizer(f"{prompt}{space}{word}", add_special_tokens=False).input_ids
        spellings = [whole[len(head) :], alone] if whole[: len(head)] == head else [alone]
        single = list(dict.fromkeys(ids[0] for ids in spellings if len(ids) == 1))
        if not single:
            raise UserError(
                f"lc.positive/lc.negative: {word!r} is {len(alone)} tokens for {model.options.path}, and Eq. 8 reads "
                "the first token only. Fix: choose words of one token each, such as Yes and No"
            )
        known = [int(token) for token in single if token != tokenizer.unk_token_id]
        if not known:
            name = model.options.path
            raise UserError(f"lc.positive/lc.negative: {word!r} is no word of {name}. Fix: choose other words")
        return known

    def of(words: list[str]) -> list[int]:  # words may share a token, whose probability counts once
        return list(dict.fromkeys(token for word in words for token in tokens(word)))

    answers = Answers(of(options.positive), of(options.negative))
    if shared := set(answers.positive) & set(answers.negative):
        raise UserError(f"lc.positive and lc.negative share tokens: {sorted(shared)}. Fix: choose different words")
    return answers


def score_prompts(
    model: LanguageModel, prompts: Sequence[Sequence[int]], answers: Answers, options: LCOptions, adapter: bool = False
) -> Tensor:
    """Probabilities of a positive answer to prompts that end in a yes/no question (Eq. 8), float32 `[prompts]`."""
    return eq_8(prompt_answers(model, prompts, answers, options.score == "prob", adapter), options)


@torch.no_grad()
def prompt_answers(
    model: LanguageModel, prompts: Sequence[Sequence[int]], answers: Answers, normalised: bool, adapter: bool = False
) -> Tensor:
    """`state_answers` of prompts, float32 `[prompts, 2]`; equal prompts are computed once."""
    keys = [tuple(prompt) for prompt in prompts]
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    pairs = torch.empty(len(place), 2, dtype=torch.float32, device=model.device)
    for batch in prefill_batches(model, list(place), adapter):
        pairs[batch.rows] = state_answers(model, batch.last, answers, normalised)
    return pairs[[place[key] for key in keys]]


@torch.no_grad()
def state_answers(model: LanguageModel, states: Tensor, answers: Answers, normalised: bool) -> Tensor:
    """Log-probabilities of yes and of no after the prompts' last tokens; each sums its tokens' probabilities.

    Args:
        model: with the output layer.
        states: hidden states of the last tokens, `[prompts, hidden]`.
        answers: the tokens.
        normalised: subtract the logarithm of the sum over the vocabulary, which both have in common; otherwise only the
            answers' logits are computed. At most `MAX_LOGITS` logits exist at a time.

    Returns:
        float32 `[prompts, 2]`.
    """
    tokens = [*answers.positive, *answers.negative]
    known = model.logits(states, tokens)
    parts = known.split([len(answers.positive), len(answers.negative)], 1)
    pairs = torch.stack([part.logsumexp(1) for part in parts], 1)
    if not normalised:
        return pairs
    rows, sums = max(1, MAX_LOGITS // model.vocab_size), []
    for chunk, exact in zip(states.split(rows), known.split(rows), strict=True):
        logits = model.logits(chunk)
        logits[:, tokens] = exact  # the others are rounded to the base's dtype
        sums.append(logits.logsumexp(1, keepdim=True))
    return pairs - torch.cat(sums)


def eq_8(pairs: Tensor, options: LCOptions) -> Tensor:
    """Eq. 8 from log p(yes) and log p(no), `[rows, 2]` -> `[rows]`; with `score: logit` they need no normaliser."""
    if options.score == "prob":
        pairs = pairs.exp()
    return (pairs / options.temperature).softmax(1)[:, 0]
