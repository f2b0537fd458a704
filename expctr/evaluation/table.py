"""The result table: each system's metrics with intervals, beside what the paper reports for the same dataset."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from expctr.metrics import METRICS, bootstrap_intervals, constant_logloss, ctr_metrics, label_entropy

SYSTEMS = ("ICL", "DeepFM", "ExpCTR-LLM", "ExpCTR-Aug")
"""The rows that every table has, in this order; those without scores show dashes."""

PAPER: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "BookCrossing": {
        "ICL": (0.5663, 0.7328, 0.4829, 0.5174),
        "DeepFM": (0.5222, 0.6924, 0.4987, 0.4996),
        "ExpCTR-LLM": (0.6042, 0.6943, 0.4734, 0.4999),
        "ExpCTR-Aug": (0.6173, 0.6715, 0.4800, 0.4891),
    },
    "ML-20M": {
        "ICL": (0.6320, 0.6754, 0.4556, 0.4908),
        "DeepFM": (0.6212, 0.6708, 0.4762, 0.4891),
        "ExpCTR-LLM": (0.6707, 0.6428, 0.4523, 0.4749),
        "ExpCTR-Aug": (0.6951, 0.6389, 0.4210, 0.4710),
    },
    "Amazon Books": {
        "ICL": (0.5930, 0.7246, 0.4715, 0.5133),
        "DeepFM": (0.5639, 0.6873, 0.4956, 0.4971),
        "ExpCTR-LLM": (0.6290, 0.6831, 0.4720, 0.4946),
        "ExpCTR-Aug": (0.6641, 0.6493, 0.4557, 0.4783),
    },
}
"""The paper's Table 1, by dataset and system: AUC, LogLoss, MAE, RMSE."""

_HEADINGS = ("AUC ↑", "LogLoss ↓", "MAE ↓", "RMSE ↓", "MSE ↓")
_ABSENT = "-"


