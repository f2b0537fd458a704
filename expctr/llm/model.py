"""The language model: one base in memory, in four roles (policy, reference, LC scorer, and trunk of the critic).

With the adapter on, it is the policy. With the adapter off, it is the reference pi_init, the LC scorer, and what the
critic reads. Base weights are never written: merging and unmerging an adapter would round the base, and so change the
reward.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from expctr.errors import UserError
from expctr.llm.compiled_decoding import compile_step
from expctr.llm.cpu.attention import GROUPED
from expctr.llm.cpu.linear import apply_linear
from expctr.llm.loading import LLMOptions, check_tokenizer, is_quantized, load_base, load_tokenizer
from expctr.seeding import initial_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer


class LanguageModel(nn.Module):
    """The base with its adapter. `LanguageModel.load` reads both from disk."""

    _compiled_step: Callable[..., Tensor] | None = None

    def __init__(self, peft: "PeftModel", tokenizer: PreTrainedTokenizerBase, options: LLMOptions) -> None:
        super().__init__()
        self.peft, self.tokenizer, self.options = peft, tokenizer, options
        config, self.quantized = self.causal.config.get_text_config(), is_quantized(self.causal)
        self.hidden_size, self.vocab_size = int(config.hidden_size), int(config.vocab_size)
        self.has_local_attention = any(getattr(config, n, None) for n in ("sliding_window", "attention_chunk_size"))
        """Do some layers see the latest tokens only? Such windows are counted in columns, padding included."""
        self.reads_shared_prompts = config._attn_implementation == GROUPED
        """Does the attention read a `SharedPromptLayer`?"""
        eos = getattr(self.causal.generation_config, "eos_token_id", None)
        self.eos_ids = sorted({tokenizer.eos_token_id, *([eos] if isinstance(eos, int) else eos or [])} - {None})
        if not self.eos_ids:
            raise UserError(f"{options.path}: neither tokenizer nor model names an end-of-sequence token")
        pad = tokenizer.pad_token_id
        self.pad_id = self.eos_ids[0] if pad is None else int(pad)
        self.prefix_caches: dict[tuple[torch.device, tuple[int, ...]], DynamicCache] = {}
        """The frozen base's keys and values of common prefixes of prompts; filled by `prefill`."""
        self.static_caches: dict[tuple[object, ...], Cache] = {}
        """Caches that compiled decoding writes to, by size; filled by `to_static`."""

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
        except UserError:
            raise
        except ImportError as error:  # of attention or quantization
            raise UserError(f"llm: {str(error).splitlines()[0]} Fix: install it, or choose another option") from error
        except (OSError, ValueError, KeyError, SafetensorError) as error:  # nothing there, or files missing or damaged
            reason = str(error).splitlines()[0]
            raise UserError(
                f"llm.path: {options.path} cannot be loaded: {reason}. Fix: give a hub id that can be reached, or a "
                "folder with config.json, a tokenizer and whole safetensors weights (a Git LFS pointer is not one)"
            ) from error
        check_tokenizer(tokenizer, options.path, cast(nn.Embedding, base.get_input_embeddings()).num_embeddings)
        base.requires_grad_(False)
        with initial_weights(seed):
            peft = add_adapter(base, options, is_quantized(base))
        model = cls(peft, tokenizer, options)
        if not model.is_sharded:
            model.check_output_layer()
        return model

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
        """Last hidden states of new tokens, `[batch, tokens, hidden]`.

        Args:
            ids: the new tokens, `[batch, tokens]`.
            mask: of the cached and the new tokens together, `[batch, cached + tokens]`. Positions are counted from the
                mask, so left padding does not shift them.
            adapter: on or off.
            cache: keys and values of earlier tokens, or an empty cache. It is extended in place.
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
        return cast(Tensor, out.last_hidden_state)

    def output(self, hidden: Tensor, tokens: list[int] | None = None) -> Tensor:
        """Logits in the base's dtype, `[..., hidden]` -> `[..., vocabulary]`, or `[..., tokens]` for given tokens."""
        head = cast(nn.Linear, self.causal.get_output_embeddings())
        states = hidden.to(head.weight.dtype) if head.weight.is_floating_point() else hidden
        if tokens is not None:
            if type(head) is nn.Linear:
                return F.linear(states, head.weight[tokens], None if head.bias is None else head.bias[tokens])
            return self.output(hidden)[..., tokens]
        return cast(Tensor, apply_linear(head, states.flatten(0, -2)).unflatten(0, states.shape[:-1]))

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

    def check_length(self, prompt: int, response: int = 0) -> None:
        """Refuse prompts and responses of so many tokens if the base has fewer positions, with a `UserError`.

        Later positions would be an error of the base, or were never trained.
        """
        positions = getattr(self.causal.config.get_text_config(), "max_position_embeddings", None)
        if positions and prompt + response > positions:
            answers = f" and responses of {response} (rollout.max_new_tokens)" if response else ""
            raise UserError(
                f"llm.path: {self.options.path} has {positions} positions, too few for prompts of {prompt} tokens "
                f"(prompts.prompt_tokens){answers}. Fix: lower these options, or choose another base"
            )

    @torch.no_grad()
    def check_output_layer(self) -> None:
        """Refuse a model whose logits are not finite, or not those of its output layer, with a `UserError`."""
        ids = torch.tensor([[self.eos_ids[0], self.pad_id]], device=self.device)
        ours = self.logits(self.hidden(ids, torch.ones_like(ids), adapter=True))
        theirs = self.causal(input_ids=ids).logits.float()
        if not theirs.isfinite().all():
            raise UserError(
                f"llm.path: {self.options.path} answers with NaN or infinity. Fix: set llm.dtype: float32 if it is "
                "float16; or download the weights again, which may be damaged"
            )
        if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())):
            raise UserError(
                f"{self.options.path}: {type(self.causal).__name__} changes its logits after the output layer, which "
                "expctr does not support: choose a base without logit scaling or soft-capping"
            )
