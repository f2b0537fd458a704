"""A run's folder, read. If a file is missing, damaged or of another version, a note says so and the rest is shown."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import yaml  # type: ignore[import-untyped]

from expctr.data.readers.base import POLARS_ERRORS
from expctr.errors import UserError
from expctr.report.curves import Events, read_events
from expctr.run_folder import checkpoints, parse_config
from expctr.systems import PLAIN, Bin, Estimate

_TEXT = ("text", "text_untrained", "target")
_LISTS = ("invented", "invented_untrained", "liked", "disliked")
_DEEPEST = 100
"""Levels of a JSON or YAML file: functions that call themselves once a level can walk them."""


@dataclass(frozen=True)
class Run:
    """A run's folder, read. What the folder lacks is empty."""

    name: str
    """What the report calls it."""
    folder: Path
    table: Mapping[str, Any] = field(default_factory=dict)
    """`table.json`, with all numbers of the test."""
    test: pl.DataFrame = field(default_factory=pl.DataFrame)
    """`explanations/test.parquet`."""
    stages: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """By stage, the explanations of its training rows."""
    events: Events = field(default_factory=lambda: Events({}, []))
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    """`data.json`: what became of the raw rows."""
    notes: tuple[str, ...] = ()
    """What is missing or wrong, one sentence each."""


def backbone(run: Run) -> str:
    """The name of the CTR model without text, which is in the names of those that are made of it."""
    path = section(run.config, "model", "init_args", "ctr", "init_args", "backbone").get("class_path", "")
    return str(section(run.table, "gains", "aug_plain").get("first") or str(path).rpartition(".")[2] or PLAIN.name)


def read_run(folder: Path, name: str = "") -> Run:
    """Read everything that can be read. The run's name is by default the folder's.

    Raises:
        UserError: there is no such folder, or it holds none of a run's files.
    """
    fix = "Fix: give a run's folder, the trainer.default_root_dir of its fit"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. {fix}")
    files = ("table.json", "config.yaml", "scores.parquet", "explanations/test.parquet", "events.out.tfevents.*")
    if not any(any(folder.glob(file)) for file in files):
        raise UserError(
            f"{folder} is not a run's folder: it has no table.json, config.yaml, explanations or events.*. {fix}"
        )
    notes: list[str] = []
    samples = _frame(folder / "samples.parquet", notes)
    config_text = _text(folder / "config.yaml", notes)
    run = Run(
        name=name or folder.resolve().name,
        folder=folder,
        table=_json(folder / "table.json", notes),
        test=_explanations(folder / "explanations" / "test.parquet", samples, notes),
        stages=_stages(folder, samples, notes),
        events=_events(folder, notes),
        config=_config(config_text, notes),
        config_text=config_text,
        data=_json(folder / "data.json", notes),
    )
    return replace(run, notes=(*notes, *_gaps(run)))


def section(tree: object, *path: str) -> dict[str, Any]:
    """The dictionary at a path; empty where there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return {str(key): value for key, value in tree.items()} if isinstance(tree, Mapping) else {}


def number(value: object) -> float:
    """A number of a JSON file; NaN for anything else, such as null or a number too large to draw, 0 if too small."""
    if not isinstance(value, int | float) or not abs(value) < 1e100:
        return math.nan
    return float(value) if abs(value) > 1e-100 else 0.0


def estimate(value: object) -> Estimate | None:
    """A number with its interval, as table.json has it; `None` where there is no number."""
    if not isinstance(value, Mapping):
        value = {"value": value}
    made = Estimate(*(number(value.get(part)) for part in Estimate._fields))
    return None if math.isnan(made.value) else made


def bins(value: object) -> list[Bin]:
    """The bins of a reliability diagram, as table.json has them."""
    found = []
    for entry in map(section, value if isinstance(value, list) else []):
        rows, score, share = number(entry.get("rows")), number(entry.get("score")), estimate(section(entry, "rate"))
        if rows >= 1 and not math.isnan(score) and share:
            found.append(Bin(int(rows), score, share))
    return found


def points(curve: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The points of a ROC curve, as table.json has them; none unless every coordinate is a rate."""
    columns = [curve.get("false_positive_rate"), curve.get("true_positive_rate")]
    axes = [[number(value) for value in column] if isinstance(column, list) else [] for column in columns]
    inside = all(0 <= value <= 1 for axis in axes for value in axis)
    return list(zip(*axes, strict=True)) if inside and len(axes[0]) == len(axes[1]) else []


