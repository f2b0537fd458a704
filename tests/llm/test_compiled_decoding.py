"""Compiled decoding samples the same tokens as uncompiled decoding, and compiles once per shape."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import stir_adapter
from torch import Tensor
from transformers import DynamicCache

from expctr.data.batches import Nouns, SampleText
from expctr.data.cache import cache_folder
from expctr.llm.compiled_decoding import StaticCaches, compile_step
from expctr.llm.kv_cache import keys_and_values, make_cache
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.probe import load_model, probe
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.rollout import RolloutOptions, draw_noise, generate
from tools.architectures import tiny_model

OPTIONS = RolloutOptions(max_new_tokens=12)


def load(folder: Path, scope: str, **more: Any) -> LanguageModel:
    options = LLMOptions(path=str(folder), dtype="float32", lora_r=4, adapter_scope=scope, **more)
    model = load_model(options)
    stir_adapter(model)
    return model


@pytest.mark.slow  # it imports the compiler
def test_compiled_code_is_kept_in_a_folder_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone could put pickles into torch's default, in the shared /tmp, before this user compiles."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is restored
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compile_step(lambda: None, torch.device("cpu"))
    folder = cache_folder()
    assert folder is not None
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == folder / "compiled"


@pytest.mark.parametrize(
    ("options", "decoding"),
    [
        ({"compile_decoding": True}, "grouped"),  # sdpa would copy keys for each head that shares them
        ({}, None),
    ],
)
def test_compiled_decoding_reads_shared_keys_once(
    llm_folder: Path, options: dict[str, Any], decoding: str | None
) -> None:
    model = load(llm_folder, "all", attention="sdpa", **options)
    assert (model.attention, model.decoding_attention) == ("sdpa", decoding)


def test_a_base_that_grouped_attention_does_not_support_decodes_as_it_prefills() -> None:
    model = tiny_model("gemma2")  # caps its attention scores
    model.options = replace(model.options, compile_decoding=True)
    probe(model)
    assert (model.attention, model.decoding_attention) == ("eager", None)


def prompt_cache(rows: int, positions: int, value: float) -> DynamicCache:
    keys = torch.full((rows, 2, positions, 4), value)
    return make_cache(iter([(keys, keys + 1), (keys + 2, keys + 3)]))


def places(cache: Any) -> list[int]:
    return [tensor.data_ptr() for layer in cache.layers for tensor in (layer.keys, layer.values)]


def test_caches_of_all_sizes_are_in_the_storage_of_the_largest() -> None:
    """A CUDA graph is bound to their addresses, which change only where more rows or positions come."""
    caches = StaticCaches()
    first = caches.fill(prompt_cache(3, 8, 0.0), 5)
    large = caches.fill(prompt_cache(4, 16, 10.0), 9)
    assert set(places(large)).isdisjoint(places(first))
    small = caches.fill(prompt_cache(3, 8, 20.0), 5)
    assert places(small) == places(large)
    assert caches.fill(prompt_cache(4, 16, 30.0), 9) is large
    assert caches.fill(prompt_cache(3, 8, 40.0), 6) is small
    for number, layer in enumerate(small.layers):
        assert (layer.keys == 40 + 2 * number).all()
        assert (layer.values == 41 + 2 * number).all()
        assert (layer.keys.shape, layer.get_seq_length()) == ((3, 2, 8, 4), 6)


def test_a_test_leaves_caches_that_training_can_write_to(
    llm_folder: Path, samples: list[SampleText], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning tests and predicts in inference mode, and caches are kept."""
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    model = load(llm_folder, "all", compile_decoding=True)
    prompts = Prompts(model.tokenizer, PromptOptions(), Nouns()).explanation(samples)
    with torch.inference_mode():
        tested = generate(model, prompts, OPTIONS)
    with torch.no_grad():
        trained = generate(model, prompts, OPTIONS)
    assert torch.equal(tested.response_ids, trained.response_ids)


@pytest.mark.cli  # to capture a graph takes seconds
@pytest.mark.slow
@pytest.mark.parametrize(("scope", "attention"), [("all", "auto"), ("response", "auto"), ("response", "sdpa")])
def test_compiled_decoding_writes_the_same(
    llm_folder: Path, samples: list[SampleText], scope: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []
    capture = torch.compile

    def counted(step: Any, **_: Any) -> Any:  # the same capture; the code of each kernel would take minutes
        return capture(step, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)

    monkeypatch.setattr(torch, "compile", counted)
    plain, compiled = (load(llm_folder, scope, attention=attention, compile_decoding=on) for on in (False, True))
    prompts = Prompts(plain.tokenizer, PromptOptions(), Nouns()).explanation(samples)
    options = RolloutOptions(max_new_tokens=40, temperature=3.0)
    cut: list[Tensor] = []
    for some, adapter in ((prompts * 8, True), (prompts[:3], True), (prompts * 2, True), (prompts, False)):
        noise = draw_noise(3, 0, range(len(some)), 1, 40)
        one, other = (generate(model, some, options, noise, adapter) for model in (plain, compiled))
        cut.append(one.truncated)
        for name in ("prompt_ids", "response_ids", "response_mask", "truncated"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=1e-5)
        if one.cache is not None and other.cache is not None:
            for (keys, values), theirs in zip(keys_and_values(one.cache), keys_and_values(other.cache), strict=True):
                torch.testing.assert_close((keys, values), theirs)
    assert 0 < int(torch.cat(cut).sum()) < len(torch.cat(cut))  # rows that have ended stay, and write nothing
    again = generate(compiled, prompts, options, noise, False)  # of the last size
    assert torch.equal(again.response_ids, one.response_ids)
    assert len(graphs) == 4, "one for each number of rows and the adapter on or off, whatever the step"
