"""The policy: a language model that writes explanations, and what it needs to learn from rewards."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from expctr.data.batches import Nouns, SampleText
from expctr.llm.critic import ValueHead
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.probe import check_prompts, load_model
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.rollout import Rollout, RolloutOptions, decode_texts, draw_noise, generate
from expctr.llm.yes_no import DirectQuestion, LCOptions, LCScorer
from expctr.rl.normalise import Normaliser
from expctr.rl.options import EvaluationOptions, KLOptions, PPOOptions, RewardOptions
from expctr.rl.update import PPOUpdate
from expctr.seeding import seed_of
from expctr.stopwatch import Stopwatch


class Policy(nn.Module):
    """A language model that writes one sentence on a user's choice (paper 4.1), and its optimisation by PPO (4.2).

    Args:
        llm: the base and its adapter.
        prompts: templates and caps.
        rollout: how explanations are sampled.
        lc: how the frozen base scores them (Eq. 8).
        reward: how rewards are normalised (Eq. 10).
        kl: the penalty for leaving the base (Eq. 7).
        ppo: the optimisation.
        evaluation: how many explanations per row are written outside of training.
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
        evaluation: EvaluationOptions = EvaluationOptions(),
    ) -> None:
        super().__init__()
        self.llm, self.prompt_options, self.rollout_options = llm, prompts, rollout
        self.lc, self.reward, self.kl, self.ppo, self.evaluation = lc, reward, kl, ppo, evaluation
        needs_groups = [
            name for name, used in (("reward.norm", reward.norm), ("ppo.advantage", ppo.advantage)) if used == "group"
        ]
        if needs_groups and rollout.group_size == 1:
            raise ValueError(f"{' and '.join(needs_groups)}: group needs rollout.group_size of at least 2")
        self.built = False
        self.normaliser = Normaliser(reward, rollout, ppo)

    def build(
        self, nouns: Nouns, seed: int = 0, mesh: DeviceMesh | None = None, device: torch.device | None = None
    ) -> None:
        """Load the base; does nothing the second time.

        Args:
            nouns: what the dataset's items and people are called.
            seed: of the first weights of adapter and critic.
            mesh: the ranks that `shard` will distribute it over.
            device: where it will compute; see `load_base`.
        """
        if self.built:
            return
        self.model = load_model(self.llm, seed, mesh, device)
        self.value_head = ValueHead(self.model.hidden_size, seed=seed, reads_label=self.ppo.critic_label)
        self.prompts = Prompts(self.model.tokenizer, self.prompt_options, nouns)
        tokens = self.prompts.longest(self.lc.include_title) + self.rollout_options.max_new_tokens
        check_prompts(self.model, self.prompts, tokens, "prompts.prompt_tokens and rollout.max_new_tokens")
        self.lc_scorer = LCScorer(self.model, self.prompts, self.lc)
        self.direct = DirectQuestion(self.model, self.prompts, self.lc)
        self.update = PPOUpdate(self.model, self.value_head, self.ppo, self.kl, self.rollout_options, self.reward.delta)
        self.built = True

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW with the betas and epsilon that the field uses for PPO on language models; one group of parameters for
        the adapter, and one for the critic.
        """
        adapter: dict[str, Any] = {"params": [p for p in self.model.parameters() if p.requires_grad]}
        critic: dict[str, Any] = {"params": list(self.value_head.parameters()), "lr": self.ppo.critic_lr}
        return torch.optim.AdamW([adapter, critic], lr=self.ppo.lr, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)

    def steps(self, prompts: int) -> int:
        """Optimizer steps per rollout batch of so many prompts over all ranks."""
        rows = prompts * self.rollout_options.group_size
        return self.ppo.epochs * -(-rows // self.ppo.minibatch_size)

    def explain(
        self,
        samples: Sequence[SampleText],
        noise: Tensor | None = None,
        adapter: bool = True,
        watch: Stopwatch | None = None,
        earlier: Rollout | None = None,
        share: bool = False,
    ) -> tuple[Rollout, list[str]]:
        """Explanations of samples: greedy, or sampled with the given noise (`draw_noise`).

        Args:
            samples: titles of each row.
            noise: `[rows * responses per row, max_new_tokens]`; the responses to a row are next to each other.
            adapter: the policy, or the untrained base.
            watch: measures the seconds of each part.
            earlier: other explanations of the same rows; see `generate`.
            share: hold each prompt once for all its responses, which is faster; nothing is learnt from the rollout.
        """
        prompts = self.prompts.explanation(samples)
        responses = 1 if noise is None else len(noise) // len(samples)
        if not share:
            prompts, responses = [prompt for prompt in prompts for _ in range(responses)], 1
        rollout = generate(self.model, prompts, self.rollout_options, noise, adapter, watch, earlier, responses)
        return rollout, decode_texts(self.model, rollout)

    def noise(self, seed: int, epoch: int, batch: int, samples: Sequence[int], repeats: int | None = None) -> Tensor:
        """The sampling noise of a batch's samples, for `repeats` responses each (default `group_size`)."""
        options = self.rollout_options
        return draw_noise(seed, epoch, samples, repeats or options.group_size, options.max_new_tokens, batch)

    def evaluation_noise(self, seed: int, samples: Sequence[SampleText], count: int) -> Tensor | None:
        """The noise of `count` explanations per row outside of training; none for a single, greedy one.

        It depends on the seed and on the target's title alone. So a row gets the same explanations in test, predict and
        explain, whatever its number there, and a row whose history is changed is compared on the same noise.
        """
        if count == 1:
            return None
        return self.noise(seed, 0, 0, [seed_of(sample.target) for sample in samples], count)

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights, as plain values."""
        return {"beta": self.update.beta, "running": self.normaliser.state_dict(), "chat": self.prompts.chat_sample()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of `extra_state`. Checkpoints before 0.2 do not have `chat`.

        Raises:
            UserError: the chat template is not the run's.
        """
        if "chat" in state:
            self.prompts.check_same_chat(state["chat"])
        if self.kl.target is not None:  # otherwise the option says what beta is
            self.update.beta = state["beta"]
        self.normaliser.load_state_dict(state["running"])
