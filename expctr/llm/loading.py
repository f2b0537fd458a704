"""Loading of the base language model and its tokenizer from a hub, a folder, or a GGUF file; in floats, 4 or 8 bits."""

import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.resources import files
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from jinja2 import TemplateError
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.peft_utils import find_adapter_config_file

from expctr.errors import UserError, check_range, first_line
from expctr.llm.cpu.attention import GROUPED
from expctr.llm.cpu.int8 import int8_is_exact
from expctr.llm.sharding.loading import can_load_shards, fill, load_complete, load_shards
from expctr.untrusted import printable

LEAST_LENGTH = 8
"""Tokens that a base or an encoder must be able to read: a sentence is no shorter."""


def _make_printable(record: logging.LogRecord) -> bool:
    """Keeps what a config or a tokenizer says from controlling the terminal."""
    record.msg, record.args = "\n".join(map(printable, record.getMessage().splitlines())), ()
    return True


# also of libraries without one; a filter of a logger does not see what its modules say
for _name in ("transformers", "lightning", "lightning.pytorch", "lightning.fabric"):
    for _handler in logging.getLogger(_name).handlers:
        _handler.addFilter(_make_printable)
if logging.lastResort:
    logging.lastResort.addFilter(_make_printable)

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass
class LLMOptions:
    """The base language model and its adapter."""

    path: str = "nano"
    """A hub id, a folder, or `nano`, the small model (1.2 M parameters) that ships with the package."""
    gguf_file: str | None = None
    """Name of a GGUF file in that folder or repository."""
    revision: str | None = None
    """Commit or tag on the hub."""
    trust_remote_code: bool = False
    """Run the model's own Python code. Leave it off unless you have read that code."""
    dtype: DType = "auto"
    """Data type of the base. `auto`: bfloat16 if the device computes in it (a T4 or V100 does not), else float32. The
    adapter is always float32."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """Load the base in 4 or 8 bits (bitsandbytes). With `int8`, results depend slightly on the micro-batch size and on
    the number of devices, because all rows of a batch decide which values stay in 16 bits."""
    attention: Literal["auto", "grouped", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Implementation of attention. `grouped` is expctr's own for CPUs, the others are those of transformers. `auto`:
    `grouped` on a CPU if the model supports it, else what transformers chooses. With `flash_attention_2`, passes that
    do not start from a cache of the prompts (`adapter_scope: all`) compute no padding."""
    compile_decoding: bool = False
    """Decode with torch.compile (CUDA graphs on a GPU) and caches of fixed size. Attention is then `grouped` if the
    base supports it, because it reads keys once for all heads that share them. Each new number of rows or prompt width
    takes a minute to compile, and the largest cache stays in memory. Not with FSDP; not worth it on a CPU."""
    compile_layers: bool = False
    """Compile the decoder layers with torch.compile, for training and reference passes; needs `adapter_scope: all`, and
    not with FSDP. It takes minutes at the first batch, and was never run on a GPU."""
    adapter_scope: Literal["all", "response"] = "all"
    """`all`: the adapter acts on every token. `response`: it acts from the prompt's last token on. The prompt's keys
    and values then come from the frozen base; they are computed once per sample and reused by the rollout, the
    reference and every PPO epoch."""
    lora_r: int = 16
    """Rank of the adapter."""
    lora_alpha: int = 32
    """Scale of the adapter, divided by its rank."""
    lora_targets: str | list[str] = "all-linear"
    """Layers that get an adapter: names, or `all-linear`; never the output layer. In a mixture of experts `all-linear`
    means the attention and the dense layers, without router and experts."""

    def __post_init__(self) -> None:
        check_range("llm", self, lora_r=(1, inf), lora_alpha=(1, inf))
        if self.quantization != "none" and self.gguf_file:
            raise UserError(
                "llm.quantization and llm.gguf_file exclude each other: a GGUF file has its own precision. Fix: drop "
                "one of them"
            )
        if self.compile_layers and self.adapter_scope == "response":
            raise UserError(
                "llm.compile_layers compiles passes without a cache, and with llm.adapter_scope: response all passes "
                "start from the prompts' cache. Fix: set llm.compile_layers to false"
            )


