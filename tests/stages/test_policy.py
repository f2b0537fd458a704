"""Which baselines a policy stage refuses."""

import pytest

from expctr.errors import UserError
from expctr.llm.rollout import RolloutOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.rl.options import RewardOptions
from expctr.rl.rewards import LCAlignment
from expctr.stages.policy import PolicyStage


def test_other_responses_to_a_prompt_need_other_responses() -> None:
    reward = LCAlignment(baseline="prompt")
    pairs = PPOExplainerModule(rollout=RolloutOptions(group_size=2))
    PolicyStage(pairs, pairs.models, [reward])
    alone = PPOExplainerModule()
    with pytest.raises(
        UserError, match=r"rewards\.LCAlignment\.baseline: prompt .* Fix: set model\.explainer\.rollout\.group_size"
    ):
        PolicyStage(alone, alone.models, [LCAlignment(), reward])


@pytest.mark.parametrize("baseline", ["label", "reference", "prompt"])
def test_no_second_baseline_beside_the_norm_of_a_group(baseline: str) -> None:
    groups = PPOExplainerModule(rollout=RolloutOptions(group_size=2), reward=RewardOptions(norm="group"))
    PolicyStage(groups, groups.models, [LCAlignment()])
    with pytest.raises(UserError, match=r"no effect with model\.explainer\.reward\.norm: group"):
        PolicyStage(groups, groups.models, [LCAlignment(baseline=baseline)])
