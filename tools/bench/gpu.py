"""PPO on a GPU: seconds per part, memory against `expctr plan`, and what must hold. One command, without a network.

    python -m tools.bench.gpu                                # bases of 1B and 8B weights, at most 8 minutes
    python -m tools.bench.gpu --sizes 8B --minutes 4
    python -m tools.bench.gpu --sizes tiny                   # what a processor does by default, in about a minute

Bases have the shapes of Llama 3 and random weights, which are drawn on the device; ratings are random, too. A setting
is a base, a scope of the adapter, and decoding compiled or not. Each trains on three rollout batches of the LC stage,
of 32 rows with 64 new tokens, in bfloat16 where the device computes in it. Checked are

- `ratio_first`: the first minibatch's ratio of new to old policy is 1;
- `decode_error`: log-probabilities while decoding are those of one pass over prompt and response (mean difference);
- `scope_error`: a fresh adapter says the same in both scopes (mean difference of log-probabilities);
- `resume_error`: a run resumed after the second batch ends with the adapter of the run that was not stopped (distance,
  relative to how far that has moved). GPU kernels may round differently from run to run.

Seconds are those of the faster of the last two batches, since the first one compiles. A setting that would not fit the
device's memory, or the time that is left, is left out and named. The last line is JSON; the exit code is 1 where
something does not hold, or nothing was measured.
"""

import contextlib
import gc
import json
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import lightning as L
import polars as pl
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from expctr.data.table import TableDataModule
from expctr.errors import first_line
from expctr.llm.loading import LLMOptions, best_device, load_tokenizer, resolve_dtype
from expctr.llm.logprobs import score_responses
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.rollout import Rollout, RolloutOptions
from expctr.llm.yes_no import LCOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.memory import batch_sizes, forecast_memory, peak_bytes
from expctr.rl.options import PPOOptions
from expctr.stopwatch import Stopwatch
from expctr.training.checkpoint import RunCheckpoint
from tools.runs import PHASES, script

SIZES: dict[str, dict[str, int]] = {  # width, of the MLP, layers, heads, heads of keys and values, words
    "tiny": {"hidden": 64, "mlp": 128, "layers": 2, "heads": 4, "kv": 2, "words": 4096},
    "1B": {"hidden": 2048, "mlp": 8192, "layers": 16, "heads": 32, "kv": 8, "words": 128_256},
    "8B": {"hidden": 4096, "mlp": 14_336, "layers": 32, "heads": 32, "kv": 8, "words": 128_256},
}
ROWS, TOKENS, BATCHES = 32, 64, 3
LIMITS = {"ratio_first": 1e-3, "decode_error": 0.03, "scope_error": 0.03, "resume_error": 0.1}
"""Largest error of what must hold, in bfloat16. On a processor, resumed runs agree bit for bit."""


