"""Memory of a run: does it hold what `expctr plan` forecasts?

    python -m tools.bench.memory [--only NAME ...] [--folder DIR] [--kernels]

Short runs of `expctr fit` on this processor with a random Llama, each in its own process, on MovieLens-100K. The peak
of resident memory is reset before each phase of a step and read after it, less what the process held right before
loading the base; a run with the shipped nano comes first, so this includes the libraries. malloc is set to return freed
memory, and oneDNN to keep one compiled kernel (--kernels keeps its default: some 50 MB more in bfloat16). The forecast
is that of `plan --processor` with the same options and the run's longest prompt. The last line is JSON: `worst`, the
largest error of a run's highest phase, and `worst_phase`, that of any phase.
"""

import contextlib
import gc
import io
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.bench.turns import memory_gb
from tools.get_movielens import get_movielens
from tools.runs import PHASES, ROOT, script

RATINGS = ROOT / ".data/ml-100k"
SHAPES = {
    "short": {"micro": 4, "prompt": 160},
    "long": {"micro": 6, "prompt": 480},
    "rows": {"micro": 12, "prompt": 160},
    "response": {"micro": 12, "prompt": 480, "scope": "response"},
    "bfloat16": {"micro": 8, "prompt": 320, "dtype": "bfloat16"},
    "bfloat16 response": {"micro": 12, "prompt": 320, "dtype": "bfloat16", "scope": "response"},
}
"""Micro-batch, limit of the prompt's tokens, type of the base and the adapter's scope."""


def make_models(folder: Path) -> None:
    """Save a random Llama of 26 million weights in each type, with nano's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "expctr" / "nano")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    for name in ("float32", "bfloat16"):
        model.to(getattr(torch, name)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def options(folder: Path, name: str, nano: bool = False) -> list[str]:
    """Return the options of a run of one rollout batch."""
    shape: dict[str, Any] = SHAPES[name]
    explainer, micro, dtype = "--model.init_args.explainer", shape["micro"], shape.get("dtype", "float32")
    return [
        "--model=ExpCTRModule",
        "--model.init_args.ctr=CTRModule",
        "--data=MovieLensDataModule",
        "--seed_everything=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={folder / 'runs' / ('warm' if nano else name.replace(' ', '-'))}",
        "--stages.lc.epochs=1",
        "--stages.rounds=0",
        f"{explainer}.lc.score=logit",
        f"{explainer}.llm.path={'nano' if nano else folder / dtype}",
        f"{explainer}.llm.dtype={dtype}",
        f"{explainer}.llm.adapter_scope={shape.get('scope', 'all')}",
        f"{explainer}.llm.lora_r=16",
        f"{explainer}.prompts.prompt_tokens={shape['prompt']}",
        f"{explainer}.rollout.max_new_tokens=24",
        f"{explainer}.ppo.minibatch_size={micro}",
        f"{explainer}.ppo.micro_batch_size={micro}",
        f"{explainer}.ppo.epochs=1",
        "--model.init_args.encoder.path=nano",
        f"--data.init_args.path={RATINGS}",
        f"--data.init_args.cache_dir={folder / 'cache'}",
        "--data.init_args.rollout_batch_size=12",
        "--data.init_args.eval_batch_size=4",
        "--data.init_args.samples={max_samples: 20, min_history: 80, max_history: 80, fractions: [0.6, 0.2, 0.2]}",
    ]


def run(folder: Path, name: str) -> None:
    """Fit, and print as JSON what each phase held and what the plan forecasts. Runs in its own process."""
    from expctr.__main__ import main
    from expctr.llm.model import LanguageModel
    from expctr.rl import policy
    from expctr.stopwatch import Stopwatch

    peaks, before, longest = defaultdict[str, float](float), [0.0], [0]
    load, timed, generate = LanguageModel.load, Stopwatch.__call__, policy.generate

    def loaded(*a: Any, **k: Any) -> LanguageModel:
        before[0] = memory_gb("VmRSS")
        with measured("load"):
            return load(*a, **k)

    def keep_peak(part: str) -> None:
        peaks[part] = max(peaks[part], memory_gb())
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak

    @contextlib.contextmanager
    def measured(part: str) -> Iterator[None]:
        keep_peak("other")
        yield
        keep_peak(part)

    @contextlib.contextmanager
    def watched(self: Stopwatch, part: str) -> Iterator[None]:
        with timed(self, part), measured(part) if part in PHASES else contextlib.nullcontext():
            yield

    def generated(model: Any, prompts: Sequence[Sequence[int]], *a: Any, **k: Any) -> Any:
        longest[0] = max(longest[0], *map(len, prompts))
        return generate(model, prompts, *a, **k)

    LanguageModel.load = loaded  # type: ignore[method-assign]
    Stopwatch.__call__ = watched  # type: ignore[method-assign]
    policy.generate = generated
    with contextlib.redirect_stdout(sys.stderr):
        main(["fit", *options(folder, name, nano=True)])
        gc.collect()
        peaks.clear()
        main(["fit", *options(folder, name)])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(["plan", *options(folder, name), "--processor=true", f"--prompt_tokens={longest[0]}", "--json=true"])
    plan = json.loads(said.getvalue().strip().splitlines()[-1])
    held = {part: peak - before[0] for part, peak in peaks.items()}
    print(json.dumps({"prompt": longest[0], "before": before[0], "held": held, "plan": plan}))


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "bench-memory")
    parser.add_argument("--kernels", action="store_true")
    asked = parser.parse_args()
    get_movielens(RATINGS)
    if not (asked.folder / "bfloat16" / "model.safetensors").exists():
        make_models(asked.folder)
    kernels = {} if asked.kernels else dict.fromkeys(("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "1")
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    environ = {**os.environ, **malloc, **kernels, "PYTHONPATH": str(ROOT)}
    shown = Table("run", "prompt", "phase", "measured MB", "forecast MB", "error")
    worst: dict[str, float] = {"worst": 0.0, "worst_phase": 0.0}
    for name in asked.only:
        shutil.rmtree(asked.folder / "runs", ignore_errors=True)
        command = [sys.executable, "-m", "tools.bench.memory", "run", str(asked.folder), name]
        with (asked.folder / f"{name.replace(' ', '-')}.log").open("w") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, env=environ, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        forecast = {phase: sum(parts.values()) / 2**20 for phase, parts in found["plan"]["stages"]["lc"].items()}
        held = {part: 1024 * gb for part, gb in found["held"].items()}
        for phase in PHASES:
            error = forecast[phase] / held[phase] - 1
            worst["worst_phase"] = max(worst["worst_phase"], abs(error))
            figures = (f"{held[phase]:.0f}", f"{forecast[phase]:.0f}", f"{error:+.0%}")
            shown.add_row(name, str(found["prompt"]), phase, *figures)
        rest = ", ".join(f"{part} {held[part]:.0f} MB" for part in ("load", "other"))
        highest = max(forecast.values()) / max(held[phase] for phase in PHASES) - 1
        worst["worst"] = max(worst["worst"], abs(highest))
        shown.add_row(name, "", f"highest ({rest})", "", "", f"{highest:+.0%}", end_section=True)
        print(name, {part: round(mb) for part, mb in held.items()}, f"{highest:+.1%}", file=sys.stderr)
    Console(width=110).print(shown)
    print(json.dumps({name: round(value, 3) for name, value in worst.items()}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(Path(sys.argv[2]), sys.argv[3])
    else:
        main()
