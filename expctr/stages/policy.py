"""A stage in which the policy learns: LC and IC are two settings of it, which differ in their rewards."""

import warnings
from collections.abc import Sequence
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from expctr.data.batches import Batch, BatchSpec
from expctr.distributed import all_gather_objects, all_mean_std, all_sum
from expctr.errors import UserError
from expctr.llm.sharding.fsdp import unsharded
from expctr.rl.rewards import Reward
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
    """

    def __init__(self, loop: L.LightningModule, models: Models, rewards: Sequence[Reward]) -> None:
        super().__init__(loop, models)
        self.policy, self.rewards = models.policy, rewards

    def train_batches(self, entry: PlanEntry) -> BatchSpec:
        """Rollout batches, with titles."""
        return self.models.data.rollout_spec(entry.epoch)

    def val_batches(self, entry: PlanEntry) -> BatchSpec:
        """The validation split, with titles."""
        return BatchSpec(self.models.data.eval_batch_size, titles=True)

    def step(self, batch: Batch, place: Place) -> dict[str, float]:
        """One rollout batch: explanations, their rewards, one PPO update (Eq. 7)."""
        policy, seed, epoch, watch = self.policy, self.models.seed, place.entry.epoch, Stopwatch()
        cut = policy.prompts.cut
        cut.update(dict.fromkeys(cut, 0))  # not cleared: all ranks add up the same names, whatever each of them cut
        with watch("all"):
            with unsharded(policy.model):
                # 1. prompts -> explanations, sampled with noise that depends on the row and the epoch alone
                noise = policy.noise(seed, epoch, place.batch, batch.sample.tolist())
                rollout, texts = policy.explain(batch.texts, noise, watch=watch)
                batch = batch.repeat(policy.rollout_options.group_size)
                guard = place.guard(batch, texts)
                guard.check("the policy's log-probability", rollout.logprobs, DIVERGED)
                stats = {"empty": guard.share_empty()}
                # 2. explanations -> rewards (Eq. 9, 13)
                with watch("score"):
                    raw = {reward.name: reward.score(batch, texts) for reward in self.rewards}
            for reward in self.rewards:
                for name, values in {**reward.columns, f"reward {reward.name}": raw[reward.name]}.items():
                    _check_rows(values, len(batch), name)
                    guard.check(name, values, reward.fix)
            # 3. normalised, clipped, weighted (Eq. 10)
            total = torch.zeros_like(batch.label)
            for reward in self.rewards:
                normalised, clipped = policy.normalised(raw[reward.name], batch.label, reward.name)
                if reward.weight:
                    total = total + reward.weight * normalised
                stats |= _describe(f"reward_{reward.name}", raw[reward.name], normalised, clipped)
            # 4. advantages, losses, optimizer steps
            used = [raw[reward.name] for reward in self.rewards if reward.weight]
            if policy.nothing_to_learn(used, batch.label, rollout):
                self._skip(place)
            else:
                order = torch.Generator().manual_seed(seed_of(seed, epoch, place.batch))
                backward = self.loop.manual_backward
                stats |= policy.update(rollout, total, self.optimizers[0], backward, order, watch, guard)
        # 5. what is logged and kept
        scores = {name: values for reward in self.rewards for name, values in reward.columns.items()}
        mean, std = all_mean_std(total)
        stats |= {"reward_normalised": float(mean), "reward_normalised_std": float(std)}
        stats |= {f"{name}_mean": float(all_mean_std(values)[0]) for name, values in scores.items()}
        stats |= {"skipped_updates": float(self.models.skipped_updates), "lr": self._next_lr(len(batch))}
        stats |= {f"cut_{what}": self._sum(count) for what, count in cut.items()}
        stats |= {f"seconds_{part}": seconds for part, seconds in watch.seconds.items()}
        stats["samples_per_second"] = self._sum(len(batch)) / watch.seconds["all"]
        stats["tokens_per_second"] = float(all_sum(rollout.response_mask.sum())) / watch.seconds["all"]
        columns = scores | {f"reward_{name}": values for name, values in raw.items()}
        self._record(place, batch, texts, columns | {"label": batch.label.int(), "reward_normalised": total})
        return stats

    def validate(self, batch: Batch, entry: PlanEntry) -> dict[str, Any]:
        """Greedy explanations and their scores."""
        return self.models.explain(batch)[0]

    def _skip(self, place: Place) -> None:
        """No update, not even by the KL penalty: whitened, what is left would be as large as a step that something was
        learnt from. The learning rate moves on as if there had been an update.
        """
        if not self.models.skipped_updates:
            self.loop.print(
                f"{place}: all rewards are equal, so there is nothing to learn and no update is made. TensorBoard "
                "counts such batches in skipped_updates"
            )
        self.models.skipped_updates += 1

    def _next_lr(self, rows: int) -> float:
        """The learning rate of this batch's first step; moves the schedule past its steps."""
        schedule = cast(LRScheduler, self.loop.lr_schedulers())
        rate = float(schedule.get_last_lr()[0])
        prompts = int(self._sum(rows // self.policy.rollout_options.group_size))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler")  # true where an update was skipped
            for _ in range(self.policy.steps(prompts)):
                schedule.step()
        return rate

    def _record(self, place: Place, batch: Batch, texts: Sequence[str], columns: dict[str, Tensor]) -> None:
        """Keep the explanations of all ranks, with their scores and rewards."""
        values = {name: column.tolist() for name, column in columns.items()}
        entry = place.entry
        for samples, written, rows in all_gather_objects((batch.sample.tolist(), texts, values)):
            self.models.store.add(
                samples,
                written,
                stage=entry.stage,
                iteration=entry.iteration,
                epoch=entry.epoch,
                batch=self.models.batches,
                **rows,
            )
        self.models.forget_vectors()

    def _sum(self, count: int) -> float:
        return float(all_sum(torch.tensor(count, device=self.loop.device)))


def _check_rows(values: Tensor, rows: int, name: str) -> None:
    if values.shape != (rows,):
        raise UserError(
            f"{name} has the shape {list(values.shape)} for {rows} explanations: Reward.score must return one number "
            "per explanation, [rows]"
        )


def _describe(name: str, raw: Tensor, normalised: Tensor, clipped: Tensor) -> dict[str, float]:
    """Means and deviations of a reward over all ranks."""
    mean, std = all_mean_std(raw)
    return {
        name: float(mean),
        f"{name}_std": float(std),
        f"{name}_normalised": float(all_mean_std(normalised)[0]),
        f"{name}_clipped": float(all_mean_std(clipped.float())[0]),
    }
