"""Options that contradict each other are refused by name, and the defaults are those that method.md states."""

from collections.abc import Callable
from typing import Any

import pytest

from expctr.ctr.click_model import CTROptions
from expctr.ctr.encoder import EncoderOptions
from expctr.data.datamodules import MovieLensDataModule
from expctr.evaluation.alarms import Alarms
from expctr.evaluation.result_writer import ResultWriter
from expctr.llm.loading import LLMOptions
from expctr.llm.prompts import PromptOptions
from expctr.llm.rollout import RolloutOptions
from expctr.llm.yes_no import LCOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.rl.options import KLOptions, PPOOptions, RewardOptions
from expctr.rl.rewards import ICAlignment, LCAlignment, LengthPenalty
from expctr.training.scheduler import StageScheduler


def test_the_defaults_are_the_papers_and_where_it_is_silent_the_fields() -> None:
    assert (RewardOptions().norm, RewardOptions().delta) == ("batch", 1.0)
    assert (LCAlignment().metric, ICAlignment().metric, ICAlignment().delta) == ("mae", "mae", "abs")
    scheduler = StageScheduler()
    assert [type(reward) for reward in scheduler.lc_rewards] == [LCAlignment]
    assert [type(reward) for reward in scheduler.ic_rewards] == [ICAlignment]
    assert {reward.weight for reward in scheduler.lc_rewards + scheduler.ic_rewards} == {1.0}
    assert {reward.baseline for reward in scheduler.lc_rewards + scheduler.ic_rewards} == {"batch"}
    kl, ppo = KLOptions(), PPOOptions()
    assert (kl.beta, kl.where, kl.estimator, kl.target) == (0.05, "reward", "k1", None)
    assert (ppo.lr, ppo.epochs, ppo.minibatch_size, ppo.advantage) == (1e-5, 2, 32, "gae")
    assert (ppo.gamma, ppo.lam, ppo.clip, ppo.value_clip) == (1.0, 1.0, 0.2, 0.2)
    assert (ppo.critic_lr, ppo.critic_label) == (1e-4, False)
    assert (ppo.vf_coef, ppo.entropy_coef, ppo.grad_clip, ppo.warmup, ppo.final_lr) == (0.1, 0.0, 1.0, 0.03, 1.0)
    assert (LCOptions().score, LCOptions().temperature, LCOptions().include_title) == ("prob", 1.0, False)
    assert (RolloutOptions().max_new_tokens, RolloutOptions().temperature, RolloutOptions().group_size) == (128, 1, 1)


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (RewardOptions, {"delta": 0}, "reward.delta is 0"),
        (LengthPenalty, {"baseline": "reference"}, r"rewards\.LengthPenalty\.baseline: this reward has no reference"),
        (PPOOptions, {"critic_label": True, "advantage": "batch"}, r"ppo\.critic_label needs a critic"),
        (KLOptions, {"where": "loss"}, "gradient that is zero on average"),
        (KLOptions, {"target": 0.0}, "kl.target"),
        (KLOptions, {"horizon": 0.0}, "kl.horizon"),
        (PPOOptions, {"epochs": 0}, "ppo.epochs and ppo.minibatch_size"),
        (PPOOptions, {"minibatch_size": 0}, "ppo.epochs and ppo.minibatch_size"),
        (PPOOptions, {"micro_batch_size": 0}, "ppo.micro_batch_size"),
    ],
)
def test_contradictions_are_refused_by_name(options: Callable[..., Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reward": RewardOptions(norm="group")}, "reward.norm: group needs"),
        ({"ppo": PPOOptions(advantage="group")}, "ppo.advantage: group needs"),
        (
            {"reward": RewardOptions(norm="group"), "ppo": PPOOptions(advantage="group")},
            "reward.norm and ppo.advantage: group needs rollout.group_size of at least 2",
        ),
    ],
)
def test_a_group_of_one_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOExplainerModule(**values)
    PPOExplainerModule(**values, rollout=RolloutOptions(group_size=2))


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (KLOptions, {"beta": -1}, r"kl\.beta must be at least 0, not -1"),
        (KLOptions, {"beta": 0, "target": 1.0}, r"kl\.target adapts kl\.beta by a factor"),
        (LCAlignment, {"weight": -0.5}, r"rewards\.LCAlignment\.weight must be at least 0, not -0\.5"),
        (LCAlignment, {"weight": float("inf")}, r"rewards\.LCAlignment\.weight must be finite"),
        (LengthPenalty, {"limit": -1}, r"rewards\.LengthPenalty\.limit must be at least 0, not -1"),
        (PPOOptions, {"lr": float("nan")}, r"ppo\.lr must be at least 0, not nan"),
        (PPOOptions, {"lam": 1.5}, r"ppo\.lam must be from 0 to 1, not 1\.5"),
        (PPOOptions, {"warmup": 3}, r"ppo\.warmup must be from 0 to 1, not 3"),
        (PPOOptions, {"final_lr": 1.5}, r"ppo\.final_lr must be from 0 to 1, not 1\.5"),
        (CTROptions, {"text_dropout": -1}, r"ctr\.options\.text_dropout must be from 0 to 1, not -1"),
        (CTROptions, {"crossfit": 0}, r"ctr\.options\.crossfit must be at least 1, not 0"),
        (CTROptions, {"patience": 0}, r"ctr\.options\.patience must be at least 1, not 0"),
        (LLMOptions, {"lora_r": 0}, r"llm\.lora_r must be at least 1, not 0"),
        (PromptOptions, {"title_tokens": 0}, r"prompts\.title_tokens must be at least 1, not 0"),
        (EncoderOptions, {"batch_size": 0}, r"encoder\.batch_size must be at least 1, not 0"),
        (ResultWriter, {"examples": -1}, r"results\.examples must be at least 0, not -1"),
        (Alarms, {"window": 0}, r"alarms\.window must be at least 1, not 0"),
        (Alarms, {"positive": 0.6}, r"alarms\.positive must be from 0 to 0\.5, not 0\.6"),
        (Alarms, {"length": 0.5}, r"alarms\.length must be at least 1, not 0\.5"),
        *[
            (
                MovieLensDataModule,
                {"path": "x", f"{kind}_batch_size": 0},
                rf"data\.{kind}_batch_size must be at least 1, not 0",
            )
            for kind in ("rollout", "ctr", "eval")
        ],
    ],
)
def test_a_number_out_of_range_is_refused_by_name(
    options: Callable[..., Any], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        options(**values)
