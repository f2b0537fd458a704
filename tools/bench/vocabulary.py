"""A vocabulary of up to ten million items: what a CTR model's tables cost, with one row per value or shared rows.

    python -m tools.bench.vocabulary

One DeepFM (RecBole's defaults) on 100,000 users and 10,000 to 10,000,000 items, with random batches of 2048: the
seconds of a training step with Adam, and the growth of the process's memory. Each case has its own process. `max_rows`
limits the rows per field, which the values share by a hash. The last line is JSON.
"""

import json
import multiprocessing
import time
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from expctr.ctr.zoo import DeepFM
from expctr.data.batches import Batch
from expctr.data.features import FIRST, Vocabulary
from expctr.modules.ctr import CTRModule
from tools.bench.turns import memory_gb
from tools.runs import script

USERS, BATCH = 100_000, 2048


def cost(items: int, max_rows: int | None, steps: int, threads: int) -> tuple[float, float, int]:
    """Return seconds per step, gigabytes, and rows of the table."""
    torch.set_num_threads(threads)
    before = memory_gb()
    module = CTRModule(partial(DeepFM, max_rows=max_rows))
    module.build(Vocabulary({"user": FIRST + USERS, "target": FIRST + items}))
    adam, generator = module.optimizer(), torch.Generator().manual_seed(0)
    took = []
    for _ in range(steps):
        features = {
            name: torch.randint(FIRST, FIRST + size, (BATCH,), generator=generator)
            for name, size in (("user", USERS), ("target", items))
        }
        batch = Batch(torch.arange(BATCH), torch.rand(BATCH, generator=generator).round(), features)
        began = time.perf_counter()
        adam.zero_grad()
        module.loss(batch).backward()
        adam.step()
        took.append(time.perf_counter() - began)
    return median(took[1:]), memory_gb() - before, len(next(module.parameters()))


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--items", nargs="+", type=int, default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--max_rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=11, help="the first is not counted")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    table = Table("items", "max_rows", "rows", "ms per step", "GB")
    found: dict[str, dict[int, dict[str, float]]] = {"a row per value": {}, "hashed": {}}
    places = [(name, items) for items in asked.items for name in found]
    context = multiprocessing.get_context("spawn")  # memory starts at zero
    for name, items in track(places, "tables", console=Console(stderr=True)):
        most = asked.max_rows if name == "hashed" else None
        with context.Pool(1) as pool:
            seconds, gigabytes, rows = pool.apply(cost, (items, most, asked.steps, asked.threads))
        found[name][items] = {"ms": round(1000 * seconds, 1), "gb": round(gigabytes, 3)}
        limit = f"{most:,}" if most else "-"
        table.add_row(f"{items:,}", limit, f"{rows:,}", f"{1000 * seconds:.1f}", f"{gigabytes:.2f}")
    Console().print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
