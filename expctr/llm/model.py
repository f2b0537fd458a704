"""One base model in memory, four parts: policy, reference, LC scorer, trunk of the critic.

With the adapter on it is the policy; with the adapter off it is pi_init, the LC scorer, and what the critic reads.
Base weights are never written: no merge and unmerge, whose rounding would drift the base and with it the reward.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Cache,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from expctr.errors import UserError, check_range
from expctr.llm.compiled import compiled
from expctr.llm.cpu.attention import GROUPED
from expctr.llm.cpu.linear import linear
from expctr.llm.locate import locate
from expctr.llm.sharding.loading import can_read_parts, read_parts
from expctr.seeding import first_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

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


class Hidden(NamedTuple):
    """Last hidden states, and the cache with the new tokens in it."""

    states: Tensor
    """`[batch, tokens, hidden]`."""
    cache: Cache | None


class LanguageModel(nn.Module):
    """The base with its adapter.

    Args:
        options: what to load.
        seed: of the adapter's first weights.
        mesh: the ranks that `sharding.shard` will share it among. Each reads its part, and nothing can be computed
            before.
        device: where it will compute, by which `auto` options choose; `best_device` where it is not given.
    """

    _compiled: Callable[..., Tensor] | None = None

    def __init__(
        self,
        options: LLMOptions,
        seed: int = 0,
        mesh: DeviceMesh | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.options = options
        try:
            self.tokenizer = load_tokenizer(options)
            base = load_base(options, mesh, device)
        except OSError as error:  # what transformers raises when it finds nothing under that name
            raise UserError(f"llm.path: {options.path} cannot be loaded: {str(error).splitlines()[0]}") from error
        base.requires_grad_(False)
        self.quantized = getattr(base, "hf_quantizer", None) is not None
        """Is the base in 4 or 8 bits, by the options or on disk?"""
        with first_weights(seed):
            self.peft = adapted(base, options, self.quantized)
        generation = base.generation_config
        eos = generation.eos_token_id if generation is not None else None
        self.eos_ids = sorted({self.tokenizer.eos_token_id, *([eos] if isinstance(eos, int) else eos or [])} - {None})
        if not self.eos_ids:
            raise UserError(f"{options.path}: neither tokenizer nor model names an end-of-sequence token")
        pad = self.tokenizer.pad_token_id
        self.pad_id = self.eos_ids[0] if pad is None else int(pad)
        if options.compile_decoding:
            self._compiled = compiled(self._next, device or best_device())
        self.heads: dict[tuple[torch.device, tuple[int, ...]], DynamicCache] = {}
        """Keys and values of what many prompts begin with, by the frozen base; `prefill` fills it."""
        self.caches: dict[tuple[object, ...], Cache] = {}
        """Where compiled decoding writes, by size; `compiled.fixed` fills it."""
        if not self.in_parts:
            self.check_head()

    @property
    def in_parts(self) -> bool:
        """Has each rank read its part alone?"""
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    @property
    def causal(self) -> PreTrainedModel:
        """The causal language model with the adapter's layers inside."""
        return cast(PreTrainedModel, self.peft.get_base_model())

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.causal.config.get_text_config().hidden_size)

    @property
    def local(self) -> bool:
        """Do some layers see the latest tokens only? Such windows are counted in columns, padding included."""
        config = self.causal.config.get_text_config()
        return any(getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))

    @property
    def vocabulary(self) -> int:
        """How many tokens the output layer knows."""
        return int(self.causal.config.get_text_config().vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.causal.device

    @contextmanager
    def adapter(self, on: bool) -> Iterator[None]:
        """The adapter on (policy) or off (everything else).

        A mark on each layer: PEFT's own context also stops and starts all gradients, a tenth of a second a forward.
        """
        switched = [] if on else [layer for layer in self._adapted if not layer.disable_adapters]
        for layer in switched:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in switched:
                layer._disable_adapters = False

    @cached_property
    def _adapted(self) -> "list[BaseTunerLayer]":
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self.peft.modules() if isinstance(module, BaseTunerLayer)]

    def hidden(
        self,
        ids: Tensor,
        mask: Tensor,
        adapter: bool,
        cache: Cache | None = None,
    ) -> Hidden:
        """Hidden states of new tokens.

        Args:
            ids: the new tokens, `[batch, tokens]`.
            mask: of the cached and the new tokens together, `[batch, cached + tokens]`; its positions are counted from
                the mask, so left padding does not shift them.
            adapter: on or off.
            cache: keys and values of earlier tokens, or an empty one. It is extended in place.
        """
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        with self.adapter(adapter):
            out = self.causal.base_model(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return Hidden(out.last_hidden_state, cache)

    def output(self, hidden: Tensor, tokens: Sequence[int] | None = None) -> Tensor:
        """Logits in the base's dtype, `[..., hidden]` -> `[..., vocabulary]`, or of the given tokens alone."""
        head = cast(nn.Linear, self.causal.get_output_embeddings())
        states = hidden.to(head.weight.dtype) if head.weight.is_floating_point() else hidden
        if tokens is not None:
            rows = list(tokens)
            if type(head) is nn.Linear:
                return F.linear(states, head.weight[rows], None if head.bias is None else head.bias[rows])
            return self.output(hidden)[..., rows]
        return cast(Tensor, linear(head, states.flatten(0, -2)).unflatten(0, states.shape[:-1]))

    def logits(self, hidden: Tensor, tokens: Sequence[int] | None = None) -> Tensor:
        """The same in float32."""
        return self.output(hidden, tokens).float()

    def next_logits(self, newest: Tensor, mask: Tensor, adapter: bool, cache: Cache) -> Tensor:
        """Vocabulary logits of the token after the newest one, float32 `[batch, vocabulary]`.

        Args:
            newest: each row's newest token, `[batch, 1]`.
            mask: as of `hidden`; over all positions of a cache of fixed size, where decoding is compiled.
            adapter: on or off.
            cache: keys and values of earlier tokens. It is extended in place.
        """
        if self._compiled is None:
            return self.logits(self.hidden(newest, mask, adapter, cache).states[:, -1])
        with self.adapter(adapter):
            return self._compiled(newest, mask, cache).float()

    def _next(self, newest: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        return self.output(self.hidden(newest, mask, True, cache).states[:, -1])

    def base_checksum(self) -> float:
        """A sum over the base's frozen weights, which training must leave as it is."""
        frozen = (p for p in self.peft.parameters() if not p.requires_grad)
        return float(sum(p.detach().double().abs().sum() for p in frozen))

    @torch.no_grad()
    def check_head(self) -> None:
        """Refuse a model that does more than its output layer says.

        Raises:
            UserError: it scales or caps its logits.
        """
        ids = torch.tensor([[self.eos_ids[0], self.pad_id]], device=self.device)
        ours = self.logits(self.hidden(ids, torch.ones_like(ids), adapter=True).states)
        theirs = self.causal(input_ids=ids).logits.float()
        if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())):
            raise UserError(
                f"{self.options.path}: {type(self.causal).__name__} changes its logits after the output layer, which "
                "expctr does not support: choose a base without logit scaling or soft-capping"
            )