def load_tokenizer(options: LLMOptions) -> PreTrainedTokenizerBase:
    """Load the base's tokenizer, or raise `UserError` if it is not a fast one, or its chat template is damaged."""
    path = locate(options.path, "llm.path")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, **hub_arguments(options), clean_up_tokenization_spaces=False
        )
    except (TypeError, AttributeError, KeyError) as error:  # a value of another type than transformers writes
        raise UserError(
            f"llm.path: the tokenizer of {path} cannot be loaded: {first_line(error)}. Fix: download it again"
        ) from error
    check_max_length(tokenizer, f"llm.path: {options.path}")
    tokenizer("Amélie (2001), 七人の侍 🙂")  # some faults of a tokenizer.json show only when it is used
    if not tokenizer.is_fast:
        raise UserError(
            f"{options.path} has no fast tokenizer, which cutting titles needs. Fix: choose a base with tokenizer.json"
        )
    if tokenizer.chat_template is not None:
        try:
            check_chat_template(tokenizer, options.path)
        except UserError as error:
            if type(error.__cause__) is not TemplateError:  # the template's own: `Prompts` tries it with its variables
                raise
    return tokenizer


def check_max_length(tokenizer: PreTrainedTokenizerBase, base: str) -> None:
    """Refuse a tokenizer whose longest text is no number of tokens, with a `UserError` that begins with `base`."""
    most = tokenizer.model_max_length
    if not isinstance(most, int | float) or not most >= LEAST_LENGTH:
        raise UserError(
            f"{base} has the model_max_length {str(most)[:60]!r}, which is no number of tokens for a text. Fix: "
            "correct it in tokenizer_config.json"
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, path: str, rows: int) -> None:
    """Refuse a tokenizer whose tokens the base, which has this number of embeddings, lacks.

    Some bases have a few more added tokens than embeddings, which no prompt uses, unless they are words.
    """
    if (pad := tokenizer.pad_token_id) is not None and pad >= rows:
        raise UserError(
            f"llm.path: {path} has {rows} embeddings, and its padding token has the id {pad}. Fix: name a token of the "
            "vocabulary as pad_token in tokenizer_config.json"
        )
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"llm.path: {path} has {rows} embeddings, and its tokenizer {tokenizer.vocab_size} tokens. Fix: give it "
            "the tokenizer that it was trained with"
        )
    for token, added in tokenizer.added_tokens_decoder.items():
        if token >= rows and re.fullmatch(r"[\w\s]+", added.content):
            raise UserError(
                f"llm.path: {path} has {rows} embeddings, and its added token {added.content[:60]!r} has the id "
                f"{token}. Fix: delete that token from the tokenizer"
            )