def write_base(size: str, folder: Path) -> None:
    """Write config and tokenizer of a base: nano's words, then made-up ones up to the vocabulary's size."""
    shape, nano = SIZES[size], load_tokenizer(LLMOptions())
    content = json.loads(cast(Any, nano).backend_tokenizer.to_str())
    content["model"]["vocab"] |= {f"Ġword{number}": number for number in range(len(nano), shape["words"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        eos_token=nano.eos_token,
        pad_token=nano.pad_token,
        chat_template=nano.chat_template,
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=shape["words"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        max_position_embeddings=8192,
        tie_word_embeddings=size != "8B",
        pad_token_id=nano.pad_token_id,
        eos_token_id=nano.eos_token_id,
        bos_token_id=None,
    )
    config.save_pretrained(folder)


def draw_base(path: str, dtype: torch.dtype, output_loading_info: bool = False, **settings: object) -> Any:
    """Draw a base's weights on the device, in place of `from_pretrained`, always the same ones."""
    torch.manual_seed(0)
    with best_device():
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=dtype)
    return (base, {"missing_keys": [], "unexpected_keys": []}) if output_loading_info else base


def random_ratings(users: int = 60, each: int = 12) -> TableDataModule:
    """Ratings at random."""
    generator = torch.Generator().manual_seed(0)
    items = torch.stack([torch.randperm(200, generator=generator)[:each] for _ in range(users)])
    clicks = pl.DataFrame(
        {
            "user_id": [f"user {user}" for user in range(users) for _ in range(each)],
            "sku": [f"sku {item}" for item in items.flatten().tolist()],
            "clicked": torch.randint(0, 2, (users * each,), generator=generator).bool().tolist(),
            "ts": range(1_700_000_000, 1_700_000_000 + users * each),
        }
    )
    skus = clicks["sku"].unique().sort()
    titles = pl.DataFrame({"sku": skus, "title": "The Long Story of " + skus + ", with a Second Title"})
    return TableDataModule(
        interactions=clicks, items=titles, rollout_batch_size=ROWS, eval_batch_size=ROWS, balance_rollouts=True
    )


class Record(L.Callback):
    """What each rollout batch logs, the errors, and the adapter before and after."""

    def __init__(self) -> None:
        self.batches: list[dict[str, float]] = []
        self.errors: dict[str, float] = {}
        self.adapter: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare what a fresh adapter says in both scopes of the same responses."""
        module = cast(PPOExplainerModule, pl_module)
        self.adapter.append(flat_adapter(module))
        rollout = explain(module)
        if rollout.cache is not None:
            alone = logprobs(module, replace(rollout, cache=None))
            self.errors["scope_error"] = difference(alone, logprobs(module, rollout), rollout)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        found = {name.removeprefix("lc/"): float(value) for name, value in trainer.callback_metrics.items()}
        self.batches.append(found)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare what a trained adapter says while decoding and in one pass."""
        module = cast(PPOExplainerModule, pl_module)
        self.adapter.append(flat_adapter(module))
        rollout = explain(module)
        self.errors["decode_error"] = difference(logprobs(module, rollout), rollout.logprobs, rollout)


def explain(module: PPOExplainerModule) -> Rollout:
    texts = module.data.table("train").texts[:ROWS]  # as many as are trained on: compiled code is for one size
    return module.explain(texts, module.noise(0, 0, 0, range(len(texts))))[0]


@torch.no_grad()
def logprobs(module: PPOExplainerModule, rollout: Rollout) -> Tensor:
    """Log-probabilities of responses in one pass, `[rows, response]`."""
    return score_responses(module.model, rollout, True, 1.0).logprobs


def difference(found: Tensor, expected: Tensor, rollout: Rollout) -> float:
    """Mean absolute difference over the tokens of all responses."""
    return float((found - expected)[rollout.response_mask].abs().mean())


def flat_adapter(module: PPOExplainerModule) -> Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in module.model.parameters() if p.requires_grad])


def fit(folder: Path, llm: LLMOptions, checkpoint: Path | None = None) -> Record:
    """Train, from a checkpoint if one is given."""
    record = Record()
    trainer = L.Trainer(
        accelerator="gpu" if best_device().type == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=BATCHES,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[RunCheckpoint(every_n_batches=1, keep=BATCHES), record],
    )
    trainer.fit(explainer(llm), random_ratings(), ckpt_path=checkpoint and str(checkpoint), weights_only=True)
    return record


def explainer(llm: LLMOptions) -> PPOExplainerModule:
    rollout = RolloutOptions(max_new_tokens=TOKENS)
    lc = LCOptions(score="logit", min_mass=0.0)  # the probabilities of Yes and No are all near 0
    return PPOExplainerModule(llm=llm, rollout=rollout, lc=lc, ppo=PPOOptions(lr=1e-4, minibatch_size=8))


@contextlib.contextmanager
def measured_memory() -> Iterator[dict[str, int]]:
    """Peaks of the device's memory by phase, in bytes; empty on a processor."""
    peaks: dict[str, int] = defaultdict(int)
    timed = Stopwatch.__call__

    @contextlib.contextmanager
    def watched(self: Stopwatch, part: str) -> Iterator[None]:
        if part in PHASES:
            torch.cuda.reset_peak_memory_stats()
        with timed(self, part):
            yield
        if part in PHASES:
            peaks[part] = max(peaks[part], torch.cuda.max_memory_allocated())

    with patch.object(Stopwatch, "__call__", watched) if torch.cuda.is_available() else contextlib.nullcontext():
        yield peaks