class ValueHead(nn.Module):
    """A small MLP critic over the frozen base's hidden states, in float32.

    Args:
        hidden_size: width of the base.
        width: width of the hidden layer.
        seed: of the first weights.
    """

    def __init__(self, hidden_size: int, width: int = 256, seed: int = 0) -> None:
        super().__init__()
        with first_weights(seed):
            self.layers = nn.Sequential(
                nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.Tanh(), nn.Linear(width, 1)
            )
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)  # values begin at 0, so the first advantages are the returns
        nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[batch, response, hidden]` -> `[batch, response]`."""
        return cast(Tensor, self.layers(hidden.float())).sum(-1)  # of one; FSDP warns of what is a view, as by squeeze


def adapted(base: PreTrainedModel, options: LLMOptions, quantized: bool) -> "PeftModel":
    """The base with fresh adapter layers in it, in evaluation mode: dropout would break PPO's ratio."""
    # not at the top: it imports bitsandbytes, and both take more than a second that --help can do without
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    from expctr.llm.adapters import LoraLinear

    lora = LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, target_modules=options.lora_targets, task_type="CAUSAL_LM"
    )
    if not quantized:  # bitsandbytes' layers are linear ones too, and have adapters of their own
        lora._register_custom_module({nn.Linear: LoraLinear})
    model = get_peft_model(base, lora).eval()
    if isinstance(base.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            "llm.lora_targets names the output layer, which cannot have an adapter: policy, reference and scorer read "
            "one and the same. Name layers of the decoder, or all-linear"
        )
    return model


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
