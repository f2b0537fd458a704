"""Ids that do not match between two files are shown, with the likely reason."""

from collections.abc import Callable

import polars as pl
import pytest

from expctr.data.unmatched_ids import check_spellings, explain_unmatched
from expctr.errors import DataError

IDS = [f"{i}" for i in range(12, 40)]
FORMS: dict[str, tuple[Callable[[str], str], str]] = {
    "28.0": (lambda i: f"{i}.0", "writes whole numbers as 28.0"),
    "00028": (lambda i: f"{i:0>5}", "lost leading zeros"),
    "case": (lambda i: f"{i}x", "upper and lower case"),
    "space": (lambda i: f" {i[0]} {i[1:]}", "white space"),
    "hyphens": (lambda i: f"{i[0]}-{i[1:]}", "punctuation"),
    "accents": (lambda i: f"{i}e\u0301", "as one character, the other as two"),
    "several": (lambda i: f"{i:0>5}.0", "different ways"),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("turned", [False, True])
def test_the_reason_is_found_whichever_side_it_is_on(name: str, turned: bool) -> None:
    form, reason = FORMS[name]
    plain = [i + {"case": "X", "accents": "\u00e9"}.get(name, "") for i in IDS]
    sides = [pl.Series([form(i) for i in IDS]), pl.Series(plain)]
    text = explain_unmatched(*(reversed(sides) if turned else sides), "ratings", "the items")
    assert text
    assert reason in text
    assert text.count("Fix: ") == 1


def test_three_examples_of_either_side_are_shown() -> None:
    text = explain_unmatched(pl.Series(["1.0", "2.0", "3.0"]), pl.Series(["3", "1", "2"]), "ratings", "the items")
    assert text == (
        "3 of 3 ids of ratings are not in the items: '1.0', '2.0', '3.0'; there the ids are '1', '2', '3'. Likely one "
        "file writes whole numbers as 28.0. Fix: write them as 28 (pandas: .astype('Int64'))"
    )
    many = explain_unmatched(pl.Series([f"{i}x" for i in IDS]), pl.Series(IDS), "ratings", "the items")
    assert many
    assert many.count("x'") == 3


def test_isbn() -> None:
    text = explain_unmatched(pl.Series(["9780345451040"]), pl.Series(["034545104X"]), "ratings", "books")
    assert text
    assert "ISBN-13" in text


def test_no_reason_and_no_fault() -> None:
    described = pl.Series(["1", "2"])
    assert explain_unmatched(pl.Series(["1", "2", "x"]), described, "ratings", "items") is None
    text = explain_unmatched(pl.Series(["x", "y", None]), described, "ratings", "items")
    assert text == (
        "2 of 2 ids of ratings are not in items: 'x', 'y'; there the ids are '1', '2'. Fix: check that both belong "
        "together and use the same ids"
    )


@pytest.mark.parametrize("dtype", [pl.String(), pl.Categorical()])
def test_a_number_written_in_two_ways_is_two_ids_and_refused(dtype: pl.DataType) -> None:
    check_spellings(pl.Series(["7.0", "70", "a.0", "a", "0.50", None], dtype=dtype), "user", ["log"])
    with pytest.raises(DataError, match=r"user ids of log, more are written in two ways: '-4' and '-4\.00' \(1 ids\)"):
        check_spellings(pl.Series(["-4.00", "5", "-4", "6.0"], dtype=dtype), "user", ["log", "more"])
