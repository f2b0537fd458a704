"""Runs' folders as training leaves them, in no time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch.utils.tensorboard import SummaryWriter

from expctr.systems import GAINS, METRICS, SOURCES

CONFIG = """\
seed_everything: 3
data:
  class_path: expctr.data.datamodules.MovieLensDataModule
alarms:
  unique: 0.1
  positive: 0.05
"""


DATA = {
    "rule": "liked if rating >= 4",
    "rows": 1000,
    "dropped": {"no rating": 12},
    "interactions": 988,
    "users": 40,
    "items": 90,
    "splits": {"train": {"samples": 300, "base_rate": 0.551, "users": 38, "warm_users": 1.0}},
    "history": {"min": 1.0, "median": 7.0, "max": 10.0},
}


def measured(value: float, reach: float = 0.02) -> dict[str, float]:
    """A number as table.json has it."""
    return {"value": value, "low": value - reach, "high": value + reach}


def table(rows: int) -> dict[str, Any]:
    """A table.json with everything that a report shows."""
    aucs = {"ICL": 0.54, "DeepFM": 0.61, "ExpCTR-LLM": 0.6, "ExpCTR-Aug": 0.67, "DeepFM + title": 0.62}
    further = {name: measured(0.5) for name in METRICS if name not in ("auc", "logloss", "mae", "ece")}
    systems = {
        name: {"auc": measured(auc), "logloss": measured(0.66), "mae": dict.fromkeys(measured(0)), **further}
        for name, auc in aucs.items()
    }
    temperature = {name: {"t": 1.2, "logloss": measured(0.65), "ece": measured(0.04)} for name in systems}
    sources = {source.name: {"auc": measured(0.55 + i / 100)} for i, source in enumerate(SOURCES)}
    values = {name: row["auc"]["value"] for name, row in {**systems, **sources}.items()}
    gains = {
        key: {"first": a.name, "second": b.name, "auc": measured(values[b.name] - values[a.name], 0.04)}
        for key, (_, a, b, _) in GAINS.items()
        if {a.name, b.name} <= values.keys()
    }
    bins = [{"rows": rows // 2, "score": score, "rate": measured(score)} for score in (0.25, 0.75)]
    curve = {"false_positive_rate": [0.0, 0.25, 1.0], "true_positive_rate": [0.0, 0.5, 1.0]}
    counterfactual = {name: measured(0.3) for name in ("s_u", "s_r", "text_changed", "expected")}
    return {
        "dataset": "ML-20M",
        "rows": rows,
        "users": rows // 2,
        "train_rate": 0.55,
        "test_rate": 0.5,
        "constant_logloss": 0.69,
        "systems": systems,
        "temperature": temperature,
        "sources": sources,
        "gains": gains,
        "calibration": {name: {"ece": 0.0423, "bins": bins} for name in systems},
        "roc": dict.fromkeys(systems, curve),
        "slices": {"cold items": {"rows": 7, "systems": {"ExpCTR-Aug": {"auc": measured(0.5, 0.3)}}}},
        "paper": {"DeepFM": {"auc": 0.6212}},
        "quality": {
            "trained": {"words": measured(12, 1), "invented": measured(0.04)},
            "untrained": {"words": measured(15, 1), "invented": measured(0.09)},
        },
        "audit": {
            "ablations": {"real": {"auc": measured(0.67)}, "shuffled within verdict": {"auc": measured(0.64)}},
            "agreement": {"share": measured(0.7), "chance": 0.52},
            "counterfactuals": {"swapped history": {"rows": rows, **counterfactual}},
            "leakage": {"auc": measured(0.61)},
        },
    }


def explanations(rows: int, titles: list[str] | None = None, seed: int = 0) -> pl.DataFrame:
    """Test rows whose scores predict the labels in part; the target's title stands in the sentence."""
    random = np.random.default_rng(seed)
    label = (np.arange(rows) % 2).astype(float)
    scores = {
        name: np.clip(0.25 + gain * label + random.random(rows) * 0.5, 0, 1)
        for name, gain in (("s_u", 0.2), ("s_r", 0.2), ("s_0", 0.05), ("s_u_untrained", 0), ("s_r_untrained", 0.2))
    }
    target = titles or [f"Film {i}" for i in range(rows)]
    return pl.DataFrame(
        {
            "sample": np.arange(rows),
            "label": label,
            **scores,
            "s_u_std": random.random(rows),
            "s_r_std": random.random(rows),
            "s_r_exchanged": random.random(rows),
            "text": [f"They liked Alien and will love {title}." for title in target],
            "text_untrained": [f"Perhaps {title}." for title in target],
            "target": target,
            "reward_lc": 1 - np.abs(label - scores["s_u"]),
            "reward_ic": 1 - np.abs(label - scores["s_r"]),
            "invented": [["Alien"] if i % 5 == 0 else [] for i in range(rows)],
            "liked": [["Heat"]] * rows,
            "disliked": [["Kids", "Casper"]] * rows,
        }
    )


def make_run(folder: Path, rows: int = 60, titles: list[str] | None = None, seed: int = 0) -> Path:
    """A finished and tested run: one LC pass of ten batches, a CTR stage, an IC pass of five."""
    (folder / "explanations").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "table.json").write_text(json.dumps(table(rows)))
    (folder / "data.json").write_text(json.dumps(DATA))
    test = explanations(rows, titles, seed)
    test.write_parquet(folder / "explanations" / "test.parquet")
    trained = test.select("sample", "text", "s_u", "label", "reward_lc")
    trained.write_parquet(folder / "explanations" / "000-lc.parquet")
    samples = test.select("sample", pl.col("target").alias("target_title"), "label")
    samples.write_parquet(folder / "samples.parquet")
    with SummaryWriter(str(folder)) as writer:
        for step in range(1, 11):
            writer.add_scalar("lc/reward_lc", 0.4 + step / 100, step)
            writer.add_scalar("lc/unique", 0.9, step)
            writer.add_scalar("lc/kl", step / 10, step)
        writer.add_scalar("val/reward_lc", 0.5, 10)
        for step in range(11, 15):
            writer.add_scalar("ctr/loss", 0.7, step)
            writer.add_scalar("val/logloss_aug", 0.68, step)
        for step in range(15, 20):
            writer.add_scalar("ic/reward_ic", 0.6, step)
        writer.add_text("alarms", "LC, after 9 batches: unique is 0.05, below 0.1", 9)
    return folder
