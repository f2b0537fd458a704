"""What can be loaded as the base: folders, GGUF files, and quantized weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from conftest import make_llm, stir_adapter
from llama_cpp_file import write_gguf
from peft import LoraConfig, get_peft_model
from plain_forward import TEXT, load, logits, plain_logits
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from expctr.data.batches import Nouns
from expctr.errors import UserError
from expctr.llm import loading
from expctr.llm.kv_cache import keys_and_values
from expctr.llm.loading import (
    LLMOptions,
    check_chat_template,
    check_finite,
    check_tokenizer,
    load_base,
    load_tokenizer,
    resolve_dtype,
)
from expctr.llm.model import LanguageModel
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.sharding.loading import load_complete

PT = {"format": "pt"}


@pytest.fixture(scope="module")
def gguf_folder(llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(llm_folder, folder / "tiny.gguf")
    return folder


def test_only_safetensors_are_read(llm_folder: Path, tmp_path: Path) -> None:
    """A pickle can run code; a folder that holds nothing else is refused."""
    folder = make_llm(tmp_path / "pickled")
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"llm.path: .* cannot be loaded: .*safetensors"):
        load(folder)


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """Weights that were cut short, no tokenizer, and a padding token that was added without an embedding."""
    cut, bare, padded = (make_llm(tmp_path / name) for name in ("cut", "bare", "padded"))
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    for file in bare.glob("*token*"):
        file.unlink()
    tokenizer = AutoTokenizer.from_pretrained(padded)
    tokenizer.add_tokens("movie")
    with pytest.raises(UserError, match=r"embeddings, and its added token 'movie' has the id \d+\. Fix: "):
        check_tokenizer(tokenizer, "base", tokenizer.vocab_size)
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    tokenizer.save_pretrained(padded)
    for folder, said in ((cut, "cut cannot be loaded: "), (bare, "bare cannot be loaded: "), (padded, "its padding")):
        with pytest.raises(UserError, match=rf"llm\.path: .*{said}.*Fix: "):
            load(folder)


NOUNS = Nouns("movie", "movies", "viewer", "viewing")
CONFIGS: dict[str, object] = {
    "a width as text": {"hidden_size": "32"},
    "heads that do not divide it": {"num_attention_heads": 5, "num_key_value_heads": 5},
    "no dtype": {"dtype": "float99"},
    "another width": {"intermediate_size": 60},
    "a list": [],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_config_is_one_line(tmp_path: Path, name: str) -> None:
    path = make_llm(tmp_path / "base") / "config.json"
    changes = CONFIGS[name]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes} if isinstance(changes, dict) else changes))
    with pytest.raises(UserError, match=r"^llm\.path: .* cannot be loaded: .*Fix: "):
        load(tmp_path / "base")


def test_weights_that_are_not_numbers_are_named_though_no_prompt_uses_them(tmp_path: Path) -> None:
    weights = load_file(make_llm(tmp_path / "base") / "model.safetensors")
    weights["model.embed_tokens.weight"][7] = torch.inf
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"NaN or infinite, in model\.embed_tokens\.weight\. Fix: "):
        load(tmp_path / "base")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_weights_of_any_float_are_checked(dtype: torch.dtype) -> None:
    """A base in 8-bit floats has such weights; torch cannot compare them."""
    base: Any = nn.Linear(2, 3)
    base.weight.requires_grad_(False)
    base.weight.data = base.weight.data.to(dtype)
    check_finite(base, "base")
    base.weight.data[1, 1] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite, in weight"):
        check_finite(base, "base")


def test_weights_that_the_config_leaves_out_are_counted(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = make_llm(tmp_path / "base") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 1}))
    load(tmp_path / "base")
    (said,) = (str(warning.message) for warning in recwarn if "does not use" in str(warning.message))
    assert "has 9 weights that LlamaForCausalLM does not use, such as model.layers.1." in said


def test_weights_that_the_files_lack_are_never_random(tmp_path: Path) -> None:
    """A weight of a layer, and the whole output layer of a model that classifies."""
    folder = make_llm(tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in sorted(weights) if "up_proj" in name)
    save_file({name: weight for name, weight in weights.items() if name != lost}, folder / "model.safetensors", PT)
    with pytest.raises(UserError, match=rf"llm\.path: .*lacks weights of LlamaForCausalLM: {lost} would be random"):
        load(folder)
    config = LlamaConfig.from_pretrained(make_llm(tmp_path / "judge"), tie_word_embeddings=False)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    with pytest.raises(UserError, match=r"judge lacks weights .*: lm_head\.weight would be random\. Fix: "):
        load(tmp_path / "judge")


def test_an_adapter_beside_the_base_is_refused(llm_folder: Path, tmp_path: Path) -> None:
    """An adapter's folder in place of a base, and a base's folder into which an adapter was saved."""
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(llm_folder), LoraConfig(target_modules=["q_proj"]))
    for folder in (tmp_path / "adapter", make_llm(tmp_path / "both")):
        adapted.save_pretrained(folder)
        AutoTokenizer.from_pretrained(llm_folder).save_pretrained(folder)
        with pytest.raises(UserError, match=rf"{folder.name} has a PEFT adapter .*Fix: .*merge_and_unload"):
            load(folder)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system') }}", "cannot be applied to a user's message: no system"),
        ("{% if %}", "cannot be applied to a user's message: Expected an expression"),
        (
            {"rag": "x", "tool_use": "y"},
            "cannot be applied to a user's message: This model has multiple chat templates",
        ),
        (
            "{% for part in messages[0].content %}{{ part.text }}{% endfor %}",
            "does not show the text of a user's message",
        ),
    ],
)
def test_a_chat_template_that_shows_no_message_is_refused(
    llm_folder: Path, template: str | dict[str, str], reason: str
) -> None:
    tokenizer = load_tokenizer(LLMOptions(str(llm_folder)))
    tokenizer.chat_template = template  # type: ignore[assignment]
    with pytest.raises(UserError, match=rf"llm\.path: the chat template of base {reason}.*\. Fix: correct it"):
        check_chat_template(tokenizer, "base")


def test_a_chat_template_that_needs_variables_is_loaded_and_asked_for_them(tmp_path: Path) -> None:
    folder = make_llm(tmp_path / "base")
    needs = "{% if not effort %}{{ raise_exception('no effort') }}{% endif %}{{ messages[0].content }} ({{ effort }})"
    (folder / "chat_template.jinja").write_text(needs)
    tokenizer = load(folder).tokenizer
    prompts = Prompts(tokenizer, PromptOptions(template_kwargs={"effort": "low"}), NOUNS)
    assert prompts.in_template("Hi") == "Hi (low)"
    with pytest.raises(UserError, match=r"cannot be filled in: no effort\. Fix: give its variables by prompts\.templ"):
        Prompts(tokenizer, PromptOptions(), NOUNS)
    tokenizer.chat_template = needs.replace("messages[0].content", "'Hi'")
    with pytest.raises(UserError, match=r"does not show the text of a user's message"):
        Prompts(tokenizer, PromptOptions(template_kwargs={"effort": "low"}), NOUNS)


def test_a_tokenizer_that_knows_more_tokens_than_the_base_is_refused(llm_folder: Path) -> None:
    tokenizer = load_tokenizer(LLMOptions(str(llm_folder)))
    rows = tokenizer.vocab_size
    tokenizer.add_tokens(["<image>"])  # as Gemma 3's, without an embedding; no prompt uses it
    check_tokenizer(tokenizer, "base", rows)
    with pytest.raises(UserError, match=f"has {rows - 1} embeddings, and its tokenizer {rows} tokens. Fix: give it"):
        check_tokenizer(tokenizer, "base", rows - 1)


def test_an_option_that_needs_another_package_says_so(llm_folder: Path) -> None:
    with pytest.raises(UserError, match=r"^llm\.attention: .*FlashAttention2.* Fix: set it to auto$"):
        LanguageModel.load(LLMOptions(str(llm_folder), attention="flash_attention_2"))


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(UserError, match=r"^llm\.path is empty; give a folder"):
        load_tokenizer(LLMOptions(""))


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "~/nowhere-at-all", "models/of/mine"])
def test_a_missing_folder_is_named(path: str) -> None:
    with pytest.raises(ValueError, match=r"llm\.path: there is no folder .*(nowhere|mine)"):
        LanguageModel.load(LLMOptions(path=path))


def test_a_gguf_file_says_what_the_folder_says(gguf_folder: Path, llm_folder: Path) -> None:
    model = load(gguf_folder, gguf_file="tiny.gguf")
    expected = load(llm_folder)
    assert model.tokenizer(TEXT).input_ids == expected.tokenizer(TEXT).input_ids
    assert (model.eos_ids, model.pad_id) == (expected.eos_ids, expected.pad_id)
    torch.testing.assert_close(logits(model), logits(expected), atol=1e-5, rtol=0)
    stir_adapter(model)
    loss = logits(model, adapter=True).log_softmax(-1)[..., 0].sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_gguf_file_in_bfloat16_keeps_its_rotary_frequencies(gguf_folder: Path, llm_folder: Path) -> None:
    """Rounded frequencies turn late positions by whole radians."""
    model = load(gguf_folder, gguf_file="tiny.gguf", dtype="bfloat16")
    expected = load(llm_folder, dtype="bfloat16")
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    buffers, others = (dict(m.causal.named_buffers()) for m in (model, expected))
    assert buffers.keys() == others.keys()
    for name, buffer in buffers.items():
        torch.testing.assert_close(buffer, others[name], rtol=0, atol=0)
    torch.testing.assert_close(logits(model), logits(expected), atol=1e-4, rtol=0)


def test_a_gguf_model_can_be_saved(gguf_folder: Path, llm_folder: Path, tmp_path: Path) -> None:
    base = load_base(LLMOptions(path=str(gguf_folder), gguf_file="tiny.gguf", dtype="float32"))
    base.save_pretrained(tmp_path)
    load_tokenizer(LLMOptions(path=str(llm_folder))).save_pretrained(tmp_path)
    torch.testing.assert_close(plain_logits(tmp_path), plain_logits(llm_folder), atol=1e-5, rtol=0)


def test_a_gguf_file_is_not_quantised_again(gguf_folder: Path) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        load(gguf_folder, gguf_file="tiny.gguf", quantization="nf4")


@pytest.fixture(scope="module")
def wide_folder(llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Widths that 4-bit blocks and the packed form of bitsandbytes on CPUs divide."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = load_tokenizer(LLMOptions(path=str(llm_folder)))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loss_of(model: LanguageModel) -> Tensor:
    return -logits(model, adapter=True).log_softmax(-1)[..., 7].mean()


def dequantised(layer: nn.Module) -> nn.Linear:
    """A quantised layer's weights in an ordinary layer."""
    if isinstance(layer, Linear4bit):
        values = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    else:
        assert isinstance(layer, Linear8bitLt)
        values = layer.state.CB.float() * layer.state.SCB[:, None] / 127
    plain = nn.Linear(values.shape[1], values.shape[0], bias=False)
    plain.weight = nn.Parameter(values.float(), requires_grad=False)
    return plain


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("int8", marks=pytest.mark.int8)])
def test_a_quantised_base_answers_and_its_adapter_learns(
    wide_folder: Path, caplog: pytest.LogCaptureFixture, quantization: str
) -> None:
    model = load(wide_folder, quantization=quantization)
    with torch.no_grad():
        base, exact = logits(model), plain_logits(wide_folder)
    assert not torch.equal(base, exact)
    assert torch.corrcoef(torch.stack([base.flatten(), exact.flatten()]))[0, 1] > 0.9
    stir_adapter(model)
    checksum = model.base_checksum()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
        model.state_dict()  # a checkpoint is made, which may not change what is saved
    assert losses[-1] < losses[0] - 0.1
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")]
    assert model.base_checksum() == checksum
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("quantization", ["none", "nf4", pytest.param("int8", marks=pytest.mark.int8)])
def test_what_is_not_quantised_has_the_dtype_asked_for(wide_folder: Path, quantization: str) -> None:
    """Half of an 8B base's 4-bit memory would be embeddings in float32, and of a rollout's its keys and values."""
    model = load(wide_folder, dtype="bfloat16", quantization=quantization)
    packed = {"none": set(), "nf4": {torch.uint8}, "int8": {torch.int8}}[quantization]
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16} | packed
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    ids, cache = torch.tensor([[5, 6, 7]]), DynamicCache()
    states = model.hidden(ids, torch.ones_like(ids), adapter=True, cache=cache)
    assert {states.dtype, *(keys.dtype for keys, _ in keys_and_values(cache))} == {torch.bfloat16}
    loss = model.logits(states).logsumexp(-1).sum()
    gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    assert {gradient.dtype for gradient in gradients if gradient is not None} == {torch.float32}


