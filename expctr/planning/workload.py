"""Workload of a run: steps, tokens and FLOPs by stage, if every prompt and every response has its maximum length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.memory import LC_PROMPT_RATIO, Sizes
from expctr.stages.plan import PlanEntry


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
    decode_flops: int = 0
    """Of these, FLOPs of decoding."""
    decode_bytes: int = 0
    """Bytes of weights, keys and values that decoding reads."""
    decode_steps: int = 0
    """Steps of decoding, one after the other, on each device: a step gives every row of a batch one token."""

    def __add__(self, other: Self) -> Self:  # type: ignore[override]
        return type(self)(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: int) -> Self:  # type: ignore[override]
        return type(self)(*(times * a for a in self))


@dataclass(frozen=True)
class Rates:
    """What a device reaches."""

    tflops: float
    """Peak rate of matrix products, in 10^12 operations per second."""
    utilisation: float
    """Share of it that products reach."""
    bandwidth: float
    """Memory read per second, in 10^9 bytes."""
    launch_us: float
    """Time to start a kernel, in microseconds."""


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
    decode = count_pass(blueprint, response, prompt - 1, True, response)
    read = response * (prompt - 1) + response * (response + 1) // 2
    return {
        "prefill": count_pass(blueprint, prompt - 1, 0, everywhere, 0),
        "decode": decode._replace(decode_flops=decode.flops, decode_bytes=read * blueprint.cache_bytes),
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

    def decoded(batches: int) -> Workload:
        """What all rows of a batch share: every device reads its weights once per step."""
        steps = batches * size.response_tokens
        return Workload(decode_steps=steps, decode_bytes=steps * size.devices * blueprint.read_bytes)

    train, val, test = splits
    explained = prefill + decode + score
    batches = near_equal(train, size.rollout_rows // group)
    rollouts, ctr = sum(batches.values()), sum(near_equal(train, ctr_batch).values())
    epoch = (
        Workload(rollouts, sum(explainer.steps(rows) * count for rows, count in batches.items()))
        + (prefill + (decode + score + reference + learn) * group) * train
        + explained * val
        + decoded(rollouts + -(-val // size.eval_rows))
    )
    found: dict[str, Workload] = {}
    for entry in plan:
        stage = Workload(ctr, ctr) if entry.stage == "ctr" else epoch
        if entry.stage == "ctr" and entry.stage_epoch == 0:  # training rows have one already
            rows = val if explanations == 1 else train + val
            stage += (prefill + decode * explanations) * rows + decoded(-(-rows * explanations // size.eval_rows))
        found[entry.stage] = found.get(entry.stage, Workload()) + stage
    # explanations of the policy and of the untrained model, and the question without an explanation
    prompts = prefill * (2 if everywhere else 1)
    answers = 2 * explainer.evaluation.samples
    found["test"] = (
        prompts + (decode + score) * answers + count_pass(blueprint, size.prompt_tokens, 0, False, 1)
    ) * test + decoded(-(-test * answers // size.eval_rows))
    return found


def estimate_hours(total: Workload, devices: int, rates: Rates) -> float:
    """Hours of all passes but decoding, whose time is that of their products."""
    return (total.flops - total.decode_flops) / (devices * rates.tflops * 1e12 * rates.utilisation) / 3600


def estimate_decoding(total: Workload, devices: int, rates: Rates, launches: int) -> dict[str, float]:
    """Hours of decoding by what may limit it; the largest of these is its time.

    A GPU computes, reads memory and is given new kernels at once.

    Args:
        total: the work, over all devices.
        devices: that share it.
        rates: of each.
        launches: kernels per step.
    """
    return {
        "products": total.decode_flops / (devices * rates.tflops * 1e12 * rates.utilisation) / 3600,
        "memory": total.decode_bytes / (devices * rates.bandwidth * 1e9) / 3600,
        "launches": total.decode_steps * launches * rates.launch_us * 1e-6 / 3600,
    }


def near_equal(rows: int, most: int) -> dict[int, int]:
    """How many batches of how many rows `EpochSampler` makes of so many rows."""
    batches = max(1, -(-rows // most))
    size, larger = divmod(rows, batches)
    return {size + 1: larger, size: batches - larger}
