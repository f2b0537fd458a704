"""Memory of a device by stage and phase, before a run: the traced parts of a step on top of what is held at rest."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from expctr.errors import UserError
from expctr.llm.prefill import TOKENS
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint

PARTS = ("weights", "adapter", "gradients", "optimizer", "prompt cache", "activations", "logits")
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Sizes:
    """What a device has to work on; rows over all devices, tokens of the longest prompt."""

    devices: int
    rollout_rows: int
    eval_rows: int
    micro_rows: int
    prompt_tokens: int
    response_tokens: int


def parse_memory(text: str) -> int:
    """`80GB` (10^9 bytes each), `24GiB` (2^30) -> bytes.

    Raises:
        UserError: it is no number with such a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].upper() not in _UNITS:
        raise UserError(f"memory: {text!r} is no number with a unit: write 80GB, or one of MB, GB, TB, MiB, GiB, TiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def sizes(explainer: PPOExplainerModule, data: Any, devices: int, prompt_tokens: int | None) -> Sizes:
    """From a config's options.

    Raises:
        UserError: there are fewer rows than devices.
    """
    ppo, rollout = explainer.ppo, explainer.rollout_options
    if not 1 <= devices <= data.rollout_batch_size:
        raise UserError(f"devices is {devices}: give 1 to data.rollout_batch_size, which is {data.rollout_batch_size}")
    rows = data.rollout_batch_size * rollout.group_size
    near_equal = -(-rows // -(-rows // ppo.minibatch_size))
    most = min(near_equal, -(-rows // devices))  # by chance a minibatch's rows may all be one device's
    return Sizes(
        devices,
        rows,
        data.eval_batch_size,
        min(most, ppo.micro_batch_size or most),
        prompt_tokens or explainer.prompt_options.prompt_tokens,
        rollout.max_new_tokens,
    )


def memory(model: Blueprint, explainer: PPOExplainerModule, size: Sizes) -> dict[str, dict[str, Counter[str]]]:
    """Bytes by stage, phase and part (`PARTS`), on the device that holds most.

    Decoder layers, adapter and critic are sharded while PPO trains, whole in everything without gradient; two gathered
    layers count while it trains. The CTR models, and the sentence encoder, are not counted.
    """
    share, layers = size.devices, model.layer_bytes
    trained = 4 * (model.adapter_size + model.critic_size)
    rest = Counter({"gradients": -(-trained // share), "optimizer": -(-2 * trained // share)})
    whole = Counter({"weights": model.base_bytes, "adapter": trained})
    gathered = 2 * max(layers, default=0) if share > 1 else 0
    sharded = Counter(
        {
            "weights": min(model.base_bytes, model.base_bytes - sum(layers) + -(-sum(layers) // share) + gathered),
            "adapter": -(-trained // share),
        }
    )
    prompt, response, scope = size.prompt_tokens, size.response_tokens, explainer.llm.adapter_scope

    def asked(rows: int, sampled: bool) -> dict[str, Counter[str]]:
        part = min(rows, max(1, TOKENS[not model.processor] // prompt))
        cache = Counter({"prompt cache": rows * (prompt + response) * model.cache_bytes})
        kept = scope == "response"
        return {
            "prefill": cache + model.prefill(part, prompt, scope == "all"),
            "decode": model.decode(rows, prompt, response, sampled, kept),
            "score": (cache if kept else Counter()) + model.score(part, min(prompt, 2 * response)),
        }

    here, shown = -(-size.rollout_rows // share), -(-size.eval_rows // share)
    rollout = asked(here, sampled=True)
    width = model.hidden_size * 4 if model.quantized else model.hidden_size * model.causal.dtype.itemsize
    critic, entropy = explainer.ppo.advantage == "gae", explainer.ppo.entropy_coef > 0
    held = Counter({"activations": critic * here * response * width})  # the states that the critic reads
    if scope == "response":
        held["prompt cache"] = here * (prompt + response) * model.cache_bytes
    policy = {name: rest + whole + parts for name, parts in rollout.items()}
    policy["reference"] = rest + whole + held + model.reference(size.micro_rows, prompt, response, False)
    policy["train"] = (
        rest
        + sharded
        + held
        + model.learn(size.micro_rows, prompt, response, critic, entropy, explainer.ppo.gradient_checkpointing)
    )
    validated = {name: rest + whole + parts for name, parts in asked(shown, sampled=True).items()}
    tested = {name: whole + parts for name, parts in asked(shown, sampled=False).items()}
    return {"lc": policy, "ctr": validated, "ic": policy, "test": tested}


def highest(stages: dict[str, dict[str, Counter[str]]]) -> int:
    """Bytes of the highest phase."""
    return max(parts.total() for phases in stages.values() for parts in phases.values())
