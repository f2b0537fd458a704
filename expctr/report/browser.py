"""The table of explanations to browse, as JSON that no title can break out of."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

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

_NUMBERS = ("label", "s_u", "s_r", "s_0", "s_u_untrained", "s_r_untrained", "reward_lc", "reward_ic")
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
    """All test rows, then evenly spaced training rows of each stage, up to the limit.

    Args:
        runs: the runs of the report.
        limit: largest number of rows.
    """
    stages: dict[str, None] = {}
    parts: list[tuple[int, str, pl.DataFrame]] = []
    for place, run in enumerate(runs):
        found = {"test": run.test, **run.stages}
        parts += [(place, stage, frame) for stage, frame in found.items() if frame.height]
        stages |= dict.fromkeys(stage for stage, frame in found.items() if frame.height)
    if not parts:
        return None
    # the shortest first, so that the others get what is left of its share
    order = sorted(range(len(parts)), key=lambda i: (parts[i][1] != "test", parts[i][2].height))
    room, taken = limit, {}
    tests = sum(stage == "test" for _, stage, _ in parts)
    for done, i in enumerate(order):
        left = (tests if done < tests else len(parts)) - done
        taken[i] = min(parts[i][2].height, room // left)
        room -= taken[i]
    names = list(stages)
    columns: dict[str, list[Any]] = {}
    made = [
        _columns(place, names.index(stage), _spaced(frame, taken[i])) for i, (place, stage, frame) in enumerate(parts)
    ]
    for key in dict.fromkeys(key for part in made for key in part):
        columns[key] = [v for part in made for v in part.get(key) or [None] * len(part["text"])]
    headings = [(key, *about) for key, about in _HEADINGS.items() if key in columns]
    if "s_u" in columns and "label" in columns:
        headings.insert([key for key, *_ in headings].index("s_u"), ("verdict", *_HEADINGS["verdict"]))
    if len(runs) == 1:
        headings = [heading for heading in headings if heading[0] != "run"]
    content = {
        "columns": columns,
        "headings": headings,
        "stages": names,
        "runs": list(LETTERS[: len(runs)]),
    }
    return Browser(
        json=script_json(content),
        headings=headings,
        stages=names,
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


def _columns(run: int, stage: int, frame: pl.DataFrame) -> dict[str, list[Any]]:
    """The columns to show, without those that are empty."""
    made: dict[str, list[Any]] = {"run": [run] * frame.height, "stage": [stage] * frame.height}
    texts = {"text": "text", "before": "text_untrained", "target": "target"}
    for key, column in texts.items():
        if column in frame.columns:
            made[key] = [v and v[:LONGEST] for v in frame[column].to_list()]
    for key in _NUMBERS:
        if key in frame.columns:
            values = frame[key].cast(pl.Float64)
            made[key] = values.set(~values.is_finite(), None).round(4).to_list()
    made |= {key: frame[key].to_list() for key in _LISTS if key in frame.columns}
    made["text"] = [text or "" for text in made["text"]]
    if "label" in made:
        made["label"] = [None if v is None else int(v) for v in made["label"]]
    return {key: values for key, values in made.items() if key == "text" or any(v is not None for v in values)}
