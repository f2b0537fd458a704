"""Log-probabilities of responses, and the yes/no score (Eq. 8)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from expctr.errors import UserError
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import cache_of, contents, pad_left, parts
from expctr.llm.rollout import Rollout

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


class ResponseScores(NamedTuple):
    """Of each response token, `[batch, response]`; padding holds whatever was computed there."""

    logprobs: Tensor
    entropy: Tensor
    hidden: Tensor
    """The states that predict the tokens, `[batch, response, hidden]`."""


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


def score_responses(
    model: LanguageModel, rollout: Rollout, adapter: bool, temperature: float, with_entropy: bool = False
) -> ResponseScores:
    """Log-probabilities of a rollout's responses.

    Where the rollout carries the prompts' cache, only the prompt's last token and the response are computed; the
    gradient is exact, for the adapter does not act on the prompt then.

    Args:
        model: the language model.
        rollout: prompts and responses.
        adapter: the policy, or the reference.
        temperature: the sampling temperature.
        with_entropy: compute the entropies too (else zeros).
    """
    responses = rollout.response_ids
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask[:, :-1]], 1)
    if rollout.cache is not None:
        ids = torch.cat([rollout.prompt_ids[:, -1:], responses[:, :-1]], 1)
        hidden = model.hidden(ids, mask, adapter=adapter, cache=cache_of(contents(rollout.cache))).states
    else:
        ids = torch.cat([rollout.prompt_ids, responses[:, :-1]], 1)
        hidden = model.hidden(ids, mask, adapter=adapter).states[:, -responses.shape[1] :]
    logprobs, entropy = token_logprobs(model, hidden, responses, temperature, with_entropy)
    return ResponseScores(logprobs, entropy, hidden)


def token_logprobs(
    model: LanguageModel,
    hidden: Tensor,
    tokens: Tensor,
    temperature: float,
    with_entropy: bool = False,
    max_logits: int = 2**26,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (and entropies) of tokens, `[batch, response]` each.

    At most `max_logits` logits exist at a time; where that takes several parts, each is made again in the backward
    pass. All at once they would be `[batch, response, vocabulary]`, more than the rest of the step together.
    """

    def part(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        both = _Picked.apply(model.output(states), targets, temperature, with_entropy)  # type: ignore[no-untyped-call]
        return cast(tuple[Tensor, Tensor], both)

    chunk = max(1, max_logits // model.vocabulary)
    again = torch.is_grad_enabled() and tokens.numel() > chunk
    picked = [
        checkpoint(part, states, targets, use_reentrant=False) if again else part(states, targets)
        for states, targets in zip(hidden.flatten(0, 1).split(chunk), tokens.flatten().split(chunk), strict=True)
    ]
    logprobs, entropy = (torch.cat(column).view_as(tokens) for column in zip(*picked, strict=True))
    return logprobs, entropy


class _Picked(torch.autograd.Function):
    """Log-probabilities of tokens and entropies from logits `[tokens, vocabulary]`, in float32, a few rows at a time.

    Written as a sum over the vocabulary and its derivative, `softmax - 1[token]`, in place in a buffer that fits a
    processor's cache: torch's own functions pass over all logits a dozen times, in float32 and in main memory.
    """

    ROWS = 64

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropy, normaliser = (logits.new_zeros(len(tokens), dtype=torch.float32) for _ in range(3))
        for rows in _slices(len(tokens), _Picked.ROWS):
            x = _scaled(logits[rows], temperature)
            chosen = x.gather(1, tokens[rows, None])[:, 0]
            top = x.max(1).values
            if with_entropy:  # log sum e^x - sum p x
                p = (x - top[:, None]).exp_()
                total = p.sum(1)
                entropy[rows] = total.log() + top - (p * x).sum(1) / total
            else:
                total = x.sub_(top[:, None]).exp_().sum(1)
            normaliser[rows] = total.log() + top
            logprobs[rows] = chosen - normaliser[rows]
        ctx.save_for_backward(logits, tokens, normaliser, entropy)
        ctx.temperature, ctx.with_entropy = temperature, with_entropy
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        logits, tokens, normaliser, entropy = ctx.saved_tensors
        of_logprob, of_entropy = gradients
        result = torch.empty_like(logits)
        for rows in _slices(len(tokens), _Picked.ROWS):
            x = _scaled(logits[rows], ctx.temperature).sub_(normaliser[rows, None])  # log p
            weight = -of_logprob[rows, None]
            if ctx.with_entropy:  # dH/dx = -p (log p + H)
                weight = weight - of_entropy[rows, None] * (x + entropy[rows, None])
            x.exp_().mul_(weight)
            x.scatter_add_(1, tokens[rows, None], of_logprob[rows, None])
            result[rows] = x if ctx.temperature == 1 else x.div_(ctx.temperature)
        return result, None, None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """A float32 copy over the temperature."""
    x = logits.to(torch.float32, copy=True)
    return x if temperature == 1 else x.div_(temperature)


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))
