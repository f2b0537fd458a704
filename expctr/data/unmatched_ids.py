"""Ids that should match but do not, between two files or within one: examples of either side, and why."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import polars as pl

from expctr.errors import DataError

_MOST = 0.5
_EXAMPLES = 3
_MANY, _SHARE = 5, 0.1  # of ids that are alike by chance there are fewer
_SAMPLE = 2000  # ids for which a reason is looked for

Form = Callable[[pl.Expr], pl.Expr]


def _isbn(ids: pl.Expr) -> pl.Expr:
    """The nine digits that ISBN-10 and ISBN-13 share. Other numbers of ten digits keep their last one."""
    digits = (ids.str.slice(i, 1).replace({"X": "10", "x": "10"}).cast(pl.Int32, strict=False) for i in range(10))
    weighted = pl.sum_horizontal((10 - i) * digit for i, digit in enumerate(digits))
    is_isbn = (ids.str.len_chars() == 13) | (weighted % 11 == 0)
    return pl.when(is_isbn).then(ids.str.replace(r"^(?:978)?(\d{9})[\dXx]$", "$1")).otherwise(ids)


_REASONS: dict[str, Form] = {
    "one file writes whole numbers as 28.0. Fix: write them as 28 (pandas: .astype('Int64'))": (
        lambda ids: ids.str.replace(r"^(-?\d+)\.0+$", "$1")
    ),
    "one file has lost leading zeros. Fix: write the zeros in both, and read ids as text (pandas: dtype=str)": (
        lambda ids: ids.str.strip_chars_start("0")
    ),
    "the files differ in upper and lower case. Fix: use one case in both": lambda ids: ids.str.to_lowercase(),
    "the files differ in white space or in characters that cannot be seen. Fix: remove them in both": (
        lambda ids: ids.str.replace_all(r"[\s\p{Cf}]+", "")
    ),
    "one file writes an accented letter as one character, the other as two. Fix: write ids alike (NFC)": (
        lambda ids: ids.str.normalize("NFC")
    ),
    "the files differ in punctuation. Fix: write the ids alike": lambda ids: ids.str.replace_all(r"[^\pL\pN]+", ""),
    "one file has ISBN-10, the other ISBN-13. Fix: write one of them in both": _isbn,
}


class _Spelling(NamedTuple):
    """Two ways to write one id."""

    fix: str
    pattern: str
    """What ids in the first way look like."""
    form: Form
    """Makes them ids in the second way."""
    many: bool
    """A few may be alike by chance, such as the codes 012 and 12."""


class Unmatched(NamedTuple):
    """Ids that are used and not described, in words; both are empty if there are none."""

    finding: str = ""
    """Most of the ids, or ids that are described in another spelling: what looks wrong, and how to fix it."""
    note: str = ""
    """Fewer, for no known reason: their number."""


def check_spellings(ids: pl.Series, name: str, sources: Iterable[object]) -> None:
    """Raises DataError if a whole number is written as 28 in one row and as 28.0 in another one.

    Args:
        ids: of one kind, categorical or strings.
        name: of what.
        sources: the files, or what else holds the ids.
    """
    if found := _two_spellings(ids, name, sources, r"^-?\d+\.0+$", lambda ids: ids.str.replace(r"\.0+$", "")):
        raise DataError(f"{found}. Fix: write whole numbers without a point everywhere (pandas: .astype('Int64'))")


def doubtful_spellings(ids: pl.Series, name: str, sources: Iterable[object]) -> list[str]:
    """What looks wrong if ids differ only in what cannot be seen, such as U+200B, or in the kind of space; or if
    many of them differ only in leading zeros, or in upper and lower case.

    Args:
        ids: of one kind, categorical or strings.
        name: of what.
        sources: the files, or what else holds the ids.
    """
    found = [(way, _two_spellings(ids, name, sources, way.pattern, way.form, way.many)) for way in _SPELLINGS]
    return [f"{text}. Fix: {way.fix}" for way, text in found if text]


def explain_unmatched(used: pl.Series, described: pl.Series, used_in: str, described_in: str) -> Unmatched:
    """Why ids that are used have no description, or how many have none.

    Args:
        used: ids (strings); empty ones name nobody.
        described: ids (strings).
        used_in: what uses them, in words.
        described_in: what describes them, in words.
    """
    used = used.filter(used != "").unique().sort()
    missing = used.filter(~used.is_in(described.implode()))
    if missing.is_empty():
        return Unmatched()
    reason = _reason(missing.sample(min(_SAMPLE, missing.len()), seed=0), described)
    if not reason and missing.len() <= _MOST * used.len():
        return Unmatched(note=f"{missing.len():,} of {used.len():,} {used_in} are not in {described_in}")
    described = described.drop_nulls().unique().sort()
    shown = (", ".join(map(repr, ids.sample(min(_EXAMPLES, ids.len()), seed=0).sort())) for ids in (missing, described))
    text = (
        f"{missing.len():,} of {used.len():,} ids of {used_in} are not in {described_in}: {next(shown)}; there the ids "
        f"are {next(shown) or 'none'}"
    )
    fix = f"Likely {reason}" if reason else "Fix: check that both belong together and use the same ids"
    return Unmatched(finding=f"{text}. {fix}")


def _reason(missing: pl.Series, described: pl.Series) -> str:
    """The known reason that explains most of the missing ids; empty if none does."""
    forms = [*_REASONS.items(), ("the files write ids in different ways. Fix: write them alike", _all_forms)]
    for reason, form in forms:
        alike = _formed(missing, form).is_in(_formed(described, form).implode())
        if alike.mean() > _MOST:  # type: ignore[operator]
            return reason
    return ""


def _two_spellings(
    ids: pl.Series, name: str, sources: Iterable[object], pattern: str, form: Form, many: bool = False
) -> str:
    """The ids that match a pattern and have the form of another id, in words; empty if none has.

    With `many`, empty also if these are few, or few of those that match the pattern.
    """
    every = ids.unique().cast(pl.String) if ids.dtype == pl.Categorical else ids
    odd = every.filter(every.str.contains(pattern)).unique()
    plain = _formed(odd, form)
    both = odd.filter(plain.is_in(every.implode()) | plain.is_duplicated()).sort()
    if both.is_empty() or (many and both.len() < max(_MANY, _SHARE * odd.len())):
        return ""
    (meant,) = _formed(both[:1], form)
    first, second = sorted({*every.filter(every == meant), *odd.filter(plain == meant)})[:2]
    return (
        f"{name} ids of {', '.join(map(str, sources))} are written in two ways: {first!r} and {second!r} "
        f"({both.len():,} ids)"
    )


def _formed(ids: pl.Series, form: Form) -> pl.Series:
    return pl.select(form(pl.lit(ids))).to_series()


def _as_seen(ids: pl.Expr) -> pl.Expr:
    return ids.str.replace_all(r"\p{Cf}", "").str.replace_all(r"[^\S ]", " ")


_SPELLINGS = (
    _Spelling(
        "remove what cannot be seen, and write plain spaces, in all files", r"\p{Cf}|[^\S ]", _as_seen, many=False
    ),
    _Spelling(
        "write leading zeros in all rows, and read ids as text (pandas: dtype=str)",
        r"^0\d+$",
        lambda ids: ids.str.replace(r"^0+(\d)", "$1"),
        many=True,
    ),
    _Spelling("use one case, upper or lower, in all rows", r"\p{Lu}", lambda ids: ids.str.to_lowercase(), many=True),
)


def _all_forms(ids: pl.Expr) -> pl.Expr:
    for form in _REASONS.values():
        ids = form(ids)
    return ids
