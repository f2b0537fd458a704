"""Options of PPO and of reward normalisation; the attribute docstrings are the command line's help."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from expctr.errors import check_range
from expctr.rl.losses import Estimator

Norm = Literal["batch", "group", "running", "none"]
Baseline = Literal["batch", "label", "reference", "prompt"]


@dataclass
class RewardOptions:
    """How raw rewards are normalised (Eq. 10)."""

    norm: Norm = "batch"
    """Which mean and deviation Eq. 10 takes: of the rollout `batch`, of the `group` of responses to a prompt, of all
    batches so far (`running`), or `none`."""
    delta: float = 1.0
    """Bound of a normalised reward (Eq. 10)."""

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise ValueError(f"reward.delta is {self.delta}: it must be above 0")


@dataclass
class KLOptions:
    """The penalty that keeps the policy near the base (Eq. 7)."""

    beta: float = 0.05
    """Its weight."""
    where: Literal["reward", "loss"] = "reward"
    """Subtracted from each token's reward, or added to the loss."""
    estimator: Estimator = "k1"
    """k1: log ratio; k2: half its square; k3: exp(-k1) - 1 + k1."""
    target: float | None = None
    """Adapt beta towards this KL per response, in nats; null: beta stays as it is."""
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
            raise ValueError(
                "kl.target adapts kl.beta by a factor, which cannot change a beta of 0: set kl.beta above 0"
            )
        check_range("kl", self, beta=(0, inf))


@dataclass
class EvaluationOptions:
    """How explanations are written in validate, test, predict and explain. `fit` validates on greedy ones in the LC and
    IC stages, and on sampled ones in the CTR stage.
    """

    samples: int = 1
    """Explanations per row. 1: a greedy one. More: they are sampled, and the prompt is computed once. s_u and s_r are
    then means, which estimate the expectation of Eq. 8 and 12 better; the explanation shown is the one whose scores are
    nearest to them."""

    def __post_init__(self) -> None:
        check_range("evaluation", self, samples=(1, inf))


@dataclass
class PPOOptions:
    """Proximal policy optimisation. Where the paper is silent, the defaults are those of the field."""

    lr: float = 1e-5
    """Learning rate of the adapter."""
    critic_lr: float = 1e-4
    """Learning rate of the critic, which starts from random weights: at the adapter's it learns too slowly. Both follow
    the same warm-up and decay."""
    critic_label: bool = False
    """The critic also reads the row's label. That leaves PPO unbiased, since no action changes the label."""
    epochs: int = 2
    """Passes over one rollout batch."""
    minibatch_size: int = 32
    """Rows per optimizer step, over all ranks."""
    micro_batch_size: int | None = None
    """Rows per forward and backward pass on a rank; null: the whole minibatch. Fewer rows need less memory and less
    padding, since rows are sorted by length. Results do not depend on it."""
    gradient_checkpointing: bool = False
    """Compute the decoder's layers again in the backward pass. This saves memory and costs a second forward pass.
    Results do not depend on it."""
    advantage: Literal["gae", "batch", "group"] = "gae"
    """`gae`: with a critic; `batch`: returns minus their mean over the batch; `group`: minus their mean over the
    responses to the same prompt (rollout.group_size)."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 1.0
    """Lambda of GAE. Below 1, little of the one reward at the end reaches a verdict that comes early, until the critic
    has learnt to predict it: 0.95 leaves 2% after 80 tokens."""
    clip: float = 0.2
    """The ratio stays within 1 +- clip."""
    value_clip: float = 0.2
    """The critic's values move by at most this much per rollout batch."""
    vf_coef: float = 0.1
    """Weight of the critic's loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    grad_clip: float = 1.0
    """Largest gradient norm per step."""
    warmup: float = 0.03
    """Share of all steps in which the learning rate rises from 0."""
    final_lr: float = 1.0
    """Share of the learning rate that is left at the end of each LC and IC stage; the decay is linear. At 1 the last
    steps move the policy as far as the first ones, so the end of a stage is partly chance."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatch_size < 1:
            raise ValueError("ppo.epochs and ppo.minibatch_size must be at least 1")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"ppo.micro_batch_size is {self.micro_batch_size}: it must be at least 1, or null")
        check_range("ppo", self, gamma=(0, 1), lam=(0, 1), warmup=(0, 1), final_lr=(0, 1))
        check_range("ppo", self, lr=(0, inf), critic_lr=(0, inf), clip=(0, inf), grad_clip=(0, inf))
        check_range("ppo", self, value_clip=(0, inf), vf_coef=(0, inf), entropy_coef=(0, inf))
        if self.critic_label and self.advantage != "gae":
            raise ValueError(
                f"ppo.critic_label needs a critic, and ppo.advantage: {self.advantage} has none. Fix: set "
                "ppo.advantage to gae, or ppo.critic_label to false"
            )
