"""Sampling explanations, with each prompt computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache

from expctr.llm import compiled
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import Padded, cache_of, contents, prefill, twin
from expctr.stopwatch import Stopwatch

_BLOCK = 256


@dataclass
class RolloutOptions:
    """How explanations are sampled. There is no top-p or top-k: truncated sampling would break PPO's ratio."""

    max_new_tokens: int = 128
    """An explanation is cut after this many tokens (the paper's own run to 145)."""
    temperature: float = 1.0
    """Of the sampling while training. Tests are greedy."""
    group_size: int = 1
    """Responses a prompt."""
    truncated: Literal["keep", "penalise", "mask"] = "keep"
    """A response without an end within max_new_tokens: rewarded as any other, rewarded `delta` less, or left out."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.group_size < 1:
            raise ValueError("rollout.max_new_tokens and rollout.group_size must be at least 1")
        if self.temperature <= 0:
            raise ValueError(f"rollout.temperature is {self.temperature}: it must be above 0 (tests are greedy anyway)")


@dataclass
class Rollout:
    """Prompts and the responses to them.

    Attributes:
        prompt_ids: padded left of all but their common head, `[batch, prompt]`.
        prompt_mask: bool `[batch, prompt]`.
        response_ids: right padded, `[batch, response]`.
        response_mask: bool `[batch, response]`, true up to and including the last token (the EOS where there is one).
        logprobs: of the tokens as they were sampled, at the sampling temperature, float32 `[batch, response]`.
        truncated: bool `[batch]`, no EOS within the limit.
        cache: the frozen base's keys and values of all prompt tokens but the last, where the adapter's scope is the
            response; else `None`.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    logprobs: Tensor
    truncated: Tensor
    cache: DynamicCache | None

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def select(self, rows: Tensor) -> Self:
        """Some of the rows, without the columns that are padding in all of them."""
        mask = self.response_mask[rows]
        longest = int(mask.sum(1).max())
        used = self.prompt_mask[rows].any(0)
        cache = None
        if self.cache is not None:
            columns = used[:-1].nonzero()[:, 0]
            where = rows[:, None], slice(None), columns  # puts rows and columns first
            cache = cache_of((k[where].transpose(1, 2), v[where].transpose(1, 2)) for k, v in contents(self.cache))
        return type(self)(
            self.prompt_ids[rows][:, used],
            self.prompt_mask[rows][:, used],
            self.response_ids[rows, :longest],
            mask[:, :longest],
            self.logprobs[rows, :longest],
            self.truncated[rows],
            cache,
        )


def uniforms(seed: int, epoch: int, samples: Sequence[int], repeats: int, count: int, batch: int = 0) -> Tensor:
    """Sampling noise keyed by (seed, epoch, batch, sample, repeat): the same on any rank and after any resume.

    Returns:
        Numbers in [0, 1), float64 `[samples * repeats, count]`.
    """
    draws = [
        np.random.Generator(np.random.Philox(key=[seed, sample], counter=[0, batch, repeat, epoch])).random(count)
        for sample in samples
        for repeat in range(repeats)
    ]
    return torch.from_numpy(np.stack(draws))


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    options: RolloutOptions,
    noise: Tensor | None = None,
    adapter: bool = True,
    watch: Stopwatch | None = None,
    earlier: Rollout | None = None,
) -> Rollout:
    """Answer prompts.

    Args:
        model: the language model.
        prompts: token ids.
        options: length and temperature.
        noise: uniform numbers `[batch, max_new_tokens]`, one a token, turned into tokens by inverting the cumulative
            distribution; `None` for greedy answers.
        adapter: the policy, or the untrained base.
        watch: takes the seconds of `prefill` and `decode`.
        earlier: other answers to the same prompts by the same options; what it kept of the prompts serves again.
    """
    watch = watch or Stopwatch()
    batch, limit, scope = len(prompts), options.max_new_tokens, model.options.adapter_scope
    static = model.options.compile_decoding
    room = compiled.room(max(map(len, prompts)) - 1, limit) if static else limit
    with watch("prefill"):
        if earlier is not None and earlier.cache is not None:
            (ids, mask), prefilled = Padded(earlier.prompt_ids, earlier.prompt_mask), twin(earlier.cache)
        else:
            (ids, mask), prefilled = prefill(model, prompts, adapter and scope == "all", room=room)
    kept = twin(prefilled) if scope == "response" else None

    tokens = torch.full((batch, limit), model.pad_id, device=ids.device)
    logprobs = torch.zeros(batch, limit, device=ids.device)
    lengths = torch.full((batch,), limit, device=ids.device)
    truncated = torch.ones(batch, dtype=torch.bool, device=ids.device)
    eos = torch.tensor(model.eos_ids, device=ids.device)
    noise = None if noise is None else noise.to(ids.device)
    alive, current, seen = torch.arange(batch, device=ids.device), ids[:, -1:].clone(), mask
    cache: Cache = prefilled
    if static:
        cache, seen = compiled.fixed(prefilled, mask.shape[1] - 1, model.caches), F.pad(mask, (0, room - 1))
    with watch("decode"):
        for step in range(limit):
            uniform = None if noise is None else noise[alive, step]
            chosen, of_chosen = next_tokens(model, current, seen, cache, adapter, options.temperature, uniform)
            tokens[alive, step], logprobs[alive, step] = chosen, of_chosen
            ended = torch.isin(chosen, eos) & truncated[alive]
            lengths[alive[ended]] = step + 1
            truncated[alive[ended]] = False
            current = chosen[:, None]
            if static:
                seen[:, mask.shape[1] + step : mask.shape[1] + step + 1] = True
            else:
                seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
            if ended.any():
                if not truncated.any():
                    break
                if not static:  # finished rows leave the batch
                    left = (~ended).nonzero()[:, 0]
                    alive, current, seen = alive[left], current[left], seen[left]
                    prefilled.batch_select_indices(left)
    longest = int(lengths.max())
    response_mask = torch.arange(longest, device=ids.device) < lengths[:, None]
    tokens = tokens[:, :longest].where(response_mask, model.pad_id)
    logprobs = logprobs[:, :longest].where(response_mask, 0.0)
    return Rollout(ids, mask, tokens, response_mask, logprobs, truncated, kept)


