"""Log-probabilities and entropies of response tokens."""

from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from expctr.llm.kv_cache import keys_and_values, make_cache
from expctr.llm.model import LanguageModel
from expctr.llm.rollout import Rollout


class ResponseScores(NamedTuple):
    """Scores of each response token, `[batch, response]`. Values at padding have no meaning."""

    logprobs: Tensor
    entropy: Tensor
    hidden: Tensor
    """The states that predict the tokens, `[batch, response, hidden]`."""


def score_responses(
    model: LanguageModel, rollout: Rollout, adapter: bool, temperature: float, with_entropy: bool = False
) -> ResponseScores:
    """Compute log-probabilities of a rollout's responses.

    If the rollout has the prompts' cache, only the prompt's last token and the response are computed. The gradient is
    still exact, because the adapter does not act on the rest of the prompt. Without `with_entropy`, entropies are 0.
    """
    responses, prompts, cache = rollout.response_ids, rollout.prompt_ids, None
    if rollout.cache is not None:
        prompts, cache = prompts[:, -1:], make_cache(keys_and_values(rollout.cache))
    ids = torch.cat([prompts, responses[:, :-1]], 1)
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask[:, :-1]], 1)
    hidden = model.hidden(ids, mask, adapter, cache)[:, -responses.shape[1] :]
    del cache  # extended by now, and not needed while logits are in memory
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
    """Log-probabilities and entropies of tokens, `[batch, response]` each.

    All logits together, `[batch, response, vocabulary]`, would need more memory than the rest of the step. So at most
    `max_logits` exist at a time; if that takes several chunks, the backward pass computes each chunk again.
    `hidden` are the states that predict the tokens, `[batch, response, hidden]`.
    """

    def score(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        both = _TokenLogprobs.apply(model.output(states), targets, temperature, with_entropy)  # type: ignore[no-untyped-call]
        return cast(tuple[Tensor, Tensor], both)

    chunk = max(1, max_logits // model.vocab_size)
    recompute = torch.is_grad_enabled() and tokens.numel() > chunk
    again = partial(checkpoint, score, use_reentrant=False, preserve_rng_state=False)  # nothing is random
    chunks = [
        (again if recompute else score)(states, targets)
        for states, targets in zip(hidden.flatten(0, 1).split(chunk), tokens.flatten().split(chunk), strict=True)
    ]
    logprobs, entropy = (torch.cat(column).view_as(tokens) for column in zip(*chunks, strict=True))
    return logprobs, entropy


class _TokenLogprobs(torch.autograd.Function):
    """Log-probabilities of tokens, and entropies, from logits `[tokens, vocabulary]`, in float32.

    A few rows at a time are computed in place, in a buffer that fits in the CPU's cache, and the derivative
    (`softmax - 1[token]`) is written out. torch's own functions pass over all logits a dozen times in main memory.
    """

    ROWS = 64

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropy, normaliser = (logits.new_zeros(len(tokens), dtype=torch.float32) for _ in range(3))
        for start in range(0, len(tokens), _TokenLogprobs.ROWS):
            rows = slice(start, start + _TokenLogprobs.ROWS)
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
        for start in range(0, len(tokens), _TokenLogprobs.ROWS):
            rows = slice(start, start + _TokenLogprobs.ROWS)
            x = _scaled(logits[rows], ctx.temperature).sub_(normaliser[rows, None])  # log p
            weight = -of_logprob[rows, None]
            if ctx.with_entropy:  # dH/dx = -p (log p + H)
                weight = weight - of_entropy[rows, None] * (x + entropy[rows, None])
            x.exp_().mul_(weight)
            x.scatter_add_(1, tokens[rows, None], of_logprob[rows, None])
            result[rows] = x if ctx.temperature == 1 else x.div_(ctx.temperature)
        return result, None, None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """A float32 copy, divided by the temperature."""
    x = logits.to(torch.float32, copy=True)
    return x if temperature == 1 else x.div_(temperature)
