"""What can be chosen about rewards and PPO; the attribute docstrings are the command line's help."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from expctr.errors import check_range
from expctr.rl.losses import Estimator
from expctr.rl.normalise import Norm
from expctr.rl.rewards import Delta, Metric


@dataclass
class RewardOptions:
    """How rewards are made of scores (Eq. 9, 10)."""

    metric: Metric = "mae"
    """`mae`: 1 - |y - s| (Eq. 9), which favours overconfident scores; `brier`, `log`: proper scores."""
    norm: Norm = "batch"
    """Mean and deviation of Eq. 10: of the rollout `batch`, the `group` of responses to a prompt, all batches so far
    (`running`), or `none`."""
    delta: float = 1.0
    """Bound of the normalised reward (Eq. 10)."""
    baseline: Literal["none", "label"] = "none"
    """`label`: Eq. 10's mean is taken over the rows of the same label, which removes most of the label's noise."""
    lc_weight: float = 0.0
    """Share of the LC reward that stays in the IC stage (Eq. 16 has none)."""

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise ValueError(f"reward.delta is {self.delta}: it must be above 0")
        check_range("reward", self, lc_weight=(0, inf))
        if self.baseline == "label" and self.norm != "batch":
            raise ValueError(f"reward.baseline: label needs reward.norm: batch, not {self.norm}")


@dataclass
class KLOptions:
    """The penalty that keeps the policy near the base (Eq. 7)."""

    beta: float = 0.05
    """Its weight."""
    where: Literal["reward", "loss"] = "reward"
    """Taken off each token's reward, or added to the loss."""
    estimator: Estimator = "k1"
    """k1: log ratio; k2: half its square; k3: exp(-k1) - 1 + k1."""
    target: float | None = None
    """Adapt beta towards this KL a response, in nats; none: beta stays."""
    horizon: float = 20.0
    """Rollout batches over which an adapted beta moves by at most 20%."""

    def __post_init__(self) -> None:
        if self.where == "loss" and self.estimator == "k1":
            raise ValueError(
                "kl.where: loss with kl.estimator: k1 has a gradient that is zero on average: choose k2 or k3"
            )
        if self.horizon <= 0 or (self.target is not None and self.target <= 0):
            raise ValueError("kl.target and kl.horizon must be above 0")
        if self.target is not None and self.beta == 0:
            raise ValueError("kl.target adapts kl.beta by a factor, and so never moves one of 0: give beta a start")
        check_range("kl", self, beta=(0, inf))


@dataclass
class PPOOptions:
    """Proximal policy optimisation; where the paper is silent, the field's defaults."""

    lr: float = 1e-5
    """Learning rate of the adapter and the critic."""
    epochs: int = 2
    """Passes over one rollout batch."""
    minibatch_size: int = 32
    """Rows of one optimizer step, over all ranks."""
    micro_batch_size: int | None = None
    """Rows of one forward and backward pass on a rank; none: the whole minibatch. Fewer need less memory, and compute
    less padding, for they go by length. Results do not depend on it."""
    gradient_checkpointing: bool = False
    """Compute the decoder's layers again in the backward pass, which saves memory and costs a second forward pass.
    Results do not depend on it."""
    advantage: Literal["gae", "batch", "group"] = "gae"
    """`gae`: a critic; `batch`: returns minus their mean over the batch; `group`: minus their mean over the responses
    to the prompt (rollout.group_size)."""
    gamma: float = 1.0
    """Discount a token."""
    lam: float = 0.95
    """Lambda of GAE."""
    clip: float = 0.2
    """The ratio stays within 1 +- clip."""
    value_clip: float = 0.2
    """The critic moves by at most this in a rollout batch."""
    vf_coef: float = 0.1
    """Weight of the critic's loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    grad_clip: float = 1.0
    """Largest gradient norm of a step."""
    warmup: float = 0.03
    """Share of all steps in which the learning rate rises from 0."""
    final_lr: float = 1.0
    """What is left of the learning rate at the end of each LC and IC stage, as a share; it falls in a straight line. At
    1 the last steps move the policy as far as the first ones, and what a stage ends with is partly chance."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatch_size < 1:
            raise ValueError("ppo.epochs and ppo.minibatch_size must be at least 1")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"ppo.micro_batch_size is {self.micro_batch_size}: it must be at least 1, or none")
        check_range("ppo", self, gamma=(0, 1), lam=(0, 1), warmup=(0, 1), final_lr=(0, 1))
        check_range("ppo", self, lr=(0, inf), clip=(0, inf), value_clip=(0, inf), grad_clip=(0, inf))
        check_range("ppo", self, vf_coef=(0, inf), entropy_coef=(0, inf))


@dataclass
class ICOptions:
    """The IC reward (Eq. 13)."""

    delta: Delta = "abs"
    """`abs`: |s - s0|, which rewards any change of the score, a harmful one too; `signed`: |y - s0| - |y - s|; `relu`:
    the same, harm counted as nothing."""
