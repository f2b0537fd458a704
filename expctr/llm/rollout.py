"""Rollouts: sample explanations, computing each prompt once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache

from expctr.llm.compiled_decoding import static_width
from expctr.llm.kv_cache import keys_and_values, make_cache, select_rows, share_cache, share_prompts
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import prefill
from expctr.stopwatch import Stopwatch

_BLOCK = 256
"""Number of tokens whose weights are summed first when sampling."""


@dataclass
class RolloutOptions:
    """How explanations are sampled. There is no top-p or top-k, because truncated sampling would break PPO's ratio."""

    max_new_tokens: int = 128
    """An explanation is cut after this many tokens (the paper's own run to 145)."""
    temperature: float = 1.0
    """Sampling temperature of every sampled explanation."""
    group_size: int = 1
    """Responses per prompt."""
    truncated: Literal["keep", "penalise", "mask"] = "keep"
    """What happens to a response that does not end within max_new_tokens: `keep` rewards it like any other, `penalise`
    subtracts `delta` from its reward, `mask` leaves it out."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.group_size < 1:
            raise ValueError("rollout.max_new_tokens and rollout.group_size must be at least 1")
        if self.temperature <= 0:
            raise ValueError(f"rollout.temperature is {self.temperature}: it must be above 0")


@dataclass
class Rollout:
    """Prompts and their responses."""

    prompt_ids: Tensor  # [batch, prompt], padded on the left of all but the common prefix
    prompt_mask: Tensor  # bool
    response_ids: Tensor  # [batch, response], padded on the right
    response_mask: Tensor  # bool, true up to and including the last token (EOS, unless truncated)
    logprobs: Tensor  # of the tokens at the sampling temperature, float32 [batch, response]
    truncated: Tensor  # bool [batch], true without an EOS within the limit
    cache: DynamicCache | None
    """The frozen base's keys and values of all prompt tokens but the last, if `llm.adapter_scope` is `response`. Where
    `generate` made several responses per prompt, it may hold each prompt once, for `earlier` alone."""

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def select(self, rows: Tensor) -> Self:
        """Select rows, and drop columns that are padding in all of them."""
        longest = int(self.response_mask[rows].sum(1).max())
        used = self.prompt_mask[rows].any(0)
        cache = None
        if self.cache is not None:
            columns = used[:-1].nonzero()[:, 0]
            where = rows[:, None], slice(None), columns  # indexing moves rows and columns to the front
            cache = make_cache(
                (k[where].transpose(1, 2), v[where].transpose(1, 2)) for k, v in keys_and_values(self.cache)
            )
        return type(self)(
            self.prompt_ids[rows][:, used],
            self.prompt_mask[rows][:, used],
            self.response_ids[rows, :longest],
            self.response_mask[rows, :longest],
            self.logprobs[rows, :longest],
            self.truncated[rows],
            cache,
        )


def draw_noise(seed: int, epoch: int, samples: Sequence[int], repeats: int, count: int, batch: int = 0) -> Tensor:
    """Draw uniform numbers in [0, 1), float64 `[samples * repeats, count]`.

    They depend only on (seed, epoch, batch, sample, repeat), on any rank and after any resume.
    """
    draws = [
        np.random.Generator(np.random.Philox(key=[seed, sample], counter=[0, batch, repeat, epoch])).random(count)
        for sample in samples
        for repeat in range(repeats)
    ]
    return torch.from_numpy(np.stack(draws))


@torch.inference_mode(False)  # caches of compiled decoding outlive a test, whose tensors training could not write to
@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    options: RolloutOptions,
    noise: Tensor | None = None,
    adapter: bool = True,
    watch: Stopwatch | None = None,
    earlier: Rollout | None = None,
    responses: int = 1,
) -> Rollout:
    """Generate responses to prompts.

    `noise`: uniform numbers, `[batch, max_new_tokens]`, which sample tokens by inversion of the cumulative
    distribution; without noise, responses are greedy. The stopwatch gets the seconds of `prefill` and `decode`.
    `earlier` is another rollout of the same prompts with the same options; its prompt cache is reused.
    `responses` to each prompt are next to each other in the batch; equal prompts may instead be given several times.
    """
    watch = watch or Stopwatch()
    limit, scope, static = options.max_new_tokens, model.options.adapter_scope, model.options.compile_decoding
    shared = responses if model.reads_shared_prompts and not static else 1
    prompts = [prompt for prompt in prompts for _ in range(responses // shared)]
    batch = len(prompts) * shared
    width = max(map(len, prompts))
    room = static_width(width - 1 + limit) - (width - 1) if static else limit
    with watch("prefill"):
        if earlier is not None and earlier.cache is not None:
            ids, mask, prefilled = earlier.prompt_ids, earlier.prompt_mask, share_cache(earlier.cache)
        else:
            own = room if shared == 1 else 0  # else each response gets its room later
            (ids, mask), prefilled = prefill(model, prompts, adapter and scope == "all", own)
            ids, mask = (x.repeat_interleave(shared, 0) for x in (ids, mask))
    kept = share_cache(prefilled) if scope == "response" else None

    tokens = torch.full((batch, limit), model.pad_id, device=ids.device)
    logprobs = torch.zeros(batch, limit, dtype=torch.float32, device=ids.device)
    lengths = torch.full((batch,), limit, device=ids.device)
    truncated = torch.ones(batch, dtype=torch.bool, device=ids.device)
    eos = torch.tensor(model.eos_ids, device=ids.device)
    noise = None if noise is None else noise.to(ids.device)
    alive, current, seen = torch.arange(batch, device=ids.device), ids[:, -1:].clone(), mask
    cache: Cache = prefilled if shared == 1 else share_prompts(prefilled, shared)
    if static:
        cache, seen = model.static_caches.fill(prefilled, width - 1), F.pad(mask, (0, room - 1))
    del prefilled  # copied by now, or else part of `cache` and `kept`
    with watch("decode"), model.attending(model.decoding_attention):
        for step in range(limit):
            uniform = None if noise is None else noise[alive, step]
            chosen, logprob = decode_step(model, current, seen, cache, adapter, options.temperature, uniform)
            tokens[alive, step], logprobs[alive, step] = chosen, logprob
            ended = torch.isin(chosen, eos) & truncated[alive]
            lengths[alive[ended]] = step + 1
            truncated[alive[ended]] = False
            current = chosen[:, None]
            if static:
                seen[:, width + step : width + step + 1] = True
            else:
                seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
            if ended.any():
                if not truncated.any():
                    break
                if not static:  # remove finished rows from the batch
                    left = (~ended).nonzero()[:, 0]
                    alive, current, seen = alive[left], current[left], seen[left]
                    select_rows(cache, left)
    longest = int(lengths.max())
    response_mask = torch.arange(longest, device=ids.device) < lengths[:, None]
    tokens = tokens[:, :longest].where(response_mask, model.pad_id)
    logprobs = logprobs[:, :longest].where(response_mask, 0.0)
    return Rollout(ids, mask, tokens, response_mask, logprobs, truncated, kept)


def decode_step(
    model: LanguageModel,
    current: Tensor,
    seen: Tensor,
    cache: Cache,
    adapter: bool,
    temperature: float,
    uniform: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Decode one token per row, and its log-probability, `[batch]` each.

    `current` is each row's latest token, `[batch, 1]`; `seen` masks it and the tokens in the cache, which is extended.
    `uniform` is sampling noise, `[batch]`, or `None` for the most likely token.
    """
    scores = model.next_logits(current, seen, adapter, cache)
    if temperature != 1:
        scores = scores / temperature
    top = scores.amax(-1, keepdim=True)
    weights = (scores - top).exp_()
    chosen = scores.argmax(-1) if uniform is None else sample_tokens(weights, uniform)
    return chosen, (scores.gather(1, chosen[:, None]) - top)[:, 0] - weights.sum(-1).log()


