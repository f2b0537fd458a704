"""The policy: writes explanations, scores them, and learns from their rewards."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F

from expctr.data.batches import Nouns, SampleText
from expctr.distributed import all_mean_std, all_sum, rank, world_size
from expctr.llm.critic import ValueHead
from expctr.llm.gradient_checkpointing import recompute_activations
from expctr.llm.loading import LLMOptions
from expctr.llm.logprobs import score_responses
from expctr.llm.model import LanguageModel
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.rollout import Rollout, RolloutOptions, decode_texts, draw_noise, generate
from expctr.llm.sharding.fsdp import unsharded
from expctr.llm.yes_no import Answers, DirectQuestion, LCOptions, answer_tokens, score_prompts
from expctr.modules.guard import DIVERGED, Guard, whole
from expctr.rl import losses
from expctr.rl.normalise import all_equal, by_prompt, normalise
from expctr.rl.options import KLOptions, PPOOptions, RewardOptions
from expctr.stopwatch import Stopwatch

_SUMS = ("tokens", "clip_fraction", "approx_kl", "ratio", "policy_loss", "value_loss")


class Trajectory(NamedTuple):
    """What PPO learns from in a rollout, `[rows, response]` each."""

    logprobs: Tensor
    """Of the policy that sampled."""
    ref_logprobs: Tensor
    """Of the untrained base."""
    hidden: Tensor
    """The base's states, which the critic reads, `[rows, response, hidden]`; without one `[rows, response, 0]`."""
    values: Tensor
    advantages: Tensor
    """Whitened."""
    returns: Tensor
    weight: Tensor
    """bool: the tokens that count."""


