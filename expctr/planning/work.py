"""Steps, tokens and FLOPs of a run by stage, with every prompt and every response at its longest."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.forecast import Sizes
from expctr.stages.plan import PlanEntry

TEMPLATE = 2
"""The scorer's prompt is taken to be so many times as long as the longest response that it quotes."""


class Work(NamedTuple):
    """Of a stage, over all devices."""

    batches: int = 0
    """Rollout batches, or batches of the CTR models."""
    steps: int = 0
    """Optimizer steps of the policy, or of each CTR model."""
    tokens: int = 0
    """That pass the language model, each pass and the prompt's every time counted."""
    flops: int = 0
    """Of the language model, a multiplication and an addition being two."""

    def __add__(self, other: Self) -> Self:  # type: ignore[override]
        return type(self)(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: int) -> Self:  # type: ignore[override]
        return type(self)(*(times * a for a in self))


def passes(
    model: Blueprint, tokens: int, seen: int, adapter: bool, logits: int, backward: bool = False, again: bool = False
) -> Work:
    """A row's pass through the model.

    Args:
        model: whose.
        tokens: new ones.
        seen: cached ones, which all new ones see, and each new one sees those before it and itself.
        adapter: on or off.
        logits: how many tokens' are computed.
        backward: with the gradient, which goes to no frozen weight: each of their products is made once more.
        again: with gradient checkpointing, which makes all products of the decoder's layers once more for it. Their
            tokens count once.
    """
    pairs = tokens * seen + tokens * (tokens + 1) // 2
    frozen, output = tokens * model.decoder_size, logits * model.vocabulary * model.hidden_size
    own, attention = tokens * model.adapter_size * adapter, pairs * model.attention_size
    layers = frozen + own + attention
    multiplications = layers + output
    if backward:
        multiplications += frozen + output + 2 * own + 2 * attention
    if again:
        multiplications += layers
    return Work(tokens=tokens, flops=2 * multiplications)


def work(
    model: Blueprint,
    explainer: PPOExplainerModule,
    size: Sizes,
    plan: Sequence[PlanEntry],
    splits: tuple[int, int, int],
    ctr_batch: int,
) -> dict[str, Work]:
    """By stage of the plan, and of a test after it; the CTR stages train until the plan's last epoch.

    Args:
        model: the language model.
        explainer: the policy's options.
        size: rows of a batch, and the longest prompt and response.
        plan: the stages.
        splits: samples of train, val and test.
        ctr_batch: rows of a batch of the CTR model.
    """
    prompt, response, group = size.prompt_tokens, size.response_tokens, explainer.rollout_options.group_size
    everywhere = explainer.llm.adapter_scope == "all"
    prefill = passes(model, prompt - 1, 0, everywhere, 0)
    decode = passes(model, response, prompt - 1, True, response)
    score = passes(model, TEMPLATE * response, 0, False, 1)
    new, seen = (prompt + response - 1, 0) if everywhere else (response, prompt - 1)
    reference = passes(model, new, seen, False, response)
    if model.quantized or model.causal.dtype.itemsize < 4:  # the policy's log-probabilities are computed again
        reference += passes(model, new, seen, True, response)
    again = explainer.ppo.gradient_checkpointing
    learn = passes(model, new, seen, True, response, backward=True, again=again) * explainer.ppo.epochs

    train, val, test = splits
    explained = prefill + decode + score
    rollouts, ctr = _near_equal(train, size.rollout_rows // group), _near_equal(train, ctr_batch)
    epoch = (
        Work(len(rollouts), sum(map(explainer.steps, rollouts)))
        + (prefill + (decode + score + reference + learn) * group) * train
        + explained * val
    )
    found: dict[str, Work] = {}
    for entry in plan:
        here = epoch if entry.stage != "ctr" else Work(len(ctr), len(ctr))
        if entry.stage == "ctr" and entry.step == 0:  # the validation rows' explanations, once
            here += (prefill + decode) * val
        found[entry.stage] = found.get(entry.stage, Work()) + here
    # the policy's, the untrained model's, and the question without an explanation
    prompts = prefill * (2 if everywhere else 1)
    found["test"] = (prompts + (decode + score) * 2 + passes(model, prompt, 0, False, 1)) * test
    return found


def hours(total: Work, devices: int, tflops: float, utilisation: float) -> float:
    """At so many TFLOP/s a device at best, of which a share is reached."""
    return total.flops / (devices * tflops * 1e12 * utilisation) / 3600


def _near_equal(rows: int, most: int) -> list[int]:
    """Rows of each batch, as `EpochSampler` makes them."""
    count = max(1, -(-rows // most))
    return [rows // count + (i < rows % count) for i in range(count)]