class Estimate(NamedTuple):
    """A metric and the bounds of its bootstrap interval; nan where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ResultTable:
    """What `test` prints and writes.

    Attributes:
        dataset: which of the paper's datasets this is nearest to; its rows are shown if it is a key of `PAPER`.
        rows: number of test rows.
        train_rate: share of ones among the training rows.
        test_rate: share of ones among the test rows.
        constant_logloss: LogLoss, on the test rows, of scoring each by `train_rate`: what a model has to beat.
        test_entropy: LogLoss of the best constant for the test rows, chosen in hindsight.
        systems: by system, its metrics by the names in `METRICS`; empty where it has no scores.
        sources: the same of trained models that were given other explanations than their own.
        level: probability mass of the intervals.
    """

    dataset: str
    rows: int
    train_rate: float
    test_rate: float
    constant_logloss: float
    test_entropy: float
    systems: dict[str, dict[str, Estimate]]
    sources: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    level: float = 0.95

    @classmethod
    def from_scores(
        cls,
        scores: Mapping[str, Tensor],
        labels: Tensor,
        train_rate: float,
        dataset: str = "",
        *,
        sources: Mapping[str, Tensor] = {},
        resamples: int = 1000,
        seed: int = 0,
    ) -> "ResultTable":
        """Evaluate every system on the same test rows.

        Args:
            scores: click probabilities `[rows]` by system; the names in `SYSTEMS` come first in the table.
            labels: 0 or 1, `[rows]`.
            train_rate: share of ones among the training rows.
            dataset: the paper's dataset nearest to this one, a key of `PAPER`, or any other name for none.
            sources: the same of trained models that were given other explanations than their own.
            resamples: of the bootstrap.
            seed: of the bootstrap; all systems are resampled alike.
        """

        def estimates(values: Tensor) -> dict[str, Estimate]:
            intervals = bootstrap_intervals(values, labels, resamples, seed)
            return {
                metric: Estimate(value, *intervals[metric]) for metric, value in ctr_metrics(values, labels).items()
            }

        systems: dict[str, dict[str, Estimate]] = {name: {} for name in SYSTEMS}
        systems |= {name: estimates(values) for name, values in scores.items()}
        test_rate = float(labels.double().mean())
        return cls(
            dataset=dataset,
            rows=len(labels),
            train_rate=train_rate,
            test_rate=test_rate,
            constant_logloss=constant_logloss(train_rate, labels),
            test_entropy=label_entropy(test_rate),
            systems=systems,
            sources={name: estimates(values) for name, values in sources.items()},
        )

    @property
    def paper(self) -> dict[str, dict[str, float]]:
        """The paper's metrics by system; empty for a dataset that it does not have."""
        reported = PAPER.get(self.dataset, {})
        return {name: dict(zip(METRICS, values, strict=False)) for name, values in reported.items()}

    @property
    def summary(self) -> str:
        """The base rates and the best constants, in two sentences."""
        return (
            f"{self.rows:,} test rows, {self.test_rate:.1%} positive ({self.train_rate:.1%} of the training rows). "
            f"LogLoss of a constant: {self.constant_logloss:.4f} at the training rows' rate, "
            f"{self.test_entropy:.4f} at best."
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON knows them: what is undefined becomes null."""
        systems, sources = (
            {
                name: {
                    metric: dict(zip(Estimate._fields, map(_finite, estimate), strict=True))
                    for metric, estimate in row.items()
                }
                for name, row in rows.items()
            }
            for rows in (self.systems, self.sources)
        )
        return {
            "dataset": self.dataset,
            "rows": self.rows,
            "train_rate": _finite(self.train_rate),
            "test_rate": _finite(self.test_rate),
            "constant_logloss": _finite(self.constant_logloss),
            "test_entropy": _finite(self.test_entropy),
            "interval_level": self.level,
            "systems": systems,
            "sources": sources,
            "paper": self.paper,
        }

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, the summary below it."""
        lines = [("", *_HEADINGS), ("---", *("---:" for _ in _HEADINGS)), *self._cells("{} ({}–{})")]
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        return "\n".join([*rows, "", self._note(), "", self.summary, "", *self._source_lines()])

    def __rich__(self) -> Table:
        """The table for the console, at most 80 columns wide. Cells are `Text`, so that no name is read as markup."""
        title = Text("Test results")
        caption = Text("\n".join([f"{self._note()} {self.summary}", *self._source_lines()]))
        table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0)
        table.add_column("", no_wrap=True)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right")
        for index, line in enumerate(self._cells("{}\n{}–{}")):
            if index == len(self.systems):
                table.add_section()
            table.add_row(*(Text(cell) for cell in line), style="dim" if index >= len(self.systems) else "")
        return table

    def write(self, folder: Path) -> None:
        """Write `table.json` and `table.md` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        (folder / "table.json").write_text(content + "\n", encoding="utf-8")
        (folder / "table.md").write_text(self.to_markdown(), encoding="utf-8")

    def _source_lines(self) -> list[str]:
        """AUC on other explanations, a line each."""
        shown = [
            f"- {name}: {_with_interval(row['auc'], '{} ({}–{})')}"
            for name, row in self.sources.items()
            if "auc" in row
        ]
        return ["AUC of the same models on other explanations:", "", *shown, ""] if shown else []

    def _note(self) -> str:
        paper = f" The paper's rows are its own, on {self.dataset}." if self.paper else ""
        return f"Ranges are {self.level:.0%} bootstrap intervals over the test rows.{paper}"

    def _cells(self, layout: str) -> list[tuple[str, ...]]:
        """The table's lines as text, the paper's last; `layout` has places for a value and its bounds."""
        undefined = Estimate(math.nan, math.nan, math.nan)
        ours = [
            (name, *(_with_interval(row.get(metric, undefined), layout) for metric in METRICS))
            for name, row in self.systems.items()
        ]
        papers = [
            (f"{name} (paper)", *(_number(row.get(metric, math.nan)) for metric in METRICS))
            for name, row in self.paper.items()
        ]
        return [*ours, *papers]


def _number(value: float) -> str:
    return _ABSENT if math.isnan(value) else f"{value:.4f}"


def _with_interval(estimate: Estimate, layout: str) -> str:
    if math.isnan(estimate.low):
        return _number(estimate.value)
    return layout.format(_number(estimate.value), f"{estimate.low:.3f}", f"{estimate.high:.3f}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