class PPOExplainerModule(L.LightningModule):
    """A language model that writes one sentence on a user's choice, and improves it by PPO (paper 4.1, 4.2).

    Args:
        llm: the base and its adapter.
        prompts: templates and caps.
        rollout: how explanations are sampled.
        lc: how the frozen base scores them (Eq. 8).
        reward: how rewards are made of scores (Eq. 9, 10).
        kl: the penalty for leaving the base (Eq. 7).
        ppo: the optimisation.
    """

    model: LanguageModel

    def __init__(
        self,
        llm: LLMOptions = LLMOptions(),
        prompts: PromptOptions = PromptOptions(),
        rollout: RolloutOptions = RolloutOptions(),
        lc: LCOptions = LCOptions(),
        reward: RewardOptions = RewardOptions(),
        kl: KLOptions = KLOptions(),
        ppo: PPOOptions = PPOOptions(),
    ) -> None:
        super().__init__()
        self.llm, self.prompt_options, self.rollout_options = llm, prompts, rollout
        self.lc, self.reward, self.kl, self.ppo = lc, reward, kl, ppo
        needs_groups = [
            name for name, used in (("reward.norm", reward.norm), ("ppo.advantage", ppo.advantage)) if used == "group"
        ]
        if needs_groups and rollout.group_size == 1:
            raise ValueError(f"{' and '.join(needs_groups)}: group needs rollout.group_size of at least 2")
        self.built = False
        self.beta = kl.beta
        self._running: dict[str, tuple[int, float, float]] = {}

    def build(
        self, nouns: Nouns, seed: int = 0, mesh: DeviceMesh | None = None, device: torch.device | None = None
    ) -> None:
        """Load the base; once.

        Args:
            nouns: what the dataset's items and people are called.
            seed: of the adapter's and the critic's first weights.
            mesh: the ranks that `shard` will share it among.
            device: where it will compute; see `load_base`.
        """
        if self.built:
            return
        self.model = LanguageModel.load(self.llm, seed, mesh, device)
        self.value_head = ValueHead(self.model.hidden_size, seed=seed)
        self.prompts = Prompts(self.model.tokenizer, self.prompt_options, nouns)
        template = self.prompt_options.lc_titled if self.lc.include_title else self.prompt_options.lc
        self.answers: Answers = answer_tokens(self.model, self.prompts.ending(template), self.lc)
        self.direct = DirectQuestion(self.model, self.prompts, self.lc)
        self.built = True

    def trainable(self) -> list[torch.nn.Parameter]:
        """The adapter's and the critic's parameters."""
        return [p for p in self.parameters() if p.requires_grad]

    def optimizer(self) -> torch.optim.AdamW:
        """Adam with the betas and epsilon that the field uses for PPO on language models."""
        return torch.optim.AdamW(self.trainable(), lr=self.ppo.lr, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)

    def steps(self, rows: int) -> int:
        """Optimizer steps of one rollout batch of so many rows over all ranks."""
        rows *= self.rollout_options.group_size
        return self.ppo.epochs * -(-rows // self.ppo.minibatch_size)

    def explain(
        self,
        samples: Sequence[SampleText],
        noise: Tensor | None = None,
        adapter: bool = True,
        watch: Stopwatch | None = None,
        earlier: Rollout | None = None,
    ) -> tuple[Rollout, list[str]]:
        """Explanations of samples: greedy, or sampled by the given noise (`draw_noise`).

        Args:
            samples: titles of each row.
            noise: `[rows * responses a row, max_new_tokens]`.
            adapter: the policy, or the untrained base.
            watch: takes the seconds of each part.
            earlier: other explanations of the same rows; see `generate`.
        """
        prompts = self.prompts.explanation(samples)
        if noise is not None:
            prompts = [prompt for prompt in prompts for _ in range(len(noise) // len(samples))]
        rollout = generate(self.model, prompts, self.rollout_options, noise, adapter, watch, earlier)
        return rollout, decode_texts(self.model, rollout)

    def noise(self, seed: int, epoch: int, batch: int, samples: Sequence[int], repeats: int | None = None) -> Tensor:
        """The sampling noise of a batch's samples, for `repeats` responses each (`group_size`, where not given)."""
        options = self.rollout_options
        return draw_noise(seed, epoch, samples, repeats or options.group_size, options.max_new_tokens, batch)

    def lc_scores(self, samples: Sequence[SampleText], reasons: Sequence[str]) -> Tensor:
        """How likely a liking is to the frozen base that has read the explanation: s_u of Eq. 8, `[rows]`."""
        prompts = self.prompts.lc(samples, reasons, self.lc.include_title)
        return score_prompts(self.model, prompts, self.answers, self.lc)

    def icl_scores(self, samples: Sequence[SampleText]) -> Tensor:
        """How likely a liking is to the frozen base asked directly (the ICL row), `[rows]`."""
        return self.direct.scores(samples)

    def lc_gap(self, samples: Sequence[SampleText]) -> tuple[float, float]:
        """Can the scorer tell a sentence of liking from one of dislike?

        Returns:
            The mean difference of the scores, and the share of pairs that are in the right order (0.5 for a tie).
        """
        like = [f'The user will likely enjoy "{self.prompts.title(s.target)}".' for s in samples]
        dislike = [f'The user will likely dislike "{self.prompts.title(s.target)}".' for s in samples]
        liked, disliked = self.lc_scores(samples, like), self.lc_scores(samples, dislike)
        order = (liked > disliked).float() + 0.5 * (liked == disliked).float()
        return float((liked - disliked).mean()), float(order.mean())

    def normalised(self, rewards: Tensor, labels: Tensor, component: str = "lc") -> tuple[Tensor, Tensor]:
        """Eq. 10 by the options: the rewards within +-delta, and which were clipped, both `[rows]`.

        Args:
            rewards: `[rows]`.
            labels: `[rows]`.
            component: whose rewards they are; `norm: running` keeps statistics of each.
        """
        options = self.reward
        running = None
        if options.norm == "running":
            running = self._update_running(rewards, component)
        return normalise(
            rewards,
            options.norm,
            options.delta,
            labels=labels if options.baseline == "label" else None,
            group_size=self.rollout_options.group_size,
            running=running,
        )

    def nothing_to_learn(self, components: Sequence[Tensor], labels: Tensor, rollout: Rollout) -> bool:
        """Is every raw reward equal to what Eq. 10 and the advantages compare it with?

        That is the mean of the batch, of the label (`baseline: label`), or of the prompt (`norm: group`,
        `advantage: group`).

        Args:
            components: the reward's, `[rows]` each.
            labels: `[rows]`.
            rollout: what was rewarded; a response that was cut may be penalised, or not count.
        """
        penalised = [rollout.truncated.float()] if self.rollout_options.truncated == "penalise" else []
        by_label = labels if self.reward.baseline == "label" else None
        in_groups = "group" in (self.reward.norm, self.ppo.advantage)
        group_size = self.rollout_options.group_size if in_groups else None
        counted = ~rollout.truncated if self.rollout_options.truncated == "mask" else None
        return all(all_equal(rewards, by_label, group_size, counted) for rewards in [*components, *penalised])

    def update(
        self,
        rollout: Rollout,
        rewards: Tensor,
        optimizer: LightningOptimizer,
        backward: Callable[[Tensor], None],
        generator: torch.Generator,
        watch: Stopwatch,
        guard: Guard,
    ) -> dict[str, float]:
        """One PPO update on a rollout batch (Eq. 7).

        Args:
            rollout: this rank's prompts and responses.
            rewards: normalised, `[rows]`.
            optimizer: over `trainable()`.
            backward: Lightning's.
            generator: orders the minibatches; the same on all ranks.
            watch: takes the seconds of `reference` and `train`.
            guard: knows the rows.

        Returns:
            What TensorBoard shows, means over all ranks.

        Raises:
            BadRunError: a return or a gradient is no number; that step was not made.
        """
        with watch("reference"), torch.no_grad(), unsharded(self.model):
            trajectory = self._trajectory(rollout, rewards)
        guard.finite("PPO's return", trajectory.returns, DIVERGED)  # whitened, one bad row would spoil all
        steps: list[Tensor] = []  # the sums of `_losses`, a row an optimizer step
        norms: list[float] = []
        with watch("train"):
            for _ in range(self.ppo.epochs):
                for minibatch in self._minibatches(rollout.response_mask.sum(1).cpu(), generator):
                    tokens = float(all_sum(trajectory.weight[torch.cat(minibatch)].sum())) or 1.0
                    scale = world_size() / tokens  # sharded gradients are averaged over ranks
                    optimizer.zero_grad()
                    sums = torch.zeros(len(_SUMS), device=rewards.device)
                    bad = torch.zeros(len(rollout), dtype=torch.bool, device=rewards.device)
                    for rows in minibatch:
                        loss, parts, bad_rows = self._losses(rollout, trajectory, rows)
                        backward(loss * scale)
                        sums += parts
                        bad[rows] = bad_rows[: len(rows)]
                    steps.append(sums)
                    norms.append(self._step(optimizer, guard, bad))
        by_step = all_sum(torch.stack(steps))
        total = dict(zip(_SUMS, by_step.sum(0), strict=True))
        first = dict(zip(_SUMS, by_step[0], strict=True))
        stats = self._describe(rollout, trajectory)
        for name in ("clip_fraction", "approx_kl", "ratio", "policy_loss"):
            stats[name] = float(total[name] / total["tokens"].clamp_min(1))
        for name in ("ratio", "approx_kl"):  # 1 and 0, or sampling and training disagree
            stats[f"{name}_first"] = float(first[name] / first["tokens"].clamp_min(1))
        stats |= {"grad_norm": sum(norms) / len(norms), "beta": self.beta}
        if self.ppo.advantage == "gae":
            stats["value_loss"] = float(total["value_loss"] / total["tokens"].clamp_min(1))
            mask = rollout.response_mask
            stats["explained_variance"] = float(losses.explained_variance(trajectory.values, trajectory.returns, mask))
        if self.kl.target is not None:
            self.beta = losses.adapt_beta(self.beta, stats["kl"], self.kl.target, self.kl.horizon)
        return stats

    def _trajectory(self, rollout: Rollout, rewards: Tensor) -> Trajectory:
        """Rewards, values and advantages of each token."""
        options, mask = self.ppo, rollout.response_mask
        weight = mask
        if self.rollout_options.truncated == "penalise":
            rewards = rewards - self.reward.delta * rollout.truncated
        elif self.rollout_options.truncated == "mask":
            weight = mask & ~rollout.truncated[:, None]
        ref_logprobs, hidden = self._score(rollout, adapter=False)
        logprobs = rollout.logprobs
        if self.model.quantized or self.model.causal.dtype != torch.float32:
            # one token at a time and all at once round differently, and the first ratio would not be 1
            logprobs, _ = self._score(rollout, adapter=True)
        kl = losses.kl_estimate(logprobs, ref_logprobs, self.kl.estimator) * mask
        per_token = losses.token_rewards(rewards, kl, mask, self.beta if self.kl.where == "reward" else 0.0)
        critic = options.advantage == "gae"
        values = self.value_head(hidden) * mask if critic else torch.zeros_like(per_token)
        advantages = losses.gae(per_token, values, mask, options.gamma, options.lam if critic else 1.0)
        returns = advantages + values
        if options.advantage == "group":
            mean = by_prompt(per_token.sum(1), self.rollout_options.group_size)
            advantages = (advantages - mean[:, None]) * mask
        return Trajectory(logprobs, ref_logprobs, hidden, values, losses.whiten(advantages, weight), returns, weight)

    def _score(self, rollout: Rollout, adapter: bool) -> tuple[Tensor, Tensor]:
        """Log-probabilities `[rows, response]`, and hidden states for the critic; computed in parts of like length."""
        width, critic, parts = rollout.response_ids.shape[1], self.ppo.advantage == "gae", []
        order = rollout.response_mask.sum(1).cpu().argsort(stable=True)
        for rows in order.tensor_split(-(-len(order) // (self.ppo.micro_batch_size or self.ppo.minibatch_size))):
            scores = score_responses(self.model, rollout.select(rows), adapter, self.rollout_options.temperature)
            short, hidden = width - scores.logprobs.shape[1], scores.hidden if critic else scores.hidden[..., :0]
            parts.append((F.pad(scores.logprobs, (0, short)), F.pad(hidden, (0, 0, 0, short))))
        logprobs, states = (torch.cat(column)[order.argsort()] for column in zip(*parts, strict=True))
        return logprobs, states

    def _describe(self, rollout: Rollout, trajectory: Trajectory) -> dict[str, float]:
        """Means over the responses and tokens of all ranks."""
        mask = rollout.response_mask
        sums = {
            "rows": torch.tensor(float(len(rollout)), device=mask.device),
            "tokens": mask.sum(),
            "kl": ((trajectory.logprobs - trajectory.ref_logprobs) * mask).sum(),
            "entropy": -(trajectory.logprobs * mask).sum(),
            "truncated": rollout.truncated.sum(),
        }
        everywhere = dict(zip(sums, all_sum(torch.stack(list(sums.values()))).tolist(), strict=True))
        rows, tokens = everywhere["rows"], everywhere["tokens"]
        return {
            "kl": everywhere["kl"] / rows,
            "kl_per_token": everywhere["kl"] / tokens,
            "entropy": everywhere["entropy"] / tokens,
            "response_length": tokens / rows,
            "truncated": everywhere["truncated"] / rows,
        }

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights."""
        return {"beta": self.beta, "running": dict(self._running)}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of `extra_state`."""
        self.beta = self.kl.beta if self.kl.target is None else state["beta"]
        self._running = dict(state["running"])

    def _minibatches(self, lengths: Tensor, generator: torch.Generator) -> list[list[Tensor]]:
        """This rank's rows of each minibatch, by micro-batch.

        A minibatch holds the same rows for any number of ranks, and all ranks have as many micro-batches, some empty.
        Within it rows go by the length of their responses, so that micro-batches hold little padding.

        Args:
            lengths: of this rank's responses, `[rows]`.
            generator: the same on all ranks.
        """
        group, world = self.rollout_options.group_size, world_size()
        order = torch.randperm(int(all_sum(torch.tensor(len(lengths), device=self.device))), generator=generator)
        prompt = order // group  # the loader deals prompts to the ranks in turn
        owner, local = prompt % world, prompt // world * group + order % group
        minibatches = []
        count = -(-len(order) // self.ppo.minibatch_size)  # near-equal ones: a step on a left-over row is noise
        for ranks, here in zip(owner.tensor_split(count), local.tensor_split(count), strict=True):
            most = int(ranks.bincount().max())
            size = self.ppo.micro_batch_size or most
            mine = here[ranks == rank()]
            micro = list(mine[lengths[mine].argsort(stable=True)].split(size))
            minibatches.append(micro + [here[:0]] * (-(-most // size) - len(micro)))
        return minibatches

    def _losses(self, rollout: Rollout, trajectory: Trajectory, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a micro-batch, summed over tokens, the sums in `_SUMS`, and which rows' numbers are none (bool).

        No rows: a row of weight 0.
        """
        options, idle = self.ppo, not len(rows)
        rows = torch.zeros(1, dtype=torch.long) if idle else rows
        part = rollout.select(rows)
        width = part.response_ids.shape[1]
        here = Trajectory(*(column[rows, :width] for column in trajectory))
        mask = here.weight & (not idle)
        with_entropy = options.entropy_coef > 0
        with recompute_activations(self.model) if options.gradient_checkpointing else nullcontext():
            scores = score_responses(self.model, part, True, self.rollout_options.temperature, with_entropy)
        policy = losses.policy_loss(scores.logprobs, here.logprobs, here.advantages, mask, options.clip)
        loss, critic = policy.loss, torch.zeros_like(policy.loss)
        checked = (scores.logprobs - here.logprobs).exp()  # the sum of all that must be a number
        if self.kl.where == "loss":
            kl = losses.kl_estimate(scores.logprobs, here.ref_logprobs, self.kl.estimator)
            loss = loss + self.beta * (kl * mask).sum()
            checked = checked + kl
        if with_entropy:
            loss = loss - options.entropy_coef * (scores.entropy * mask).sum()
        if options.advantage == "gae":
            values = self.value_head(here.hidden)
            critic = losses.value_loss(values, here.values, here.returns, mask, options.value_clip)
            loss = loss + options.vf_coef * critic
            checked = checked + values
        sums = [mask.sum(), policy.clipped, policy.approx_kl, policy.ratio, policy.loss, critic]
        bad = (~checked.detach().isfinite() & mask).any(1)
        return loss, torch.stack([x.detach().float() for x in sums]), bad

    def _step(self, optimizer: LightningOptimizer, guard: Guard, bad: Tensor) -> float:
        """Clip and step; returns the gradient norm."""
        total = float(whole(torch.nn.utils.clip_grad_norm_(self.trainable(), self.ppo.grad_clip)))
        if not math.isfinite(total):
            raise guard.error(f"PPO's gradient norm is {total}", bad, DIVERGED)
        optimizer.step()
        return total

    def _update_running(self, rewards: Tensor, component: str) -> tuple[Tensor, Tensor]:
        """Mean and deviation over all rewards so far (Chan et al. 1979, parallel update)."""
        count, mean, squares = self._running.get(component, (0, 0.0, 0.0))
        new = int(all_sum(torch.tensor(len(rewards), device=rewards.device)))
        batch_mean, batch_std = (float(x) for x in all_mean_std(rewards))
        total = count + new
        squares += batch_std**2 * new + (batch_mean - mean) ** 2 * count * new / total
        mean += (batch_mean - mean) * new / total
        self._running[component] = total, mean, squares
        return rewards.new_tensor(mean), rewards.new_tensor((squares / total) ** 0.5)
