"""The PPO update on a rollout batch (Eq. 7), step by step."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F

from expctr.distributed import all_sum, average_gradients, rank, world_size
from expctr.llm.gradient_checkpointing import recompute_activations
from expctr.llm.logprobs import score_responses
from expctr.llm.model import LanguageModel
from expctr.llm.rollout import Rollout, RolloutOptions
from expctr.llm.sharding.fsdp import unsharded
from expctr.nan_guard import NaNGuard, full_tensor
from expctr.rl import losses
from expctr.rl.normalise import mean_by_prompt
from expctr.rl.options import KLOptions, PPOOptions
from expctr.stopwatch import Stopwatch

DIVERGED = (
    "Lower model.explainer.ppo.lr or model.explainer.reward.delta, or load the base in float32 "
    "(model.explainer.llm.dtype)"
)
"""What to do if the policy's own numbers are NaN or infinite."""
_SUMS = ("tokens", "clip_fraction", "approx_kl", "ratio", "policy_loss", "value_loss")


class Trajectory(NamedTuple):
    """What PPO learns from in a rollout, `[rows, response]` each."""

    old_logprobs: Tensor
    """Of the policy that sampled."""
    ref_logprobs: Tensor
    """Of the untrained base."""
    hidden: Tensor
    """States of the frozen base, which the critic reads, `[rows, response, hidden]`; width 0 without a critic."""
    labels: Tensor
    """The row's label at each token, which the critic may read."""
    values: Tensor
    """The critic's; 0 without a critic."""
    advantages: Tensor
    """Whitened."""
    returns: Tensor
    """Advantages before whitening, plus values."""
    counted: Tensor
    """bool: the tokens that are learnt from."""


