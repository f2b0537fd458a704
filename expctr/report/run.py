"""What a run's folder holds. Any of it may be missing, of another version or another's: what cannot be read becomes a
note, and the rest is shown.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import yaml  # type: ignore[import-untyped]

from expctr.errors import UserError
from expctr.report.compare import Estimate, Floats, Ints
from expctr.report.curves import Events, read_events

_TEXT = ("text", "text_untrained", "target")
_LISTS = ("invented", "invented_untrained", "liked", "disliked")


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        name: what the report calls it.
        folder: where it is.
        table: `table.json`; empty without a test.
        scores: `scores.parquet`: `sample`, `label`, a column a system, and `user` but for older versions.
        test: `explanations/test.parquet`.
        stages: by stage, the explanations of its training rows.
        events: curves and alarms.
        config: `config.yaml`.
        config_text: the same as it stands in the file.
        data: `data.json`: what became of the raw rows.
        notes: what is missing or wrong, each a sentence.
    """

    name: str
    folder: Path
    table: Mapping[str, Any] = field(default_factory=dict)
    scores: pl.DataFrame = field(default_factory=pl.DataFrame)
    test: pl.DataFrame = field(default_factory=pl.DataFrame)
    stages: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    events: Events = field(default_factory=lambda: Events({}, []))
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_run(folder: Path, name: str = "") -> Run:
    """Everything of a run that can be read.

    Args:
        folder: the run's.
        name: what the report calls it; the folder's own name by default.

    Raises:
        UserError: there is no such folder, or nothing in it is of a run.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give a run's, the one that fit wrote (trainer.default_root_dir)")
    found = [folder / part for part in ("table.json", "config.yaml", "scores.parquet", "explanations/test.parquet")]
    if not any(path.exists() for path in found) and not any(folder.glob("events.out.tfevents.*")):
        raise UserError(
            f"{folder} is no run's folder: it has no table.json, config.yaml, explanations or events.*; "
            "give the one that fit wrote (trainer.default_root_dir)"
        )
    notes: list[str] = []
    config_text = _text(folder / "config.yaml", notes)
    run = Run(
        name=name or folder.resolve().name,
        folder=folder,
        table=_json(folder / "table.json", notes),
        scores=_scores(folder / "scores.parquet", notes),
        test=_explanations(folder / "explanations" / "test.parquet", notes),
        stages=_stages(folder, notes),
        events=_events(folder, notes),
        config=_config(config_text, notes),
        config_text=config_text,
        data=_json(folder / "data.json", notes),
        notes=(),
    )
    return Run(**{**vars(run), "notes": (*notes, *_doubts(run))})


def section(tree: object, *path: str) -> dict[str, Any]:
    """The dictionary at a path, empty where there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return {str(key): value for key, value in tree.items()} if isinstance(tree, Mapping) else {}


def number(value: object) -> float:
    """A number of a JSON file; nan for anything else, null and what no figure could show among it."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e100 else math.nan


def estimate(value: object) -> Estimate | None:
    """A number and its interval, as table.json writes them; `None` where there is no number."""
    if not isinstance(value, Mapping):
        value = {"value": value}
    made = Estimate(*(number(value.get(part)) for part in Estimate._fields))
    return None if math.isnan(made.value) else made


class Rows(NamedTuple):
    """Test rows."""

    scores: list[Floats]
    """`[rows]` each."""
    labels: Floats
    """0 or 1, `[rows]`."""
    users: Ints | None
    """Whose rows they are, `[rows]`; `None` where the run does not say."""


def aligned(run: Run, *columns: str) -> Rows | None:
    """Columns of `test` as numbers, of the rows that have them all and a label; `None` where one is missing."""
    wanted = [*columns, "label"]
    if not {*wanted} <= set(run.test.columns):
        return None
    owners = _owners(run)
    rows = run.test.with_columns(owners).drop_nulls(wanted).drop_nans(wanted)
    *scores, labels = (rows[name].to_numpy().astype(np.float64) for name in wanted)
    if not rows.height or not all(map(is_probability, scores)) or not set(labels) <= {0.0, 1.0}:
        return None
    users = rows["user"].rank("dense").to_numpy().astype(np.int64) if owners else None
    return Rows(scores, labels, users)


def _owners(run: Run) -> list[pl.Series]:
    """Whose the rows of `test` are, by scores.parquet; empty where it does not say."""
    if "sample" not in run.test.columns or "user" not in run.scores.columns:
        return []
    known = run.scores.select("sample", "user").unique("sample")
    users = run.test.select("sample").join(known, on="sample", how="left", maintain_order="left")["user"]
    return [] if users.has_nulls() else [users]


def names_users(run: Run) -> bool:
    """Whether the run says whose its test rows are; if not, each counts as its own user's."""
    rows = run.test.height or run.scores.height
    return "user" in run.scores.columns if rows else run.table.get("users") is not None


def is_probability(values: Floats) -> bool:
    """Whether all are within [0, 1]."""
    return bool(((values >= 0) & (values <= 1)).all())


