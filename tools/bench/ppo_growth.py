"""Growth of a PPO batch's seconds with rows, prompt, response and passes, and whether its memory stays flat.

    python -m tools.bench.ppo_growth [--threads N]

SmolLM2-135M with adapter_scope: response, as in ppo.py. One size is varied at a time, and a line in the tokens is
fitted to all points. The last line is JSON: `fit` in milliseconds per token, `worst` the fit's largest relative error,
and `growth_mb` the growth of the process over the last 40 of 50 small batches: a median of ten minus another, because
single batches hold 75 MB more until the next one.
"""

import json
import time
from statistics import median
from typing import NamedTuple, cast

import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from expctr.data.batches import Nouns, SampleText
from expctr.llm.loading import LLMOptions
from expctr.llm.rollout import RolloutOptions, decode_texts, draw_noise, generate
from expctr.llm.yes_no import LCOptions
from expctr.modules.explainer import PPOExplainerModule
from expctr.nan_guard import NaNGuard
from expctr.rl.options import PPOOptions
from expctr.rl.rewards import alignment
from expctr.stopwatch import Stopwatch
from tools.bench.ppo import MODEL, prepare
from tools.bench.turns import MINIBATCH, memory_gb
from tools.runs import ROOT, script


class Size(NamedTuple):
    """The sizes of a batch."""

    rows: int = 32
    prompt: int = 160
    response: int = 64
    passes: int = 2


VARIED = {"rows": (8, 16, 64, 128), "prompt": (100, 200, 400, 800), "response": (16, 32, 128), "passes": (1, 3, 4)}
SMALL, STEPS, WARM = Size(8, 100, 16, 1), 50, 10


def explainer() -> PPOExplainerModule:
    module = PPOExplainerModule(
        LLMOptions(str(MODEL), adapter_scope="response"),
        lc=LCOptions(score="logit", include_title=True),
        ppo=PPOOptions(lr=1e-4, minibatch_size=MINIBATCH, advantage="batch"),
    )
    module.build(Nouns("movie", "movies", "viewer", "viewing"))
    return module


def batch(module: PPOExplainerModule, optimizer: LightningOptimizer, size: Size, words: list[int]) -> float:
    """Return the seconds of a rollout of random prompts, its LC rewards, and the update."""
    module.ppo.epochs = size.passes
    draws = torch.Generator().manual_seed(size.rows)
    rest = torch.randint(100, len(words), (size.rows, size.prompt - 40), generator=draws)
    prompts = [words[:40] + [words[i] for i in row] for row in rest.tolist()]
    labels = (torch.arange(size.rows) % 2).float()
    began = time.perf_counter()
    noise = draw_noise(0, 0, range(size.rows), 1, size.response)
    rollout = generate(module.model, prompts, RolloutOptions(max_new_tokens=size.response), noise)
    written = decode_texts(module.model, rollout)
    scores = module.lc_scorer.scores([SampleText("Emma")] * size.rows, written)
    total, _ = module.normaliser(alignment(scores, labels, "mae"), "lc")
    guard = NaNGuard("bench", range(size.rows), written)
    order = torch.Generator().manual_seed(0)
    module.update(rollout, total, labels, optimizer, _backward, order, Stopwatch(), guard)
    return time.perf_counter() - began


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    prepare()
    torch.set_num_threads(options.threads)
    module = explainer()
    optimizer = cast(LightningOptimizer, module.optimizer())
    words = module.model.tokenizer((ROOT / "README.md").read_text()).input_ids

    held = []
    for _ in track(range(STEPS), "memory"):
        batch(module, optimizer, SMALL, words)
        held.append(1024 * memory_gb("VmRSS"))
    growth = median(held[-WARM:]) - median(held[WARM : 2 * WARM])
    batch(module, optimizer, Size(), words)  # the first of a size is slower
    sizes = [Size(), *(Size()._replace(**{name: value}) for name, values in VARIED.items() for value in values)]
    took = [batch(module, optimizer, size, words) for size in track(sizes, "sizes")]

    tokens = np.array([(s.rows * s.prompt, s.rows * s.response, s.rows * s.response * s.passes) for s in sizes])
    terms = np.column_stack([np.ones(len(sizes)), tokens])
    weight = 1 / np.array(took)[:, None]  # relative errors
    fit, *_ = np.linalg.lstsq(terms * weight, np.ones(len(sizes)), rcond=None)
    expected = terms @ fit

    shown = Table(*Size._fields, "seconds", "fitted")
    for size, seconds, fitted in zip(sizes, took, expected, strict=True):
        shown.add_row(*map(str, size), f"{seconds:.1f}", f"{fitted:.1f}")
    Console().print(shown)
    names = ("batch_s", "prompt_token_ms", "response_token_ms", "response_token_and_pass_ms")
    found = dict(zip(names, [fit[0], *(1000 * fit[1:])], strict=True))
    worst = float(np.abs(expected / np.array(took) - 1).max())
    rounded = {name: round(float(value), 4) for name, value in found.items()}
    print(json.dumps({"fit": rounded, "worst": round(worst, 3), "growth_mb": round(growth, 1)}))


if __name__ == "__main__":
    main()