@pytest.mark.parametrize(
    ("quantization", "cosine", "length"),
    [("nf4", 0.9999, 0.01), pytest.param("int8", 0.95, 0.3, marks=pytest.mark.int8)],
)
def test_the_gradient_passes_through_quantised_layers(
    wide_folder: Path, quantization: str, cosine: float, length: float
) -> None:
    """Against ordinary layers of the same weights, after a forward without gradient as each rollout makes one.

    int8 rounds what goes through a layer, too, so its gradient is near and not equal.
    """
    model = load(wide_folder, quantization=quantization)
    stir_adapter(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        logits(model)
    ours = torch.autograd.grad(loss_of(model), list(trained.values()))
    for module in list(model.modules()):
        if isinstance(getattr(module, "base_layer", None), Linear4bit | Linear8bitLt):
            module.base_layer = dequantised(module.base_layer)
    expected = torch.autograd.grad(loss_of(model), list(trained.values()))
    for name, mine, plain in zip(trained, ours, expected, strict=True):
        assert torch.cosine_similarity(mine.flatten(), plain.flatten(), dim=0) > cosine, name
        assert float(mine.norm() / plain.norm()) == pytest.approx(1, abs=length), name


def test_a_cpu_that_gets_8_bit_products_wrong_is_refused(llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expctr.llm.loading.int8_is_exact", lambda: False)
    with pytest.raises(UserError, match="int8 gives wrong results on this CPU"):
        load(llm_folder, quantization="int8")


def test_dtype_by_name_and_by_machine() -> None:
    assert resolve_dtype("float16") == torch.float16
    assert resolve_dtype("auto") in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("major", "dtype"), [(7, torch.float32), (8, torch.bfloat16)])  # T4 and V100; A100
def test_auto_uses_no_emulated_bfloat16(major: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    assert resolve_dtype("auto", torch.device("cuda")) == dtype


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer. Fix: fetch the file itself",
        ),
        (b"\x08\0\0\0\0\0\0\0{}      cut", ": .*Fix: download it again"),
    ],
)
def test_the_file_that_is_damaged_is_named(llm_folder: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    """One of many shards, perhaps."""
    folder = Path(shutil.copytree(llm_folder, tmp_path / "base"))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=rf"base cannot be loaded: model\.safetensors ?{reason}"):
        LanguageModel.load(LLMOptions(path=str(folder)))


