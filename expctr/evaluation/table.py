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
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor

from expctr import metrics
from expctr.ctr.zoo.sequential import STYLE
from expctr.evaluation import audit, quality
from expctr.systems import (
    FEWEST_OF_A_LABEL,
    FEWEST_ROWS,
    FURTHER,
    GAINS,
    METRICS,
    PLAIN,
    RESCALED,
    SYSTEMS,
    T_NOTE,
    Bin,
    Estimate,
    of_backbone,
)
from expctr.whole_files import write_together

PAPER: dict[str, dict[str, list[float]]] = json.loads(Path(__file__).with_name("paper.json").read_text("utf-8"))
"""The paper's Table 1, by dataset and system: AUC, LogLoss, MAE, RMSE."""
LEVEL = 0.95
"""Probability mass of the intervals."""
MAIN = tuple(name for name in METRICS if name not in FURTHER)
"""Metrics of the first table."""


class Slice(NamedTuple):
    """Some of the test rows."""

    rows: int
    positives: int
    """How many of their labels are 1."""
    systems: dict[str, dict[str, Estimate]]
    """Metrics by system; empty for a slice with too few rows or too few of a label."""


class Rescaled(NamedTuple):
    """A system's scores after a temperature that was fitted on validation rows."""

    t: float
    metrics: dict[str, Estimate]
    """By the keys of `RESCALED`, for this T: its own uncertainty is not in the intervals."""


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
    temperature: dict[str, Rescaled] = field(default_factory=dict)
    """By system; empty unless `results.temperature` is on."""
    checkpoint: str = ""
    """The name of the tested checkpoint; empty if Python code tested the weights in memory."""

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
        temperatures: Mapping[str, float] = {},
        backbone: str = PLAIN.name,
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
            temperatures: by system, as `metrics.fit_temperature` finds them on other rows.
            backbone: the CTR model's name, which is in the names of those that are made of it.
            resamples: of the bootstrap.
            seed: of the bootstrap. All systems are resampled alike.
        """

        def draw(values: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
            owners = None if users is None else users[rows]
            return metrics.bootstrap(values[rows], labels[rows], owners, resamples, seed)

        def measure(values: Tensor, rows: Tensor | slice = slice(None)) -> dict[str, float]:
            return metrics.ctr_metrics(values[rows], labels[rows], None if users is None else users[rows])

        def within(rows: Tensor) -> Slice:
            count, positives = int(rows.sum()), int(labels[rows].sum())
            few = count < FEWEST_ROWS or min(positives, count - positives) < FEWEST_OF_A_LABEL
            found = {
                name: metrics.with_intervals(measure(tensor, rows), draw(tensor, rows))
                for name, tensor in ({} if few else scores).items()
            }
            return Slice(count, positives, found)

        def rescale(values: Tensor, t: float) -> Rescaled:
            after = metrics.apply_temperature(values, t)
            found = metrics.with_intervals(measure(after), draw(after))
            return Rescaled(t, {metric: found[metric] for metric in RESCALED})

        everything = {**scores, **sources}
        values = {name: measure(tensor) for name, tensor in everything.items()}
        draws = {name: draw(tensor) for name, tensor in everything.items()}
        found = {name: metrics.with_intervals(values[name], draws[name]) for name in everything}
        gains = {}
        for key, (_, first, second, _) in GAINS.items():
            a, b = of_backbone(first, backbone), of_backbone(second, backbone)
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
            slices={name: within(rows) for name, rows in slices.items() if rows.any()},
            users=None if users is None else len(users.unique()),
            gains=gains,
            calibration={name: metrics.calibration(tensor, labels) for name, tensor in scores.items()},
            roc={name: metrics.roc(tensor, labels) for name, tensor in scores.items()},
            temperature={name: rescale(scores[name], t) for name, t in temperatures.items() if name in scores},
        )

    @property
    def paper(self) -> dict[str, dict[str, float]]:
        """The paper's metrics of these systems; empty for a dataset that it does not have."""
        reported = PAPER.get(self.dataset, {})
        published = {name: reported.get(name.removesuffix(STYLE)) for name in self.systems}
        return {name: dict(zip(METRICS, values, strict=False)) for name, values in published.items() if values}

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
            "checkpoint": self.checkpoint,
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
            "temperature": {name: {"t": t, **found} for name, (t, found) in self.temperature.items()},
            "calibration": {name: {"bins": bins} for name, bins in self.calibration.items()},
            "roc": {
                name: dict(zip(("false_positive_rate", "true_positive_rate"), _columns(curve), strict=True))
                for name, curve in self.roc.items()
            },
        }
        return {name: _json(part) for name, part in content.items()}

    def to_markdown(self) -> str:
        """The tables in GitHub's Markdown, with the summary below them."""
        layout = "{} ({}–{})"
        main = _markdown([METRICS[name].heading for name in MAIN], self._cells(layout))
        further = _markdown(self._further_headings(), self._further_cells(layout))
        notes = [self._note(), "", self.summary, "", self._further_note(), ""]
        return "\n".join([*main, "", *further, "", *notes, *self._auc_lines(), *self.detail_lines()])

    def __rich__(self) -> Group:
        """The tables for the console, at most 80 columns wide. Cells are `Text`, so that no name is read as markup."""
        layout, systems = "{}\n{}–{}", len(self.systems)
        main = _console("Test results", [METRICS[name].heading for name in MAIN], self._cells(layout), systems)
        narrow = self._further_cells("{}\n{}–\n{}")  # more columns
        further = _console("Ranking per user, and calibration", self._further_headings(), narrow)
        notes = [f"{self._note()} {self.summary} {self._further_note()}", *self._auc_lines()]
        return Group(main, further, Text("\n".join(notes), style="dim italic"))

    def write(self, folder: Path) -> None:
        """Write `table.json` and `table.md` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_together({folder / name: text for name, text in self.files().items()})

    def files(self) -> dict[str, str]:
        """The contents of `table.md` and `table.json`."""
        content = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        # each list of numbers on one line; no string holds a line break
        content = re.sub(r"\[\n[-+.,\deE\s]+\]", lambda numbers: json.dumps(json.loads(numbers[0])), content)
        return {"table.md": self.to_markdown(), "table.json": content + "\n"}

    def _auc_lines(self) -> list[str]:
        """AUC on other explanations, paired gains and AUC by slice, one line each."""
        sources = [f"- {name}: {row['auc'].format()}" for name, row in self.sources.items() if "auc" in row]
        gains, known = [], {**self.systems, **self.sources}
        for key, gain in self.gains.items():
            a, b = (Estimate(known[name]["auc"].value).format() for name in (gain.first, gain.second))
            (before, after), difference = GAINS[key].phrases, gain.metrics["auc"].format(sign="+")
            gains.append(f"- {GAINS[key].heading(gain.first)}: {a} {before}, {b} {after}; difference {difference}")
        slices = []
        for name, part in self.slices.items():
            found = [f"{system} {row['auc'].format()}" for system, row in part.systems.items()]
            auc = ", ".join(found) or "too few for an AUC"
            slices.append(f"- {name} ({part.rows:,} rows, {part.positives:,} of them positive): {auc}")
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
        rows |= {
            f"{name.removesuffix(STYLE)} (paper)": {m: Estimate(v) for m, v in row.items()}
            for name, row in self.paper.items()
        }
        return [
            (name, *(row.get(metric, metrics.UNDEFINED).format(layout) for metric in MAIN))
            for name, row in rows.items()
        ]

    def _further_headings(self) -> list[str]:
        after = ["T", *(f"{METRICS[name].heading} at T" for name in RESCALED)]
        return [*(METRICS[name].heading for name in FURTHER), *(after if self.temperature else [])]

    def _further_cells(self, layout: str) -> list[tuple[str, ...]]:
        """The second table's lines as text."""
        lines = []
        for name, row in self.systems.items():
            found = [row.get(metric, metrics.UNDEFINED) for metric in FURTHER]
            if self.temperature:
                t, after = self.temperature.get(name, Rescaled(math.nan, {}))
                found += [Estimate(t), *(after.get(metric, metrics.UNDEFINED) for metric in RESCALED)]
            lines.append((name, *(estimate.format(layout) for estimate in found)))
        return lines

    def _further_note(self) -> str:
        return (
            "GAUC is the mean of the users' own AUCs, weighted by their rows, without users whose labels are all the "
            "same. NE is LogLoss divided by that of the best constant. ECE is the expected calibration error."
            + (f" {T_NOTE}" if self.temperature else "")
        )


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


def _markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = [("", *headings), ("---", *("---:" for _ in headings)), *cells]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _console(title: str, headings: Sequence[str], cells: Sequence[Sequence[str]], bright: int | None = None) -> Table:
    """A table whose lines after the first `bright` ones are set apart."""
    columns = Column(), *(Column(heading, justify="right", min_width=6) for heading in headings)
    table = Table(*columns, title=Text(title), box=box.SIMPLE_HEAD, padding=0)
    for index, line in enumerate(cells):
        if index == bright:
            table.add_section()
        table.add_row(*map(Text, line), style="dim" if bright is not None and index >= bright else "")
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
