"""Yes/no questions to the language model: the LC score of an explanation (Eq. 8), and the direct question."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from expctr.data.batches import SampleText
from expctr.errors import UserError
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

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"lc.temperature is {self.temperature}: it must be above 0")
        if not self.positive or not self.negative:
            raise ValueError("lc.positive and lc.negative each need at least one answer")


class Answers(NamedTuple):
    """Token ids of the answers."""

    positive: list[int]
    negative: list[int]


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

    def gap(self, samples: Sequence[SampleText]) -> tuple[float, float]:
        """Can the scorer tell a positive sentence about the target from a negative one?

        The mean difference of their scores, and the share of rows where the first is higher (a tie counts 0.5).
        """
        liked, disliked = (
            self.scores(samples, [f'The user will likely {verb} "{self.prompts.title(s.target)}".' for s in samples])
            for verb in ("enjoy", "dislike")
        )
        order = (liked > disliked).float() + 0.5 * (liked == disliked).float()
        return float((liked - disliked).mean()), float(order.mean())


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

        If `lc` has several words for an answer, the first one is taught. The adapter acts on every token, whatever
        `llm.adapter_scope` is.
        """
        ids, mask = pad_left(self.prompts.icl(samples), self.model.pad_id, self.model.device)
        logits = self.model.logits(self.model.hidden(ids, mask, adapter=True)[:, -1])
        right = torch.where(labels > 0.5, self.answers.positive[0], self.answers.negative[0])
        return F.cross_entropy(logits, right, reduction="none")


def answer_tokens(model: LanguageModel, prompt: str, options: LCOptions) -> Answers:
    """Find the tokens of the answers, as they follow the last line of a prompt (`Prompts.ending`).

    Raises:
        UserError: an answer is not a single token of this vocabulary.
    """
    tokenizer = model.tokenizer
    chat = tokenizer.chat_template is not None

    def token(word: str) -> int:
        if chat or prompt[-1:].isspace():
            ids = tokenizer(word, add_special_tokens=False).input_ids
        else:  # the answer follows a colon, so its natural form has a leading space
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

    # two words may be the same token (in a vocabulary without capitals): its probability counts once
    answers = Answers(*(list(dict.fromkeys(map(token, words))) for words in (options.positive, options.negative)))
    if shared := set(answers.positive) & set(answers.negative):
        raise UserError(f"lc.positive and lc.negative share the token(s) {sorted(shared)}: choose different words")
    return answers


@torch.no_grad()
def score_prompts(
    model: LanguageModel, prompts: Sequence[Sequence[int]], answers: Answers, options: LCOptions, adapter: bool = False
) -> Tensor:
    """Probabilities of a positive answer to prompts that end in a yes/no question (Eq. 8), float32 `[prompts]`.

    Equal prompts are computed once.
    """
    keys = [tuple(prompt) for prompt in prompts]
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    scores = torch.empty(len(place), device=model.device)
    for batch in prefill_batches(model, list(place), adapter):
        scores[batch.rows] = score_states(model, batch.last, answers, options)
    return scores[[place[key] for key in keys]]


@torch.no_grad()
def score_states(model: LanguageModel, states: Tensor, answers: Answers, options: LCOptions) -> Tensor:
    """Eq. 8 from hidden states of the prompts' last tokens, `[prompts, hidden]` -> `[prompts]`.

    With `score: logit` the normaliser cancels, so only the answers' logits are computed. With `score: prob` the prompts
    are split so that at most `MAX_LOGITS` logits exist at a time.
    """
    if options.score == "logit":
        split = len(answers.positive)
        tokens = [*answers.positive, *answers.negative]
        columns = Answers(list(range(split)), list(range(split, len(tokens))))
        return score_logits(model.logits(states, tokens), columns, options)
    chunks = states.split(max(1, MAX_LOGITS // model.vocab_size))
    return torch.cat([score_logits(model.logits(chunk), answers, options) for chunk in chunks])


def score_logits(logits: Tensor, answers: Answers, options: LCOptions) -> Tensor:
    """Eq. 8 from the logits of the first answer token, `[batch, vocabulary]` -> `[batch]`.

    With `score: logit`, tokens other than the answers may be left out.
    """
    logprobs = logits.log_softmax(-1)
    pair = torch.stack([logprobs[:, ids].logsumexp(-1) for ids in answers], -1)
    if options.score == "prob":
        pair = pair.exp()
    return (pair / options.temperature).softmax(-1)[:, 0]
