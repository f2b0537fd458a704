"""Compiled decoder layers compute the same, and all layers share their graphs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import stir_adapter
from torch import Tensor

from expctr.errors import UserError
from expctr.llm.gradient_checkpointing import recompute_activations
from expctr.llm.loading import LLMOptions
from expctr.llm.logprobs import score_responses
from expctr.llm.model import LanguageModel
from expctr.llm.probe import load_model
from expctr.llm.rollout import Rollout, RolloutOptions, draw_noise, generate

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 9], [5, 8, 8, 7]]


@pytest.mark.slow  # it imports the compiler
@pytest.mark.parametrize("checkpointing", [False, True])
def test_scores_and_gradients_are_the_same(
    llm_folder: Path, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, capture = [], torch.compile

    def keep(graph: Any, inputs: Any) -> Any:  # the same capture; the code of each kernel would take minutes
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda step, **options: capture(step, **options, backend=keep))
    results = []
    for compiled in (False, True):
        model = load_model(LLMOptions(str(llm_folder), dtype="float32", lora_r=4, compile_layers=compiled))
        stir_adapter(model)
        rollout = generate(model, PROMPTS, RolloutOptions(max_new_tokens=9), draw_noise(1, 0, range(3), 1, 9))
        assert graphs == [], "decoding reads a cache"
        with torch.no_grad():
            reference = score_responses(model, rollout, False, 1.0).logprobs
        results.append([rollout.response_ids, reference, *gradients(model, rollout, checkpointing)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert model.causal.config.num_hidden_layers == 2
    assert len(graphs) == 3, "one of both layers for the reference; in training, the first one's input has no gradient"


def gradients(model: LanguageModel, rollout: Rollout, checkpointing: bool) -> list[Tensor]:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not checkpointing:
        return list(torch.autograd.grad(score_responses(model, rollout, True, 1.0).logprobs.sum(), trained))
    with recompute_activations(model):
        loss = score_responses(model, rollout, True, 1.0).logprobs.sum()
    return list(torch.autograd.grad(loss, trained))


def test_what_would_compile_nothing_is_refused(llm_folder: Path) -> None:
    with pytest.raises(UserError, match=r"llm\.compile_layers .* Fix: set llm\.compile_layers to false"):
        LLMOptions(str(llm_folder), adapter_scope="response", compile_layers=True)
