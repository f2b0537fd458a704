"""Prompts are computed once, in any company, with the head they share computed once a run."""

from pathlib import Path

import pytest
import torch
from conftest import stir_adapter
from torch import Tensor
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

from expctr.llm import prefill as module
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import common_head, contents, pad_left, parts, prefill

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [5, 6, 20, 21, 22, 23, 24], [5, 6, 7, 3]]


@pytest.fixture
def model(llm_folder: Path) -> LanguageModel:
    model = LanguageModel(LLMOptions(path=str(llm_folder), dtype="float32", lora_r=4))
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
def test_a_common_head_leaves_a_token_of_each_prompt(
    model: LanguageModel, prompts: list[list[int]], expected: int
) -> None:
    assert common_head(model, prompts) == expected


def test_padding_stands_after_the_head() -> None:
    ids, mask = pad_left([[7, 7, 1], [7]], 7, torch.device("cpu"), head=1)
    assert ids.tolist() == [[7, 7, 1], [7, 7, 7]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize("tokens", [1, 6, 1000])
@pytest.mark.parametrize("adapter", [True, False])
def test_states_keys_and_values_are_those_of_each_prompt_alone(
    model: LanguageModel, tokens: int, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS", (tokens, tokens))
    last = {row: part.last[i] for part in parts(model, PROMPTS, adapter) for i, row in enumerate(part.rows)}
    (_, mask), cache = prefill(model, PROMPTS, adapter, room=3)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        alone = model.hidden(ids, torch.ones_like(ids), adapter, DynamicCache())
        assert alone.cache is not None
        torch.testing.assert_close(last[row], alone.states[0, -1], atol=1e-5, rtol=0)
        for ours, plain in zip(contents(cache), contents(alone.cache), strict=True):
            for mine, theirs in zip(ours, plain, strict=True):
                torch.testing.assert_close(mine[row][:, mask[row, :-1]], theirs[0, :, :-1], atol=1e-5, rtol=1e-5)


def test_equal_prompts_and_the_heads_of_the_base_are_computed_once(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count_tokens(model, monkeypatch)
    prefill(model, PROMPTS, adapter=False)
    assert counted == [2, 3 * 4]  # the head, and three prompts without head and last token
    counted.clear()
    prefill(model, PROMPTS, adapter=False)
    assert counted == [3 * 4]
    counted.clear()
    prefill(model, PROMPTS, adapter=True)  # whose head changes as it learns
    prefill(model, PROMPTS, adapter=True)
    assert counted == [2, 3 * 4] * 2


def test_heads_are_not_kept_without_end(model: LanguageModel) -> None:
    for token in range(3 * module.MOST_HEADS):
        prefill(model, [[token, 1, 2], [token, 3, 4]], adapter=False)
    assert len(model.heads) == module.MOST_HEADS


def test_what_is_added_to_the_room_leaves_what_was_filled(model: LanguageModel) -> None:
    (_, mask), cache = prefill(model, PROMPTS, adapter=False, room=2)
    before = [(k.clone(), v.clone()) for k, v in contents(cache)]
    kept = list(contents(cache))
    with torch.no_grad():
        for number in (1, 2):
            seen = torch.cat([mask, torch.ones(len(PROMPTS), number - 1, dtype=torch.bool)], 1)
            model.hidden(torch.full((len(PROMPTS), 1), 9), seen, True, cache)
    torch.testing.assert_close(kept, before, atol=0, rtol=0)
    assert cache.get_seq_length() == mask.shape[1] + 1


def test_a_window_is_not_taken_up_by_padding(tmp_path: Path, llm_folder: Path) -> None:
    """A model that sees the last tokens only: padding between head and rest would push the head out of sight."""
    base = LanguageModel(LLMOptions(path=str(llm_folder), dtype="float32"))
    config = MistralConfig(**{**base.causal.config.to_dict(), "model_type": "mistral", "sliding_window": 16})
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    model = LanguageModel(LLMOptions(path=str(tmp_path), dtype="float32"))
    short, long = [5, 6, *range(20, 32)], [5, 6, *range(20, 56)]
    last = {row: part.last[i] for part in parts(model, [short, long], False) for i, row in enumerate(part.rows)}
    for row, prompt in enumerate((short, long)):
        ids = torch.tensor([prompt])
        alone = model.hidden(ids, torch.ones_like(ids), adapter=False).states[0, -1]
        torch.testing.assert_close(last[row], alone, atol=1e-5, rtol=1e-5)
