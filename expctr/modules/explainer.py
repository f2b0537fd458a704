"""The explainer: the policy as a LightningModule, which trains the LC stage alone, or is a part of ExpCTR."""

from expctr.llm.loading import LLMOptions
from expctr.llm.prompts import PromptOptions
from expctr.llm.rollout import RolloutOptions
from expctr.llm.sharding.fsdp import shard
from expctr.llm.yes_no import LCOptions
from expctr.modules.staged import StagedModule
from expctr.rl.options import EvaluationOptions, KLOptions, PPOOptions, RewardOptions
from expctr.rl.policy import Policy
from expctr.rl.rewards import LCAlignment
from expctr.stages.models import Models
from expctr.stages.plan import make_plan

_ENDLESS = 1000
"""Epochs of a plan where the trainer sets no limit."""


class PPOExplainerModule(Policy, StagedModule):
    """A language model that writes one sentence on a user's choice, and improves it by PPO (paper 4.1, 4.2).

    Alone, `Trainer(max_epochs=2).fit(PPOExplainerModule(), data)` trains the LC stage for two epochs. As a part of
    `ExpCTRModule`, its hooks are never called.

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

    kinds = ("lc",)

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
        super().__init__(llm, prompts, rollout, lc, reward, kl, ppo, evaluation)
        self.models = Models(self)

    def setup(self, stage: str) -> None:
        """Without a `StageScheduler`, train the LC stage for the trainer's epochs, with the LC reward."""
        if not self.scheduled:
            epochs = self.trainer.max_epochs or 0
            self.set_plan(make_plan(epochs if epochs > 0 else _ENDLESS, 0, 0, 0), {"lc": [LCAlignment()]})
        super().setup(stage)

    def build_models(self) -> None:
        """Load the base."""
        mesh = self.device_mesh["data_parallel"] if self.device_mesh is not None else None
        self.build(self.data.nouns, self.data.seed, mesh, self.trainer.strategy.root_device)
        if mesh is not None:
            shard(self.model, self.value_head, mesh)
