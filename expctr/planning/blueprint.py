"""The language model without its weights: what it would hold, by running the real code on shapes."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedConfig, PreTrainedModel

from expctr.errors import UserError
from expctr.llm.checkpointing import recomputed
from expctr.llm.cpu.attention import GROUPED
from expctr.llm.critic import ValueHead
from expctr.llm.loading import LLMOptions, locate, source
from expctr.llm.logprobs import score_responses
from expctr.llm.model import LanguageModel, adapted
from expctr.llm.prefill import Roomy, cache_of
from expctr.llm.rollout import Rollout, next_tokens
from expctr.llm.yes_no import Answers, LCOptions, answer_scores
from expctr.planning.trace import FLASH, FUSED, Trace, without_storage

BITS = {"nf4": 4, "int8": 8}


class Reduced(nn.Linear):
    """Stands for a frozen linear layer of 4 or 8 bits: computes in the compute type, and is counted by its bits."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`, in the input's type."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


class Blueprint(LanguageModel):
    """A `LanguageModel` of shapes alone; it reads the base's config and no weights.

    Args:
        options: which base.
        dtype: of the base.
        processor: on a processor, not a GPU: attention is another then.

    Raises:
        UserError: there is no config, or the base is of a kind whose memory cannot be counted.
    """

    def __init__(self, options: LLMOptions, dtype: torch.dtype, processor: bool) -> None:
        super(LanguageModel, self).__init__()
        self.options, self.processor = options, processor
        config = load_config(options)
        quantization = _quantization(config, options)
        self.bits = BITS.get(quantization, 0)
        """Of a reduced base; else 0."""
        self.quantized = self.bits > 0
        with torch.device("meta"):
            base: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=options.trust_remote_code
            )
            if self.quantized:
                _reduce(base)
            base.requires_grad_(False)
            base.set_attn_implementation(_attention(base, options, processor))
            self.peft = adapted(base, options, self.quantized)
            self.value_head = ValueHead(self.hidden_size)
        self.pad_id, self.heads = 0, {}
        self._fake = FakeTensorMode()
        without_storage(self, self._fake)
        self._traced: dict[tuple[Any, ...], Counter[str]] = {}
        with self._fake, torch.no_grad(), self._counted():
            ids = torch.zeros(1, 2, dtype=torch.long)
            cache = self.hidden(ids, torch.ones_like(ids), False, DynamicCache()).cache
            assert cache is not None
            self._layers = [(layer.keys[:, :, :1], layer.values[:, :, :1]) for layer in cast(list[Any], cache.layers)]

    # --- what it holds at rest

    @property
    def cache_bytes(self) -> int:
        """Of keys and values of one token."""
        return sum(keys.nbytes + values.nbytes for keys, values in self._layers)

    @property
    def layer_bytes(self) -> list[int]:
        """Of the base's frozen weights in each decoder layer: what sharding divides."""
        return [self._frozen_bytes(layer) for layer in getattr(self.causal.base_model, "layers", [])]

    @property
    def base_bytes(self) -> int:
        """Of all frozen weights."""
        return self._frozen_bytes(self.causal)

    @property
    def adapter_size(self) -> int:
        """Parameters of the adapter, which are float32."""
        return sum(p.numel() for p in self.causal.parameters() if p.requires_grad)

    @property
    def critic_size(self) -> int:
        """Parameters of the critic, which are float32."""
        return sum(p.numel() for p in self.value_head.parameters())

    @property
    def size(self) -> int:
        """Parameters of the base."""
        return sum(p.numel() for p in self.causal.parameters() if not p.requires_grad)

    @property
    def decoder_size(self) -> int:
        """Weights that multiply each token: matrices of the base but the embeddings and the output layer."""
        outer = {id(part.weight) for part in (self.causal.get_input_embeddings(), self.causal.get_output_embeddings())}
        return sum(
            p.numel() for p in self.causal.parameters() if p.ndim == 2 and not p.requires_grad and id(p) not in outer
        )

    @property
    def attention_size(self) -> int:
        """Multiplications of one query with one key and its value, over all layers."""
        config = self.causal.config.get_text_config()
        return sum(config.num_attention_heads * (k.shape[-1] + v.shape[-1]) for k, v in self._layers)

    def _frozen_bytes(self, module: nn.Module) -> int:
        reduced = {id(part.weight) for part in module.modules() if isinstance(part, Reduced)}
        frozen = (p for p in module.parameters() if not p.requires_grad)
        return sum(reduced_bytes(p, self.bits) if id(p) in reduced else p.nbytes for p in frozen)

    # --- what the parts of a step add to that, at their highest moment

    def prefill(self, rows: int, tokens: int, adapter: bool) -> Counter[str]:
        """Prompts of one part, their keys and values among the activations."""

        def work(trace: Trace) -> None:
            ids, mask = _ids(rows, tokens), _mask(rows, tokens)
            self.hidden(ids, mask, adapter, DynamicCache())

        return self._trace(("prefill", rows, tokens, adapter), work, training=False)

    def decode(self, rows: int, tokens: int, room: int, sampled: bool, kept: bool) -> Counter[str]:
        """One token a row, the prompts' cache with it, and the first row's end, which copies the cache.

        Args:
            rows: of the batch.
            tokens: of the prompts.
            room: tokens to come.
            sampled: by noise, or greedy.
            kept: the cache before that copy stays for the passes to come.
        """

        def work(trace: Trace) -> None:
            cache = DynamicCache()
            with trace.label("prompt cache"):
                cache.layers = [Roomy(k, v, rows, tokens - 1, room) for k, v in self._layers]
            before = [(layer.keys, layer.values) for layer in cast(list[Roomy], cache.layers)] if kept else []
            for alive in (rows, max(1, rows - 1)):
                uniform = torch.zeros(alive, dtype=torch.float64) if sampled else None
                next_tokens(self, _ids(alive, 1), _mask(alive, tokens + rows - alive), cache, True, 1.0, uniform)
                with trace.label("prompt cache"):
                    cache.batch_select_indices(torch.arange(max(1, rows - 1)))
            del before

        return self._trace(("decode", rows, tokens, room, sampled, kept), work, training=False)

    def score(self, rows: int, tokens: int) -> Counter[str]:
        """A yes/no score of one part of the prompts."""

        def work(trace: Trace) -> None:
            states = self.hidden(_ids(rows, tokens), _mask(rows, tokens), False, DynamicCache()).states
            answer_scores(self, states[:, -1], Answers([0], [1]), LCOptions())

        return self._trace(("score", rows, tokens), work, training=False)

    def reference(self, rows: int, tokens: int, response: int, adapter: bool) -> Counter[str]:
        """Log-probabilities of one micro-batch, without gradient."""

        def work(trace: Trace) -> None:
            score_responses(self, self._rollout(rows, tokens, response, trace), adapter, 1.0)

        return self._trace(("reference", rows, tokens, response, adapter), work, training=False)

    def learn(
        self, rows: int, tokens: int, response: int, critic: bool, entropy: bool, again: bool = False
    ) -> Counter[str]:
        """Forward and backward pass of one micro-batch; `again`: with gradient checkpointing."""

        def work(trace: Trace) -> None:
            with recomputed(self) if again else nullcontext():
                scores = score_responses(self, self._rollout(rows, tokens, response, trace), True, 1.0, entropy)
            loss = scores.logprobs.sum() + scores.entropy.sum()
            if critic:
                loss = loss + self.value_head(torch.empty_like(scores.hidden)).sum()
            loss.backward()

        return self._trace(("train", rows, tokens, response, critic, entropy, again), work, training=True)

    def _rollout(self, rows: int, tokens: int, response: int, trace: Trace) -> Rollout:
        cache = None
        if self.options.adapter_scope == "response":
            with trace.label("prompt cache"):
                pairs = ((_rows(k, rows, tokens - 1), _rows(v, rows, tokens - 1)) for k, v in self._layers)
                cache = cache_of(pairs)
        mask, truncated = _mask(rows, response), torch.zeros(rows, dtype=torch.bool)
        return Rollout(
            _ids(rows, tokens), _mask(rows, tokens), _ids(rows, response), mask, mask.float(), truncated, cache
        )

    def _trace(self, key: tuple[Any, ...], work: Callable[[Trace], None], training: bool) -> Counter[str]:
        if key not in self._traced:
            gradients: AbstractContextManager[Any] = nullcontext() if training else torch.no_grad()
            with self._fake, gradients, self._counted():
                if training:
                    for parameter in self.parameters():
                        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
                trace = Trace(self.vocabulary)
                with trace:
                    work(trace)
            self._traced[key] = trace.peak
        return self._traced[key]

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except (DynamicOutputShapeException, NotImplementedError, RuntimeError) as error:
            raise UserError(
                f"llm.path: the memory of {type(self.causal).__name__} cannot be counted without its weights, for what "
                f"it does depends on their values ({str(error).splitlines()[0]})"
            ) from error


