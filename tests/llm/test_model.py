"""One base in several roles: its adapter on and off, positions, and checks."""

from pathlib import Path

import pytest
import torch
from conftest import stir_adapter
from plain_forward import TEXT, load, logits, plain_logits
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
)

from expctr.errors import UserError
from expctr.llm.architecture import decoder_layers
from expctr.llm.critic import ValueHead
from expctr.llm.loading import LLMOptions, load_tokenizer
from expctr.llm.model import LanguageModel


def test_a_folder_loads_and_says_what_it_says_in_transformers(any_llm_folder: Path) -> None:
    model = load(any_llm_folder)
    torch.testing.assert_close(logits(model), plain_logits(any_llm_folder), atol=1e-5, rtol=0)
    assert (model.hidden_size, model.vocab_size) == (32, len(model.tokenizer))
    assert [model.tokenizer.decode([token]) for token in model.eos_ids] == ["<|end|>"]


def test_a_fresh_adapter_is_the_identity_and_a_stirred_one_is_not(llm_folder: Path) -> None:
    model = load(llm_folder)
    base = logits(model)
    assert torch.equal(logits(model, adapter=True), base)
    stir_adapter(model)
    assert torch.equal(logits(model), base)
    assert not torch.allclose(logits(model, adapter=True), base, atol=1e-2)


def test_the_adapter_comes_back_on_after_an_error(llm_folder: Path) -> None:
    model = load(llm_folder)
    stir_adapter(model)
    before = logits(model, adapter=True)
    with pytest.raises(RuntimeError, match="stop"), model.adapter(on=False):
        raise RuntimeError("stop")
    assert torch.equal(logits(model, adapter=True), before)


def test_an_adapter_of_the_output_layer_is_refused(llm_folder: Path) -> None:
    """It would have a part in the reference and in the LC score."""
    with pytest.raises(UserError, match=r"llm\.lora_targets names the output layer"):
        load(llm_folder, lora_targets=["q_proj", "lm_head"])


def test_within_a_block_without_the_adapter_it_stays_off_and_keeps_its_gradients(llm_folder: Path) -> None:
    model = load(llm_folder)
    stir_adapter(model)
    off, on = logits(model), logits(model, adapter=True)
    with model.adapter(on=False):
        assert torch.equal(logits(model), off)  # a second such block, whose end does not turn it on
        assert torch.equal(logits(model, adapter=True), off)
        assert any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(logits(model, adapter=True), on)


def test_first_weights_follow_the_seed_and_leave_the_global_generator_alone(llm_folder: Path) -> None:
    def adapter(seed: int) -> Tensor:
        model = LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32", lora_r=4), seed)
        critic = torch.cat([p.flatten() for p in ValueHead(32, seed=seed).parameters()])
        return torch.cat([*(p.detach().flatten() for p in model.parameters() if p.requires_grad), critic])

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = adapter(0)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(adapter(0), one)
    assert not torch.equal(adapter(1), one)


def test_the_checksum_sees_one_changed_weight(llm_folder: Path) -> None:
    model = load(llm_folder)
    before = model.base_checksum()
    frozen = next(p for p in model.parameters() if not p.requires_grad)
    frozen.data.view(-1)[3] += 1e-3
    assert model.base_checksum() != before


def test_positions_come_from_the_mask(llm_folder: Path, tmp_path: Path) -> None:
    """On a GPT-2, whose positions are absolute: a Llama only sees their differences."""
    tokenizer = load_tokenizer(LLMOptions(path=str(llm_folder)))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, initializer_range=0.5, eos_token_id=3, bos_token_id=3
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load(tmp_path)
    torch.testing.assert_close(logits(model), plain_logits(tmp_path), atol=1e-4, rtol=0)
    ids = torch.tensor([model.tokenizer(TEXT).input_ids])
    padded = torch.cat([torch.full((1, 5), model.pad_id), ids], 1)
    mask = torch.cat([torch.zeros(1, 5), torch.ones_like(ids)], 1)
    states = model.hidden(padded, mask, adapter=False)[:, 5:]
    torch.testing.assert_close(model.logits(states), logits(model), atol=1e-4, rtol=0)


def test_packed_rows_have_the_states_and_gradients_of_padded_ones(
    llm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flash attention needs a GPU; by the same positions, sdpa keeps the rows of one long row apart, too."""
    model = load(llm_folder, attention="sdpa").double()  # the random base's gradients magnify rounding
    stir_adapter(model)
    ids = torch.randint(4, model.vocab_size, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]).bool()
    weights = torch.randn(13, model.hidden_size, generator=torch.Generator().manual_seed(2)).double()
    trained = [p for p in model.parameters() if p.requires_grad]
    widths = []
    model.causal.get_input_embeddings().register_forward_hook(lambda *found: widths.append(tuple(found[1][0].shape)))

    def states_and_gradients(mask_of_numbers: Tensor) -> list[Tensor]:
        states = model.hidden(ids, mask_of_numbers, adapter=True)[mask]
        return [states, *torch.autograd.grad((states * weights).sum(), trained)]

    padded = states_and_gradients(mask)
    monkeypatch.setattr(LanguageModel, "packs", True)
    for numbers in (mask, mask.long()):
        for one, other in zip(states_and_gradients(numbers), padded, strict=True):
            torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)
    assert widths == [(3, 7), (1, 13), (1, 13)], "13 tokens are not padding"


def test_flash_attention_is_told_where_packed_rows_end(llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would look for it in each layer, which waits for the GPU."""
    model = load(llm_folder, attention="sdpa")
    monkeypatch.setattr(LanguageModel, "packs", True)
    told = []
    for layer in decoder_layers(model.causal, ""):
        layer.self_attn.register_forward_pre_hook(lambda _, __, given: told.append(given), with_kwargs=True)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]])
    model.hidden(torch.full((3, 7), 5), mask, adapter=True)
    assert told
    for given in told:
        assert given["cu_seq_lens_q"].tolist() == given["cu_seq_lens_k"].tolist() == [0, 4, 11, 13]
        assert given["cu_seq_lens_q"].dtype == torch.int32, "the kernel reads nothing else"
        assert given["max_length_q"] == given["max_length_k"] == 7


@pytest.mark.parametrize(("attention", "packs"), [("sdpa", False), ("grouped", False), ("flash_attention_2", True)])
def test_only_flash_attention_packs(llm_folder: Path, attention: str, packs: bool) -> None:
    model = load(llm_folder)
    model.causal.config._attn_implementation = attention  # flash attention would not load here
    assert model.packs == packs