def check_chat_template(
    tokenizer: PreTrainedTokenizerBase, path: str, variables: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Refuse a chat template that fails with these variables, or does not show what a user says."""
    said = "1984, 2046"  # in no template, and without letters, which a template may change
    fix = "Fix: correct it, or delete it (chat_template.jinja, or chat_template in tokenizer_config.json)"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=False, **variables
        )
    except Exception as error:  # a template is a program, so anything may be wrong with it
        raise UserError(
            f"llm.path: the chat template of {path} cannot be applied to a user's message: {first_line(error)}. {fix}"
        ) from error
    if said not in str(text):
        raise UserError(f"llm.path: the chat template of {path} does not show the text of a user's message. {fix}")


def load_base(
    options: LLMOptions, mesh: DeviceMesh | None = None, device: torch.device | None = None
) -> PreTrainedModel:
    """Load the base model, from safetensors or GGUF only: a pickle can run code.

    Each rank of the mesh loads its own shard if the base is in floats (`load_shards`). It is put on the
    device where it will compute (`best_device` if not given), which also decides `auto` options.
    """
    device = device or best_device()
    settings = hub_arguments(options)
    if options.attention not in ("auto", GROUPED):
        settings["attn_implementation"] = options.attention
    dtype = resolve_dtype(options.dtype, device)
    if options.quantization == "int8" and device.type == "cpu" and not int8_is_exact():
        raise UserError(
            "llm.quantization: int8 gives wrong results on this CPU, whose 8-bit products overflow. Fix: choose nf4"
        )
    if options.quantization != "none":
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=options.quantization == "nf4",
            load_in_8bit=options.quantization == "int8",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
    if not options.gguf_file:
        settings["use_safetensors"] = True
    path = locate(options.path, "llm.path")
    config = load_config(path, "llm.path", **hub_arguments(options))
    _check_index(Path(path))
    check_predicts_next_token(config, options)
    in_floats = options.quantization == "none" and not options.gguf_file
    if mesh is not None and in_floats and can_load_shards(config, mesh):
        model = load_shards(path, config, mesh, dtype, **settings)
    else:
        if mesh is not None and mesh.size() > 1:
            rank_zero_info("each rank loads the whole base: only safetensors in floats can be loaded in shards")
        settings["dtype"] = torch.float32 if options.gguf_file else dtype
        # FSDP does not say where to put it; a GGUF file is read in float32, and rounded before it goes there
        with nullcontext() if device.type == "cpu" or options.gguf_file else device:
            model = load_complete(path, **settings)
    if options.gguf_file:
        model = _plain_model(model)
        for parameter in model.parameters():  # not buffers: rounded rotary frequencies shift late positions
            parameter.data = parameter.data.to(dtype)
        cast(nn.Module, model).to(device)
    if is_quantized(model):
        _keep_differentiable(model)
        # it would log at each layer of each forward pass that it rounds to float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    check_finite(model, options.path)
    choose_attention(model, options, device)
    model.eval()
    return model


def _check_index(folder: Path) -> None:
    """Refuse a list of weights that names what is no file of the folder, such as a pipe, with a `UserError`."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        named = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # transformers says what is wrong with it
    if others := sorted(name for name in named if Path(name).name != name or not (folder / name).is_file()):
        raise UserError(
            f"llm.path: {index} names {others[0][:120]!r}, which is no file in the folder. Fix: download the base again"
        )


def damaged_file(path: str) -> str | None:
    """The first file of a folder's weights that is not whole, and what to do about it, in words."""
    for file in sorted(Path(locate(path, "llm.path")).glob("*.safetensors")):
        if not file.is_file():
            return f"{file.name} is not a file. Fix: download it again"
        try:
            with file.open("rb") as opened:
                if opened.read(64).startswith(b"version https://git-lfs"):
                    return f"{file.name} is a Git LFS pointer. Fix: fetch the file itself (git lfs pull)"
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            return f"{file.name}: {first_line(error)}. Fix: download it again"
        except OSError as error:
            return f"{file.name}: {error.strerror}. Fix: check its permissions"
    return None


def check_finite(model: PreTrainedModel, path: str) -> None:
    """Refuse a base with a weight that is NaN or infinite, with a `UserError`: only some prompts would show it."""
    for name, weight in model.named_parameters():
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        if not local.is_floating_point() or not local.numel():  # packed; or this rank has no part of it
            continue
        local = local.detach()
        if local.element_size() == 1:
            local = local.float()  # float8 has no order of its own
        ends = torch.stack(local.aminmax())  # NaN passes through, and no copy is made
        if not ends.isfinite().all():
            raise UserError(
                f"llm.path: {path} has weights that are NaN or infinite, in {name}. Fix: download it again; if "
                "llm.dtype is float16, choose bfloat16 or float32"
            )


def check_predicts_next_token(config: PreTrainedConfig, options: LLMOptions) -> None:
    """Refuse a base that does not predict the next token, with a `UserError`."""
    if config.is_encoder_decoder:
        kind = "an encoder-decoder"
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not options.trust_remote_code:
        kind = "no causal language model that this version of transformers knows"
    else:
        return
    raise UserError(f"llm.path: {options.path} ({config.model_type}) is {kind}. Fix: choose a decoder-only base")


def choose_attention(model: PreTrainedModel, options: LLMOptions, device: torch.device) -> None:
    """Set the attention that the options select for a device, as far as it is not that of transformers."""
    supported = model._supports_attention_backend
    if options.attention == GROUPED and not supported:
        raise UserError(f"llm.attention: {type(model).__name__} has its own attention code. Fix: set it to auto")
    if options.attention == GROUPED or (options.attention == "auto" and supported and device.type != "cuda"):
        model.set_attn_implementation(GROUPED)


def locate(path: str, option: str) -> str:
    """The folder or hub id that transformers should load for a path, which may be `nano`.

    Raises:
        UserError: the path, which an option of this name holds, is empty, or looks like a folder that is not there.
    """
    if path == "nano":
        return str(files("expctr") / "nano")
    if not path:
        raise UserError(f"{option} is empty; give a folder, a hub id, or nano")
    folder = Path(os.path.expanduser(path))
    if folder.is_dir():
        return str(folder)
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise UserError(f"{option}: there is no folder {folder}; give a folder, a hub id, or nano")
    return path


def load_config(path: str, option: str, **hub: Any) -> PreTrainedConfig:
    """Load the config of a model, which an option of this name gives; `hub` are arguments of `from_pretrained`.

    Raises:
        UserError: the model is an adapter, which may name any other model as its base; or its config names an attention
            from a hub, whose compiled code transformers would run without `trust_remote_code`.
    """
    if find_adapter_config_file(path, revision=hub.get("revision")):
        raise UserError(
            f"{option}: {path} has a PEFT adapter (adapter_config.json). Fix: name the model without it; or merge it "
            "into its base (peft: merge_and_unload, then save_pretrained)"
        )
    config: PreTrainedConfig = AutoConfig.from_pretrained(path, **hub)
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if "/" in (named := str(getattr(part, "_attn_implementation", None))):
            raise UserError(
                f"{option}: the config of {path} names the attention {named}, compiled code from a hub. Fix: remove "
                "attn_implementation from its config.json"
            )
    return config


def hub_arguments(options: LLMOptions) -> dict[str, Any]:
    """Arguments of transformers' `from_pretrained` that say where a base comes from."""
    given = {name: getattr(options, name) for name in ("revision", "gguf_file") if getattr(options, name)}
    return {"trust_remote_code": options.trust_remote_code, **given}


def best_device() -> torch.device:
    """The GPU if this machine has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: DType, device: torch.device | None = None) -> torch.dtype:
    """The base's dtype on a device, `best_device` if not given; see `LLMOptions.dtype`."""
    if dtype != "auto":
        return cast(torch.dtype, getattr(torch, dtype))
    device = device or best_device()
    # not emulated: a T4 or V100 computes in it, slowly
    fast = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if fast else torch.float32


def is_quantized(model: PreTrainedModel) -> bool:
    """Is a loaded model in 4 or 8 bits, by the options or on disk?"""
    return getattr(model, "hf_quantizer", None) is not None


def _keep_differentiable(model: PreTrainedModel) -> None:
    """Keep 4-bit layers in the form that has a backward pass.

    On CPUs with avx512_bf16, bitsandbytes 0.50 repacks a layer permanently at its first forward pass without gradient.
    The packed form has no gradient, and saving changes its output: training would be wrong without an error.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """Rebuild a GGUF model as an ordinary model; the loaded one refuses casts and saves."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, attn_implementation=config._attn_implementation)
    plain.generation_config = model.generation_config  # it may name more tokens that end a text
    return fill(plain, model.state_dict(), model)
