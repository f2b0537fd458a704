"""The result table: each system's metrics with intervals, beside the paper's values for the same dataset."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from expctr.evaluation import audit, quality
from expctr.metrics import (
    UNDEFINED,
    bootstrap,
    calibration,
    calibration_error,
    constant_logloss,
    ctr_metrics,
    label_entropy,
    roc,
    with_intervals,
)
from expctr.systems import ECE, GAINS, METRICS, SYSTEMS, Bin, Estimate

PAPER: dict[str, dict[str, list[float]]] = json.loads(
    Path(__file__).with_name("paper.json").read_text(encoding="utf-8")
)
"""The paper's Table 1, by dataset and system: AUC, LogLoss, MAE, RMSE."""


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
    """What `test` prints and writes.

    Attributes:
        dataset: the paper's dataset that is nearest to this one. Its rows are shown if it is a key of `PAPER`.
        rows: number of test rows.
        train_rate: share of ones among the training rows.
        test_rate: share of ones among the test rows.
        constant_logloss: LogLoss on the test rows of the constant score `train_rate`, which a model should beat.
        test_entropy: LogLoss of the best constant for the test rows, chosen in hindsight.
        systems: by system, its metrics by the keys of `METRICS`; empty where it has no scores.
        sources: the same for trained models that read other explanations than their own.
        slices: the systems on some of the test rows, such as those of new users, by the slice's name.
        level: probability mass of the intervals.
        quality: properties of the explanations (`quality.measure`), of the trained and of the untrained model.
        audit: where the gain comes from, and what the explanations follow (`audit`).
        notes: what was left out, and why.
        users: number of users among the test rows; `None`: every row counts as its own user.
        gains: paired comparisons, by the keys of `GAINS`, of those whose systems both have scores.
        calibration: by system, the bins of its reliability diagram.
        roc: by system, its ROC curve.
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
    users: int | None = None
    gains: dict[str, Gain] = field(default_factory=dict)
    calibration: dict[str, list[Bin]] = field(default_factory=dict)
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
            dataset: the paper's dataset nearest to this one, a key of `PAPER`, or any other name for none.
            systems: the table's first rows, in this order. One without scores shows dashes.
            users: the user of each row, integers `[rows]`; `None`: every row is its own user.
            sources: scores of trained models that read other explanations than their own, by name.
            slices: by name, which rows are in the slice, bool `[rows]`; an empty one is left out.
            resamples: number of bootstrap resamples.
            seed: of the bootstrap. All systems are resampled alike.
        """

        def draw(values: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
            owners = None if users is None else users[rows]
            return bootstrap(values[rows], labels[rows], owners, resamples, seed)

        everything = {**scores, **sources}
        values = {name: ctr_metrics(tensor, labels) for name, tensor in everything.items()}
        draws = {name: draw(tensor) for name, tensor in everything.items()}
        found = {name: with_intervals(values[name], draws[name]) for name in everything}
        gains = {}
        for key, (_, first, second, _) in GAINS.items():
            a, b = first.name, second.name
            if {a, b} <= everything.keys():
                differences = {metric: values[b][metric] - values[a][metric] for metric in METRICS}
                gains[key] = Gain(a, b, with_intervals(differences, draws[b] - draws[a]))
        test_rate = float(labels.double().mean())
        return cls(
            dataset=dataset,
            rows=len(labels),
            train_rate=train_rate,
            test_rate=test_rate,
            constant_logloss=constant_logloss(train_rate, labels),
            test_entropy=label_entropy(test_rate),
            systems={name: found.get(name, {}) for name in dict.fromkeys([*systems, *scores])},
            sources={name: found[name] for name in sources},
            slices={
                name: Slice(
                    int(rows.sum()),
                    {
                        system: with_intervals(ctr_metrics(tensor[rows], labels[rows]), draw(tensor, rows))
                        for system, tensor in scores.items()
                    },
                )
                for name, rows in slices.items()
                if rows.any()
            },
            users=None if users is None else len(users.unique()),
            gains=gains,
            calibration={name: calibration(tensor, labels) for name, tensor in scores.items()},
            roc={name: roc(tensor, labels) for name, tensor in scores.items()},
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
        return {
            "dataset": self.dataset,
            "rows": self.rows,
            "users": self.users,
            "train_rate": _json(self.train_rate),
            "test_rate": _json(self.test_rate),
            "constant_logloss": _json(self.constant_logloss),
            "test_entropy": _json(self.test_entropy),
            "interval_level": self.level,
            "systems": _json(self.systems),
            "sources": _json(self.sources),
            "slices": _json(self.slices),
            "paper": self.paper,
            "gains": {
                key: {"first": gain.first, "second": gain.second, **_json(gain.metrics)}
                for key, gain in self.gains.items()
            },
            **{
                name: _json(found)
                for name, found in (("quality", self.quality), ("audit", self.audit), ("notes", self.notes))
                if found
            },
            "calibration": {
                name: {ECE.key: _json(calibration_error(bins)), "bins": _json(bins)}
                for name, bins in self.calibration.items()
            },
            "roc": {
                name: {
                    "false_positive_rate": [round(x, 4) for x in curve[:, 0].tolist()],
                    "true_positive_rate": [round(y, 4) for y in curve[:, 1].tolist()],
                }
                for name, curve in self.roc.items()
            },
        }

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
        table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
        table.add_column("", no_wrap=True)
        for metric in METRICS.values():
            table.add_column(metric.heading, justify="right")
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
        gains = []
        for key, gain in self.gains.items():
            comparison, known = GAINS[key], {**self.systems, **self.sources}
            first, second = (
                f"{Estimate(known[name]['auc'].value).format()} {phrase}"
                for name, phrase in zip((gain.first, gain.second), comparison.phrases, strict=True)
            )
            difference = gain.metrics["auc"].format(sign="+")
            gains.append(f"- {comparison.title}: {first}, {second}; difference {difference}")
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
        return f"Ranges are {self.level:.0%} bootstrap intervals over the test {over}.{paper}"

    def _cells(self, layout: str) -> list[tuple[str, ...]]:
        """The table's lines as text, the paper's last; `layout` has places for a value and its bounds."""
        ours = [
            (name, *(row.get(metric, UNDEFINED).format(layout) for metric in METRICS))
            for name, row in self.systems.items()
        ]
        papers = [
            (f"{name} (paper)", *(Estimate(row.get(metric, math.nan)).format() for metric in METRICS))
            for name, row in self.paper.items()
        ]
        return [*ours, *papers]


def validation_table(columns: Mapping[str, Sequence[float]]) -> Table:
    """AUC and LogLoss of every system that has scores, for the console.

    Args:
        columns: `label`, and the scores by the systems' column names.
    """
    shown = [METRICS["auc"], METRICS["logloss"]]
    table = Table("", *(metric.heading for metric in shown), title="Validation", box=box.SIMPLE_HEAD)
    labels = torch.tensor(columns.get("label", []), dtype=torch.float64)
    for system in SYSTEMS:
        if system.column in columns:
            values = ctr_metrics(torch.tensor(columns[system.column], dtype=torch.float64), labels)
            table.add_row(system.name, *(f"{values[metric.key]:.4f}" for metric in shown))
    return table


def _sections(parts: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines under their headings, without empty sections."""
    return [line for heading, lines in parts.items() if lines for line in (f"{heading}:", "", *lines, "")]


def _json(found: Any) -> Any:
    """Named tuples as dictionaries, NaN as null."""
    if isinstance(found, tuple):
        found = found._asdict()  # type: ignore[attr-defined]
    if isinstance(found, Mapping):
        return {name: _json(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_json(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