def load_config(options: LLMOptions) -> PreTrainedConfig:
    """The base's config alone.

    Raises:
        UserError: there is none.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(locate(options.path, "llm.path"), **source(options))
    except (OSError, ValueError) as error:
        raise UserError(
            f"llm.path: there is no config of a model in {options.path} ({str(error).splitlines()[0]}); give a folder "
            "with the model's config.json (or with llm.gguf_file its GGUF file), or a hub id"
        ) from error
    return config


def reduced_bytes(weight: Tensor, bits: int) -> int:
    """Of a weight in 4 bits (nf4, a scale of 8 bits for 64 weights, and for 256 of these one of 32) or in 8 (int8, a
    float32 scale for each row).
    """
    if bits == 8:
        return weight.numel() + 4 * len(weight)
    return weight.numel() // 2 + weight.numel() // 64 + 4 * (weight.numel() // (64 * 256))


def _quantization(config: PreTrainedConfig, options: LLMOptions) -> str:
    """`nf4`, `int8` or `none`; takes what the disk says off the config, by which transformers would load weights."""
    on_disk = getattr(config, "quantization_config", None)
    if not on_disk or options.gguf_file:
        return options.quantization
    del config.quantization_config
    known = on_disk if isinstance(on_disk, dict) else on_disk.to_dict()
    for key, name in (("load_in_4bit", "nf4"), ("load_in_8bit", "int8")):
        if known.get(key):
            return name
    raise UserError(f"llm.path: {options.path} is quantized by {known.get('quant_method')}, which is not counted")


def _reduce(base: PreTrainedModel) -> None:
    """As transformers loads it: linear layers but the output in few bits, everything else as it was."""
    output = base.get_output_embeddings()
    for module in list(base.modules()):
        for name, part in module.named_children():
            if type(part) is nn.Linear and part is not output:
                made = Reduced(part.in_features, part.out_features, part.bias is not None, dtype=part.weight.dtype)
                setattr(module, name, made)


def _attention(base: PreTrainedModel, options: LLMOptions, processor: bool) -> str:
    """What `llm.attention` comes to there, as far as memory goes."""
    chosen: str = options.attention
    if chosen == "auto":
        chosen = "sdpa" if base._supports_sdpa else "eager"
        if processor and base._supports_attention_backend:
            chosen = GROUPED
    return {"sdpa": FUSED, "flash_attention_2": FLASH}.get(chosen, chosen)


def _ids(rows: int, tokens: int) -> Tensor:
    return torch.zeros(rows, tokens, dtype=torch.long)


def _mask(rows: int, tokens: int) -> Tensor:
    return torch.ones(rows, tokens, dtype=torch.bool)


def _rows(like: Tensor, rows: int, tokens: int) -> Tensor:
    return like.new_empty(rows, like.shape[1], tokens, like.shape[3])
