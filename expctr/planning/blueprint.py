"""Blueprint of the language model without weights: its memory, measured by the real code on tensors without storage."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, cast

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from expctr.errors import UserError, first_line
from expctr.llm.architecture import KEEPS_STATE, decoder, keeps_state
from expctr.llm.cpu.attention import GROUPED
from expctr.llm.critic import ValueHead
from expctr.llm.gradient_checkpointing import recompute_activations
from expctr.llm.kv_cache import PreallocatedLayer, share_cache
from expctr.llm.loading import LLMOptions, check_predicts_next_token, hub_arguments, load_config, locate
from expctr.llm.logprobs import score_responses
from expctr.llm.lora import add_adapter
from expctr.llm.model import LanguageModel
from expctr.llm.rollout import Rollout, decode_step
from expctr.llm.yes_no import Answers, state_answers
from expctr.planning.trace import CHUNKED, FLASH, FUSED, Trace, remove_storage

BITS = {"nf4": 4, "int8": 8}


class QuantizedLinear(nn.Linear):
    """Stands for a frozen linear layer in 4 or 8 bits: it computes in the compute dtype and counts by its bits."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`, in the input's dtype."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


_P = ParamSpec("_P")


def _traced(phase: Callable[Concatenate[Any, Trace, _P], None]) -> Callable[Concatenate[Any, _P], Counter[str]]:
    """Turn the code of a phase into a method that returns its memory at the peak, by component."""

    @wraps(phase)
    def traced(self: "Blueprint", /, *args: _P.args, **kwargs: _P.kwargs) -> Counter[str]:
        key = (phase.__name__, *args, *kwargs.items())
        if key not in self._peaks:
            with self._fake, self._explain_errors():
                for parameter in self.parameters():
                    parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
                with Trace(self.model.vocab_size) as trace:
                    phase(self, trace, *args, **kwargs)
            self._peaks[key] = trace.peak
        return self._peaks[key]

    return traced


