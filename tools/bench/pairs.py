"""Pairs per second of `expctr predict RUN --pairs`, against other ways to score the same pairs in the same process.

    python -m tools.bench.pairs runs/quickstart                         # 40 users x 50 items
    python -m tools.bench.pairs runs/quickstart --users 400 --items 50  # 20,000 pairs

The pairs are in random order. `one by one` scores 50 of them, each in a batch of its own, as a loop over single
questions does; `as they stand` in batches of the same size in their order, as `predict` scores its rows; `by history`
is what `--pairs` does; `top 3` writes sentences for three pairs per user only. The factors are relative to `one by
one`. The last line is JSON, with the share of prompt tokens that batches by history need not compute.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import polars as pl

from expctr import predictor as module
from expctr.data.batches import SampleTable, SampleText
from expctr.data.pairs import PairRows, read_columns
from expctr.llm.prefill import common_prefix
from expctr.modules.staged import StagedModule
from expctr.predictor import Predictor, shared_batches


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--items", type=int, default=50)
    own = parser.parse_args()
    predictor = Predictor.load(own.run)
    users = predictor.data.samples["user"].unique(maintain_order=True).head(own.users)
    items = predictor.data.catalogue.items["item"].head(own.items)
    pairs = users.to_frame().join(items.to_frame(), how="cross").sample(fraction=1, shuffle=True, seed=0)
    rows = PairRows(predictor.data, users.to_list())
    scored = predictor.score(pairs, explain=False, rows=rows)
    top = scored.select(pl.col("s_plain").rank("ordinal", descending=True).over("user") <= 3).to_series()

    seconds = {
        "one by one": timed(lambda: [predictor.score(pairs[i : i + 1], rows=rows) for i in range(50)])
        / 50
        * len(pairs),
        "by history": timed(lambda: predictor.score(pairs, rows=rows)),
        "top 3": timed(lambda: predictor.score(pairs, top, rows)),
    }
    with patch.object(module, "shared_batches", in_order):
        seconds["as they stand"] = timed(lambda: predictor.score(pairs, rows=rows))
    for name, value in seconds.items():
        print(f"{name:14} {len(pairs) / value:8.1f} pairs/s   {seconds['one by one'] / value:6.2f} x")
    made = rows.make(read_columns(pairs))[0]
    saved = saved_share(predictor, made)
    rates = {name: round(len(pairs) / value, 2) for name, value in seconds.items()}
    print(json.dumps({"pairs": len(pairs), "pairs_per_second": rates, "prompt_tokens_saved": round(saved, 3)}))


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_order(texts: Sequence[SampleText], size: int) -> list[list[int]]:
    """Batches of rows as they stand."""
    return [[*range(start, min(start + size, len(texts)))] for start in range(0, len(texts), size)]


def saved_share(predictor: Predictor, rows: pl.DataFrame) -> float:
    """The share of prompt tokens that the common beginning of a batch's prompts saves."""
    assert isinstance(predictor.module, StagedModule)
    policy, texts = predictor.module.models.policy, SampleTable.from_samples(rows, predictor.data.features).texts
    given = saved = 0
    for places in shared_batches(texts, predictor.batch_size):
        prompts = policy.prompts.explanation([texts[place] for place in places])
        given += sum(map(len, prompts))
        saved += (len(prompts) - 1) * common_prefix(policy.model, prompts)
    return saved / given


if __name__ == "__main__":
    main()