def next_tokens(
    model: LanguageModel,
    current: Tensor,
    seen: Tensor,
    cache: Cache,
    adapter: bool,
    temperature: float,
    uniform: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One token a row, and its log-probability, `[batch]` each.

    Args:
        model: the language model.
        current: each row's latest token, `[batch, 1]`.
        seen: mask of the cached tokens and this one.
        cache: of the earlier tokens; this one's keys and values are added.
        adapter: the policy, or the untrained base.
        temperature: of the logits.
        uniform: what to sample by, `[batch]`; `None` for the likeliest token.
    """
    scores = model.next_logits(current, seen, adapter, cache)
    if temperature != 1:
        scores = scores / temperature
    top = scores.amax(-1, keepdim=True)
    weights = (scores - top).exp_()
    chosen = scores.argmax(-1) if uniform is None else invert(weights, uniform)
    return chosen, (scores.gather(1, chosen[:, None]) - top)[:, 0] - weights.sum(-1).log()


def texts(model: LanguageModel, rollout: Rollout) -> list[str]:
    """The responses as text, on one line each."""
    rows = [ids[mask].tolist() for ids, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]
    return [" ".join(text.split()) for text in model.tokenizer.batch_decode(rows, skip_special_tokens=True)]


def invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Tokens sampled in proportion to weights, by inverting their cumulative sum.

    Weights are summed in blocks first, and token by token in one block a row: a cumulative sum over a vocabulary, in
    double precision, takes about as long as the model's output layer.

    Args:
        weights: not negative, one above 0 in each row, `[batch, vocabulary]`.
        uniform: in [0, 1), float64 `[batch]`.

    Returns:
        The first token of each row up to which the weights sum to more than that share of all, `[batch]`; where they
        are no numbers, some token of the vocabulary.
    """
    count = weights.shape[1] // _BLOCK
    blocks, rest = weights[:, : count * _BLOCK].unflatten(1, (count, _BLOCK)), weights[:, count * _BLOCK :]
    sums = torch.cat([blocks.sum(-1), rest.sum(-1, keepdim=True)], 1).double()
    block, target = _first_above(sums, uniform[:, None] * sums.sum(-1, keepdim=True))
    tokens = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    last = weights.shape[1] - 1
    inside = weights.gather(1, tokens.clamp_max(last)).double() * (tokens <= last)
    return tokens.gather(1, _first_above(inside, target)[0])[:, 0].clamp_max(last)


def _first_above(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first place with a cumulative weight above a target, and what the target leaves for it, `[batch, 1]` each.

    Rounding takes no target out of the weights' reach: the place is never one of weight 0.
    """
    cumulative = weights.cumsum(-1)
    most = torch.nextafter(cumulative[:, -1:], torch.zeros_like(target))
    place = torch.searchsorted(cumulative, target.clamp(0).minimum(most), right=True).clamp_max(weights.shape[1] - 1)
    return place, target - (cumulative.gather(1, place) - weights.gather(1, place))
