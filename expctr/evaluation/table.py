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

from expctr.metrics import (
    METRICS,
    UNDEFINED,
    Estimate,
    bootstrap_intervals,
    constant_logloss,
    ctr_metrics,
    label_entropy,
)

SYSTEMS = ("ICL", "DeepFM", "ExpCTR-LLM", "ExpCTR-Aug")
"""The rows that every table has, in this order; those without scores show dashes."""

PAPER: dict[str, dict[str, list[float]]] = json.loads(
    (Path(__file__).parent / "paper.json").read_text(encoding="utf-8")
)
"""The paper's Table 1, by dataset and system: AUC, LogLoss, MAE, RMSE."""

_HEADINGS = ("AUC ↑", "LogLoss ↓", "MAE ↓", "RMSE ↓", "MSE ↓")
_ABSENT = "-"


class Slice(NamedTuple):
    """Some of the test rows."""

    rows: int
    systems: dict[str, dict[str, Estimate]]


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
        slices: the systems on some of the test rows, such as those of new users, by the slice's name.
        level: probability mass of the intervals.
        quality: what the explanations are like to read (`quality.measure`), of the trained and the untrained model.
        audit: where their gain comes from, and what they follow (`audit`).
        notes: what there was nothing to say of, and why.
        short: the short form of both, by heading.
        users: number of users whose the test rows are; `None`: each row counts as its own user's.
    """

    dataset: str
    rows: int
    train_rate: float
    test_rate: float
    constant_logloss: float
    test_entropy: float
    systems: dict[str, dict[str, Estimate]]
    sources: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    slices: dict[str, Slice] = field(default_factory=dict)
    level: float = 0.95
    quality: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    short: dict[str, list[str]] = field(default_factory=dict)
    users: int | None = None

    @classmethod
    def from_scores(
        cls,
        scores: Mapping[str, Tensor],
        labels: Tensor,
        train_rate: float,
        dataset: str = "",
        *,
        users: Tensor | None = None,
        sources: Mapping[str, Tensor] = {},
        slices: Mapping[str, Tensor] = {},
        resamples: int = 1000,
        seed: int = 0,
    ) -> "ResultTable":
        """Evaluate every system on the same test rows.

        Args:
            scores: click probabilities `[rows]` by system; the names in `SYSTEMS` come first in the table.
            labels: 0 or 1, `[rows]`.
            train_rate: share of ones among the training rows.
            dataset: the paper's dataset nearest to this one, a key of `PAPER`, or any other name for none.
            users: whose rows they are, integers `[rows]`; `None`: each row has its own.
            sources: the same of trained models that were given other explanations than their own.
            slices: by name, which rows are in the slice, bool `[rows]`; an empty one is left out.
            resamples: of the bootstrap.
            seed: of the bootstrap; all systems are resampled alike.
        """

        def estimates(values: Tensor, rows: Tensor | slice = slice(None)) -> dict[str, Estimate]:
            owners = None if users is None else users[rows]
            intervals = bootstrap_intervals(values[rows], labels[rows], owners, resamples, seed)
            metrics = ctr_metrics(values[rows], labels[rows])
            return {metric: Estimate(value, *intervals[metric]) for metric, value in metrics.items()}

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
            slices={
                name: Slice(int(rows.sum()), {system: estimates(values, rows) for system, values in scores.items()})
                for name, rows in slices.items()
                if rows.any()
            },
            users=None if users is None else len(users.unique()),
        )

    @property
    def paper(self) -> dict[str, dict[str, float]]:
        """The paper's metrics of these systems; empty for a dataset that it does not have."""
        reported = PAPER.get(self.dataset, {})
        return {name: dict(zip(METRICS, reported[name], strict=False)) for name in self.systems if name in reported}

    @property
    def summary(self) -> str:
        """The base rates and the best constants, in two sentences."""
        of_users = "" if self.users is None else f" of {self.users:,} users"
        return (
            f"{self.rows:,} test rows{of_users}, {self.test_rate:.1%} positive "
            f"({self.train_rate:.1%} of the training rows). LogLoss of a constant: {self.constant_logloss:.4f} at the "
            f"training rows' rate, {self.test_entropy:.4f} at best."
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON knows them: what is undefined becomes null."""

        def numbers(rows: Mapping[str, dict[str, Estimate]]) -> dict[str, Any]:
            return {
                name: {
                    metric: dict(zip(Estimate._fields, map(_finite, estimate), strict=True))
                    for metric, estimate in row.items()
                }
                for name, row in rows.items()
            }

        return {
            "dataset": self.dataset,
            "rows": self.rows,
            "users": self.users,
            "train_rate": _finite(self.train_rate),
            "test_rate": _finite(self.test_rate),
            "constant_logloss": _finite(self.constant_logloss),
            "test_entropy": _finite(self.test_entropy),
            "interval_level": self.level,
            "systems": numbers(self.systems),
            "sources": numbers(self.sources),
            "slices": {
                name: {"rows": part.rows, "systems": numbers(part.systems)} for name, part in self.slices.items()
            },
            "paper": self.paper,
            **{
                name: _json(found)
                for name, found in (("quality", self.quality), ("audit", self.audit), ("notes", self.notes))
                if found
            },
        }

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, the summary below it."""
        lines = [("", *_HEADINGS), ("---", *("---:" for _ in _HEADINGS)), *self._cells("{} ({}–{})")]
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        about = [self._note(), "", self.summary, "", *self._source_lines(), *self._slice_lines(), *self.short_lines()]
        return "\n".join([*rows, "", *about])

    def __rich__(self) -> Table:
        """The table for the console, at most 80 columns wide. Cells are `Text`, so that no name is read as markup."""
        title = Text("Test results")
        caption = Text("\n".join([f"{self._note()} {self.summary}", *self._source_lines(), *self._slice_lines()]))
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

    def _slice_lines(self) -> list[str]:
        """AUC on each slice, a line each."""
        shown = []
        for name, part in self.slices.items():
            aucs = [f"{system} {_with_interval(row['auc'], '{} ({}–{})')}" for system, row in part.systems.items()]
            shown.append(f"- {name} ({part.rows:,} rows): {', '.join(aucs)}")
        return ["AUC by what the training rows hold:", "", *shown, ""] if shown else []

    def short_lines(self) -> list[str]:
        """Quality and audit, a line each."""
        return [line for heading, shown in self.short.items() if shown for line in (f"{heading}:", "", *shown, "")]

    def _note(self) -> str:
        paper = f" The paper's rows are its own, on {self.dataset}." if self.paper else ""
        over = "rows" if self.users is None else "users"
        return f"Ranges are {self.level:.0%} bootstrap intervals over the test {over}.{paper}"

    def _cells(self, layout: str) -> list[tuple[str, ...]]:
        """The table's lines as text, the paper's last; `layout` has places for a value and its bounds."""
        ours = [
            (name, *(_with_interval(row.get(metric, UNDEFINED), layout) for metric in METRICS))
            for name, row in self.systems.items()
        ]
        papers = [
            (f"{name} (paper)", *(_number(row.get(metric, math.nan)) for metric in METRICS))
            for name, row in self.paper.items()
        ]
        return [*ours, *papers]


def _json(found: Any) -> Any:
    """Estimates as dicts, what is no number as null."""
    if isinstance(found, Estimate):
        return {name: _finite(value) for name, value in found._asdict().items()}
    return {name: _json(value) for name, value in found.items()} if isinstance(found, Mapping) else found


def _number(value: float) -> str:
    return _ABSENT if math.isnan(value) else f"{value:.4f}"


def _with_interval(estimate: Estimate, layout: str) -> str:
    if math.isnan(estimate.low):
        return _number(estimate.value)
    return layout.format(_number(estimate.value), f"{estimate.low:.3f}", f"{estimate.high:.3f}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
