"""Gradient checkpointing changes what is kept, and nothing else."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import stir_adapter
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from expctr.data.batches import Nouns, SampleText
from expctr.errors import UserError
from expctr.llm.gradient_checkpointing import recompute_activations
from expctr.llm.kv_cache import keys_and_values
from expctr.llm.loading import LLMOptions, load_tokenizer
from expctr.llm.logprobs import score_responses
from expctr.llm.model import LanguageModel
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.rollout import Rollout, RolloutOptions, draw_noise, generate


def load(folder: Path, scope: str = "all", **options: Any) -> LanguageModel:
    model = LanguageModel.load(LLMOptions(path=str(folder), dtype="float32", lora_r=4, adapter_scope=scope, **options))
    stir_adapter(model)
    return model


def roll(model: LanguageModel, samples: list[SampleText]) -> Rollout:
    prompts = Prompts(model.tokenizer, PromptOptions(), Nouns()).explanation(samples)
    rollout = generate(model, prompts, RolloutOptions(max_new_tokens=8), draw_noise(3, 0, range(len(prompts)), 1, 8))
    return rollout.select(torch.arange(len(prompts)))


def learnt(model: LanguageModel, rollout: Rollout) -> list[Tensor]:
    """Log-probabilities, entropies, and a loss's gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    scores = score_responses(model, rollout, adapter=True, temperature=0.7, with_entropy=True)
    factors = torch.randn(scores.logprobs.shape, generator=torch.Generator().manual_seed(0))
    loss = ((scores.logprobs * factors + 0.1 * scores.entropy) * rollout.response_mask).sum()
    return [scores.logprobs, scores.entropy, *torch.autograd.grad(loss, parameters)]


def learnt_twice(model: LanguageModel, rollout: Rollout) -> list[Tensor]:
    with recompute_activations(model):
        return learnt(model, rollout)


@pytest.fixture(scope="module")
def gpt2_folder(llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers take the cache by position, and its dropout is on in training mode."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = load_tokenizer(LLMOptions(path=str(llm_folder)))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, initializer_range=0.3, eos_token_id=3, bos_token_id=3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("scope", ["all", "response"])
@pytest.mark.parametrize("base", ["llama", "gpt2", "nf4", pytest.param("int8", marks=pytest.mark.int8)])
def test_losses_and_gradients_are_the_same(
    base: str, scope: str, llm_folder: Path, gpt2_folder: Path, samples: list[SampleText]
) -> None:
    options = {"quantization": base} if base in ("nf4", "int8") else {}
    model = load(gpt2_folder if base == "gpt2" else llm_folder, scope, **options)
    rollout = roll(model, samples)
    expected = learnt(model, rollout)
    assert any(gradient.abs().max() > 1e-2 for gradient in expected[2:])
    for mine, plain in zip(learnt_twice(model, rollout), expected, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-5)


def kept(model: LanguageModel, rollout: Rollout, again: bool) -> int:
    """Bytes that the forward pass keeps for the backward one, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, tuple[Tensor, int]] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = x, storage.nbytes()  # the tensor too, or its place is given to another
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        if again:
            with recompute_activations(model):
                score_responses(model, rollout, adapter=True, temperature=1.0)
        else:
            score_responses(model, rollout, adapter=True, temperature=1.0)
    return sum(size for _, size in sizes.values())


@pytest.mark.parametrize("scope", ["all", "response"])
def test_a_layer_keeps_its_input_only(scope: str, llm_folder: Path, samples: list[SampleText], tmp_path: Path) -> None:
    config, found = LlamaConfig.from_pretrained(llm_folder), {}
    for layers in (2, 5):
        config.num_hidden_layers = layers
        LlamaForCausalLM(config).save_pretrained(tmp_path)
        load_tokenizer(LLMOptions(path=str(llm_folder))).save_pretrained(tmp_path)
        model = load(tmp_path, scope)
        rollout = roll(model, samples)
        found[layers] = [kept(model, rollout, again) for again in (False, True)]
    width = rollout.response_ids.shape[1]
    tokens = len(samples) * (width if scope == "response" else rollout.prompt_ids.shape[1] + width - 1)
    plain, again = (more - less for more, less in zip(found[5], found[2], strict=True))
    assert again == 3 * tokens * 32 * 4  # three layers' inputs, 32 wide, float32
    assert plain > 20 * again


def test_afterwards_all_is_as_before(llm_folder: Path, samples: list[SampleText]) -> None:
    model = load(llm_folder, "response")
    rollout = roll(model, samples)
    assert rollout.cache is not None
    before = [keys.clone() for keys, _ in keys_and_values(rollout.cache)]
    learnt_twice(model, rollout)
    assert all(map(torch.equal, before, (keys for keys, _ in keys_and_values(rollout.cache))))
    ids, cache = torch.tensor([[5, 6, 7]]), DynamicCache()
    model.hidden(ids, torch.ones_like(ids), adapter=True, cache=cache)
    assert cache.get_seq_length() == 3
    assert kept(model, rollout, again=False) > 2 * kept(model, rollout, again=True)


def test_a_base_that_cannot_do_it_is_named() -> None:
    model = cast(LanguageModel, SimpleNamespace(causal=nn.Linear(2, 2)))
    with (
        pytest.raises(UserError, match=r"ppo\.gradient_checkpointing: Linear does not support it"),
        recompute_activations(model),
    ):
        pass
