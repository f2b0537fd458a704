"""What is shown of an error that is not ours."""

import pytest

from expctr.errors import first_line


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