def decode_texts(model: LanguageModel, rollout: Rollout) -> list[str]:
    """Decode responses to text, each on one line."""
    rows = [ids[mask].tolist() for ids, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]
    return [" ".join(text.split()) for text in model.tokenizer.batch_decode(rows, skip_special_tokens=True)]


def sample_tokens(weights: Tensor, uniform: Tensor) -> Tensor:
    """Sample tokens in proportion to weights, by inversion of their cumulative sum.

    Weights are summed by block first, then by token within one block per row, because a cumulative sum over the whole
    vocabulary in double precision takes about as long as the model's output layer.

    Weights, `[batch, vocabulary]`, are not negative, with a positive one in each row; `uniform` is noise in [0, 1),
    float64 `[batch]`. The result, `[batch]`, is the first token of each row whose cumulative share of the weights
    exceeds the noise; any token if weights are NaN or infinite.
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
    """The first index whose cumulative weight exceeds a target, and the rest of the target there, `[batch, 1]` each.

    Targets are clamped, so that rounding never selects an index of weight 0.
    """
    cumulative = weights.cumsum(-1)
    most = torch.nextafter(cumulative[:, -1:], torch.zeros_like(target))
    index = torch.searchsorted(cumulative, target.clamp(0).minimum(most), right=True).clamp_max(weights.shape[1] - 1)
    return index, target - (cumulative.gather(1, index) - weights.gather(1, index))
