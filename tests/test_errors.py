"""What is shown of an error that is not ours."""

from math import inf
from typing import Any

import pytest

from expctr.errors import UserError, check_range, first_line, listed


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such column: x.\n\nquery plan:\n..."), "no such column: x"),
        (OSError("\n disk is full: "), "disk is full"),
        (KeyError(), "KeyError"),
        (RuntimeError("\n \n"), "RuntimeError"),
    ],
)
def test_an_error_is_one_line_even_without_a_message(error: Exception, line: str) -> None:
    assert first_line(error) == line


class Sized:
    def __init__(self, rows: int = 1, most: int | None = None, **others: int) -> None:
        self.rows, self.most, self.others = rows, most, others


class Larger(Sized):
    """Declares none of them itself, as the data modules of a layout."""

    def __init__(self, name: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.name = name


@pytest.mark.parametrize("kind", [Sized, Larger])
def test_null_is_in_range_only_where_the_type_has_it(kind: type[Sized]) -> None:
    check_range("data", kind(most=None), rows=(1, inf), most=(1, inf))
    with pytest.raises(UserError, match=r"data\.rows must be at least 1, not null"):
        check_range("data", kind(rows=None), rows=(1, inf))  # type: ignore[arg-type]


def test_messages_show_the_beginning_of_what_is_long() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a" * 999, "b", "c"], 2) == "a" * 120 + ", b and 1 more"
    assert len(first_line(ValueError("x" * 9000))) == 500
