"""What is sampled, and that each way of computing its log-probabilities says the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import stir_adapter
from torch import Tensor
from transformers import AutoModelForCausalLM

from expctr.data.batches import Nouns, SampleText
from expctr.llm import rollout as module
from expctr.llm.kv_cache import keys_and_values
from expctr.llm.loading import LLMOptions
from expctr.llm.logprobs import score_responses
from expctr.llm.lora import LoraLinear
from expctr.llm.model import LanguageModel
from expctr.llm.prefill import pad_left
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.rollout import Rollout, RolloutOptions, draw_noise, generate, sample_tokens

OPTIONS = RolloutOptions(max_new_tokens=12)


def load(folder: Path, scope: str, **more: Any) -> LanguageModel:
    options = LLMOptions(path=str(folder), dtype="float32", lora_r=4, adapter_scope=scope, **more)
    model = LanguageModel.load(options)
    stir_adapter(model)
    return model


def sample(model: LanguageModel, texts: list[SampleText], options: RolloutOptions = OPTIONS) -> Rollout:
    prompts = Prompts(model.tokenizer, PromptOptions(), Nouns()).explanation(texts)
    return generate(model, prompts, options, draw_noise(3, 0, range(len(texts)), 1, options.max_new_tokens))


def plain_logprobs(model: LanguageModel, rollout: Rollout, row: int, adapter_from: int | None) -> Tensor:
    """One row alone, no padding, no cache; the adapter acts from position `adapter_from` (None: never)."""
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
    response = rollout.response_ids[row][rollout.response_mask[row]]
    ids = torch.cat([prompt, response])[None]
    handles = []
    if adapter_from:
        # at earlier positions, hooks put what the layer says without its adapter
        def mute(module: LoraLinear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            return torch.cat([module.base_layer(inputs[0][:, :adapter_from]), output[:, adapter_from:]], 1)

        handles = [m.register_forward_hook(mute) for m in model.modules() if isinstance(m, LoraLinear)]
    with torch.no_grad(), model.adapter(adapter_from is not None):
        logits = model.causal(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    for handle in handles:
        handle.remove()
    return logits.log_softmax(-1).gather(1, response[:, None])[:, 0]


@pytest.mark.parametrize("attention", ["grouped", "sdpa", "eager"])
@pytest.mark.parametrize("scope", ["all", "response"])
def test_logprobs_equal_a_plain_forward_with_the_same_adapter_mask(
    any_llm_folder: Path, samples: list[SampleText], scope: str, attention: str
) -> None:
    model = load(any_llm_folder, scope, attention=attention)
    rollout = sample(model, samples)
    policy = score_responses(model, rollout, adapter=True, temperature=1.0).logprobs
    for row in range(len(samples)):
        start = int(rollout.prompt_mask[row].sum()) - 1 if scope == "response" else 0
        mask = rollout.response_mask[row]
        expected = plain_logprobs(model, rollout, row, adapter_from=start)
        torch.testing.assert_close(policy[row][mask], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rollout.logprobs[row][mask], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scope", ["all", "response"])
def test_reference_is_the_base_model_as_it_is_on_disk(llm_folder: Path, samples: list[SampleText], scope: str) -> None:
    model = load(llm_folder, scope)
    rollout = sample(model, samples)
    reference = score_responses(model, rollout, adapter=False, temperature=1.0).logprobs
    base = AutoModelForCausalLM.from_pretrained(llm_folder)
    for row in range(len(samples)):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        response = rollout.response_ids[row][rollout.response_mask[row]]
        logits = base(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
        torch.testing.assert_close(reference[row][rollout.response_mask[row]], expected, atol=1e-5, rtol=0)


def test_a_row_is_sampled_alike_in_any_company(llm_folder: Path, samples: list[SampleText]) -> None:
    model = load(llm_folder, "response")
    together = sample(model, samples)
    alone = sample(model, samples[:1])
    mask = alone.response_mask[0]
    assert torch.equal(together.response_ids[0, : len(mask)][mask], alone.response_ids[0][mask])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("scope", ["all", "response"])
def test_prompts_of_an_earlier_rollout_are_not_computed_again_where_the_base_computes_them(
    llm_folder: Path, samples: list[SampleText], scope: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    model = load(llm_folder, scope, compile_decoding=compiled)
    prompts = Prompts(model.tokenizer, PromptOptions(), Nouns()).explanation(samples)
    untrained, expected = (generate(model, prompts, OPTIONS, adapter=adapter) for adapter in (False, True))
    assert not torch.equal(untrained.response_ids, expected.response_ids)

    calls = []
    real = module.prefill

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(module, "prefill", counted)
    found = generate(model, prompts, OPTIONS, earlier=untrained)
    assert len(calls) == (scope == "all")
    again = generate(model, prompts, OPTIONS, adapter=False, earlier=found)  # what the other decoded is not in its way
    for one, other in ((found, expected), (again, untrained)):
        for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "logprobs", "truncated"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        if one.cache is not None and other.cache is not None:
            for ours, theirs in zip(keys_and_values(one.cache), keys_and_values(other.cache), strict=True):
                torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    places = [[keys.data_ptr() for keys, _ in keys_and_values(x.cache)] for x in (untrained, found, again) if x.cache]
    assert len(places) == (3 if scope == "response" else 0)
    assert places[1:] == places[:-1], "no second copy of the prompts' keys and values"


def test_noise_depends_on_seed_epoch_sample_and_repeat_only() -> None:
    noise = draw_noise(1, 2, [5, 9], 2, 4)
    assert torch.equal(draw_noise(1, 2, [9], 2, 4), noise[2:])
    others = [draw_noise(0, 2, [5], 1, 4), draw_noise(1, 3, [5], 1, 4), draw_noise(1, 2, [6], 1, 4), noise[1:2]]
    assert all(not torch.equal(noise[:1], other) for other in others)


def test_sampling_follows_the_model(model: LanguageModel) -> None:
    """Over many draws, the first token's frequencies are the model's probabilities."""
    prompt = model.tokenizer("The liked").input_ids
    count = 4000
    options = RolloutOptions(max_new_tokens=1, temperature=2.0)
    rollout = generate(model, [prompt] * count, options, draw_noise(0, 0, range(count), 1, 1))
    logits = model.logits(model.hidden(torch.tensor([prompt]), torch.ones(1, len(prompt)), adapter=True))[0, -1]
    expected = (logits / 2.0).softmax(-1)
    observed = rollout.response_ids[:, 0].bincount(minlength=len(expected)) / count
    assert (observed - expected).abs().max() < 4 * (0.25 / count) ** 0.5


def test_a_uniform_number_picks_the_token_whose_share_of_the_weights_it_falls_in() -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0]).expand(6, 5)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(weights, uniform).tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("vocabulary", [100, 256, 300])
def test_a_row_of_nan_gives_some_token_so_that_later_checks_can_name_it(vocabulary: int) -> None:
    picked = sample_tokens(
        torch.full((3, vocabulary), torch.nan), torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    )
    assert ((picked >= 0) & (picked < vocabulary)).all()


@pytest.mark.parametrize("vocabulary", [255, 256, 257, 1000])
@pytest.mark.parametrize("by_column", [False, True])
def test_it_does_so_in_any_block_and_never_picks_a_token_of_no_weight(vocabulary: int, by_column: bool) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    weights = torch.rand(400, vocabulary, generator=generator)
    weights *= torch.rand(400, vocabulary, generator=generator) < torch.linspace(0.01, 1, 400)[:, None]
    weights[torch.arange(400), torch.randint(vocabulary, (400,), generator=generator)] += 0.1
    uniform = torch.rand(400, generator=generator, dtype=torch.float64)
    uniform[:40], uniform[40:80] = 0, 1 - 2**-53
    picked = sample_tokens(weights.t().contiguous().t() if by_column else weights, uniform)
    place, row = picked[:, None], weights.double()
    assert (row.gather(1, place) > 0).all()
    target, upto = uniform * row.sum(1), row.cumsum(1).gather(1, place)[:, 0]
    slack = 1e-6 * row.sum(1)
    assert (target < upto + slack).all()
    assert (target > upto - row.gather(1, place)[:, 0] - slack).all()


def test_masks_come_from_lengths(any_llm_folder: Path, samples: list[SampleText]) -> None:
    model = load(any_llm_folder, "response")
    rollout = sample(model, samples * 8, RolloutOptions(max_new_tokens=40, temperature=3.0))
    eos = model.eos_ids[0]
    for ids, mask, cut in zip(rollout.response_ids, rollout.response_mask, rollout.truncated, strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert eos not in ids[: length - 1]
        assert (ids[length - 1] == eos) == (not cut)
        assert not cut or length == 40
    assert 0 < int(rollout.truncated.sum()) < len(rollout)


def test_left_padding_keeps_the_pad_token_where_it_is_also_content() -> None:
    ids, mask = pad_left([[7, 7, 1], [7]], 7, torch.device("cpu"))
    assert ids.tolist() == [[7, 7, 1], [7, 7, 7]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        RolloutOptions(temperature=0)
    with pytest.raises(ValueError, match="at least 1"):
        RolloutOptions(max_new_tokens=0)


@pytest.mark.parametrize("scope", ["all", "response"])
@pytest.mark.parametrize("attention", ["grouped", "sdpa"])
def test_responses_to_a_shared_prompt_are_those_to_copies_of_it(
    llm_folder: Path, samples: list[SampleText], attention: Any, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a second rollout that reuses the first one's prompts, which are computed once."""
    model = load(llm_folder, scope, attention=attention)
    prompts = Prompts(model.tokenizer, PromptOptions(), Nouns()).explanation(samples)
    noise = draw_noise(0, 0, range(len(samples)), 3, OPTIONS.max_new_tokens)
    copies = [prompt for prompt in prompts for _ in range(3)]
    shared = generate(model, prompts, OPTIONS, noise, adapter=False, responses=3)
    assert len({*map(tuple, shared.response_ids.tolist())}) > len(samples)
    if scope == "response":
        monkeypatch.setattr(module, "prefill", None)
    again = generate(model, prompts, OPTIONS, noise, earlier=shared, responses=3)
    monkeypatch.undo()
    for found, adapter in ((shared, False), (again, True)):
        expected = generate(model, copies, OPTIONS, noise, adapter=adapter)
        for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "truncated"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-4, rtol=1e-4)
