"""Titles and explanations as anybody may write them: in prompts, and in the report's HTML."""

from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
from hypothesis import strategies as st

from expctr.data.batches import SampleText
from expctr.llm.prompts import Prompts
from expctr.report.render import render
from expctr.report.run import Run
from tools.fuzz.check import FaultError, answered

PIECES = [
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "</s>",
    "[INST]",
    "<script>alert(1)</script>",
    "</script><b>",
    "<!--",
    '" onload="x',
    "{target}",
    "{{",
    "%s",
    "\n\nUser: ",
    "\x1b[31m",
    "\u202e",
    "a\u0301" * 40,
    "🎬",
    "Heat",
    "\ud800",
]
TITLE = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20)), max_size=5).map("".join)
TITLES = st.lists(TITLE, max_size=12)
SAMPLE = st.builds(SampleText, TITLE, TITLES.map(tuple), TITLES.map(tuple))


def try_prompt(prompts: Prompts, sample: SampleText) -> None:
    """Write the prompts of a row: short enough, and with no control token but those of the template."""
    plain, special = SampleText("Heat", ("Heat",), ()), {*prompts.tokenizer.all_special_ids}
    with answered():
        for written, expected in (
            (prompts.explanation([sample])[0], prompts.explanation([plain])[0]),
            (prompts.icl([sample])[0], prompts.icl([plain])[0]),
            (prompts.lc([sample], [sample.target], True)[0], prompts.lc([plain], ["Heat"], True)[0]),
        ):
            if len(written) > prompts.prompt_tokens:
                raise FaultError(f"a prompt of {len(written)} tokens")
            if [i for i in written if i in special] != [i for i in expected if i in special]:
                raise FaultError("a title wrote a control token")


_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # parquet cannot hold them


def try_report(run: Run, titles: list[str]) -> None:
    """Draw a run whose sentences, titles and name are hostile: the page has the same elements as that of a plain run.

    Args:
        run: with a few explanations.
        titles: one at least.
    """
    titles = [title.translate(_SURROGATES) for title in titles]

    def drawn(texts: list[str], name: str) -> list[tuple[str, ...]]:
        rows = run.test.height
        column = pl.Series([texts[place % len(texts)] or "x" for place in range(rows)], dtype=pl.String)
        lists = pl.Series([[text] for text in column], dtype=pl.List(pl.String))
        test = run.test.with_columns(text=column, text_untrained=column, target=column, liked=lists, disliked=lists)
        return elements(render([replace(run, test=test, name=name)]))

    with answered():
        if drawn(titles, titles[0]) != drawn(["Heat"], "Heat"):
            raise FaultError("a title made an element of HTML")


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, ...]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, *(name for name, _ in attrs)))


def elements(page: str) -> list[tuple[str, ...]]:
    """The elements of a page and the names of their attributes, as a browser reads them."""
    parser = _Elements()
    parser.feed(page)
    parser.close()
    return parser.seen
