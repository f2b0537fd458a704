"""Grouped attention against torch's own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import FalconConfig, FalconForCausalLM

from expctr.errors import UserError
from expctr.llm.cpu import attention
from expctr.llm.cpu.attention import grouped_attention
from expctr.llm.kv_cache import SharedPromptLayer
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel

NEW, SEEN, WIDTH = 5, 9, 8


def inputs(groups: int, batch: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value, and a causal mask in which each row has its own padding."""
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, 6, NEW, WIDTH), (batch, groups, SEEN, WIDTH), (batch, groups, SEEN, WIDTH)
    query, key, value = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    place = torch.arange(SEEN)
    seen = (place <= torch.arange(SEEN - NEW, SEEN)[:, None]) & (place >= torch.arange(batch)[:, None, None])
    return query, key, value, torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("scores", [1, 6 * NEW * SEEN * 2, 2**21])
def test_it_says_what_torch_says_and_has_its_gradient(
    groups: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MAX_SCORES", scores)
    query, key, value, mask = inputs(groups)
    ours, _ = grouped_attention(nn.Module(), query, key, value, mask)
    repeated = (x.repeat_interleave(6 // groups, 1) for x in (key, value))
    torchs = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=0)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((x * weights).sum(), (query, key, value)) for x in (ours, torchs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_bfloat16_stays_bfloat16_and_near_float32() -> None:
    whole = inputs(2)
    exact, _ = grouped_attention(nn.Module(), *whole)
    rough, _ = grouped_attention(nn.Module(), *(x.bfloat16() for x in whole))
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.03, rtol=0)


def test_what_it_does_not_do_it_refuses() -> None:
    with pytest.raises(UserError, match=r"grouped has no softcap. Fix: set it to auto"):
        grouped_attention(nn.Module(), *inputs(2), softcap=30.0)


def test_values_may_be_narrower_than_keys() -> None:
    query, key, value, mask = inputs(6)
    ours, _ = grouped_attention(nn.Module(), query, key, value[..., :3], mask)
    torchs = F.scaled_dot_product_attention(query, key, value[..., :3], attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=0)


def test_a_model_with_attention_of_its_own_keeps_it(tmp_path: Path, llm_folder: Path) -> None:
    tokenizer = LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32")).tokenizer
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.eos_token_id}
    FalconForCausalLM(FalconConfig(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    LanguageModel.load(LLMOptions(path=str(tmp_path), dtype="float32"))
    with pytest.raises(UserError, match=r"FalconForCausalLM has its own attention code\. Fix: set it to auto"):
        LanguageModel.load(LLMOptions(path=str(tmp_path), dtype="float32", attention="grouped"))


def test_responses_attend_to_a_shared_prompt_as_to_copies_of_it() -> None:
    """Also after some of them have ended, and a prompt without any was dropped."""
    generator = torch.Generator().manual_seed(0)
    prompt, own = (torch.randn(2, rows, 2, 3, WIDTH, generator=generator) for rows in (4, 12))
    query = torch.randn(12, 6, 1, WIDTH, generator=generator)
    mask = torch.zeros(12, 1, 1, 6)
    mask[3:6, :, :, :2] = -torch.inf  # padding of the second prompt
    layer, rows = SharedPromptLayer(*prompt, responses=3), torch.arange(12)
    for step, left in enumerate(([*range(12)], [0, 2, 4, 8, 11], [1, 2])):
        if step:
            layer.batch_select_indices(torch.tensor(left))
            rows = rows[left]
        keys, values = layer.update(*own[:, rows, :, step : step + 1])
        hidden = mask[rows].clone()
        hidden[..., 4 + step :] = -torch.inf  # free positions
        free = F.pad(hidden, (0, layer.get_mask_sizes(0)[0] - 6), value=-torch.inf)
        found, _ = grouped_attention(nn.Identity(), query[rows], keys, values, free)
        copies = torch.cat([prompt[:, rows // 3], own[:, rows]], 3)
        expected, _ = grouped_attention(nn.Identity(), query[rows], *copies, hidden)
        torch.testing.assert_close(found, expected)
        assert layer.get_seq_length() == 4 + step
    assert rows.tolist() == [2, 4]
    assert len(keys.prompt) == 2, "prompts without a response are dropped"