class Blueprint(nn.Module):
    """A `LanguageModel` and its critic without storage, built from the base's config alone.

    Attention and batch sizes on a CPU differ from those on a GPU.

    Raises:
        UserError: there is no config, or the memory of this kind of base cannot be counted.
    """

    def __init__(self, options: LLMOptions, dtype: torch.dtype, on_cpu: bool) -> None:
        super().__init__()
        self.on_cpu = on_cpu
        config = base_config(options)
        check_predicts_next_token(config, options)
        self.bits = BITS.get(_quantization(config, options), 0)
        """4 or 8 for a quantized base, else 0."""
        with torch.device("meta"):
            base: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=options.trust_remote_code
            )
            if self.bits:
                _quantize(base)
            base.requires_grad_(False)
            base.set_attn_implementation(_attention(base, options, on_cpu))
            peft = add_adapter(base, options, quantized=self.bits > 0)
        no_text = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"": 0}, "")), eos_token="")
        self.model = LanguageModel(peft, no_text, replace(options, compile_decoding=False))
        self.value_head = ValueHead(self.model.hidden_size)
        self.adapter_size = sum(p.numel() for p in base.parameters() if p.requires_grad)
        self.critic_size = sum(p.numel() for p in self.value_head.parameters())
        """Number of the critic's parameters; they and the adapter's are float32."""
        frozen = [p for p in base.parameters() if not p.requires_grad]
        self.base_size = sum(p.numel() for p in frozen)
        ends = base.get_input_embeddings(), base.get_output_embeddings()
        embeddings, output = (cast(Tensor, layer.weight) for layer in ends)
        outer = {id(embeddings), id(output)}
        self.decoder_size = sum(p.numel() for p in frozen if p.ndim == 2 and id(p) not in outer)
        """Number of weights that multiply each token: the base's matrices without embeddings and output layer."""
        unread = 0 if embeddings is output else embeddings.nbytes
        self.read_bytes = self._frozen_bytes(base) - unread + 4 * self.adapter_size
        """Bytes of the weights that a step of decoding reads: without the embeddings, unless they are the output's."""
        self.base_bytes = self._frozen_bytes(base)
        self.layer_bytes = [self._frozen_bytes(layer) for layer in getattr(decoder(base), "layers", [])]
        """Bytes of the frozen weights in each decoder layer, which sharding divides."""
        self._fake = FakeTensorMode()
        remove_storage(self, self._fake)
        self._peaks: dict[tuple[Any, ...], Counter[str]] = {}
        with self._fake, torch.no_grad(), self._explain_errors():
            cache = self._cache_of_two_tokens(base, options.attention == "auto")
            self._layers = [(layer.keys[:, :, :1], layer.values[:, :, :1]) for layer in cast(list[Any], cache.layers)]
        self.cache_bytes = sum(keys.nbytes + values.nbytes for keys, values in self._layers)
        """Bytes of the keys and values of one token."""
        heads = base.config.get_text_config().num_attention_heads
        self.attention_size = sum(heads * (k.shape[-1] + v.shape[-1]) for k, v in self._layers)
        """Number of multiplications of one query with one key and its value, over all layers."""

    def _cache_of_two_tokens(self, base: PreTrainedModel, eager_allowed: bool) -> DynamicCache:
        """The cache of two tokens. The attention becomes eager if the base needs what the chosen one lacks."""
        refusal = f"llm.path: expctr plan cannot count the memory of {type(base).__name__}, because {KEEPS_STATE}"
        if keeps_state(base.config):
            raise UserError(refusal)
        ids, cache = torch.zeros(1, 2, dtype=torch.long), DynamicCache()
        try:
            self.model.hidden(ids, torch.ones_like(ids), False, cache)
        except UserError:
            if not eager_allowed:
                raise
            base.set_attn_implementation("eager")
            return self._cache_of_two_tokens(base, eager_allowed=False)
        if not cache.layers:  # RWKV
            raise UserError(refusal)
        return cache

    def _frozen_bytes(self, module: nn.Module) -> int:
        quantized = {id(layer.weight) for layer in module.modules() if isinstance(layer, QuantizedLinear)}
        frozen = (p for p in module.parameters() if not p.requires_grad)
        return sum(quantized_bytes(p, self.bits) if id(p) in quantized else p.nbytes for p in frozen)

    # --- the phases of a step; each gives its peak on top of what is held at all times

    @_traced
    @torch.no_grad()
    def prefill(self, trace: Trace, rows: int, tokens: int, adapter: bool) -> None:
        """Prefill of one batch; the new keys and values count as activations."""
        self.model.hidden(_ids(rows, tokens), _mask(rows, tokens), adapter, DynamicCache())

    @_traced
    @torch.no_grad()
    def decode(self, trace: Trace, rows: int, tokens: int, room: int, sampled: bool, kept: bool) -> None:
        """One token per row, with the prompts' cache, until the first row ends, which copies the cache.

        `room` is the maximum number of new tokens; `kept` tells that the original cache is kept for later passes.
        """
        cache = self._prompt_cache(trace, rows, tokens - 1, room)
        original = share_cache(cache) if kept else None
        for step, alive in enumerate((rows, max(1, rows - 1))):
            uniform = torch.zeros(alive, dtype=torch.float64) if sampled else None
            decode_step(self.model, _ids(alive, 1), _mask(alive, tokens + step), cache, True, 1.0, uniform)
            with trace.label("prompt cache"):
                cache.batch_select_indices(torch.arange(max(1, rows - 1)))
        del original

    @_traced
    @torch.no_grad()
    def score(self, trace: Trace, rows: int, tokens: int) -> None:
        """Yes/no scores of one batch of prompts."""
        states = self.model.hidden(_ids(rows, tokens), _mask(rows, tokens), False, DynamicCache())
        state_answers(self.model, states[:, -1], Answers([0], [1]), normalised=True)

    @_traced
    @torch.no_grad()
    def reference(self, trace: Trace, rows: int, tokens: int, response: int, adapter: bool) -> None:
        """Log-probabilities of one micro-batch, without gradient."""
        score_responses(self.model, self._rollout(rows, tokens, response, trace), adapter, 1.0)

    @_traced
    def learn(
        self, trace: Trace, rows: int, tokens: int, response: int, critic: bool, entropy: bool, recompute: bool = False
    ) -> None:
        """Forward and backward pass of one micro-batch; `recompute`: with gradient checkpointing."""
        with recompute_activations(self.model) if recompute else nullcontext():
            scores = score_responses(self.model, self._rollout(rows, tokens, response, trace), True, 1.0, entropy)
        loss = scores.logprobs.sum() + scores.entropy.sum()
        if critic:
            loss = loss + self.value_head(torch.empty_like(scores.hidden)).sum()
        loss.backward()

    @cached_property
    def launches(self) -> int:
        """Number of kernels of one decoding step, whatever its rows."""
        trace = Trace(self.model.vocab_size)
        with self._fake, torch.no_grad(), self._explain_errors(), trace:
            cache, noise = self._prompt_cache(trace, 1, 1, 1), torch.zeros(1, dtype=torch.float64)
            before = trace.kernels
            decode_step(self.model, _ids(1, 1), _mask(1, 2), cache, True, 1.0, noise)
        return trace.kernels - before

    def _prompt_cache(self, trace: Trace, rows: int, filled: int, room: int = 0) -> DynamicCache:
        cache = DynamicCache()
        with trace.label("prompt cache"):
            cache.layers = [PreallocatedLayer(k, v, rows, filled, room) for k, v in self._layers]
        return cache

    def _rollout(self, rows: int, tokens: int, response: int, trace: Trace) -> Rollout:
        in_cache = self.model.options.adapter_scope == "response"
        cache = self._prompt_cache(trace, rows, tokens - 1) if in_cache else None
        mask, truncated = _mask(rows, response), torch.zeros(rows, dtype=torch.bool)
        return Rollout(
            _ids(rows, tokens), _mask(rows, tokens), _ids(rows, response), mask, mask.float(), truncated, cache
        )

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except (DynamicOutputShapeException, NotImplementedError, RuntimeError) as error:
            raise UserError(
                f"llm.path: the memory of {type(self.model.causal).__name__} cannot be counted without its weights, "
                f"because its code depends on their values ({first_line(error)})"
            ) from error


