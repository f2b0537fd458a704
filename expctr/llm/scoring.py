"""Log-probabilities of responses, and the yes/no score (Eq. 8)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from expctr.errors import UserError
from expctr.llm.base import LanguageModel
from expctr.llm.rollout import Rollout, branch, pad_left


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
    model: LanguageModel, prompts: Sequence[Sequence[int]], answers: Answers, options: LCOptions, batch_size: int = 64
) -> Tensor:
    """Scores s_u of prompts by the frozen base (Eq. 8).

    Returns:
        Probabilities of a liking, float32 `[prompts]`.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    scores = torch.empty(len(prompts), device=model.device)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = pad_left([prompts[i] for i in rows], model.pad_id, model.device)
        hidden = model.hidden(ids, mask, adapter=False).states[:, -1]
        scores[rows] = yes_no(model.logits(hidden), answers, options)
    return scores


def yes_no(logits: Tensor, answers: Answers, options: LCOptions) -> Tensor:
    """Eq. 8 on the logits of the first answer token, `[batch, vocabulary]` -> `[batch]`."""
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
        hidden = model.hidden(ids, mask, adapter=adapter, cache=branch(rollout.cache)).states
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
        logits = model.logits(states) / temperature
        normaliser = logits.logsumexp(-1)
        entropy = torch.zeros_like(normaliser)
        if with_entropy:
            entropy = normaliser - (logits.softmax(-1) * logits).sum(-1)
        return logits.gather(-1, targets[:, None])[:, 0] - normaliser, entropy

    chunk = max(1, max_logits // model.vocabulary)
    again = torch.is_grad_enabled() and tokens.numel() > chunk
    parts = [
        checkpoint(part, states, targets, use_reentrant=False) if again else part(states, targets)
        for states, targets in zip(hidden.flatten(0, 1).split(chunk), tokens.flatten().split(chunk), strict=True)
    ]
    logprobs, entropy = (torch.cat(column).view_as(tokens) for column in zip(*parts, strict=True))
    return logprobs, entropy
