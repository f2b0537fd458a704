"""Load the base language model and its tokenizer: from a hub, a folder, or a GGUF file; in floats, 4 or 8 bits."""

import logging
from dataclasses import dataclass
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.device_mesh import DeviceMesh
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from expctr.errors import UserError, check_range
from expctr.llm.cpu.attention import GROUPED
from expctr.llm.sharding.loading import can_read_parts, read_parts

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass
class LLMOptions:
    """The base language model and its adapter."""

    path: str = "nano"
    """A hub id, a folder, or `nano`, the 1-3 M parameter stand-in that ships with the package."""
    gguf_file: str | None = None
    """A GGUF file in that folder or repository."""
    revision: str | None = None
    """Commit or tag on the hub."""
    trust_remote_code: bool = False
    """Run the model's own Python code. Leave off unless you have read it."""
    dtype: DType = "auto"
    """Of the base. `auto`: bfloat16 where the processor computes in it, float32 else. The adapter is always float32."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """Load the base in 4 or 8 bits (bitsandbytes). In 8, results depend a little on micro-batches and devices: what a
    layer keeps in 16 bits is chosen by all rows of a batch."""
    attention: Literal["auto", "grouped", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Implementation of attention: `grouped` is our own for processors, the others are those of transformers. `auto`:
    `grouped` on a processor, if the model takes it; else what transformers chooses."""
    compile_decoding: bool = False
    """Decode by a compiled graph (torch.compile, with CUDA graphs on a GPU) over a cache of fixed size; on one device.
    Each number of rows and width of prompts takes a minute or more to compile, and the caches of the last four stay in
    memory. On a processor it does not pay."""
    adapter_scope: Literal["all", "response"] = "all"
    """`all`: the adapter acts on every token. `response`: from the prompt's last token on, so that the prompt's keys
    and values come from the frozen base, once a sample, and serve the rollout, the reference and every PPO epoch."""
    lora_r: int = 16
    """Rank of the adapter."""
    lora_alpha: int = 32
    """Scale of the adapter, over its rank."""
    lora_targets: str | list[str] = "all-linear"
    """Which layers get an adapter: names, or `all-linear`; never the output layer, which the base alone has."""

    def __post_init__(self) -> None:
        check_range("llm", self, lora_r=(1, inf), lora_alpha=(1, inf))
        if self.quantization != "none" and self.gguf_file:
            raise UserError("llm.quantization and llm.gguf_file exclude each other: a GGUF file has its own precision")


def load_tokenizer(options: LLMOptions) -> PreTrainedTokenizerBase:
    """The base's tokenizer."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        locate(options.path, "llm.path"), **source(options), clean_up_tokenization_spaces=False
    )
    if not tokenizer.is_fast:
        raise UserError(f"{options.path}: title caps need a fast tokenizer (tokenizer.json), and this one has none")
    return tokenizer


def load_base(
    options: LLMOptions, mesh: DeviceMesh | None = None, device: torch.device | None = None
) -> PreTrainedModel:
    """The base model, frozen weights as they are on disk (safetensors or GGUF only).

    Args:
        options: what to load.
        mesh: the ranks of which each is to read its part (`read_parts`), where the base is in floats.
        device: where it will compute, by which `auto` options choose; `best_device` where it is not given.
    """
    device = device or best_device()
    settings = source(options)
    if options.attention not in ("auto", GROUPED):
        settings["attn_implementation"] = options.attention
    dtype = resolve_dtype(options.dtype, device)
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
    model: PreTrainedModel
    in_floats = options.quantization == "none" and not options.gguf_file
    if mesh is not None and in_floats and can_read_parts(path, mesh, **source(options)):
        model = read_parts(path, mesh, dtype, **settings)
    else:
        if mesh is not None and mesh.size() > 1:
            rank_zero_info("each rank reads the whole base: only weights in floats, of safetensors, are read in parts")
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32 if options.gguf_file else dtype, **settings
        )
    if options.gguf_file:
        model = _plain(model)
        for parameter in model.parameters():  # and no buffer: rotary frequencies, rounded, turn late positions
            parameter.data = parameter.data.to(dtype)
    if getattr(model, "hf_quantizer", None) is not None:
        _trainable(model)
        # it says at each layer of each forward that it rounds to float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    _choose_attention(model, options, device)
    model.eval()
    return model


def _choose_attention(model: PreTrainedModel, options: LLMOptions, device: torch.device) -> None:
    fits = model._supports_attention_backend
    if options.attention == GROUPED and not fits:
        raise UserError(f"llm.attention: {type(model).__name__} has attention of its own: choose auto, sdpa or eager")
    if options.attention == GROUPED or (options.attention == "auto" and fits and device.type != "cuda"):
        model.set_attn_implementation(GROUPED)


def best_device() -> torch.device:
    """The GPU, where this machine has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: DType, device: torch.device | None = None) -> torch.dtype:
    """The base's dtype on a device, `best_device` where none is given; see `LLMOptions.dtype`."""
    if dtype != "auto":
        return cast(torch.dtype, getattr(torch, dtype))
    device = device or best_device()
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _trainable(model: PreTrainedModel) -> None:
    """Keep 4-bit layers in the form that has a backward pass.

    On CPUs with avx512_bf16, bitsandbytes 0.50 repacks a layer for good at its first forward without gradient. No
    gradient passes through that form, and saving changes what it answers: training would be wrong without an error.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """An ordinary model with a GGUF model's weights; the loaded one refuses casts and saves."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, attn_implementation=config._attn_implementation)
    plain.load_state_dict(model.state_dict(), assign=True, strict=False)
    plain.tie_weights()
    # buffers such as rotary frequencies are not in the state dict
    for (name, buffer), source in zip(plain.named_buffers(), model.buffers(), strict=True):
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            plain.get_submodule(owner).register_buffer(leaf, source.clone(), persistent=False)
    return cast(PreTrainedModel, plain)


def source(options: LLMOptions) -> dict[str, Any]:
    """What transformers' loaders are told of where a base comes from."""
    told: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.revision:
        told["revision"] = options.revision
    if options.gguf_file:
        told["gguf_file"] = options.gguf_file
    return told


def locate(path: str, option: str) -> str:
    """What transformers should load: the shipped model, a folder, or a hub id.

    Args:
        path: `nano`, a folder, or a hub id.
        option: the option that holds it, for the error.

    Raises:
        UserError: it is written like a folder, and there is none.
    """
    if path == "nano":
        return str(files("expctr") / "nano")
    folder = Path(path).expanduser()
    if not folder.is_dir() and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        raise UserError(f"{option}: there is no folder {folder}; give a folder, a hub id, or nano")
    return str(folder) if folder.is_dir() else path
