"""Which bases work: a probe of every causal architecture of transformers that can be made tiny.

`python -m tools.architectures docs/bases.md` writes the table of that page anew, `python -m tools.architectures
docs/bases.md qwen3_next mpt` some of its rows; with `-` for the page, rows are only printed.
"""

import signal
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from expctr.errors import UserError
from expctr.llm.architecture import WINDOWS
from expctr.llm.loading import LLMOptions, check_predicts_next_token, choose_attention, load_tokenizer
from expctr.llm.logprobs import score_responses
from expctr.llm.lora import add_adapter
from expctr.llm.model import LanguageModel
from expctr.llm.probe import EXACT, Rows, Scope, plain_logits, probe
from expctr.llm.rollout import RolloutOptions, draw_noise, generate
from tools.runs import script

SMALL: dict[str, Any] = {
    "vocab_size": 3072,  # of the tokenizer of nano
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 3,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    # windows, shorter than the prompts
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "window_size": 8,
    "attention_window_size": 8,
    "local_attention": 8,
    "keep_window_size": 8,
    "index_topk": 8,
    # experts
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # compressed keys and values
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 8,
    # layers with a state
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "lru_width": 32,
    "state_size": 8,
    "n_groups": 1,
    "chunk_size": 8,
    "time_step_rank": 4,
    "n_mamba_heads": 4,
    # other names
    "ffn_dim": 64,
    "n_inner": 64,
    "d_model": 32,
    "rotary_dim": 4,
    "word_embed_proj_dim": 32,
    "embedding_size": 32,
    "decoder_layers": 4,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 3072,
}
"""Options of configs, by the names of transformers."""

SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "dots1": {"n_shared_experts": 1},
    "bailing_hybrid": {"head_dim": 16, "layer_types": ["linear_attention", "full_attention"] * 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_unified": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_unified_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "llama4": {"no_rope_layer_interval": 4},
    "mamba2": {"num_heads": 8},
    "zamba": {"num_key_value_heads": 4, "head_dim": 16},
    "zamba2": {"layer_types": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
"""Further options of some."""
MAX_WEIGHTS = 20_000_000
TIME_LIMIT = 60
"""Seconds per architecture."""

START = "<!-- written by tools.architectures -->"
"""What follows this line of the page is made anew."""


class Row(NamedTuple):
    """A row of the table: an architecture, whether it works, and how or why not."""

    model_type: str
    works: str
    how: str = ""


HEADING = Row("architecture", "works", "attention and caching on a CPU, or why not")


class NotTinyError(Exception):
    """An architecture has many weights, whatever its config says."""


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """A config with small sizes, and some changes."""
    return _shrink(CONFIG_MAPPING[model_type](), SMALL | SPECIAL.get(model_type, {}) | changes)


def _shrink(default: PreTrainedConfig, sizes: dict[str, Any]) -> PreTrainedConfig:
    kind, known = type(default), default.to_dict()
    options = {kind.attribute_map.get(name, name): value for name, value in sizes.items()}
    if {"kv_lora_rank", "num_key_value_heads"} <= known.keys():  # each head has its own compressed keys
        options["num_key_value_heads"] = sizes["num_attention_heads"]
    parts = {name: _shrink(getattr(default, name), sizes) for name in kind.sub_configs if known.get(name)}
    return kind(**{name: value for name, value in options.items() if name in known} | parts)


def tiny_model(model_type: str, scope: Scope = "all", **changes: Any) -> LanguageModel:
    """A random base in float32 with a fresh adapter, as `LanguageModel.load` would make it from a folder.

    Raises:
        UserError: it is not supported.
        NotTinyError: it would be large.
    """
    options = LLMOptions(dtype="float32", lora_r=4, adapter_scope=scope)
    config = tiny_config(model_type, **changes)
    check_predicts_next_token(config, options)
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > MAX_WEIGHTS:
        raise NotTinyError(f"{weights:,} weights")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).eval()
    for parameter in base.parameters():  # some classes draw weights that are too small to matter
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 0.2)
    choose_attention(base, options, torch.device("cpu"))
    base.requires_grad_(False)
    return LanguageModel(add_adapter(base, options, quantized=False), load_tokenizer(options), options)


def long_rows() -> Rows:
    """Three rows with a common prefix, whose prompts are longer than the windows of `SMALL`."""
    draw = torch.Generator().manual_seed(1)
    sizes = 9, 26, 11, 17, 6, 4, 5
    head, *rest = (torch.randint(5, SMALL["vocab_size"], (size,), generator=draw).tolist() for size in sizes)
    return Rows([head + part for part in rest[:3]], rest[3:])


