"""Titles that people type."""

from typing import Any

import numpy as np
import pytest

from expctr.data.readers.values import MAX_TITLE
from expctr.data.sample_rows import read_titles
from expctr.errors import UserError


@pytest.mark.parametrize(
    ("typed", "titles"),
    [
        ('["Heat", "Fargo"]', ("Heat", "Fargo")),
        ('["Heat", null, "NULL", 1984, " Up "]', ("Heat", "1984", "Up")),
        ("['Heat', nan]", ("Heat",)),
        (" Heat | |NULL|Heat, The|nan", ("Heat", "Heat, The")),
        ("[REC]|Heat", ("[REC]", "Heat")),
        ("1984", ("1984",)),
        ('["A\\ud83d", "B"]', ("A\ufffd", "B")),
        ("A\ud83d|B", ("A?", "B")),
        ("[" * 5000, ("[" * MAX_TITLE,)),
        (["Heat|Fargo", None, "NULL", 1984, ""], ("Heat|Fargo", "1984")),
        ([1984.0, np.float32(12), float("nan"), 8.5], ("1984", "12", "8.5")),
        ("NULL", ()),
        ("", ()),
        ([], ()),
        (None, ()),
    ],
)
def test_titles_are_those_of_a_list_of_json_or_between_bars(typed: Any, titles: tuple[str, ...]) -> None:
    assert read_titles(typed) == titles


@pytest.mark.parametrize("typed", ['["Heat", "Far', "('Heat', 'Fargo')", '{"Heat"}'])
def test_a_list_that_cannot_be_read_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match=r'^list cannot be read: .*Fix: write the whole list as \["Heat", "Fargo"\]'):
        read_titles(typed)
