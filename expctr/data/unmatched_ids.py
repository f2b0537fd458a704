"""Ids that should match between two files but do not: three examples of either side, and why."""

from collections.abc import Callable, Iterable

import polars as pl

from expctr.errors import DataError

_MOST = 0.5
_EXAMPLES = 3
_SAMPLE = 2000  # ids for which a reason is looked for

Form = Callable[[pl.Expr], pl.Expr]
_REASONS: dict[str, Form] = {
    "one file writes whole numbers as 28.0. Fix: write them as 28 (pandas: .astype('Int64'))": (
        lambda ids: ids.str.replace(r"^(-?\d+)\.0+$", "$1")
    ),
    "one file has lost leading zeros. Fix: write the zeros in both, and read ids as text (pandas: dtype=str)": (
        lambda ids: ids.str.strip_chars_start("0")
    ),
    "the files differ in upper and lower case. Fix: use one case in both": lambda ids: ids.str.to_lowercase(),
    "the files differ in white space. Fix: remove it in both": lambda ids: ids.str.replace_all(r"\s+", ""),
    "one file writes an accented letter as one character, the other as two. Fix: write ids alike (NFC)": (
        lambda ids: ids.str.normalize("NFC")
    ),
    "the files differ in punctuation. Fix: write the ids alike": lambda ids: ids.str.replace_all(r"[^\pL\pN]+", ""),
    "one file has ISBN-10, the other ISBN-13. Fix: write one of them in both": (
        lambda ids: ids.str.replace(r"^(?:978)?(\d{9})[\dXx]$", "$1")
    ),
}


def check_spellings(ids: pl.Series, name: str, sources: Iterable[object]) -> None:
    """Raises DataError if a whole number is written as 28 in one row and as 28.0 in another one.

    Args:
        ids: of one kind, categorical or strings.
        name: of what.
        sources: the files, or what else holds the ids.
    """
    every = ids.unique().cast(pl.String)
    floats = every.filter(every.str.contains(r"^-?\d+\.0+$"))
    both = floats.filter(floats.str.replace(r"\.0+$", "").is_in(every.implode())).sort()
    if both.len():
        short = both[0].partition(".")[0]
        raise DataError(
            f"{name} ids of {', '.join(map(str, sources))} are written in two ways: {short!r} and {both[0]!r} ("
            f"{both.len():,} ids). Fix: write them as {short} everywhere (pandas: .astype('Int64'))"
        )


def explain_unmatched(used: pl.Series, described: pl.Series, used_in: str, described_in: str) -> str | None:
    """Why most of the ids that are used have no description; None if less than half have none.

    Args:
        used: ids (strings).
        described: ids (strings).
        used_in: what uses them, in words.
        described_in: what describes them, in words.
    """
    used = used.drop_nulls().unique().sort()
    missing = used.filter(~used.is_in(described.implode()))
    if missing.len() <= _MOST * used.len():
        return None
    described = described.drop_nulls().unique().sort()
    shown = (", ".join(map(repr, ids.sample(min(_EXAMPLES, ids.len()), seed=0).sort())) for ids in (missing, described))
    text = (
        f"{missing.len():,} of {used.len():,} ids of {used_in} are not in {described_in}: {next(shown)}; there the ids "
        f"are {next(shown) or 'none'}"
    )
    sample = missing.sample(min(_SAMPLE, missing.len()), seed=0)
    forms = [*_REASONS.items(), ("the files write ids in different ways. Fix: write them alike", _all_forms)]
    for reason, form in forms:
        alike = _formed(sample, form).is_in(_formed(described, form).implode())
        if alike.mean() > _MOST:  # type: ignore[operator]
            return f"{text}. Likely {reason}"
    return f"{text}. Fix: check that both belong together and use the same ids"


def _formed(ids: pl.Series, form: Form) -> pl.Series:
    return pl.select(form(pl.lit(ids))).to_series()


def _all_forms(ids: pl.Expr) -> pl.Expr:
    for form in _REASONS.values():
        ids = form(ids)
    return ids
