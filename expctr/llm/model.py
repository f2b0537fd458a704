"""The language model: one base in memory, in four roles (policy, reference, LC scorer, and trunk of the critic).

With the adapter on, it is the policy. With the adapter off, it is the reference pi_init, the LC scorer, and what the
critic reads. Base weights are never written: merging and unmerging an adapter would round the base, and so change the
reward.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from expctr.distributed import is_of_lost_process
from expctr.errors import UserError, first_line
from expctr.llm.architecture import decoder, has_windows, logit_changes
from expctr.llm.compiled_decoding import StaticCaches, compile_step
from expctr.llm.cpu.attention import GROUPED
from expctr.llm.cpu.linear import apply_linear
from expctr.llm.loading import LLMOptions, check_tokenizer, damaged_file, is_quantized, load_base, load_tokenizer
from expctr.seeding import initial_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer


Caching = Literal["shared", "separate", "native"]
"""How prompts and their caches are computed, the fastest first.

- `shared`: the common prefix of prompts once; caches have free positions, which are written in place.
- `separate`: each prompt whole; caches are copied to extend them, and results of products to store them row by row.
- `native`: all prompts in one batch, with a cache of the base's own kind, as in `generate` of transformers.
"""


class LanguageModel(nn.Module):
    """The base with its adapter. `LanguageModel.load` reads both from disk."""

    caching: Caching = "shared"
    """See `set_caching`."""
    decoding_attention: str | None = None
    """The implementation of attention in compiled decoding, if it is not that of other passes; set by `probe`."""
    _compiled_step: Callable[..., Tensor] | None = None

    def __init__(self, peft: "PeftModel", tokenizer: PreTrainedTokenizerBase, options: LLMOptions) -> None:
        super().__init__()
        self.peft, self.tokenizer, self.options = peft, tokenizer, options
        config, self.quantized = self.causal.config.get_text_config(), is_quantized(self.causal)
        head = cast(nn.Linear, self.causal.get_output_embeddings())
        self.hidden_size, self.vocab_size = head.in_features, int(config.vocab_size)
        self.logit_factor, self.logit_cap = logit_changes(config)
        self.has_windows = has_windows(config)
        eos = getattr(self.causal.generation_config, "eos_token_id", None)
        named = [tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])]
        self.eos_ids = sorted({token for token in named if isinstance(token, int)})
        if not self.eos_ids:
            raise UserError(f"{options.path}: neither tokenizer nor model names an end-of-sequence token")
        pad = tokenizer.pad_token_id
        self.pad_id = self.eos_ids[0] if pad is None else int(pad)
        self.prefix_caches: dict[tuple[torch.device, tuple[int, ...]], DynamicCache] = {}
        """The frozen base's keys and values of common prefixes of prompts; filled by `prefill`."""
        self.static_caches = StaticCaches()
        """Those that compiled decoding writes to."""

    @classmethod
    def load(
        cls, options: LLMOptions, seed: int = 0, mesh: DeviceMesh | None = None, device: torch.device | None = None
    ) -> Self:
        """Load the base and its tokenizer, and add a fresh adapter, whose initial weights depend on the seed.

        With a mesh, each rank loads its own shard; the model cannot compute before `sharding.fsdp.shard`. The device
        where it will compute (`best_device` if not given) decides `auto` options.

        Raises:
            UserError: the base cannot be loaded, or is not supported.
        """
        from expctr.llm.lora import add_adapter  # not at the top: it imports peft, which --help can do without

        try:
            tokenizer = load_tokenizer(options)
            base = load_base(options, mesh, device)
        except (UserError, torch.OutOfMemoryError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # damaged files of others make transformers raise anything, tokenizers panic
            if is_of_lost_process(error):
                raise
            pickled = isinstance(error, pickle.UnpicklingError)
            reason = "its weights are pickled" if pickled else first_line(error)
            if "ttention" in reason and options.attention != "auto":
                raise UserError(f"llm.attention: {options.path}: {reason}. Fix: set it to auto") from error
            if isinstance(error, ImportError):
                raise UserError(f"llm: {reason}. Fix: install it, or choose another option") from error
            fix = "give a hub id that can be reached, or a folder with config.json, a tokenizer and safetensors weights"
            why = damaged_file(options.path) or f"{reason}. Fix: {fix}"
            raise UserError(f"llm.path: {options.path} cannot be loaded: {why}") from error
        check_tokenizer(tokenizer, options.path, cast(nn.Embedding, base.get_input_embeddings()).num_embeddings)
        base.requires_grad_(False)
        with initial_weights(seed):
            try:
                peft = add_adapter(base, options, is_quantized(base))
            except AttributeError as error:  # of layers made for packed weights, with others in them
                raise UserError(
                    f"llm.path: {options.path}: no adapter can be added: {first_line(error)}. Fix: if its weights are "
                    "floats, remove quantization_config from its config.json"
                ) from error
        return cls(peft, tokenizer, options)

    @property
    def is_sharded(self) -> bool:
        """Does each rank hold only its own shard of some weights?"""
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    @property
    def causal(self) -> PreTrainedModel:
        """The causal language model with the adapter's layers in it."""
        return cast(PreTrainedModel, self.peft.get_base_model())

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.causal.device

    @property
    def attention(self) -> str:
        """The implementation of attention; see `LLMOptions.attention`."""
        return str(self.causal.config.get_text_config()._attn_implementation)

    @contextmanager
    def attending(self, attention: str | None) -> Iterator[None]:
        """Compute with another implementation of attention; with the same one if it is None."""
        chosen = self.attention
        self.set_attention(attention or chosen)
        try:
            yield
        finally:
            self.set_attention(chosen)

    def set_attention(self, attention: str) -> None:
        """Choose the implementation of attention."""
        if attention != self.attention:
            self.causal.set_attn_implementation(attention)

    @property
    def packs(self) -> bool:
        """Do passes without a cache leave padding out? Flash attention keeps the rows of one long row apart."""
        return self.attention.startswith("flash_attention")

    @property
    def reads_shared_prompts(self) -> bool:
        """Can the attention read a `SharedPromptLayer`?"""
        return self.attention == GROUPED and self.caching == "shared"

    def set_caching(self, caching: Caching) -> None:
        """Choose how prompts and their caches are computed."""
        self.caching = caching
        self.prefix_caches.clear()
        for layer in self._adapter_layers:
            cast(Any, layer).by_rows = caching != "shared"

    @contextmanager
    def adapter(self, on: bool) -> Iterator[None]:
        """Compute with the adapter on (policy) or off (all other roles).

        This sets a flag on each layer. PEFT's own context manager also switches all gradients, which takes 0.1 s per
        forward pass.
        """
        switched = [] if on else [layer for layer in self._adapter_layers if not layer.disable_adapters]
        for layer in switched:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in switched:
                layer._disable_adapters = False

    @cached_property
    def _adapter_layers(self) -> "list[BaseTunerLayer]":
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self.peft.modules() if isinstance(module, BaseTunerLayer)]

    def hidden(self, ids: Tensor, mask: Tensor, adapter: bool, cache: Cache | None = None) -> Tensor:
        """Last hidden states of new tokens, `[batch, tokens, hidden]`. Values at padding have no meaning.

        Args:
            ids: the new tokens, `[batch, tokens]`.
            mask: of the cached and the new tokens together, bool or 0 and 1, `[batch, cached + tokens]`. Positions are
                counted from it, so left padding does not shift them.
            adapter: on or off.
            cache: keys and values of earlier tokens, or an empty cache. It is extended in place.
        """
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        with self.adapter(adapter):
            if cache is None and self.packs:
                real = mask.bool()
                packed = self._run_decoder(ids[real][None], None, positions[real][None], None, **_row_ends(real))[0]
                return packed.new_zeros(*ids.shape, packed.shape[-1]).masked_scatter(real[..., None], packed)
            return self._run_decoder(ids, mask.long(), positions, cache)

    def _run_decoder(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Cache | None, **of_attention: Any
    ) -> Tensor:
        """Without a mask, attention takes each run of positions that starts at 0 for a row of its own."""
        out = decoder(self.causal)(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            **of_attention,
        )
        return cast(Tensor, out.last_hidden_state)

    def output(self, hidden: Tensor, tokens: list[int] | None = None) -> Tensor:
        """Logits in the base's dtype, `[..., hidden]` -> `[..., vocabulary]`, or `[..., tokens]` for given tokens.

        Those of given tokens are float32: bfloat16 steps by 1/16 between 8 and 16, so that rows would tie.
        """
        head = cast(nn.Linear, self.causal.get_output_embeddings())
        states = hidden.to(head.weight.dtype) if head.weight.is_floating_point() else hidden
        if tokens is not None:
            if type(head) is not nn.Linear:
                return self.output(hidden)[..., tokens]
            bias = None if head.bias is None else head.bias[tokens].float()
            return self._change_logits(F.linear(hidden.float(), head.weight[tokens].float(), bias))
        logits = apply_linear(head, states.flatten(0, -2)).unflatten(0, states.shape[:-1])
        return self._change_logits(cast(Tensor, logits))

    def _change_logits(self, logits: Tensor) -> Tensor:
        if self.logit_factor != 1:
            logits = logits * self.logit_factor
        return logits if self.logit_cap is None else (logits / self.logit_cap).tanh() * self.logit_cap

    def logits(self, hidden: Tensor, tokens: list[int] | None = None) -> Tensor:
        """`output` in float32."""
        return self.output(hidden, tokens).float()

    def next_logits(self, newest: Tensor, mask: Tensor, adapter: bool, cache: Cache) -> Tensor:
        """Logits of the token after the newest one, `[batch, 1]`, in float32 `[batch, vocabulary]`.

        Arguments are as for `hidden`; for compiled decoding, the mask covers all positions of the cache.
        """
        if not self.options.compile_decoding:
            return self.logits(self.hidden(newest, mask, adapter, cache)[:, -1])
        if self._compiled_step is None:
            self._compiled_step = compile_step(self._decode, self.device)
        with self.adapter(adapter):
            return self._compiled_step(newest, mask, cache).float()

    def _decode(self, newest: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        return self.output(self.hidden(newest, mask, True, cache)[:, -1])

    def base_checksum(self) -> float:
        """Sum over the base's frozen weights, which training must not change."""
        frozen = (p for p in self.peft.parameters() if not p.requires_grad)
        return float(sum(p.detach().double().abs().sum() for p in frozen))


def _row_ends(mask: Tensor) -> dict[str, Any]:
    """Where packed rows end: each layer of flash attention would look for it in the positions, and wait for the GPU."""
    lengths = mask.sum(1)
    ends, longest = F.pad(lengths.cumsum(0), (1, 0)).int(), int(lengths.max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
