"""Explain one choice: the sentence, its scores, and what moves them, as `expctr explain` prints them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from expctr.data.query import Query
from expctr.modules.staged import StagedModule
from expctr.sentences.verdicts import polarity
from expctr.systems import AUG, AUG_NO_TEXT, LLM, PLAIN
from expctr.untrusted import printable

SCORES = tuple(system.column for system in (LLM, AUG, AUG_NO_TEXT, PLAIN))
"""Of the language model, the CTR model with and without the sentence, and the CTR model trained without text."""


class ExplanationPrinter(Callback):
    """Prints the explanation of a `Query`.

    Its first predicted row is the choice itself; each further row leaves out one title of the history.

    Args:
        question: with the rows to predict.
        as_json: print one line of JSON instead of a panel.
    """

    def __init__(self, question: Query, as_json: bool = False) -> None:
        self.question, self.as_json = question, as_json
        self._start = 0.0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, since the models are loaded now."""
        self._start = perf_counter()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the answer."""
        assert isinstance(pl_module, StagedModule)
        if trainer.is_global_zero:
            found = answer(self.question, pl_module.evaluated, pl_module.models.plain_name)
            found["seconds"] = round(perf_counter() - self._start, 3)
            if self.as_json:
                print(json.dumps(found))
            else:
                Console().print(show(found))


def answer(question: Query, columns: Mapping[str, Sequence[Any]], ctr_model: str) -> dict[str, Any]:
    """The answer to a question as a dictionary, which `--json` prints.

    The change of a history entry is the score as asked minus the score without that entry. Without it, the prompt
    changes, and so do the sentence and, for the CTR model, the history.

    Args:
        question: the user and the target.
        columns: of the question's rows: `text`, and those of `SCORES` that exist.
        ctr_model: its name.

    Returns:
        - `user`: null if the history was typed in.
        - `target`: `id` (null if the item is new) and `title`.
        - `label`: 1 liked, 0 disliked, null unknown.
        - `split`: of that sample; null if it is not a sample.
        - `explanation`.
        - `s_u`, `s_r`, `s_0`, `s_plain`: null where the CTR model is not trained.
        - `samples`: null for one greedy explanation. For several (`evaluation.samples`), whose mean scores are given:
            their `count`; how many verdicts are `positive`, `negative`, or missing (`no_verdict`); and the scores'
            standard deviations `s_u_std` and `s_r_std`, null like the scores.
        - `ctr_model`.
        - `moved`: the score that `most` refers to: s_r, or s_u where there is no s_r.
        - `history`: oldest first, each with `id`, `title`, `liked`; without it, `explanation`, `s_u`, `s_r`, `s_0`; and
            `change`, of the score `moved`.
        - `most`: the index in `history` of the largest change in size; null if no entry changes the score.
        - `notes`.
    """
    moved = "s_r" if "s_r" in columns else "s_u"
    scores: list[dict[str, Any]] = [
        {name: columns[name][i] if name in columns else None for name in SCORES} for i in range(len(question.rows))
    ]
    history = [
        {
            "id": entry.item.id or None,
            "title": entry.item.title,
            "liked": entry.liked,
            "explanation": text,
            **{name: without[name] for name in SCORES[:3]},
            "change": scores[0][moved] - without[moved],
        }
        for entry, text, without in zip(question.history, columns["text"][1:], scores[1:], strict=True)
    ]
    most = max(range(len(history)), key=lambda i: abs(history[i]["change"]))
    notes = list(question.notes)
    if moved == "s_u":
        notes.append("this checkpoint has no trained CTR model, so s_u of the language model is the only score")
    return {
        "user": question.user or None,
        "target": {"id": question.target.id or None, "title": question.target.title},
        "label": question.label,
        "split": question.split or None,
        "explanation": columns["text"][0],
        **scores[0],
        "samples": _samples(question, columns),
        "ctr_model": ctr_model,
        "moved": moved,
        "history": history,
        "most": most if history[most]["change"] else None,
        "notes": notes,
    }


def _samples(question: Query, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """How much the explanations of the question itself differ; none if there is one."""
    if "texts" not in columns:
        return None
    titles = [question.target.title, *(entry.item.title for entry in question.history)]
    verdicts = Counter(polarity(text, titles) for text in columns["texts"][0])
    return {
        "count": verdicts.total(),
        **{name: verdicts[verdict] for name, verdict in (("positive", 1), ("negative", -1), ("no_verdict", 0))},
        **{name: columns[name][0] if name in columns else None for name in ("s_u_std", "s_r_std")},
    }


def show(answer: Mapping[str, Any]) -> Panel:
    """What `answer` returns, with `seconds` added, as a panel. No markup is read from titles and sentences."""
    moved, model = answer["moved"], answer["ctr_model"]
    scores = Table.grid("", Column(justify="right"), "", padding=(0, 2))
    meanings = {
        "s_u": "the frozen language model, after reading the sentence",
        "s_r": f"{model} with the sentence",
        "s_0": f"{model} without the sentence",
        "s_plain": f"{model} trained without sentences",
    }
    for name, what in meanings.items():
        if answer[name] is not None:
            scores.add_row(name, f"{answer[name]:.3f}", what)

    columns = [name for name in SCORES[:3] if answer[name] is not None]
    numbers = (Column(name, justify="right") for name in (*columns, f"effect on {moved}"))
    table = Table("history, oldest first", "", *numbers, box=box.SIMPLE_HEAD, padding=(0, 1))
    for i, entry in enumerate(answer["history"]):
        cells = (*(f"{entry[name]:.3f}" for name in columns), f"{entry['change']:+.3f}")
        liked = "liked" if entry["liked"] else "disliked"
        table.add_row(Text(printable(entry["title"])), liked, *cells, style="bold" if i == answer["most"] else "")
    without = "s_u, s_r and s_0 are" if moved == "s_r" else "s_u is"
    parts: list[Any] = [
        Text(printable(answer["explanation"]) or "(an empty sentence)", style="bold"),
        "",
        scores,
        *([Text(_disagreement(answer))] if answer["samples"] else []),
        "",
        Text(f"If one title of the history is left out, {without}:"),
        table,
        Text(printable(_most(answer))),
        *(Text(f"Note: {printable(note)}", style="dim") for note in answer["notes"]),
    ]
    label = {1: ", who liked it", 0: ", who disliked it", None: ""}[answer["label"]]
    who = f"user {answer['user']}" if answer["user"] else "the person described"
    title = Text(printable(f"{answer['target']['title']} for {who}{label}"))
    return Panel(Group(*parts), title=title, title_align="left", subtitle=f"{answer['seconds']:.2f} s")


def _disagreement(answer: Mapping[str, Any]) -> str:
    samples = answer["samples"]
    said = [f"{samples['positive']} positive", f"{samples['negative']} negative"]
    if samples["no_verdict"]:
        said.append(f"{samples['no_verdict']} without a verdict")
    spread = [
        f"{name} {answer[name]:.2f} ± {samples[f'{name}_std']:.2f}"
        for name in ("s_u", "s_r")
        if answer[name] is not None
    ]
    return f"{samples['count']} explanations: {', '.join(said)}; {', '.join(spread)}"


def _most(answer: Mapping[str, Any]) -> str:
    if answer["most"] is None:
        return "No single title of the history moves the score."
    entry = answer["history"][answer["most"]]
    same = entry["explanation"] == answer["explanation"]
    reads = "the sentence stays the same" if same else f"the sentence is: {entry['explanation']}"
    return f"{entry['title']} moves {answer['moved']} most ({entry['change']:+.3f}). Without it, {reads}"
