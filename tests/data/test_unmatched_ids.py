"""Ids that do not match between two files are shown, with the likely reason."""

from collections.abc import Callable

import polars as pl
import pytest

from expctr.data.unmatched_ids import Unmatched, check_spellings, doubtful_spellings, explain_unmatched
from expctr.errors import DataError

IDS = [f"{i}" for i in range(12, 40)]
FORMS: dict[str, tuple[Callable[[str], str], str]] = {
    "28.0": (lambda i: f"{i}.0", "writes whole numbers as 28.0"),
    "00028": (lambda i: f"{i:0>5}", "lost leading zeros"),
    "case": (lambda i: f"{i}x", "upper and lower case"),
    "space": (lambda i: f" {i[0]} {i[1:]}", "white space"),
    "no-break space": (lambda i: f"{i[0]}\u00a0{i[1:]}", "white space"),
    "invisible": (lambda i: f"\ufeff{i[0]}\u200b{i[1:]}\u00ad", "characters that cannot be seen"),
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
    text, note = explain_unmatched(*(reversed(sides) if turned else sides), "ratings", "the items")
    assert not note
    assert reason in text
    assert text.count("Fix: ") == 1


def test_three_examples_of_either_side_are_shown() -> None:
    text = explain_unmatched(
        pl.Series(["1.0", "2.0", "3.0"]), pl.Series(["3", "1", "2"]), "ratings", "the items"
    ).finding
    assert text == (
        "3 of 3 ids of ratings are not in the items: '1.0', '2.0', '3.0'; there the ids are '1', '2', '3'. Likely one "
        "file writes whole numbers as 28.0. Fix: write them as 28 (pandas: .astype('Int64'))"
    )
    many = explain_unmatched(pl.Series([f"{i}x" for i in IDS]), pl.Series(IDS), "ratings", "the items").finding
    assert many.count("x'") == 3


def test_isbn() -> None:
    text = explain_unmatched(pl.Series(["9780345451040"]), pl.Series(["034545104X"]), "ratings", "books").finding
    assert "ISBN-13" in text


def test_numbers_of_ten_digits_are_no_isbn_of_each_other() -> None:
    """They differ in the last digit, which of an ISBN follows from the others; 1000000001 is a valid one."""
    ids = pl.Series([f"{1_000_000_000 + i}" for i in range(100)])
    assert not explain_unmatched(ids[::3], ids[1::3], "ratings", "books").finding.count("ISBN")


@pytest.mark.parametrize(
    ("written", "reason"), [("u\u200b{}", "cannot be seen"), ("U{}", "upper and lower"), ("0u{}", "leading zeros")]
)
def test_a_few_ids_in_another_spelling_are_a_finding(written: str, reason: str) -> None:
    """Three of ten; one more is nowhere."""
    used = pl.Series([written.format(i) if i < 3 else f"u{i}" for i in range(9)] + ["x"])
    text, note = explain_unmatched(used, pl.Series([f"u{i}" for i in range(9)]), "users", "the table")
    assert text.startswith("4 of 10 ids of users are not in the table: ")
    assert reason in text
    assert not note


def test_no_reason_and_no_fault() -> None:
    described = pl.Series(["1", "2"])
    assert explain_unmatched(pl.Series(["1", "2", None, ""]), described, "users", "items") == ("", "")
    few = explain_unmatched(pl.Series(["1", "2", "x"]), described, "users", "items")
    assert few == Unmatched(note="1 of 3 users are not in items")
    text = explain_unmatched(pl.Series(["x", "y", None]), described, "ratings", "items").finding
    assert text == (
        "2 of 2 ids of ratings are not in items: 'x', 'y'; there the ids are '1', '2'. Fix: check that both belong "
        "together and use the same ids"
    )


@pytest.mark.parametrize("dtype", [pl.String(), pl.Categorical()])
def test_a_number_written_in_two_ways_is_two_ids_and_refused(dtype: pl.DataType) -> None:
    check_spellings(pl.Series(["7.0", "70", "a.0", "a", "0.50", None], dtype=dtype), "user", ["log"])
    with pytest.raises(DataError, match=r"user ids of log, more are written in two ways: '-4' and '-4\.00' \(1 ids\)"):
        check_spellings(pl.Series(["-4.00", "5", "-4", "6.0"], dtype=dtype), "user", ["log", "more"])


@pytest.mark.parametrize("dtype", [pl.String(), pl.Categorical()])
@pytest.mark.parametrize("other", ["a b\u200b", "a\u00a0b", "\ufeffa b", "a\u00ad b"])
def test_ids_that_differ_in_what_cannot_be_seen_are_a_finding(dtype: pl.DataType, other: str) -> None:
    def found(*ids: str | None) -> list[str]:
        return doubtful_spellings(pl.Series(ids, dtype=dtype), "item", ["log"])

    assert found(other, "ab", "a  b", None) == []
    (text,) = found("c", other, "a b")
    assert text.startswith("item ids of log are written in two ways: ")
    assert repr("a b") in text
    assert repr(other) in text
    assert "(1 ids). Fix: remove" in text
    assert "(2 ids)" in found(other, f"\u2060{other}")[0]


@pytest.mark.parametrize(
    ("odd", "form", "fix"),
    [
        ([f"{i:05}" for i in range(12, 20)], lambda i: i.lstrip("0"), "write leading zeros in all rows"),
        ([f"B{i}X" for i in range(9)], str.lower, "use one case, upper or lower, in all rows"),
    ],
)
def test_many_ids_that_differ_in_zeros_or_case_are_a_finding(
    odd: list[str], form: Callable[[str], str], fix: str
) -> None:
    """As of a log whose parts come from two programs. A few may be alike by chance."""
    (finding,) = doubtful_spellings(pl.Series([*odd, *map(form, odd[:5]), "other"]), "user", ["log"])
    assert finding.startswith("user ids of log are written in two ways: ")
    assert f"(5 ids). Fix: {fix}" in finding
    assert not doubtful_spellings(pl.Series(odd), "user", ["log"])
    assert not doubtful_spellings(pl.Series([odd[0], form(odd[0])]), "user", ["log"])  # the only one
    many = [f"0{i}" for i in range(20_000, 20_050)] if "zeros" in fix else [f"C{i}" for i in range(50)]
    assert not doubtful_spellings(pl.Series([*odd, *many, form(odd[0])]), "user", ["log"])