def _doubts(run: Run) -> list[str]:
    """What does not fit together."""
    doubts = []
    if not run.table:
        doubts.append("No table.json: the run has no test yet. expctr test with the run's config makes it.")
    if run.table and not run.test.height:
        doubts.append("No explanations/test.parquet with a column text: there are no explanations of test rows.")
    left_out = run.table.get("notes")
    if isinstance(left_out, list):
        doubts += [f"What the test left out: {note}." for note in left_out if isinstance(note, str)]
    rows = number(run.table.get("rows"))
    for name, frame in (("explanations/test.parquet", run.test), ("scores.parquet", run.scores)):
        if frame.height and not math.isnan(rows) and frame.height != rows:
            doubts.append(
                f"{name} has {frame.height:,} rows and table.json speaks of {rows:,.0f}: they are not of the same test."
            )
    if {"sample", "label"} <= set(run.test.columns) and {"sample", "label"} <= set(run.scores.columns):
        both = run.test.join(run.scores, on="sample", suffix="_scored")
        if both.height < run.test.height or not bool((both["label"] == both["label_scored"]).all()):
            doubts.append(
                "explanations/test.parquet and scores.parquet are not of the same rows: one is of another dataset, "
                "seed or test. What is said of the one does not hold for the other."
            )
    if (run.test.height or run.scores.height) and not names_users(run):
        doubts.append(
            "No scores.parquet with a column user, which older versions did not write: each test row counts as its own "
            "user's, and intervals are too narrow where users have several. expctr test again mends it."
        )
    if not run.events.curves:
        doubts.append("No events.out.tfevents.* with curves: nothing is known of the training.")
    if not run.config_text:
        doubts.append("No config.yaml: the options are not known.")
    return doubts


def _text(path: Path, notes: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}.")
        return ""


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    text = _text(path, notes)
    try:
        content = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    notes.append(f"{path.name} is not a JSON object: it is left out.")
    return {}


def _config(text: str, notes: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    notes.append("config.yaml is not a mapping in YAML: it is shown as it is.")
    return {}


def _frame(path: Path, notes: list[str]) -> pl.DataFrame:
    if not path.is_file():
        return pl.DataFrame()
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError):
        notes.append(f"{path.name} is no Parquet file that can be read: it is left out.")
        return pl.DataFrame()


def _scores(path: Path, notes: list[str]) -> pl.DataFrame:
    frame = _frame(path, notes)
    kept = frame.select(
        name for name, kind in frame.schema.items() if kind.is_numeric() or (name == "user" and kind == pl.String)
    )
    if frame.width and not {"sample", "label"} <= set(kept.columns):
        notes.append(f"{path.name} has no columns sample and label: it is left out.")
        return pl.DataFrame()
    return kept


def _explanations(path: Path, notes: list[str]) -> pl.DataFrame:
    """The columns that the report knows, those of another kind left out."""
    frame = _frame(path, notes)
    kept = []
    for name, kind in frame.schema.items():
        if name in _TEXT:
            kept.append(pl.col(name).cast(pl.String, strict=False))
        elif name in _LISTS:
            if kind == pl.List(pl.String):
                kept.append(pl.col(name))
        elif kind.is_numeric() or kind == pl.Boolean:
            kept.append(pl.col(name))
    made = frame.select(kept)
    if frame.width and "text" not in made.columns:
        notes.append(f"explanations/{path.name} has no column text: it is no table of explanations, and is left out.")
        return pl.DataFrame()
    return made


def _stages(folder: Path, notes: list[str]) -> dict[str, pl.DataFrame]:
    """The tables that training wrote, such as `001-lc.parquet`, by stage and epoch of the stage: `LC, pass 2`."""
    made: dict[str, pl.DataFrame] = {}
    passes: Counter[str] = Counter()
    samples = _frame(folder / "samples.parquet", notes)
    for path in sorted((folder / "explanations").glob("[0-9]*-*.parquet")):
        name = re.fullmatch(r"\d+-([a-z]+)(\d*)", path.stem)
        frame = _explanations(path, notes) if name else pl.DataFrame()
        if name and frame.height:
            stage = f"{name[1].upper()} {name[2]}".strip()
            passes[stage] += 1
            made[f"{stage}, pass {passes[stage]}"] = _titled(frame, samples, path, notes)
    return made


def _titled(frame: pl.DataFrame, samples: pl.DataFrame, path: Path, notes: list[str]) -> pl.DataFrame:
    """With the target's title, of the run's samples, if their labels are the same."""
    known = pl.Schema({"sample": pl.Int64, "target_title": pl.String, "label": pl.Float64})
    if not known.keys() <= set(samples.columns) or not {"sample", "label"} <= set(frame.columns):
        return frame
    try:
        titles = samples.select(known.names()).cast(known).unique("sample")
        both = frame.cast({"sample": pl.Int64}).join(titles, on="sample", how="left", maintain_order="left")
    except pl.exceptions.PolarsError:
        return frame
    if not both["label"].cast(pl.Float64).eq_missing(both["label_right"]).all():
        notes.append(
            f"explanations/{path.name} is not of the samples in samples.parquet: one is of another dataset or seed."
        )
        return frame
    return both.drop("label_right", "target", strict=False).rename({"target_title": "target"})


def _events(folder: Path, notes: list[str]) -> Events:
    try:
        return read_events(folder)
    except Exception as error:
        notes.append(f"The events cannot be read ({type(error).__name__}): there are no curves.")
        return Events({}, [])
