"""One explanation and what hangs on it: what `expctr explain` prints."""

import json
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from expctr.data.query import Query
from expctr.modules.expctr import ExpCTRModule
from expctr.untrusted import printable

SCORES = ("s_u", "s_r", "s_0", "s_plain")
"""Of the language model by the sentence; of the CTR model with it and without it; of the one trained without text."""


class Explanation(Callback):
    """Prints the answer to a question that was predicted: the first row as asked, the others without a history title.

    Args:
        question: whose rows they are.
        as_json: one line of JSON in place of a panel.
    """

    def __init__(self, question: Query, as_json: bool = False) -> None:
        self.question, self.as_json = question, as_json
        self._start = 0.0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All is loaded."""
        self._start = perf_counter()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print."""
        assert isinstance(pl_module, ExpCTRModule)
        if trainer.is_global_zero:
            found = answer(self.question, pl_module.evaluated, pl_module.baseline.name)
            found["seconds"] = round(perf_counter() - self._start, 3)
            if self.as_json:
                print(json.dumps(found))
            else:
                Console().print(show(found))


def answer(question: Query, columns: Mapping[str, Sequence[Any]], ctr_model: str) -> dict[str, Any]:
    """What is said of a question, for programs.

    An entry of the history moves a score by the score as asked minus the score when the person is asked about without
    it: another prompt, another greedy sentence, and for the CTR model another history, too.

    Args:
        question: what was asked.
        columns: of its rows: `text`, and of `SCORES` those that there are.
        ctr_model: what the CTR model is called.

    Returns:
        `user` (null: typed in); `target`: `id` (null: new), `title`; `label` (1 liked, 0 disliked, null unknown);
        `split` (of that sample; null: none); `explanation`; `s_u`, `s_r`, `s_0`, `s_plain` (null: the CTR model is
        not trained); `ctr_model`; `moved` (the score that decides `most`: s_r, or s_u where there is no s_r);
        `history`, oldest first, of `id`, `title`, `liked`, and for the person without it `explanation`, `s_u`, `s_r`,
        `s_0`, and `change` (of the score `moved`); `most`: the place in `history` of the entry whose change is the
        largest in size (null: none changes it); `notes`.
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
        notes.append("this checkpoint has no trained CTR model: the language model's score s_u is all there is")
    return {
        "user": question.user or None,
        "target": {"id": question.target.id or None, "title": question.target.title},
        "label": question.label,
        "split": question.split or None,
        "explanation": columns["text"][0],
        **scores[0],
        "ctr_model": ctr_model,
        "moved": moved,
        "history": history,
        "most": most if history[most]["change"] else None,
        "notes": notes,
    }


def show(answer: Mapping[str, Any]) -> Panel:
    """An answer for people. Titles and sentences are shown as they are: no markup is read from them.

    Args:
        answer: what `answer` gave, and `seconds`.
    """
    history, most, moved = answer["history"], answer["most"], answer["moved"]
    model = answer["ctr_model"]
    scores = Table.grid(padding=(0, 2))
    scores.add_column()
    scores.add_column(justify="right")
    scores.add_column()
    for name, what in (
        ("s_u", "the frozen language model, having read the sentence"),
        ("s_r", f"{model} with the sentence"),
        ("s_0", "the same without the sentence"),
        ("s_plain", f"{model} trained without sentences"),
    ):
        if answer[name] is not None:
            scores.add_row(name, f"{answer[name]:.3f}", what)

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("history, oldest first")
    columns = [name for name in SCORES[:3] if answer[name] is not None]
    for name in ("", *columns, f"{moved} moved by"):
        table.add_column(name, justify="right" if name else "left")
    for i, entry in enumerate(history):
        cells = [f"{entry[name]:.3f}" for name in columns]
        table.add_row(
            Text(printable(entry["title"])),
            "liked" if entry["liked"] else "disliked",
            *cells,
            f"{entry['change']:+.3f}",
            style="bold" if i == most else "",
        )
    parts: list[Any] = [
        Text(printable(answer["explanation"]) or "(an empty sentence)", style="bold"),
        "",
        scores,
        "",
        Text(f"Without one title of the history, {'s_u, s_r and s_0 are' if moved == 's_r' else 's_u is'}:"),
        table,
        _most(answer),
        *(Text(f"Note: {printable(note)}", style="dim") for note in answer["notes"]),
    ]
    label = {1: ", who liked it", 0: ", who disliked it", None: ""}[answer["label"]]
    who = f"user {answer['user']}" if answer["user"] else "the person described"
    title = Text(printable(f"{answer['target']['title']} for {who}{label}"))
    return Panel(Group(*parts), title=title, title_align="left", subtitle=f"{answer['seconds']:.2f} s")


def _most(answer: Mapping[str, Any]) -> Text:
    if answer["most"] is None:
        return Text("No single title of the history moves the score.")
    entry = answer["history"][answer["most"]]
    same = entry["explanation"] == answer["explanation"]
    reads = "the sentence stays the same" if same else f"the sentence is: {entry['explanation']}"
    return Text(
        printable(f"{entry['title']} moved {answer['moved']} most ({entry['change']:+.3f}). Without it, {reads}")
    )