def measure(folder: Path, llm: LLMOptions, forecast: dict[str, float]) -> dict[str, Any]:
    """Run one setting."""
    with measured_memory() as peaks:
        run = fit(folder / "whole", llm)
    fastest, errors = min(run.batches[1:], key=lambda batch: batch["seconds_all"]), run.errors
    errors["ratio_first"] = max(abs(batch["ratio_first"] - 1) for batch in run.batches)
    if not llm.compile_decoding:  # or the resumed run would compile again
        free_memory()
        second = folder / "whole" / "checkpoints" / "epoch=0000-batch=000002.ckpt"
        again = fit(folder / "resumed", llm, second)
        moved = run.adapter[1] - run.adapter[0]
        errors["resume_error"] = float((again.adapter[1] - run.adapter[1]).norm() / moved.norm())
    return {
        "seconds": {part: fastest[f"seconds_{part}"] for part in (*PHASES, "all")},
        "samples_per_second": fastest["samples_per_second"],
        "ms_per_decoding_step": 1000 * fastest["seconds_decode"] / TOKENS,
        "peak_gb": {part: peak / 1e9 for part, peak in peaks.items()},
        "forecast_gb": forecast,
        "errors": errors,
        "holds": all(error <= LIMITS[name] for name, error in errors.items()),
    }


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch._dynamo.reset()
        torch.cuda.empty_cache()


def settings(sizes: Sequence[str], folder: Path, on_gpu: bool) -> Iterator[tuple[str, LLMOptions]]:
    """Write the bases, and yield each setting with its name; compiled ones, which take longest, come last."""
    scopes: tuple[Literal["response", "all"], ...] = ("response", "all")
    for size in sizes:
        write_base(size, folder / size)
    for compiled in (False, True) if on_gpu else (False,):  # not worth it on a processor
        for size, scope in product(sizes, scopes):
            layers = compiled and scope == "all"
            llm = LLMOptions(str(folder / size), compile_decoding=compiled, compile_layers=layers, adapter_scope=scope)
            yield f"{size}, {scope}{', compiled' * compiled}", llm


def main(args: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser, began, on_gpu = script(__doc__), time.monotonic(), best_device().type == "cuda"
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["1B", "8B"] if on_gpu else ["tiny"])
    parser.add_argument("--minutes", type=float, default=8.0, help="no setting begins that would take longer")
    asked = parser.parse_args(args)
    free, took = torch.cuda.mem_get_info()[0] / 1e9 if on_gpu else inf, 0.0
    found, left_out = dict[str, Any](), dict[str, str]()
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training|.*the LC scorer")
    with (
        contextlib.redirect_stdout(sys.stderr),
        tempfile.TemporaryDirectory() as folder,
        patch.object(AutoModelForCausalLM, "from_pretrained", draw_base),
    ):
        for name, llm in settings(asked.sizes, Path(folder), on_gpu):
            passed = time.monotonic() - began
            try:
                planned = plan(llm)
                if planned["peak"] > free:
                    left_out[name] = f"{planned['peak']:.1f} GB are forecast, and {free:.1f} are free"
                elif passed + 1.5 * took > 60 * asked.minutes:
                    left_out[name] = f"{passed / 60:.1f} minutes have passed"
                else:
                    found[name] = measure(Path(folder) / name, llm, planned)
                    took = time.monotonic() - began - passed
            except Exception as error:  # the others may still run
                found[name] = {"error": f"{type(error).__name__}: {first_line(error)}", "holds": False}
            free_memory()
            print(name, found.get(name) or left_out[name], flush=True)
    holds = bool(found) and all(setting["holds"] for setting in found.values())
    device = {"device": torch.cuda.get_device_name() if on_gpu else "cpu", "torch": torch.__version__}
    minutes = (time.monotonic() - began) / 60
    print(json.dumps({**device, "settings": found, "left_out": left_out, "holds": holds, "minutes": minutes}))
    return 0 if holds else 1


def plan(llm: LLMOptions) -> dict[str, float]:
    """What `expctr plan` forecasts: GB of each phase, and the `peak`; kernels and GB read per step of decoding."""
    data = random_ratings()
    data.prepare_data()
    data.setup()
    module, blueprint = explainer(llm), Blueprint(llm, resolve_dtype("auto"), on_cpu=best_device().type == "cpu")
    prompts = Prompts(load_tokenizer(llm), PromptOptions(), data.nouns).explanation(data.table("train").texts)
    stages = forecast_memory(blueprint, module, batch_sizes(module, data, 1, max(map(len, prompts))))
    phases = {phase: found.total() / 1e9 for phase, found in stages["lc"].items()}
    step = {"kernels_per_step": blueprint.launches, "read_gb_per_step": blueprint.read_bytes / 1e9}
    return {**phases, "peak": peak_bytes({"lc": stages["lc"]}) / 1e9, **step}


if __name__ == "__main__":
    raise SystemExit(main())
