"""Prompts are computed once, in any batch, and their common prefix once per run."""

from pathlib import Path

import pytest
import torch
from conftest import stir_adapter
from torch import Tensor
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

from expctr.llm import prefill as module
from expctr.llm.kv_cache import keys_and_values
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import common_prefix, pad_left, prefill, prefill_batches

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [5, 6, 20, 21, 22, 23, 24], [5, 6, 7, 3]]


@pytest.fixture
def model(llm_folder: Path) -> LanguageModel:
    model = LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32", lora_r=4))
    stir_adapter(model)
    return model


def count_tokens(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each forward pass, padding included."""
    counted: list[int] = []
    hidden = model.hidden

    def counting(ids: Tensor, *args: object, **kwargs: object) -> object:
        counted.append(ids.numel())
        return hidden(ids, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "hidden", counting)
    return counted


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [(PROMPTS, 2), ([[1, 2, 3]], 2), ([[1], [1, 2]], 0), ([[1, 2], [1, 2]], 1), ([[4, 5], [6, 5]], 0)],
)
def test_a_common_prefix_leaves_a_token_of_each_prompt(
    model: LanguageModel, prompts: list[list[int]], expected: int
) -> None:
    assert common_prefix(model, prompts) == expected


def test_padding_stands_after_the_prefix() -> None:
    ids, mask = pad_left([[7, 7, 1], [7]], 7, torch.device("cpu"), prefix=1)
    assert ids.tolist() == [[7, 7, 1], [7, 7, 7]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize("tokens", [1, 6, 1000])
@pytest.mark.parametrize("adapter", [True, False])
def test_states_keys_and_values_are_those_of_each_prompt_alone(
    model: LanguageModel, tokens: int, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_TOKENS", (tokens, tokens))
    last = {
        row: batch.last[i] for batch in prefill_batches(model, PROMPTS, adapter) for i, row in enumerate(batch.rows)
    }
    (_, mask), cache = prefill(model, PROMPTS, adapter, room=3)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        alone = DynamicCache()
        states = model.hidden(ids, torch.ones_like(ids), adapter, alone)
        torch.testing.assert_close(last[row], states[0, -1], atol=1e-5, rtol=0)
        for ours, plain in zip(keys_and_values(cache), keys_and_values(alone), strict=True):
            for mine, theirs in zip(ours, plain, strict=True):
                torch.testing.assert_close(mine[row][:, mask[row, :-1]], theirs[0, :, :-1], atol=1e-5, rtol=1e-5)


def test_equal_prompts_and_prefixes_of_the_base_are_computed_once(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count_tokens(model, monkeypatch)
    prefill(model, PROMPTS, adapter=False)
    assert counted == [2, 3 * 4]  # the prefix, and three prompts without prefix and last token
    counted.clear()
    prefill(model, PROMPTS, adapter=False)
    assert counted == [3 * 4]
    counted.clear()
    prefill(model, PROMPTS, adapter=True)  # whose keys and values change during training
    prefill(model, PROMPTS, adapter=True)
    assert counted == [2, 3 * 4] * 2


def test_the_number_of_kept_prefixes_is_bounded(model: LanguageModel) -> None:
    for token in range(3 * module.MAX_PREFIXES):
        prefill(model, [[token, 1, 2], [token, 3, 4]], adapter=False)
    assert len(model.prefix_caches) == module.MAX_PREFIXES


def test_a_window_is_not_taken_up_by_padding(tmp_path: Path, llm_folder: Path) -> None:
    """A model that sees the last tokens only: padding between prefix and rest would push the prefix out of sight."""
    base = LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32"))
    config = MistralConfig(**{**base.causal.config.to_dict(), "model_type": "mistral", "sliding_window": 16})
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    model = LanguageModel.load(LLMOptions(path=str(tmp_path), dtype="float32"))
    short, long = [5, 6, *range(20, 32)], [5, 6, *range(20, 56)]
    last = {
        row: batch.last[i] for batch in prefill_batches(model, [short, long], False) for i, row in enumerate(batch.rows)
    }
    for row, prompt in enumerate((short, long)):
        ids = torch.tensor([prompt])
        alone = model.hidden(ids, torch.ones_like(ids), adapter=False)[0, -1]
        torch.testing.assert_close(last[row], alone, atol=1e-5, rtol=1e-5)