def check(model_type: str) -> Row:
    """Probe an architecture in both scopes, and let it sample and learn with an adapter that is not fresh."""
    try:
        model = tiny_model(model_type, "response")
        probe_either_scope(model)
    except UserError as error:
        return Row(model_type, "no", _reason(error))
    scope = model.options.adapter_scope
    if model.has_windows:  # with windows as long as real ones, the cheap form must find the same
        wide = tiny_model(model_type, scope, **dict.fromkeys(WINDOWS, 200))
        probe(wide)
        if (wide.attention, wide.caching) != (model.attention, model.caching):
            return Row(model_type, "no", f"the probe at load finds {wide.attention}, {wide.caching}, which is wrong")
    draw = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1, generator=draw)
    error = sampling_error(model)
    if not error <= 10 * EXACT:
        return Row(model_type, "no", f"what it samples and what it scores differ by {error:.2g}")
    how = f"{model.attention}, {model.caching}"
    return Row(model_type, "yes" if scope == "response" else "with `adapter_scope: all`", how)


def probe_either_scope(model: LanguageModel) -> None:
    """Probe with the model's scope, and if that is not supported, with `all`."""
    attention = model.attention
    try:
        probe(model, long_rows())
    except UserError:
        model.options = replace(model.options, adapter_scope="all")
        model.causal.set_attn_implementation(attention)
        probe(model, long_rows())


def sampling_error(model: LanguageModel) -> float:
    """Largest difference of log-probabilities between sampling and scoring, and in scope `all` the plain forward pass.

    Two responses of each prompt are sampled, which end at different lengths. The gradient must reach the adapter.
    """
    prompts = long_rows().prompts
    noise = draw_noise(0, 0, range(len(prompts)), 2, 6)
    rollout = generate(model, prompts, RolloutOptions(max_new_tokens=6), noise, responses=2)
    twice = [prompt for prompt in prompts for _ in range(2)]
    if model.options.adapter_scope == "response":  # learning needs a cache with each response's own prompt
        rollout = generate(model, twice, RolloutOptions(max_new_tokens=6), noise)
    logprobs = score_responses(model, rollout, True, 1.0).logprobs
    logprobs[rollout.response_mask].sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    if not gradients or not all(gradient.isfinite().all() for gradient in gradients):
        return float("nan")
    found = [(logprobs - rollout.logprobs)[rollout.response_mask]]
    if model.options.adapter_scope == "all":
        responses = [ids[mask].tolist() for ids, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]
        with torch.no_grad():
            plain = plain_logits(model, Rows(twice, responses))
        for row, (response, logits) in enumerate(zip(responses, plain, strict=True)):
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
            found.append(chosen - logprobs[row, : len(response)])
    return float(torch.cat(found).detach().abs().max())


def check_all(model_types: Iterable[str]) -> Iterator[Row]:
    """Rows of the table. What cannot be made, or takes too long, has one too."""
    for model_type in model_types:
        try:
            with _time_limit(TIME_LIMIT):
                row = check(model_type)
        except Exception as error:  # a base's code can raise anything
            row = Row(model_type, "not tried", f"{type(error).__name__}: {' '.join(str(error).split())[:100].strip()}")
        print("|", " | ".join(row), "|", flush=True)
        yield row


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _reason(error: UserError) -> str:
    return str(error).split(". Fix: ")[0].removeprefix("llm.path: nano ").split(" is not supported: ")[-1]


def read_table(page: Path) -> list[Row]:
    """The rows of a page's table; none if there is no table yet."""
    lines = page.read_text(encoding="utf-8").partition(START)[2].splitlines()
    return [Row(*(cell.strip() for cell in line.split("|")[1:-1])) for line in lines if line.startswith("|")][2:]


def main(arguments: list[str] | None = None) -> None:
    """Write the table into a page, whole or the rows of some architectures; or print rows."""
    parser = script(__doc__)
    parser.add_argument("page", help="the page that gets the table, or - to print rows only")
    parser.add_argument("architectures", nargs="*", help="as transformers calls them; all if none is given")
    asked = parser.parse_args(arguments)
    page, some = asked.page, asked.architectures
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = list(check_all(some or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    if page != "-":
        table = {row.model_type: row for row in (*(read_table(Path(page)) if some else ()), *rows)}
        lines = [f"| {' | '.join(row)} |" for row in (HEADING, Row("---", "---", "---"), *table.values())]
        counts = Counter(row.works for row in table.values())
        found = ", ".join(f"{works} {count}" for works, count in counts.most_common())
        text = Path(page).read_text(encoding="utf-8").split(START)[0]
        parts = [text + START, "", f"{len(table)} architectures: {found}.", "", *lines, ""]
        Path(page).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
