"""Workload of a run: steps, tokens and FLOPs by stage, if every prompt and every response has its maximum length."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch

from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.memory import Sizes
from expctr.stages.plan import PlanEntry

LC_PROMPT_RATIO = 2
"""Assumed length of an LC prompt, in lengths of the longest response, which it quotes."""


class Workload(NamedTuple):
    """The work of a stage, over all devices."""

    batches: int = 0
    """Of rollouts, or of the CTR models."""
    steps: int = 0
    """Optimizer steps of the policy, or of each CTR model."""
    tokens: int = 0
    """Tokens that pass through the language model, counted once per pass."""
    flops: int = 0
    """FLOPs of the language model; a multiplication and an addition are two."""

    def __add__(self, other: Self) -> Self:  # type: ignore[override]
        return type(self)(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: int) -> Self:  # type: ignore[override]
        return type(self)(*(times * a for a in self))


def count_pass(
    blueprint: Blueprint,
    tokens: int,
    seen: int,
    adapter: bool,
    logits: int,
    backward: bool = False,
    recompute: bool = False,
) -> Workload:
    """Count one row's pass of new tokens through the language model, after `seen` cached ones.

    `logits` is the number of tokens whose logits are computed. Gradient checkpointing (`recompute`) computes the
    decoder layers' products once more; their tokens count once.
    """
    pairs = tokens * seen + tokens * (tokens + 1) // 2
    frozen, output = tokens * blueprint.decoder_size, logits * blueprint.model.vocab_size * blueprint.model.hidden_size
    own, attention = tokens * blueprint.adapter_size * adapter, pairs * blueprint.attention_size
    layers = frozen + own + attention
    multiplications = layers + output
    if backward:  # frozen weights have no gradient, so each of their products is computed once more, not twice
        multiplications += frozen + output + 2 * own + 2 * attention
    if recompute:
        multiplications += layers
    return Workload(tokens=tokens, flops=2 * multiplications)


def count_phases(
    blueprint: Blueprint, explainer: PPOExplainerModule, prompt: int, response: int
) -> dict[str, Workload]:
    """Count one response's passes by phase of a step; `train` has all epochs of PPO, `reference` the policy's own too.

    `prompt` and `response` are numbers of tokens.
    """
    everywhere = explainer.llm.adapter_scope == "all"
    new, seen = (prompt + response - 1, 0) if everywhere else (response, prompt - 1)
    reference = count_pass(blueprint, new, seen, False, response)
    if blueprint.bits or blueprint.model.causal.dtype.itemsize < 4:  # the policy's log-probabilities are recomputed
        reference += count_pass(blueprint, new, seen, True, response)
    recompute = explainer.ppo.gradient_checkpointing
    return {
        "prefill": count_pass(blueprint, prompt - 1, 0, everywhere, 0),
        "decode": count_pass(blueprint, response, prompt - 1, True, response),
        "score": count_pass(blueprint, LC_PROMPT_RATIO * response, 0, False, 1),
        "reference": reference,
        "train": count_pass(blueprint, new, seen, True, response, True, recompute) * explainer.ppo.epochs,
    }


def estimate_workload(
    blueprint: Blueprint,
    explainer: PPOExplainerModule,
    size: Sizes,
    plan: Sequence[PlanEntry],
    splits: tuple[int, int, int],
    ctr_batch: int,
    explanations: int = 1,
) -> dict[str, Workload]:
    """Estimate the work by stage of the plan, and of a test after it; CTR stages train until the plan's last epoch.

    `splits` are the numbers of samples in train, val and test; `ctr_batch` is the rows per batch of the CTR
    models, and `explanations` are those per row that a CTR stage learns from.
    """
    group, everywhere = explainer.rollout_options.group_size, explainer.llm.adapter_scope == "all"
    phases = count_phases(blueprint, explainer, size.prompt_tokens, size.response_tokens)
    prefill, decode, score, reference, learn = phases.values()

    train, val, test = splits
    explained = prefill + decode + score
    rollouts, ctr = _near_equal(train, size.rollout_rows // group), _near_equal(train, ctr_batch)
    epoch = (
        Workload(len(rollouts), sum(map(explainer.steps, rollouts)))
        + (prefill + (decode + score + reference + learn) * group) * train
        + explained * val
    )
    found: dict[str, Workload] = {}
    for entry in plan:
        stage = Workload(len(ctr), len(ctr)) if entry.stage == "ctr" else epoch
        if entry.stage == "ctr" and entry.stage_epoch == 0:  # training rows have one already
            stage += (prefill + decode * explanations) * (val if explanations == 1 else train + val)
        found[entry.stage] = found.get(entry.stage, Workload()) + stage
    # explanations of the policy and of the untrained model, and the question without an explanation
    prompts = prefill * (2 if everywhere else 1)
    answers = 2 * explainer.evaluation.samples
    found["test"] = (
        prompts + (decode + score) * answers + count_pass(blueprint, size.prompt_tokens, 0, False, 1)
    ) * test
    return found


def estimate_hours(total: Workload, devices: int, tflops: float, utilisation: float) -> float:
    """Hours of a workload on devices with so many TFLOP/s each, of which a share is reached."""
    return total.flops / (devices * tflops * 1e12 * utilisation) / 3600


def _near_equal(rows: int, most: int) -> list[int]:
    """Rows of each batch, as `EpochSampler` makes them."""
    return [len(batch) for batch in torch.arange(rows).tensor_split(max(1, -(-rows // most)))]
