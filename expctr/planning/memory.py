"""Memory of a device by stage and phase: the traced peak of each phase plus what is held at all times."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from expctr.errors import UserError
from expctr.llm.compiled_decoding import static_width
from expctr.llm.prefill import BATCH_TOKENS
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint

LC_PROMPT_RATIO = 2
"""Assumed length of an LC prompt, in lengths of the longest response, which it quotes."""
COMPONENTS = ("weights", "adapter", "gradients", "optimizer", "prompt cache", "activations", "logits")
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run's batches: rows over all devices, and tokens of the longest prompt and response."""

    devices: int
    rollout_rows: int
    eval_rows: int
    micro_rows: int
    prompt_tokens: int
    response_tokens: int
    replicated: bool = False
    """Does each device hold all weights (`configs/ddp.yaml`), or only its share of them (`configs/fsdp.yaml`)?"""


def parse_memory(text: str) -> int:
    """Parse `80GB` (10^9 bytes each) or `24GiB` (2^30) to bytes."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].upper() not in _UNITS:
        raise UserError(f"memory: {text!r} must be like 80GB; the units are MB, GB, TB, MiB, GiB and TiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def batch_sizes(explainer: PPOExplainerModule, data: Any, devices: int, prompt_tokens: int | None) -> Sizes:
    """Read the sizes from a config's options; a rollout batch has at least a row per device."""
    ppo, rollout = explainer.ppo, explainer.rollout_options
    if not 1 <= devices <= data.rollout_batch_size:
        raise UserError(f"devices is {devices}: give 1 to data.rollout_batch_size, which is {data.rollout_batch_size}")
    rows = data.rollout_batch_size * rollout.group_size
    near_equal = -(-rows // -(-rows // ppo.minibatch_size))
    most = min(near_equal, -(-rows // devices))  # all rows of a minibatch may be on one device
    return Sizes(
        devices,
        rows,
        data.eval_batch_size,
        min(most, ppo.micro_batch_size or most),
        prompt_tokens or explainer.prompt_options.prompt_tokens,
        rollout.max_new_tokens,
    )


def forecast_memory(
    blueprint: Blueprint, explainer: PPOExplainerModule, size: Sizes
) -> dict[str, dict[str, Counter[str]]]:
    """Bytes by stage, phase and component (`COMPONENTS`), on the device that holds most.

    With FSDP, decoder layers, adapter and critic are sharded while PPO trains, plus two gathered layers, and whole in
    phases without gradient. Compiled decoding keeps its cache throughout. CTR models and the sentence encoder are not
    counted.
    """
    devices, layers, base_bytes = size.devices, blueprint.layer_bytes, blueprint.base_bytes
    shares = 1 if size.replicated else devices
    trained = 4 * (blueprint.adapter_size + blueprint.critic_size)
    training_state = Counter({"gradients": -(-trained // shares), "optimizer": -(-2 * trained // shares)})
    whole = Counter({"weights": base_bytes, "adapter": trained})
    gathered = 2 * max(layers, default=0) if shares > 1 else 0
    shards = min(base_bytes, base_bytes - sum(layers) + -(-sum(layers) // shares) + gathered)
    sharded = Counter({"weights": shards, "adapter": -(-trained // shares)})
    prompt, response = size.prompt_tokens, size.response_tokens
    rollout_rows, eval_rows = -(-size.rollout_rows // devices), -(-size.eval_rows // devices)
    if explainer.llm.compile_decoding:
        positions = max(rollout_rows, eval_rows) * static_width(prompt - 1 + response)
        for state in whole, sharded:
            state["prompt cache"] = positions * blueprint.cache_bytes
    kept = explainer.llm.adapter_scope == "response"  # the prompts' cache

    def explain_phases(state: Counter[str], rows: int, sampled: bool) -> dict[str, Counter[str]]:
        lc_prompt = min(prompt, LC_PROMPT_RATIO * response)
        batch = min(rows, max(1, BATCH_TOKENS[not blueprint.on_cpu] // prompt))
        cache = Counter({"prompt cache": rows * (prompt + response) * blueprint.cache_bytes})
        return {
            "prefill": state + cache + blueprint.prefill(batch, prompt, not kept),
            "decode": state + blueprint.decode(rows, prompt, response, sampled, kept),
            "score": state + (cache if kept else Counter()) + blueprint.score(batch, lc_prompt),
        }

    model, ppo = blueprint.model, explainer.ppo
    width = model.hidden_size * (4 if blueprint.bits else model.causal.dtype.itemsize)
    critic, entropy = ppo.advantage == "gae", ppo.entropy_coef > 0
    held = Counter({"activations": critic * rollout_rows * response * width})  # the states that the critic reads
    if kept:
        held["prompt cache"] = rollout_rows * (prompt + response) * blueprint.cache_bytes
    micro = size.micro_rows, prompt, response
    training = training_state + whole
    policy = explain_phases(training, rollout_rows, sampled=True)
    policy["reference"] = training + held + blueprint.reference(*micro, adapter=False)
    learning = blueprint.learn(*micro, critic, entropy, ppo.gradient_checkpointing)
    policy["train"] = training_state + sharded + held + learning
    validation = explain_phases(training, eval_rows, sampled=True)
    return {"lc": policy, "ctr": validation, "ic": policy, "test": explain_phases(whole, eval_rows, sampled=False)}


def peak_bytes(stages: dict[str, dict[str, Counter[str]]]) -> int:
    """Total bytes of the phase that needs most."""
    return max(components.total() for phases in stages.values() for components in phases.values())
