"""One base model in memory, four parts: policy, reference, LC scorer, trunk of the critic.

With the adapter on it is the policy; with the adapter off it is pi_init, the LC scorer, and what the critic reads.
Base weights are never written: no merge and unmerge, whose rounding would drift the base and with it the reward.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import (
    Cache,
    DynamicCache,
    PreTrainedModel,
)

from expctr.errors import UserError
from expctr.llm.compiled import compiled
from expctr.llm.cpu.linear import linear
from expctr.llm.loading import LLMOptions, best_device, load_base, load_tokenizer
from expctr.seeding import first_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

DType = Literal["auto", "float32", "bfloat16", "float16"]


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