def _gaps(run: Run) -> list[str]:
    """What is missing or does not fit together."""
    gaps = []
    if not run.table:
        gaps.append(
            "There is no table.json, so the run has no test results. Fix: run expctr test with the run's config."
        )
    else:
        new = {"gains": "paired differences", "calibration": "calibration", "roc": "ROC curves"}
        if missing := [name for key, name in new.items() if key not in run.table]:
            gaps.append(
                f"table.json has no {', no '.join(missing)}, because an older version of expctr wrote it. "
                "Fix: run expctr test again."
            )
        if run.table.get("users") is None:
            gaps.append(
                "table.json does not say how many users the test rows have, so its intervals treat each row as its own "
                "user. They are too narrow where users have several rows. Fix: run expctr test again."
            )
        tested = run.table.get("checkpoint")
        newest = next(reversed(checkpoints(run.folder / "checkpoints")), None)
        names = ("", newest.name, os.path.basename(os.path.realpath(newest))) if newest else ()
        if newest and isinstance(tested, str) and tested not in names:
            gaps.append(
                f"The test was of the checkpoint {tested[:120]}, and the run's newest is {newest.name}, so the results "
                "are not those of the trained model. Fix: run expctr test again."
            )
        if not run.test.height:
            gaps.append("There is no explanations/test.parquet with a column text, so no explanations of test rows.")
    notes = run.table.get("notes")
    left_out = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    gaps += [f"The test left something out: {note}." for note in left_out]
    rows = number(run.table.get("rows"))
    if run.test.height and not math.isnan(rows) and run.test.height != rows:
        gaps.append(
            f"explanations/test.parquet has {run.test.height:,} rows and table.json counts {rows:,.0f}: they come from "
            "different tests."
        )
    if not run.events.curves:
        elsewhere = section(run.config, "trainer").get("logger") not in (None, True)
        why = ": the loggers in trainer.logger keep them elsewhere" if elsewhere else ""
        gaps.append(f"There are no curves in events.out.tfevents.*, so training is not shown{why}.")
    if not run.config_text:
        gaps.append("There is no config.yaml, so the options are unknown.")
    return gaps


def _text(path: Path, notes: list[str]) -> str:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        notes.append(f"{path.name} is not a file.")
        return ""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}.")
        return ""


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    return _mapping(_text(path, notes) or "{}", json.loads, f"{path.name} is not a JSON object and is left out.", notes)


def _config(text: str, notes: list[str]) -> dict[str, Any]:
    wrong = "config.yaml is not a YAML mapping. Its text is shown, but its options are not read."
    return _mapping(text, lambda config: parse_config(config) or {}, wrong, notes)


def _mapping(text: str, parse: Callable[[str], Any], wrong: str, notes: list[str]) -> dict[str, Any]:
    try:
        content = parse(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        content = None
    if isinstance(content, dict) and _is_shallow(content):
        return content
    notes.append(wrong)
    return {}


def _is_shallow(content: object) -> bool:
    level = [content]
    for _ in range(_DEEPEST):
        nested = [value for value in level if isinstance(value, dict | list)]
        level = [part for value in nested for part in (value.values() if isinstance(value, dict) else value)]
    return not level


def _frame(path: Path, notes: list[str]) -> pl.DataFrame:
    if not path.is_file():
        return pl.DataFrame()
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, *POLARS_ERRORS):
        notes.append(f"{path.name} is not a readable Parquet file and is left out.")
        return pl.DataFrame()


def _explanations(path: Path, samples: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """The columns that the report knows, where they have the right type, and the target's title from the samples."""
    frame = _frame(path, notes)
    text, lists = (cs.by_name(*names, require_all=False) for names in (_TEXT, _LISTS))
    made = frame.select(
        (text & (cs.string(include_categorical=True) | cs.numeric() | cs.by_dtype(pl.Null, pl.Enum))).cast(pl.String),
        lists & cs.by_dtype(pl.List(pl.String)),
        (cs.numeric() | cs.boolean()) - text - lists,
    )
    if frame.width and "text" not in made.columns:
        notes.append(f"explanations/{path.name} has no column text, so it holds no explanations. It is left out.")
        return pl.DataFrame()
    return _titled(made, samples, path, notes)


def _stages(folder: Path, samples: pl.DataFrame, notes: list[str]) -> dict[str, pl.DataFrame]:
    """The tables that training wrote, such as `001-lc.parquet`, by stage and epoch of the stage: `LC, pass 2`."""
    made: dict[str, pl.DataFrame] = {}
    passes: Counter[str] = Counter()
    for path in sorted((folder / "explanations").glob("[0-9]*-*.parquet")):
        if (name := re.fullmatch(r"\d+-([a-z]+)(\d*)", path.stem)) is None:
            continue
        frame = _explanations(path, samples, notes)
        if frame.height:
            stage = f"{name[1].upper()} {name[2]}".strip()
            passes[stage] += 1
            made[f"{stage}, pass {passes[stage]}"] = frame
    return made


def _titled(frame: pl.DataFrame, samples: pl.DataFrame, path: Path, notes: list[str]) -> pl.DataFrame:
    """Add the target's title from the run's samples, if they have the same labels."""
    known = pl.Schema({"sample": pl.Int64, "target_title": pl.String, "label": pl.Float64})
    if not known.keys() <= set(samples.columns) or not {"sample", "label"} <= set(frame.columns):
        return frame
    try:
        titles = samples.select(known.names()).cast(known).unique("sample")
        own = frame.drop("target_title", "label_right", strict=False)
        both = own.cast({"sample": pl.Int64}).join(titles, on="sample", how="left", maintain_order="left")
    except pl.exceptions.PolarsError:
        return frame
    if not both["label"].cast(pl.Float64).eq_missing(both["label_right"]).all():
        notes.append(
            f"explanations/{path.name} does not fit samples.parquet: one of them comes from another dataset or seed."
        )
        return frame
    return frame if "target" in frame.columns else both.drop("label_right").rename({"target_title": "target"})


def _events(folder: Path, notes: list[str]) -> Events:
    if wrong := next((path.name for path in folder.glob("*tfevents*") if not path.is_file()), None):
        notes.append(f"{wrong} is not a file, so there are no curves.")  # a pipe would be waited for
        return Events({}, [])
    try:
        return read_events(folder)
    except Exception as error:
        notes.append(f"The events cannot be read ({type(error).__name__}), so there are no curves.")
        return Events({}, [])
