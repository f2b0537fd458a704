"""The time that a text takes grows with its length, not with the square of it, whatever the text repeats.

With the square, each of these takes many minutes; without, seconds.
"""

import signal
from collections.abc import Callable, Iterator

import pytest

from expctr.data.readers.delimited import _split_line
from expctr.data.readers.values import _parsed_list
from expctr.evaluation.quality import _plain
from expctr.sentences.titles import forms
from expctr.untrusted import _MARKS, one_line

MANY = 1_000_000
BLANKS = " " * MANY


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Twenty seconds. `re` looks for signals while it matches."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("cell", ["\\" * MANY, '\\"' * MANY, "\\" * MANY + '"', '\\\\"' * (MANY // 4), "a\\ " * MANY])
@pytest.mark.parametrize("delimiter", [";", ","])
def test_a_cell_of_many_backslashes(cell: str, delimiter: str) -> None:
    assert len(_split_line(f'"1"{delimiter}"{cell}"', delimiter)) < 3  # here, as signals do not reach threads of polars


@pytest.mark.parametrize(
    "title",
    [
        f"Heat{BLANKS}(1995",
        f"Heat{BLANKS}x: Part",
        f"Heat{BLANKS}-x",
        f"Heat{BLANKS}",
        f"The{BLANKS}, the",
        "." * MANY + "x",
        " (1995" * (MANY // 10),
        ", the" * (MANY // 10),
    ],
)
def test_a_title(title: str) -> None:
    assert forms(title) is not None


@pytest.mark.parametrize("read", [_plain, _MARKS.findall, one_line, _parsed_list])
@pytest.mark.parametrize(
    "text",
    ["<" * MANY, "<a" * MANY, "<a<" * MANY, "[A" * MANY, f"[{BLANKS}", "['a'" + BLANKS + "1", "[1 " * MANY]
    + [f'["{part * MANY}]' for part in ('\\"', "\"\\'", "' \"", "nan'")],
)
def test_a_text_of_marks(read: Callable[[str], object], text: str) -> None:
    assert read(text) is not None