def base_config(options: LLMOptions) -> PreTrainedConfig:
    """Load the base's config, or raise `UserError` if there is none."""
    try:
        return load_config(locate(options.path, "llm.path"), "llm.path", **hub_arguments(options))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"llm.path: there is no model config in {options.path} ({first_line(error)}). Fix: give a folder with "
            "the model's config.json (or with llm.gguf_file its GGUF file), or a hub id"
        ) from error


def quantized_bytes(weight: Tensor, bits: int) -> int:
    """Bytes of a weight matrix in 4 or 8 bits.

    nf4 has a scale of 8 bits per 64 weights, and one of 32 bits per 256 such scales; int8 has a float32 scale per row.
    """
    if bits == 8:
        return weight.numel() + 4 * len(weight)
    return weight.numel() // 2 + weight.numel() // 64 + 4 * (weight.numel() // (64 * 256))


def _quantization(config: PreTrainedConfig, options: LLMOptions) -> str:
    """`nf4`, `int8` or `none`. Removes the entry from the config, since transformers would need weights for it."""
    on_disk = getattr(config, "quantization_config", None)
    if not on_disk or options.gguf_file:
        return options.quantization
    del config.quantization_config
    known = on_disk if isinstance(on_disk, dict) else on_disk.to_dict()
    for key, name in (("load_in_4bit", "nf4"), ("load_in_8bit", "int8")):
        if known.get(key):
            return name
    raise UserError(f"llm.path: {options.path} is quantized by {known.get('quant_method')}, which is not supported")


def _quantize(base: PreTrainedModel) -> None:
    """Replace linear layers except the output layer, as transformers does when it loads in 4 or 8 bits."""
    output = base.get_output_embeddings()
    for module in list(base.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and child is not output:
                has_bias, dtype = child.bias is not None, child.weight.dtype
                setattr(module, name, QuantizedLinear(child.in_features, child.out_features, has_bias, dtype=dtype))


def _attention(base: PreTrainedModel, options: LLMOptions, on_cpu: bool) -> str:
    """The attention that `llm.attention` selects, or a stand-in that needs the same memory."""
    chosen: str = options.attention
    if chosen == "auto":
        chosen = "sdpa" if base._supports_sdpa else "eager"
        if on_cpu and base._supports_attention_backend:
            chosen = GROUPED
    return {"sdpa": FUSED, "flash_attention_2": FLASH, GROUPED: CHUNKED}.get(chosen, chosen)


def _ids(rows: int, tokens: int) -> Tensor:
    return torch.zeros(rows, tokens, dtype=torch.long)


def _mask(rows: int, tokens: int) -> Tensor:
    return torch.ones(rows, tokens, dtype=torch.bool)
