"""How explanations are sampled outside of training."""

import pytest
import torch

from expctr.data.batches import SampleText
from expctr.errors import UserError
from expctr.rl.options import EvaluationOptions
from expctr.rl.policy import Policy


def test_evaluation_noise_is_of_the_seed_and_the_target() -> None:
    """So that a row is explained alike in any table, and with another history on the same noise."""
    policy, rows = Policy(), [SampleText("Heat", ("Fargo",)), SampleText("Alien"), SampleText("Heat")]
    assert policy.evaluation_noise(0, rows, 1) is None
    noise = policy.evaluation_noise(0, rows, 3)
    assert noise is not None
    heat, alien, again = noise.unflatten(0, (3, 3))
    assert noise.shape == (9, policy.rollout_options.max_new_tokens)
    assert torch.equal(heat, again)
    assert len(torch.cat([heat, alien]).unique()) == 2 * heat.numel()
    other = policy.evaluation_noise(1, rows, 3)
    assert other is not None
    assert not torch.equal(noise, other)


def test_no_explanations_are_refused() -> None:
    with pytest.raises(UserError, match=r"evaluation\.samples"):
        EvaluationOptions(samples=0)