def test_auto_asks_the_device_that_computes_not_what_else_the_machine_has(
    llm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    put_on = []

    def load_on_the_cpu(path: str, **settings: Any) -> PreTrainedModel:  # there is no GPU
        put_on.append(str(torch.get_default_device()))
        with torch.device("cpu"):
            return load_complete(path, **settings)

    monkeypatch.setattr(loading, "load_complete", load_on_the_cpu)
    for device, dtype, attention in (("cpu", torch.float32, "grouped"), ("cuda:1", torch.bfloat16, "sdpa")):
        base = load_base(LLMOptions(path=str(llm_folder)), device=torch.device(device))
        assert put_on.pop() == device, "FSDP gives no device to load onto"
        assert base.dtype == dtype
        assert base.config._attn_implementation == attention


@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_that_is_quantised_on_disk_learns_too(wide_folder: Path, tmp_path: Path, bits: int) -> None:
    settings = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(wide_folder, quantization_config=settings).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(wide_folder).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.quantized
    stir_adapter(model)
    with torch.no_grad():
        logits(model)
    gradients = torch.autograd.grad(loss_of(model), [p for p in model.parameters() if p.requires_grad])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"model_max_length": "text\x1b[2J"}, "model_max_length 'text"),
        ({"model_max_length": [512]}, "model_max_length"),
        ({"model_max_length": 0}, "model_max_length"),
        ({"bos_token": 5}, "cannot be loaded"),
        ({"added_tokens_decoder": "text"}, "cannot be loaded"),
    ],
)
def test_a_tokenizer_s_config_of_other_types_is_one_line(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    folder = make_llm(tmp_path / "base")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entry}))
    with pytest.raises(UserError, match=rf"llm\.path: .*{said}.*\. Fix: "):
        load_tokenizer(LLMOptions(str(folder)))


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "x"}},
        {"model": {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}},
    ],
)
def test_a_tokenizer_that_panics_is_refused_in_one_line(tmp_path: Path, part: dict[str, Any]) -> None:
    """Some of its faults show only when it is used."""
    folder = make_llm(tmp_path / "base")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **part}))
    with pytest.raises(UserError, match=r"^llm\.path: .*base cannot be loaded: .*\. Fix: "):
        load(folder)


