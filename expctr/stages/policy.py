"""The policy stage, where the policy learns: LC and IC are two settings of it, which differ in their rewards."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from expctr.data.batches import Batch, BatchSpec
from expctr.distributed import all_gather_objects, all_mean_std, all_sum
from expctr.errors import UserError
from expctr.llm.rollout import Rollout
from expctr.llm.sharding.fsdp import unsharded
from expctr.nan_guard import NaNGuard
from expctr.rl.normalise import subtract_baseline
from expctr.rl.policy import Policy
from expctr.rl.rewards import Reward, reference_rows, score_rows
from expctr.rl.update import DIVERGED
from expctr.seeding import seed_of
from expctr.stages.base import Place, Stage
from expctr.stages.models import Models
from expctr.stages.plan import PlanEntry
from expctr.stopwatch import Stopwatch


class PolicyStage(Stage):
    """PPO on the adapter with a list of rewards (paper 4.2, 4.3).

    Args:
        loop: the LightningModule that runs it.
        models: what it trains and scores with.
        rewards: whose weighted sum the policy maximises.

    Raises:
        UserError: a reward's baseline does not go with how responses are sampled or normalised.
    """

    def __init__(self, loop: L.LightningModule, models: Models, rewards: Sequence[Reward]) -> None:
        super().__init__(loop, models)
        self.policy, self.rewards = models.policy, rewards
        for reward in rewards:
            _check_baseline(reward, self.policy)

    def train_batches(self, entry: PlanEntry) -> BatchSpec:
        """Rollout batches, with titles."""
        return self.models.data.rollout_spec(entry.seed_epoch)

    def val_batches(self, entry: PlanEntry) -> BatchSpec:
        """The validation split, with titles."""
        return BatchSpec(self.models.data.eval_batch_size, titles=True)

    def step(self, batch: Batch, place: Place) -> dict[str, float]:
        """One rollout batch: explanations, their rewards, one PPO update (Eq. 7)."""
        policy, seed, epoch, watch = self.policy, self.models.seed, place.entry.seed_epoch, Stopwatch()
        policy.prompts.reset_counts()
        with watch("all"):
            with unsharded(policy.model):
                # 1. prompts -> explanations, sampled with noise that depends on the row and the epoch alone
                noise = policy.noise(seed, epoch, place.batch, batch.sample.tolist())
                rollout, texts = policy.explain(batch.texts, noise, watch=watch)
                batch = batch.repeat(policy.rollout_options.group_size)
                guard = place.guard(batch, texts)
                guard.check("the policy's log-probability", rollout.logprobs, DIVERGED)
                empty = guard.share_empty()
                # 2. explanations -> rewards (Eq. 9, 13)
                with watch("score"):
                    rewards = {reward.name: score_rows(reward, batch, texts) for reward in self.rewards}
            with watch("score"):  # outside of `unsharded`, which the writing of references does by itself
                references = {r.name: reference_rows(r, batch) for r in self.rewards if r.baseline == "reference"}
            self._check(rewards, references, guard)
            # 3. less their baselines, normalised, clipped, weighted and summed (Eq. 10)
            gains = {
                reward.name: subtract_baseline(
                    rewards[reward.name],
                    reward.baseline,
                    labels=batch.label,
                    group_size=policy.rollout_options.group_size,
                    reference=references.get(reward.name),
                )
                for reward in self.rewards
            }
            total, stats = self._combine(rewards, gains)
            # 4. advantages, losses, optimizer steps
            used = [(gains[reward.name], reward.baseline) for reward in self.rewards if reward.weight]
            if policy.normaliser.nothing_to_learn(used, batch.label, rollout):
                self._skip(place)
            else:
                order = torch.Generator().manual_seed(seed_of(seed, epoch, place.batch))
                backward = self.loop.manual_backward
                stats |= policy.update(rollout, total, batch.label, self.optimizers[0], backward, order, watch, guard)
            # 5. the learning rate
            stats["lr"] = self._advance_schedule(len(batch))
        # 6. what is kept and logged
        self._record(place, batch, texts, rewards, references, total)
        return stats | {"empty": empty} | self._describe(rollout, watch)

    def validate(self, batch: Batch, entry: PlanEntry) -> dict[str, Any]:
        """Greedy explanations and their scores."""
        return self.models.explain(batch)[0]

    def _skip(self, place: Place) -> None:
        """Make no update, not even for the KL penalty: whitening would blow it up to the size of a real step. The
        learning rate moves on as if there had been an update.
        """
        if not self.models.skipped_updates:
            self.loop.print(
                f"{place}: all rewards are equal, so there is nothing to learn and no update is made. TensorBoard "
                "counts such batches in skipped_updates"
            )
        self.models.skipped_updates += 1

    def _advance_schedule(self, rows: int) -> float:
        """Move the learning rate past this batch's steps; returns that of its first step."""
        schedule = cast(LRScheduler, self.loop.lr_schedulers())
        rate = float(schedule.get_last_lr()[0])
        prompts = int(self._sum(rows // self.policy.rollout_options.group_size))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler")  # true where an update was skipped
            for _ in range(self.policy.steps(prompts)):
                schedule.step()
        return rate

    def _check(self, rewards: Mapping[str, Tensor], references: Mapping[str, Tensor], guard: NaNGuard) -> None:
        """End the run at a reward, or a score behind it, that is NaN or infinite."""
        for reward in self.rewards:
            for name, values in {**reward.columns, f"reward {reward.name}": rewards[reward.name]}.items():
                guard.check(name, values, reward.fix)
            if reward.name in references:
                guard.check(f"the reference of reward {reward.name}", references[reward.name], reward.fix)

    def _combine(self, rewards: Mapping[str, Tensor], gains: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the normalised rewards, `[rows]`, and means and deviations over all ranks."""
        total, stats = torch.zeros_like(next(iter(gains.values()))), {}
        for reward in self.rewards:
            raw, gain, name = rewards[reward.name], gains[reward.name], f"reward_{reward.name}"
            normalised, clipped = self.policy.normaliser(gain, reward.name)
            if reward.weight:
                total = total + reward.weight * normalised
            for column, values in reward.columns.items():
                stats[f"{column}_mean"] = _mean_std(values)[0]
            stats[name], stats[f"{name}_std"] = _mean_std(raw)
            if reward.baseline != "batch":  # the deviation that Eq. 10 divides by, without the noise of the rows
                stats[f"{name}_gain"], stats[f"{name}_gain_std"] = _mean_std(gain)
            stats[f"{name}_normalised"], stats[f"{name}_clipped"] = _mean_std(normalised)[0], _mean_std(clipped)[0]
        stats["reward_normalised"], stats["reward_normalised_std"] = _mean_std(total)
        return total, stats

    def _record(
        self,
        place: Place,
        batch: Batch,
        texts: Sequence[str],
        rewards: Mapping[str, Tensor],
        references: Mapping[str, Tensor],
        total: Tensor,
    ) -> None:
        """Keep the explanations of all ranks, with their scores and rewards."""
        columns = {name: values for reward in self.rewards for name, values in reward.columns.items()}
        columns |= {f"reward_{name}": values for name, values in rewards.items()}
        columns |= {f"reference_{name}": values for name, values in references.items()}
        columns |= {"label": batch.label.int(), "reward_normalised": total}
        rows = {name: column.tolist() for name, column in columns.items()}
        where = {"stage": place.entry.stage, "iteration": place.entry.iteration, "epoch": place.entry.seed_epoch}
        for samples, written, values in all_gather_objects((batch.sample.tolist(), texts, rows)):
            self.models.store.add(samples, written, **where, batch=self.models.batches, **values)
        self.models.forget_vectors()

    def _describe(self, rollout: Rollout, watch: Stopwatch) -> dict[str, float]:
        """Counts and speed over all ranks."""
        stats = {"skipped_updates": float(self.models.skipped_updates)}
        stats |= {f"cut_{what}": self._sum(count) for what, count in self.policy.prompts.cut.items()}
        stats |= {f"seconds_{part}": seconds for part, seconds in watch.seconds.items()}
        stats["samples_per_second"] = self._sum(len(rollout)) / watch.seconds["all"]
        stats["tokens_per_second"] = float(all_sum(rollout.response_mask.sum())) / watch.seconds["all"]
        return stats

    def _sum(self, count: int) -> float:
        return float(all_sum(torch.tensor(count, device=self.loop.device)))


def _check_baseline(reward: Reward, policy: Policy) -> None:
    option = f"rewards.{type(reward).__name__}.baseline: {reward.baseline}"
    if reward.baseline == "prompt" and policy.rollout_options.group_size == 1:
        raise UserError(
            f"{option} compares responses to one prompt. Fix: set model.explainer.rollout.group_size to at least 2, or "
            "another baseline"
        )
    if reward.baseline != "batch" and policy.reward.norm == "group":
        raise UserError(
            f"{option} has no effect with model.explainer.reward.norm: group, which compares responses to one prompt "
            "already. Fix: set reward.norm to batch, or baseline to batch"
        )


def _mean_std(values: Tensor) -> tuple[float, float]:
    mean, std = all_mean_std(values.float())
    return float(mean), float(std)
