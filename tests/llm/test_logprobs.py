"""Log-probabilities of tokens, in chunks, and by a function with a gradient of its own."""

import pytest
import torch

from expctr.llm import logprobs as module
from expctr.llm.logprobs import token_logprobs
from expctr.llm.model import LanguageModel


def test_logits_in_parts_give_the_same_logprobs_entropy_and_gradient(model: LanguageModel) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, model.hidden_size, requires_grad=True)
    tokens = torch.randint(0, model.vocab_size, (3, 5))
    results = []
    for limit in (2**26, 4 * model.vocab_size):
        logprobs, entropy = token_logprobs(model, hidden, tokens, 1.3, with_entropy=True, max_logits=limit)
        (gradient,) = torch.autograd.grad((logprobs + entropy).sum(), hidden)
        results.append((logprobs, entropy, gradient))
    torch.testing.assert_close(*results)
    assert (results[0][1] > 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_picked_logprobs_and_entropies_are_torchs_with_their_gradient(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module._TokenLogprobs, "ROWS", 4)
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(10, 30, generator=generator)).requires_grad_()
    tokens = torch.randint(0, 30, (10,), generator=generator)
    weights = torch.randn(2, 10, generator=generator)
    logp = (logits / temperature).log_softmax(-1)
    plain = logp.gather(1, tokens[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    ours = module._TokenLogprobs.apply(logits, tokens, temperature, True)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((torch.stack(x) * weights).sum(), logits) for x in (ours, plain)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