@pytest.mark.parametrize("named", ["../outside.safetensors", "pipe.safetensors", "gone.safetensors", "/dev/zero"])
def test_an_index_names_files_of_its_folder_alone(tmp_path: Path, named: str) -> None:
    folder = make_llm(tmp_path / "base")
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": {"model.norm.weight": "part.safetensors", "lm_head.weight": named}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"^llm\.path: .*names .*, which is no file in the folder\. Fix: "):
        load(folder)


def test_a_config_that_calls_floats_packed_is_refused(tmp_path: Path) -> None:
    folder = make_llm(tmp_path / "base")
    path = folder / "config.json"
    packed = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **packed}))
    with pytest.raises(UserError, match=r"^llm\.path: .*base: .*Fix: .*remove quantization_config"):
        load(folder)


@pytest.mark.parametrize("name", ["transformers.modeling_utils", "lightning.pytorch.utilities.rank_zero", "a.library"])
def test_what_libraries_log_cannot_control_the_terminal(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import logging, expctr.llm.loading; "
        f"logging.getLogger({name!r}).warning('rope_type %s\\nnext line', '\\x1b]0;title\\x07\\u202e')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    said = capfd.readouterr().err
    assert "rope_type  ]0;title" in said
    assert said.isascii()
    assert not {"\x1b", "\x07"} & {*said}
