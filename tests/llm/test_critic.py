"""The critic's initial values."""

import torch

from expctr.llm.critic import ValueHead


def test_the_critic_begins_at_0_and_reads_any_dtype() -> None:
    head = ValueHead(32)
    values = head(torch.randn(2, 3, 32, dtype=torch.bfloat16))
    assert values.shape == (2, 3)
    assert values.dtype == torch.float32
    assert not values.any()


def test_a_critic_without_the_label_has_the_weights_that_it_always_had() -> None:
    plain, reading = ValueHead(8, seed=3), ValueHead(8, seed=3, reads_label=True)
    assert set(reading.state_dict()) - set(plain.state_dict()) == {"label.weight"}
    assert all(torch.equal(weight, reading.state_dict()[name]) for name, weight in plain.state_dict().items())


def test_only_a_critic_that_reads_the_label_depends_on_it() -> None:
    hidden, labels = torch.randn(1, 2, 8).expand(2, 2, 8), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    for reads in (False, True):
        head = ValueHead(8, reads_label=reads)
        torch.nn.init.normal_(head.layers[-1].weight)
        disliked, liked = head(hidden, labels)
        assert torch.equal(disliked, liked) is not reads
