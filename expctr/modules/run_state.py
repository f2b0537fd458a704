"""What a staged run's checkpoint holds beside weights, optimizers and frozen models' traits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from expctr.rl.rewards import Reward
from expctr.stages.models import Models
from expctr.stages.plan import Plan, StageKind

Rewards = Mapping[StageKind, Sequence[Reward]]


def run_state(models: Models, plan: Plan, rewards: Rewards) -> dict[str, Any]:
    """Explanations, the state of rewards and of best weights, and how far the plan is: plain values and tensors."""
    return {
        "explainer": models.policy.extra_state(),
        "store": models.store.state_dict(),
        "rewards": {stage: {r.name: r.state_dict() for r in found} for stage, found in rewards.items()},
        "best": [model.best.state_dict() for model in models.click_models],
        "statistics": [model.statistics() for model in models.click_models],
        "ctr_trained": models.ctr_trained,
        "stopped": dict(plan.stopped),
        "batches": models.batches,
        "skipped_updates": models.skipped_updates,
        "text_mean": models.encoder.mean.cpu() if models.encoder is not None else torch.zeros(()),
    }


def load_run_state(state: Mapping[str, Any], models: Models, plan: Plan, rewards: Rewards) -> None:
    """The inverse of `run_state`. What checkpoints of 0.1.0 do not have stays as it is at a run's beginning."""
    models.policy.load_extra_state(state["explainer"])
    models.store.load_state_dict(state["store"])
    for stage, found in rewards.items():
        kept = state.get("rewards", {}).get(stage, {})
        for reward in found:
            reward.load_state_dict(kept.get(reward.name, {}))
    for model, best in zip(models.click_models, state["best"], strict=True):
        model.best.load_state_dict(best)
    for model, statistics in zip(models.click_models, state.get("statistics", ({}, {})), strict=False):
        model.load_statistics(statistics)
    models.ctr_trained, models.batches = state["ctr_trained"], state["batches"]
    models.skipped_updates = state.get("skipped_updates", 0)
    if models.encoder is not None:
        models.encoder.mean = state["text_mean"]
    models.forget_vectors()
    plan.stopped = dict(state.get("stopped", {}))
