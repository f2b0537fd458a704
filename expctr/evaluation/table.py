"""The table of a test: each system's metrics with intervals, beside the paper's values for the same dataset."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import box
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor

from expctr import metrics
from expctr.evaluation import audit, quality
from expctr.systems import ECE, GAINS, METRICS, SYSTEMS, Bin, Estimate

PAPER: dict[str, dict[str, list[float]]] = json.loads(Path(__file__).with_name("paper.json").read_text("utf-8"))
"""The paper's Table 1, by dataset and system: AUC, LogLoss, MAE, RMSE."""
LEVEL = 0.95
"""Probability mass of the intervals."""


class Slice(NamedTuple):
    """Some of the test rows."""

    rows: int
    systems: dict[str, dict[str, Estimate]]


class Gain(NamedTuple):
    """How much the second system's metrics exceed the first's, on the same resampled users."""

    first: str
    second: str
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class ResultTable:
    """What `test` prints and writes."""

    dataset: str
    """The paper's dataset that is nearest to this one. Its rows are shown if it is a key of `PAPER`."""
    rows: int
    train_rate: float
    """Share of ones among the training rows."""
    test_rate: float
    constant_logloss: float
    """LogLoss on the test rows of the constant score `train_rate`, which a model should beat."""
    test_entropy: float
    """LogLoss of the best constant for the test rows, chosen in hindsight."""
    systems: dict[str, dict[str, Estimate]]
    """By system, its metrics by the keys of `METRICS`; empty where it has no scores."""
    sources: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """The same for trained models that read other explanations than their own."""
    slices: dict[str, Slice] = field(default_factory=dict)
    """The systems on some of the test rows, such as those of new users."""
    quality: dict[str, Any] = field(default_factory=dict)
    """Properties of the explanations (`quality.measure`), of the trained and of the untrained model."""
    audit: dict[str, Any] = field(default_factory=dict)
    """Where the gain comes from, and what the explanations follow (`audit`)."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    users: int | None = None
    """Number of users among the test rows; `None`: every row counts as its own user."""
    gains: dict[str, Gain] = field(default_factory=dict)
    """Paired comparisons, by the keys of `GAINS`, of those whose systems both have scores."""
    calibration: dict[str, list[Bin]] = field(default_factory=dict)
    """By system, the bins of its reliability diagram."""
    roc: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_scores(
        cls,
        scores: Mapping[str, Tensor],
        labels: Tensor,
        train_rate: float,
        dataset: str = "",
        *,
        systems: Sequence[str] = tuple(system.name for system in SYSTEMS),
        users: Tensor | None = None,
        sources: Mapping[str, Tensor] = {},
        slices: Mapping[str, Tensor] = {},
        resamples: int = 1000,
        seed: int = 0,
    ) -> "ResultTable":
        """Evaluate every system on the same test rows.

        Args:
            scores: click probabilities `[rows]` by system.
            labels: 0 or 1, `[rows]`.
            train_rate: share of ones among the training rows.
            dataset: the paper's dataset nearest to this one.
            systems: the table's first rows, in this order. One without scores shows dashes.
            users: the user of each row, integers `[rows]`; `None`: every row is its own user.
            sources: scores of trained models that read other explanations than their own, by name.
            slices: by name, which rows are in the slice, bool `[rows]`; an empty one is left out.
            resamples: of the bootstrap.
            seed: of the bootstrap. All systems are resampled alike.
        """

        def draw(values: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
            owners = None if users is None else users[rows]
            return metrics.bootstrap(values[rows], labels[rows], owners, resamples, seed)

        def within(values: Tensor, rows: Tensor) -> dict[str, Estimate]:
            return metrics.with_intervals(metrics.ctr_metrics(values[rows], labels[rows]), draw(values, rows))

        everything = {**scores, **sources}
        values = {name: metrics.ctr_metrics(tensor, labels) for name, tensor in everything.items()}
        draws = {name: draw(tensor) for name, tensor in everything.items()}
        found = {name: metrics.with_intervals(values[name], draws[name]) for name in everything}
        gains = {}
        for key, (_, first, second, _) in GAINS.items():
            a, b = first.name, second.name
            if {a, b} <= everything.keys():
                differences = {metric: values[b][metric] - values[a][metric] for metric in METRICS}
                gains[key] = Gain(a, b, metrics.with_intervals(differences, draws[b] - draws[a]))
        test_rate = float(labels.double().mean())
        return cls(
            dataset=dataset,
            rows=len(labels),
            train_rate=train_rate,
            test_rate=test_rate,
            constant_logloss=metrics.constant_logloss(train_rate, labels),
            test_entropy=metrics.label_entropy(test_rate),
            systems={name: found.get(name, {}) for name in dict.fromkeys([*systems, *scores])},
            sources={name: found[name] for name in sources},
            slices={
                name: Slice(int(rows.sum()), {system: within(tensor, rows) for system, tensor in scores.items()})
                for name, rows in slices.items()
                if rows.any()
            },
            users=None if users is None else len(users.unique()),
            gains=gains,
            calibration={name: metrics.calibration(tensor, labels) for name, tensor in scores.items()},
            roc={name: metrics.roc(tensor, labels) for name, tensor in scores.items()},
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
            f"({self.train_rate:.1%} of the training rows). LogLoss of a constant score: {self.constant_logloss:.4f} "
            f"for the training rows' rate, {self.test_entropy:.4f} for the best constant."
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers for JSON, in which NaN becomes null."""
        explained = {"quality": self.quality, "audit": self.audit, "notes": self.notes}
        content = {
            "dataset": self.dataset,
            "rows": self.rows,
            "users": self.users,
            "train_rate": self.train_rate,
            "test_rate": self.test_rate,
            "constant_logloss": self.constant_logloss,
            "test_entropy": self.test_entropy,
            "interval_level": LEVEL,
            "systems": self.systems,
            "sources": self.sources,
            "slices": self.slices,
            "paper": self.paper,
            "gains": {
                key: {"first": first, "second": second, **found} for key, (first, second, found) in self.gains.items()
            },
            **{name: found for name, found in explained.items() if found},
            "calibration": {
                name: {ECE.key: metrics.calibration_error(bins), "bins": bins}
                for name, bins in self.calibration.items()
            },
            "roc": {
                name: dict(zip(("false_positive_rate", "true_positive_rate"), _columns(curve), strict=True))
                for name, curve in self.roc.items()
            },
        }
        return {name: _json(part) for name, part in content.items()}

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, with the summary below it."""
        headings = [metric.heading for metric in METRICS.values()]
        lines = [("", *headings), ("---", *("---:" for _ in headings)), *self._cells("{} ({}–{})")]
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        return "\n".join([*rows, "", self._note(), "", self.summary, "", *self._auc_lines(), *self.detail_lines()])

    def __rich__(self) -> Table:
        """The table for the console, at most 80 columns wide. Cells are `Text`, so that no name is read as markup."""
        title = Text("Test results")
        caption = Text("\n".join([f"{self._note()} {self.summary}", *self._auc_lines()]))
        columns = Column(no_wrap=True), *(Column(metric.heading, justify="right") for metric in METRICS.values())
        table = Table(*columns, title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
        for index, line in enumerate(self._cells("{}\n{}–{}")):
            if index == len(self.systems):
                table.add_section()
            table.add_row(*(Text(cell) for cell in line), style="dim" if index >= len(self.systems) else "")
        return table

    def write(self, folder: Path) -> None:
        """Write `table.json` and `table.md` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        # each list of numbers on one line; no string holds a line break
        content = re.sub(r"\[\n[-+.,\deE\s]+\]", lambda numbers: json.dumps(json.loads(numbers[0])), content)
        (folder / "table.json").write_text(content + "\n", encoding="utf-8")
        (folder / "table.md").write_text(self.to_markdown(), encoding="utf-8")

    def _auc_lines(self) -> list[str]:
        """AUC on other explanations, paired gains and AUC by slice, one line each."""
        sources = [f"- {name}: {row['auc'].format()}" for name, row in self.sources.items() if "auc" in row]
        gains, known = [], {**self.systems, **self.sources}
        for key, gain in self.gains.items():
            a, b = (Estimate(known[name]["auc"].value).format() for name in (gain.first, gain.second))
            (before, after), difference = GAINS[key].phrases, gain.metrics["auc"].format(sign="+")
            gains.append(f"- {GAINS[key].title}: {a} {before}, {b} {after}; difference {difference}")
        slices = []
        for name, part in self.slices.items():
            found = [f"{system} {row['auc'].format()}" for system, row in part.systems.items()]
            slices.append(f"- {name} ({part.rows:,} rows): {', '.join(found)}")
        return _sections(
            {
                "AUC of the same models on other explanations": sources,
                "Differences in AUC, paired over the same test rows": gains,
                "AUC of users and items that the training rows contain (warm) or do not contain (cold)": slices,
            }
        )

    def detail_lines(self) -> list[str]:
        """Quality and audit of the explanations and what was left out, one line each."""
        return _sections(
            {
                "Explanations": quality.lines(self.quality),
                "Audit": audit.lines(self.audit),
                "Left out": [f"- {note}" for note in self.notes],
            }
        )

    def _note(self) -> str:
        paper = f" The paper's rows are its own results, on {self.dataset}." if self.paper else ""
        over = "rows" if self.users is None else "users"
        return f"Ranges are {LEVEL:.0%} bootstrap intervals over the test {over}.{paper}"

    def _cells(self, layout: str) -> list[tuple[str, ...]]:
        """The table's lines as text, the paper's last; `layout` has places for a value and its bounds."""
        rows: dict[str, Mapping[str, Estimate]] = dict(self.systems)
        rows |= {f"{name} (paper)": {m: Estimate(v) for m, v in row.items()} for name, row in self.paper.items()}
        return [
            (name, *(row.get(metric, metrics.UNDEFINED).format(layout) for metric in METRICS))
            for name, row in rows.items()
        ]


def validation_table(columns: Mapping[str, Sequence[float]]) -> Table:
    """AUC and LogLoss of every system that has scores, by its column's name beside `label`, for the console."""
    shown = [METRICS["auc"], METRICS["logloss"]]
    table = Table("", *(metric.heading for metric in shown), title="Validation", box=box.SIMPLE_HEAD)
    labels = torch.tensor(columns.get("label", []), dtype=torch.float64)
    for system in SYSTEMS:
        if system.column in columns:
            values = metrics.ctr_metrics(torch.tensor(columns[system.column], dtype=torch.float64), labels)
            table.add_row(system.name, *(f"{values[metric.key]:.4f}" for metric in shown))
    return table


def _sections(parts: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines under their headings, without empty sections."""
    return [line for heading, lines in parts.items() if lines for line in (f"{heading}:", "", *lines, "")]


def _columns(curve: Tensor) -> list[list[float]]:
    return [[round(x, 4) for x in column.tolist()] for column in curve.T]


def _json(found: Any) -> Any:
    """Named tuples as dictionaries, NaN as null."""
    if isinstance(found, tuple):
        found = found._asdict()  # type: ignore[attr-defined]
    if isinstance(found, Mapping):
        return {name: _json(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_json(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
