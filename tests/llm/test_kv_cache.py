"""Caches share storage, and extending one leaves what was filled."""

from pathlib import Path

import pytest
import torch
from conftest import stir_adapter

from expctr.llm.kv_cache import keys_and_values
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import prefill

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [5, 6, 20, 21, 22, 23, 24], [5, 6, 7, 3]]


@pytest.fixture
def model(llm_folder: Path) -> LanguageModel:
    model = LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32", lora_r=4))
    stir_adapter(model)
    return model


def test_what_is_added_to_the_room_leaves_what_was_filled(model: LanguageModel) -> None:
    (_, mask), cache = prefill(model, PROMPTS, adapter=False, room=2)
    before = [(k.clone(), v.clone()) for k, v in keys_and_values(cache)]
    kept = list(keys_and_values(cache))
    with torch.no_grad():
        for number in (1, 2):
            seen = torch.cat([mask, torch.ones(len(PROMPTS), number - 1, dtype=torch.bool)], 1)
            model.hidden(torch.full((len(PROMPTS), 1), 9), seen, True, cache)
    torch.testing.assert_close(kept, before, atol=0, rtol=0)
    assert cache.get_seq_length() == mask.shape[1] + 1
