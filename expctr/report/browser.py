"""The report's browser of explanations: a table to filter, as JSON that no title can break out of."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
from markupsafe import Markup

from expctr.report.run import Run

LETTERS = "ABCDEF"
"""Names of the runs in a report on several; there are as many colours."""
LONGEST = 2000  # characters shown of a sentence, so that one broken row cannot fill the page

_HEADINGS = {
    "target": ("Item", ""),
    "label": ("Label", ""),
    "before": ("Before training", "words"),
    "text": ("After training", "words"),
    "verdict": ("Verdict", ""),
    "s_u": ("s_u", "number"),
    "s_r": ("s_r", "number"),
    "s_0": ("s_0", "number"),
    "reward_lc": ("LC reward", "number"),
    "reward_ic": ("IC reward", "number"),
    "stage": ("Stage", ""),
    "run": ("Run", ""),
}
"""The columns to show, with their headings and classes."""

_NUMBERS = (
    "label",
    "s_u",
    "s_u_std",
    "s_r",
    "s_r_std",
    "s_0",
    "s_u_untrained",
    "s_r_untrained",
    "reward_lc",
    "reward_ic",
)
_LISTS = ("invented", "invented_untrained", "liked", "disliked")


class Browser(NamedTuple):
    """What the template needs."""

    json: Markup
    headings: list[tuple[str, str, str]]
    stages: list[str]
    invented: bool
    """Whether explanations were searched for invented titles."""
    total: int
    """Number of rows of the runs."""
    shown: int
    """Number of rows in the file."""


def browser(runs: Sequence[Run], limit: int) -> Browser | None:
    """All test rows, then evenly spaced training rows of each stage, at most `limit` together."""
    parts = [
        (place, stage, frame)
        for place, run in enumerate(runs)
        for stage, frame in {"test": run.test, **run.stages}.items()
        if frame.height
    ]
    if not parts:
        return None
    stages = list(dict.fromkeys(stage for _, stage, _ in parts))
    # the shortest first, so that the others get what is left of its share
    order = sorted(range(len(parts)), key=lambda i: (parts[i][1] != "test", parts[i][2].height))
    room, taken = limit, {}
    tests = sum(stage == "test" for _, stage, _ in parts)
    for done, i in enumerate(order):
        left = (tests if done < tests else len(parts)) - done
        taken[i] = min(parts[i][2].height, room // left)
        room -= taken[i]
    tables = [_table(run, stages.index(stage), _spaced(frame, taken[i])) for i, (run, stage, frame) in enumerate(parts)]
    columns = pl.concat(tables, how="diagonal_relaxed").to_dict(as_series=False)
    shown = {*columns} | ({"verdict"} if {"s_u", "label"} <= columns.keys() else set())
    if len(runs) == 1:
        shown.remove("run")
    headings = [(key, *about) for key, about in _HEADINGS.items() if key in shown]
    content = {"columns": columns, "headings": headings, "stages": stages, "runs": list(LETTERS[: len(runs)])}
    return Browser(
        json=script_json(content),
        headings=headings,
        stages=stages,
        invented="invented" in columns,
        total=sum(frame.height for *_, frame in parts),
        shown=sum(taken.values()),
    )


def script_json(content: object) -> Markup:
    """JSON for a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _spaced(frame: pl.DataFrame, count: int) -> pl.DataFrame:
    """`count` rows, evenly spaced."""
    return frame if count >= frame.height else frame[[i * frame.height // count for i in range(count)]]


def _table(run: int, stage: int, frame: pl.DataFrame) -> pl.DataFrame:
    """The columns to show, without those that are empty."""
    texts = {"text": "text", "before": "text_untrained", "target": "target"}
    made = frame.select(
        pl.lit(run).alias("run"),
        pl.lit(stage).alias("stage"),
        *(pl.col(name).str.head(LONGEST).alias(key) for key, name in texts.items() if name in frame.columns),
        *(_rounded(name) for name in _NUMBERS if name in frame.columns),
        *(name for name in _LISTS if name in frame.columns),
    ).with_columns(pl.col("text").fill_null(""))
    if "label" in made.columns:
        made = made.cast({"label": pl.Int64}, strict=False)
    return made.select(column for column in made if column.name == "text" or column.null_count() < made.height)


def _rounded(name: str) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64)
    return pl.when(value.is_finite()).then(value.round(4))
