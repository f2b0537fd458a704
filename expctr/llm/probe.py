"""A probe of a loaded base: do batches, padding and caches give the logits of each prompt alone?

expctr pads prompts, computes their common prefix once, and continues from caches. Not every base can follow: some count
padding, some keep other states than keys and values. The probe finds the fastest way that is right, or refuses the
base.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Literal, NamedTuple, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from expctr.errors import UserError, first_line
from expctr.llm.architecture import KEEPS_STATE, context_length, keeps_state, selects_keys
from expctr.llm.compiled_layers import compile_layers
from expctr.llm.cpu.attention import GROUPED
from expctr.llm.kv_cache import share_cache, share_prompts
from expctr.llm.loading import LLMOptions
from expctr.llm.logprobs import score_responses
from expctr.llm.model import Caching, LanguageModel
from expctr.llm.prefill import prefill
from expctr.llm.prompt_writer import SAMPLE_MESSAGE, PromptWriter
from expctr.llm.rollout import Rollout
from expctr.llm.sharding.loading import NOT_SHARDED
from expctr.untrusted import printable

TEXT = "The viewer liked most of what they saw, so they will likely enjoy this one. Yes or No?"
EXACT, ROUGH = 1e-3, 0.25
"""Tolerated differences (`difference`) of a base in float32, and of others (TF32 too), whose rounding makes some."""

Scope = Literal["all", "response"]


class Rows(NamedTuple):
    """Token ids of some prompts of unequal length with a common prefix, and of a response to each."""

    prompts: list[list[int]]
    responses: list[list[int]]


class Way(NamedTuple):
    """A way of computing the base."""

    attention: str
    caching: Caching
    scope: Scope


def load_model(
    options: LLMOptions, seed: int = 0, mesh: DeviceMesh | None = None, device: torch.device | None = None
) -> LanguageModel:
    """`LanguageModel.load`, then `probe`; `sharding.fsdp.shard` probes a model that each rank holds a shard of."""
    for option in ("compile_decoding", "compile_layers"):
        if mesh is not None and getattr(options, option):
            raise UserError(f"llm.{option}: a sharded model cannot be compiled. Fix: set it to false, or {NOT_SHARDED}")
    model = LanguageModel.load(options, seed, mesh, device)
    if not model.is_sharded:
        probe(model)
    if options.compile_layers:
        compile_layers(model.causal)
    return model


@torch.no_grad()
def probe(model: LanguageModel, rows: Rows | None = None) -> None:
    """Set the fastest way of computing the base that is right.

    Raises:
        UserError: the base is not supported with these options; the message says which option helps, if one does.
    """
    rows = rows or short_rows(model)
    options, name = model.options, f"llm.path: {model.options.path} ({type(model.causal).__name__})"
    plain, problems = plain_logits(model, rows), list[str]()
    for way in _ways(model):
        model.set_attention(way.attention)
        model.set_caching(way.caching)
        problem = find_problem(model, rows, plain, way.scope)
        if problem is None:
            break
        problems.append(problem)
    else:
        reason = _reason(model, rows, plain, problems)
        if reason == KEEPS_STATE:  # which others do, and work
            reason = f"{KEEPS_STATE}, and {problems[-1]}"
        raise UserError(f"{name} is not supported: {reason}. Fix: choose another base")
    wanted = {"llm.attention": way.attention} if options.attention not in ("auto", way.attention) else {}
    if way.scope != options.adapter_scope:
        wanted["llm.adapter_scope"] = way.scope
    if way.caching != "shared" and options.compile_decoding:
        wanted["llm.compile_decoding"] = "false"
    if wanted:
        fix = " and ".join(f"set {option} to {value}" for option, value in wanted.items())
        raise UserError(f"{name} needs other options: {_reason(model, rows, plain, problems)}. Fix: {fix}")
    if problems:
        why = printable(_reason(model, rows, plain, problems))
        rank_zero_info(f"{name} is computed with attention {way.attention} and caching {way.caching}: {why}")
    if options.compile_decoding and model.causal._supports_attention_backend:
        with model.attending(GROUPED):
            grouped_is_right = find_problem(model, rows, plain, way.scope) is None
        model.decoding_attention = GROUPED if grouped_is_right else None


def check_prompts(model: LanguageModel, prompts: PromptWriter, tokens: int, options: str) -> None:
    """Refuse a base that cannot read these prompts, with a `UserError`.

    Args:
        model: the base.
        prompts: written with its tokenizer.
        tokens: the most tokens of a row.
        options: that allow so many.
    """
    context = context_length(model.causal.config.get_text_config())
    if context < tokens:
        raise UserError(
            f"{options} allow {tokens} tokens, and llm.path: {model.options.path} has a context of {context:.0f}. "
            "Fix: lower them, or choose a base with a longer context"
        )
    rows = cast(nn.Embedding, model.causal.get_input_embeddings()).num_embeddings
    if beyond := [token for token in prompts.encode(SAMPLE_MESSAGE) if token >= rows]:
        name = model.tokenizer.convert_ids_to_tokens(beyond[0])
        raise UserError(
            f"llm.path: {model.options.path} has {rows} embeddings, and its chat template writes the token {beyond[0]} "
            f"({name}). Fix: give it the tokenizer that it was trained with"
        )


def short_rows(model: LanguageModel) -> Rows:
    """Two rows of a few tokens."""
    tokens = cycle(model.tokenizer(TEXT, add_special_tokens=False).input_ids or model.eos_ids)
    head, long, short, *responses = (list(islice(tokens, count)) for count in (4, 8, 3, 3, 2))
    return Rows([head + long, head + short], responses)


def _ways(model: LanguageModel) -> Iterator[Way]:
    """All ways, the fastest first; those that the options exclude come last."""
    attentions, own_code = [model.attention], not model.causal._can_set_attn_implementation()
    if selects_keys(model.causal.config.get_text_config()):
        attentions = ["eager"]
    elif model.attention != "eager" and not own_code:
        attentions.append("eager")
    rounds = _tolerance(model) != EXACT
    scopes: list[Scope] = [model.options.adapter_scope]
    if "all" not in scopes:
        scopes.append("all")
    for scope in scopes:
        for attention in attentions:
            # which short prompts cannot show in windows, nor in what rounding makes
            may_count_free_positions = own_code and (model.has_windows or rounds)
            if not may_count_free_positions:
                yield Way(attention, "shared", scope)
            yield Way(attention, "separate", scope)
            if scope == "all":
                yield Way(attention, "native", scope)


def plain_logits(model: LanguageModel, rows: Rows) -> list[Tensor]:
    """What the base says of each row alone, by its own forward pass and eager attention.

    Returns:
        The logits that predict the response's tokens, float32 `[response, vocabulary]` per row.

    Raises:
        UserError: it cannot compute, or some logits are NaN or infinite.
    """
    chosen, caching, found = model.attention, model.caching, []
    model.set_caching("native")
    if model.causal._can_set_attn_implementation():
        model.set_attention("eager")
    for prompt, response in zip(*rows, strict=True):
        ids = torch.tensor([prompt + response], device=model.device)
        try:
            logits = model.causal(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a base's code can raise anything
            name = f"{model.options.path} ({type(model.causal).__name__})"
            raise UserError(
                f"llm.path: {name} cannot compute: {_described(error)}. Fix: choose another base"
            ) from error
        if logits.isnan().any() or logits.isposinf().any():
            raise UserError(
                f"llm.path: {model.options.path} gives logits that are NaN or infinite. Fix: load its weights again, "
                "if they are damaged; if llm.dtype is float16, choose bfloat16 or float32"
            )
        found.append(logits)
    model.set_attention(chosen)
    model.set_caching(caching)
    return found


def find_problem(model: LanguageModel, rows: Rows, plain: Sequence[Tensor], scope: Scope) -> str | None:
    """What differs from the plain logits when the base is computed as the model is set, or None."""
    try:
        for what, row, ours in _logits(model, rows, scope):
            if not difference(ours, plain[row][: len(ours)]) <= _tolerance(model):  # NaN is a problem, too
                return f"it gives other logits when {what} than for the same tokens alone"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a base's code can raise anything
        return _described(error)
    return None


def _tolerance(model: LanguageModel) -> float:
    in_float32 = model.causal.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return EXACT if in_float32 and not model.quantized else ROUGH


def _described(error: Exception) -> str:
    line = first_line(error)
    return line.split(". Fix: ")[0] if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


def _logits(model: LanguageModel, rows: Rows, scope: Scope) -> Iterator[tuple[str, int, Tensor]]:
    """What is computed, the number of a row, and its logits by our ways, `[1 or response, vocabulary]`."""
    (ids, mask), cache = prefill(model, rows.prompts, adapter=scope == "all", room=2)  # of which one stays free
    kept = share_cache(cache) if scope == "response" else None
    responses = 2 if model.reads_shared_prompts else 1  # the stricter of the two caches that decoding reads
    if responses > 1:
        cache = share_prompts(cache, responses)
    newest, seen = (x.repeat_interleave(responses, 0) for x in (ids[:, -1:], mask))
    for row, logits in enumerate(model.logits(model.hidden(newest, seen, True, cache))):
        yield "it decodes from a cache", row // responses, logits
    lengths = torch.tensor([len(response) for response in rows.responses], device=ids.device)
    answers = torch.nn.utils.rnn.pad_sequence([torch.tensor(response) for response in rows.responses], True)
    there = torch.arange(answers.shape[1], device=ids.device) < lengths[:, None]
    none = torch.zeros(there.shape, device=ids.device)
    rollout = Rollout(ids, mask, answers.to(ids.device), there, none, none.new_zeros(len(ids)).bool(), kept)
    hidden = score_responses(model, rollout, True, 1.0).hidden
    if hidden.shape[-1] != model.hidden_size:
        raise ValueError(f"hidden states have {hidden.shape[-1]} numbers, the output layer reads {model.hidden_size}")
    for row, states in enumerate(hidden):
        yield "padded responses are scored", row, model.logits(states[there[row]])


def difference(ours: Tensor, plain: Tensor) -> float:
    """Root mean square difference of log-probabilities, in units of the plain logits' standard deviation."""
    there = plain.isfinite()  # some bases set what cannot be said to -inf
    gap = (ours.log_softmax(-1) - plain.log_softmax(-1))[there]
    return float(gap.square().mean().sqrt() / plain[there].std())


def _reason(model: LanguageModel, rows: Rows, plain: Sequence[Tensor], problems: Sequence[str]) -> str:
    """Why the fastest way is not right."""
    cut = Rows(rows.prompts, [response[:-1] for response in rows.responses])
    if difference(plain_logits(model, cut)[0], plain[0][:-1]) > _tolerance(model):
        return "it is not causal, because tokens see later ones"
    if keeps_state(model.causal.config):
        return KEEPS_STATE
    return problems[0] if problems else "it may count the free positions of a cache"
