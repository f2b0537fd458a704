"""The critic's initial values."""

import torch

from expctr.llm.critic import ValueHead


def test_the_critic_begins_at_0_and_reads_any_dtype() -> None:
    head = ValueHead(32)
    values = head(torch.randn(2, 3, 32, dtype=torch.bfloat16))
    assert values.shape == (2, 3)
    assert values.dtype == torch.float32
    assert not values.any()