class PPOUpdate:
    """PPO on the adapter and the critic.

    Args:
        model: policy and reference.
        critic: the value head.
        options: of PPO.
        kl: the penalty for leaving the base.
        rollout: how responses were sampled.
        delta: bound of a normalised reward; what a truncated response loses if it is penalised.
    """

    def __init__(
        self,
        model: LanguageModel,
        critic: nn.Module,
        options: PPOOptions,
        kl: KLOptions,
        rollout: RolloutOptions,
        delta: float,
    ) -> None:
        self.model, self.critic, self.options, self.kl, self.sampling = model, critic, options, kl, rollout
        self.delta, self.beta = delta, kl.beta

    @property
    def trained(self) -> list[nn.Parameter]:
        """The adapter's and the critic's parameters."""
        return [p for module in (self.model, self.critic) for p in module.parameters() if p.requires_grad]

    def __call__(
        self,
        rollout: Rollout,
        rewards: Tensor,
        labels: Tensor,
        optimizer: LightningOptimizer,
        backward: Callable[[Tensor], None],
        generator: torch.Generator,
        watch: Stopwatch,
        guard: NaNGuard,
    ) -> dict[str, float]:
        """Update the policy on one rollout batch.

        Args:
            rollout: this rank's prompts and responses.
            rewards: normalised, `[rows]`.
            labels: 0 or 1, `[rows]`.
            optimizer: of `trained`.
            backward: Lightning's `manual_backward`.
            generator: orders the minibatches; the same on all ranks.
            watch: measures the seconds of `reference` and `train`.
            guard: knows the rows.

        Returns:
            Means over all ranks, for the log.

        Raises:
            BadRunError: a return or a gradient is NaN or infinite; that step was not made.
        """
        # 1. log-probabilities of policy and base, the KL penalty, values, advantages
        with watch("reference"), torch.no_grad(), unsharded(self.model):
            trajectory = self.trajectory(rollout, rewards, labels)
        # not the advantages: whitening spreads one bad row over all
        guard.check("PPO's return", trajectory.returns, DIVERGED)
        steps: list[Tensor] = []  # the sums of `micro_batch_loss`, one row per optimizer step
        norms: list[float] = []
        with watch("train"):
            for _ in range(self.options.epochs):
                for minibatch in self.minibatches(rollout.response_mask.sum(1).cpu(), generator):
                    tokens = float(all_sum(trajectory.counted[torch.cat(minibatch)].sum())) or 1.0
                    scale = world_size() / tokens  # gradients are averaged over ranks
                    optimizer.zero_grad()
                    sums = torch.zeros(len(_SUMS), device=rewards.device)
                    bad = torch.zeros(len(rollout), dtype=torch.bool, device=rewards.device)
                    for rows in minibatch:
                        # 2. the clipped surrogate, the critic's loss
                        loss, parts, bad_rows = self.micro_batch_loss(rollout, trajectory, rows)
                        # 3. gradients
                        backward(loss * scale)
                        sums += parts
                        bad[rows] = bad_rows[: len(rows)]
                    # 4. the step
                    norms.append(self._step(optimizer, guard, bad))
                    steps.append(sums)
        stats = self._describe(rollout, trajectory, steps) | {"grad_norm": sum(norms) / len(norms), "beta": self.beta}
        if self.kl.target is not None:
            self.beta = losses.adapt_beta(self.beta, stats["kl"], self.kl.target, self.kl.horizon)
        return stats

    def trajectory(self, rollout: Rollout, rewards: Tensor, labels: Tensor) -> Trajectory:
        """Rewards, values and advantages of each token."""
        options, mask = self.options, rollout.response_mask
        counted = mask
        if self.sampling.truncated == "penalise":
            rewards = rewards - self.delta * rollout.truncated
        elif self.sampling.truncated == "mask":
            counted = mask & ~rollout.truncated[:, None]
        ref_logprobs, hidden = self._score(rollout, adapter=False)
        old_logprobs = rollout.logprobs
        if self.model.quantized or self.model.causal.dtype != torch.float32:
            # decoding token by token rounds differently from one pass, and the first ratio would not be 1
            old_logprobs, _ = self._score(rollout, adapter=True)
        kl = losses.kl_estimate(old_logprobs, ref_logprobs, self.kl.estimator) * mask
        per_token = losses.token_rewards(rewards, kl, mask, self.beta if self.kl.where == "reward" else 0.0)
        with_critic = options.advantage == "gae"
        labels = labels[:, None].expand_as(per_token)
        values = self.critic(hidden, labels) * mask if with_critic else torch.zeros_like(per_token)
        advantages = losses.gae(per_token, values, mask, options.gamma, options.lam if with_critic else 1.0)
        returns = advantages + values
        if options.advantage == "group":
            mean = mean_by_prompt(per_token.sum(1), self.sampling.group_size)
            advantages = (advantages - mean[:, None]) * mask
        whitened = losses.whiten(advantages, counted)
        return Trajectory(old_logprobs, ref_logprobs, hidden, labels, values, whitened, returns, counted)

    def _score(self, rollout: Rollout, adapter: bool) -> tuple[Tensor, Tensor]:
        """Log-probabilities `[rows, response]`, and hidden states for the critic; in parts of similar length."""
        width, with_critic, parts = rollout.response_ids.shape[1], self.options.advantage == "gae", []
        order = rollout.response_mask.sum(1).cpu().argsort(stable=True)
        size = self.options.micro_batch_size or self.options.minibatch_size
        for rows in order.tensor_split(-(-len(order) // size)):
            scores = score_responses(self.model, rollout.select(rows), adapter, self.sampling.temperature)
            short, hidden = width - scores.logprobs.shape[1], scores.hidden if with_critic else scores.hidden[..., :0]
            parts.append((F.pad(scores.logprobs, (0, short)), F.pad(hidden, (0, 0, 0, short))))
        logprobs, states = (torch.cat(column)[order.argsort()] for column in zip(*parts, strict=True))
        return logprobs, states

    def minibatches(self, lengths: Tensor, generator: torch.Generator) -> list[list[Tensor]]:
        """This rank's rows of each minibatch, by micro-batch.

        A minibatch holds the same rows for any number of ranks. All ranks have the same number of micro-batches, some
        of them empty. Within a minibatch rows are sorted by response length, so that micro-batches hold little padding.

        Args:
            lengths: of this rank's responses, `[rows]`.
            generator: the same on all ranks.
        """
        group, world = self.sampling.group_size, world_size()
        total = int(all_sum(torch.tensor(len(lengths), device=self.model.device)))
        order = torch.randperm(total, generator=generator)
        prompt = order // group  # the loader deals prompts to the ranks in turn
        owner, local = prompt % world, prompt // world * group + order % group
        minibatches = []
        count = -(-total // self.options.minibatch_size)  # near-equal sizes: a step on a few left-over rows is noise
        for ranks, here in zip(owner.tensor_split(count), local.tensor_split(count), strict=True):
            most = int(ranks.bincount().max())
            size = self.options.micro_batch_size or most
            mine = here[ranks == rank()]
            micro = list(mine[lengths[mine].argsort(stable=True)].split(size))
            minibatches.append(micro + [here[:0]] * (-(-most // size) - len(micro)))
        return minibatches

    def micro_batch_loss(self, rollout: Rollout, trajectory: Trajectory, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a micro-batch, summed over tokens.

        Args:
            rollout: this rank's prompts and responses.
            trajectory: of the same rows.
            rows: the micro-batch. If it is empty, a row of weight 0 takes part, since other ranks wait for this one.

        Returns:
            The loss, the sums named in `_SUMS`, and which rows have NaN or infinite numbers (bool, `[rows]`).
        """
        options, idle = self.options, not len(rows)
        rows = torch.zeros(1, dtype=torch.long) if idle else rows
        part = rollout.select(rows)
        width = part.response_ids.shape[1]
        here = Trajectory(*(column[rows, :width] for column in trajectory))
        mask = here.counted & (not idle)
        with_entropy = options.entropy_coef > 0
        with recompute_activations(self.model) if options.gradient_checkpointing else nullcontext():
            scores = score_responses(self.model, part, True, self.sampling.temperature, with_entropy)
        policy = losses.policy_loss(scores.logprobs, here.old_logprobs, here.advantages, mask, options.clip)
        loss, critic_loss = policy.loss, torch.zeros_like(policy.loss)
        checked = (scores.logprobs - here.old_logprobs).exp()  # not finite where any of these is not
        if self.kl.where == "loss":
            kl = losses.kl_estimate(scores.logprobs, here.ref_logprobs, self.kl.estimator)
            loss = loss + self.beta * (kl * mask).sum()
            checked = checked + kl
        if with_entropy:
            loss = loss - options.entropy_coef * (scores.entropy * mask).sum()
        if options.advantage == "gae":
            values = self.critic(here.hidden, here.labels)
            critic_loss = losses.value_loss(values, here.values, here.returns, mask, options.value_clip)
            loss = loss + options.vf_coef * critic_loss
            checked = checked + values
        sums = [mask.sum(), policy.clipped, policy.approx_kl, policy.ratio, policy.loss, critic_loss]
        bad = (~checked.detach().isfinite() & mask).any(1)
        return loss, torch.stack([x.detach().float() for x in sums]), bad

    def _step(self, optimizer: LightningOptimizer, guard: NaNGuard, bad: Tensor) -> float:
        """Average the gradients over ranks, clip them and step; returns their norm."""
        average_gradients(self.trained)
        total = float(full_tensor(nn.utils.clip_grad_norm_(self.trained, self.options.grad_clip)))
        if not math.isfinite(total):
            raise guard.error(f"PPO's gradient norm is {total}", bad, DIVERGED)
        optimizer.step()
        return total

    def _describe(self, rollout: Rollout, trajectory: Trajectory, steps: list[Tensor]) -> dict[str, float]:
        """Means over the responses, tokens and steps of all ranks."""
        mask = rollout.response_mask
        sums = {
            "rows": torch.tensor(float(len(rollout)), device=mask.device),
            "tokens": mask.sum(),
            "kl": ((trajectory.old_logprobs - trajectory.ref_logprobs) * mask).sum(),
            "entropy": -(trajectory.old_logprobs * mask).sum(),
            "truncated": rollout.truncated.sum(),
        }
        everywhere = dict(zip(sums, all_sum(torch.stack(list(sums.values()))).tolist(), strict=True))
        rows, tokens = everywhere["rows"], everywhere["tokens"]
        stats = {
            "kl": everywhere["kl"] / rows,
            "kl_per_token": everywhere["kl"] / tokens,
            "entropy": everywhere["entropy"] / tokens,
            "response_length": tokens / rows,
            "truncated": everywhere["truncated"] / rows,
        }
        by_step = all_sum(torch.stack(steps))
        total = dict(zip(_SUMS, by_step.sum(0), strict=True))
        first = dict(zip(_SUMS, by_step[0], strict=True))
        critic = ("value_loss",) if self.options.advantage == "gae" else ()
        for name in ("clip_fraction", "approx_kl", "ratio", "policy_loss", *critic):
            stats[name] = float(total[name] / total["tokens"].clamp_min(1))
        for name in ("ratio", "approx_kl"):  # 1 and 0, or sampling and training disagree
            stats[f"{name}_first"] = float(first[name] / first["tokens"].clamp_min(1))
        if critic:
            stats["explained_variance"] = float(losses.explained_variance(trajectory.values, trajectory.returns, mask))
        return stats
