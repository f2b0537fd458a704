"""`expctr predict RUN --pairs FILE --out FILE`: scores of pairs, streamed from table to table."""

import json
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import polars as pl
from polars.io.plugins import register_io_source

from expctr.cli.parts import folder_of_parts, held_parts
from expctr.data.cache import sha256_of
from expctr.data.pairs import PairRows, columns_of, read_columns
from expctr.data.readers.base import POLARS_ERRORS
from expctr.data.readers.csv_rows import read_rows
from expctr.data.readers.files import check_file
from expctr.data.readers.values import as_id
from expctr.data.sample_rows import NewTitles
from expctr.errors import DataError, UserError, first_line
from expctr.predictor import PROBLEM, Predictor
from expctr.training.progress import tracked
from expctr.training.ranks import digest_of_checkpoint
from expctr.whole_files import replacing, writing

CHUNK = 20_000
"""Pairs in memory at a time."""
_SUFFIXES = (".csv", ".parquet")
_KINDS = (
    "the ratings have no user .*",
    "no sample is of user .*",
    "no item with a title has the id .*",
    "user .* has rated no other item",
    "item .* is called .*, not .*",
)
"""Problems that name an id."""


def check_options(pairs: Path, out: Path | None, explain: str, force: bool) -> Path:
    """Refuse before a model is loaded what would fail after it; returns the file that `out` leads to.

    Raises:
        UserError: an option is wrong, or a file would be overwritten.
        DataError: `pairs` cannot be read.
    """
    if out is None:
        raise UserError("out: no file is named for the scores of --pairs. Fix: give --out FILE, a .csv or .parquet")
    for option, path in (("pairs", pairs), ("out", out)):
        if path.suffix not in _SUFFIXES:
            raise UserError(f"{option}: {path} is neither .csv nor .parquet. Fix: give one of them")
    # what reads the file by its own name gets the new scores, too; and a link may lead elsewhere at the end
    target = Path(os.path.realpath(out))
    if target.suffix != out.suffix:
        raise UserError(f"out: {out} leads to {target}, a file of another kind. Fix: name that file itself")
    out = target
    check_file(pairs)
    _check_new(out, force)
    if (parts := folder_of_parts(out)).exists() and not parts.is_dir():
        raise UserError(f"out: {parts}, where unfinished scores would be, is a file. Fix: choose another --out")
    if out.is_dir():
        raise UserError(f"out: {out} is a folder. Fix: name a file in it")
    if not out.parent.is_dir():
        raise UserError(f"out: there is no folder {out.parent}. Fix: make it, or choose another")
    _top(explain)
    _check_pairs(pairs, out)
    return out


class Outcome(NamedTuple):
    """What became of pairs."""

    problems: dict[str, int]
    """How many could not be scored, by reason."""
    new: NewTitles
    copied: list[str]
    """Columns that are not read."""


def predict_pairs(
    predictor: Predictor, pairs: Path, out: Path, explain: str, checkpoint: Path, force: bool = False
) -> Outcome:
    """Score the pairs of a file, in constant memory. Called again after an interruption, it resumes.

    Finished chunks wait in the folder `OUT.parts`, which is removed in the end.

    Args:
        predictor: a loaded run.
        pairs: a CSV or a parquet file; see `Predictor.score`.
        out: the file to write, likewise.
        explain: `all`; `none`; or `top:N`: write sentences for the N pairs of each user that the CTR model without
            sentences likes best.
        checkpoint: which the predictor was loaded from; its scores are not mixed with another's.
        force: overwrite `out`.

    Raises:
        UserError: the run cannot choose pairs, or another command has written `out` meanwhile.
    """
    if _top(explain) and "s_plain" not in predictor.columns:
        raise UserError(f"explain: {explain} needs a run of ExpCTRModule whose CTR model is trained. Fix: leave it out")
    names = _scan(pairs).collect_schema().names()
    predictor.check_names(names)
    with held_parts(out) as parts:
        _check_new(out, force)
        parts.begin(
            {
                "pairs": _copy(pairs, parts.copy),
                "checkpoint": digest_of_checkpoint(checkpoint),
                "data": predictor.data.source_digest(),
                "explain": explain,
                "samples": predictor.explanations_per_row,
            }
        )
        table = pl.scan_parquet(parts.copy, glob=False)
        count = int(table.select(pl.len()).collect().item())
        rows = PairRows(predictor.data, _users(table))

        def chunks(name: str) -> Iterator[tuple[int, pl.DataFrame, Path]]:
            """The chunks that have no part yet: their first row, their pairs, and the part to write."""
            missing = parts.missing(name, count, CHUNK)
            for start, path in tracked(missing, f"{name} pairs") if len(missing) > 1 else missing:
                yield start, table.slice(start, CHUNK).collect(), path

        explained = None
        if top := _top(explain):
            for start, chunk, path in chunks("ranked"):
                scored = predictor.score(chunk, explain=False, rows=rows).select("s_plain", place=_places(start))
                person = read_columns(chunk).select(person=pl.struct("user", "liked_titles", "disliked_titles").hash())
                parts.write(pl.concat([scored, person], how="horizontal"), path)
            ranked = pl.scan_parquet(parts.all("ranked"), glob=False).drop_nulls("s_plain")
            rank = pl.col("s_plain").rank("ordinal", descending=True).over("person")
            explained = ranked.filter(rank <= top).select("place").collect()["place"]
        for start, chunk, path in chunks("scored"):
            chosen: bool | pl.Series = explain == "all"
            if explained is not None:
                chosen = chunk.select(_places(start).is_in(explained.implode())).to_series()
            scored = predictor.score(chunk, chosen, rows)
            parts.write(scored, path, new=json.dumps(rows.new))

        done = parts.all("scored")
        new = [NewTitles(*json.loads(pl.read_parquet_metadata(part)["new"])) for part in done]
        result = pl.scan_parquet(done, glob=False)
        problems = result.select(pl.col(PROBLEM).drop_nulls().value_counts(sort=True)).unnest(PROBLEM).collect()
        with writing(out) as part:
            if out.suffix == ".csv":
                result.with_columns(pl.col(pl.List(pl.String)).map_elements(_cell, pl.String)).sink_csv(part)
            else:
                result.sink_parquet(part)
    read = {*columns_of(names).values()}
    return Outcome(dict(problems.iter_rows()), NewTitles.total(new), [name for name in names if name not in read])


def reasons(problems: Mapping[str, int]) -> list[tuple[str, int]]:
    """Why pairs could not be scored, and how many: problems that differ in an id are one, with an example."""
    kinds: dict[str, Counter[str]] = {}
    for problem, count in problems.items():
        kind = next((pattern for pattern in _KINDS if re.fullmatch(pattern, problem)), problem)
        kinds.setdefault(kind, Counter())[problem] += count
    found = []
    for of_kind in kinds.values():
        ((example, _),) = of_kind.most_common(1)
        more = f", and {len(of_kind) - 1:,} like it" if len(of_kind) > 1 else ""
        found.append((example + more, of_kind.total()))
    return sorted(found, key=lambda reason: -reason[1])


def _cell(titles: pl.Series) -> str:
    """Titles joined by `|`; as JSON if one of them has a `|` or begins with `[`."""
    kept = titles.drop_nulls().to_list()
    is_ambiguous = any(re.search(r"\||^\s*\[", title) for title in kept)
    return json.dumps(kept, ensure_ascii=False) if is_ambiguous else "|".join(kept)


def _check_new(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise UserError(f"out: {out} exists. Fix: choose another file, or overwrite it with --force true")


def _scan(pairs: Path) -> pl.LazyFrame:
    """The table of pairs. Of a CSV, all values are texts, and null if they are empty."""
    if pairs.suffix != ".csv":
        return pl.scan_parquet(pairs, glob=False)
    _, header = next(read_rows(pairs), (1, []))
    if not header:
        raise DataError(f"pairs: {pairs} cannot be read: it is empty. Fix: begin it with a header, such as user,item")
    # names of the rows may have none, and are columns all the same
    names = [name if header.index(name) == i else f"column {i + 1}" for i, name in enumerate(header)]
    schema = dict.fromkeys(names, pl.String())

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        rows = islice(read_rows(pairs), 1, None if limit is None else limit + 1)
        while chunk := [row for _, row in islice(rows, CHUNK)]:
            frame = pl.DataFrame(dict(zip(names, zip(*chunk, strict=False), strict=False)), schema)
            frame = frame.select(pl.when(pl.all() != "").then(pl.all())).select(columns or names)
            yield frame if predicate is None else frame.filter(predicate)

    return register_io_source(source, schema=schema, is_pure=True)


def _copy(pairs: Path, path: Path) -> str:
    """Copy the table of pairs, so that its last chunk is found as fast as its first, and nobody replaces it meanwhile.

    Returns:
        A digest of the file.

    Raises:
        DataError: it has no rows, or changes while it is read.
    """
    before, changed = _digest(pairs), f"pairs: {pairs} changed while it was read. Fix: wait until it is written"
    try:
        with replacing(path) as part:
            _scan(pairs).sink_parquet(part)
        rows = int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    except (DataError, OSError, *POLARS_ERRORS) as error:
        if before == _digest(pairs) != "":
            raise  # as of a full disk
        raise DataError(changed) from error
    if not rows or before != _digest(pairs):
        raise DataError(changed)
    return before


def _digest(pairs: Path) -> str:
    """A digest of the file; empty if it is gone."""
    try:
        return sha256_of(pairs)
    except OSError:
        return ""


def _check_pairs(pairs: Path, out: Path) -> None:
    """Read all of a table once, because an error in its last row would otherwise come after hours."""
    try:
        if pairs.suffix == ".csv":
            deque(read_rows(pairs), 0)
        table = _scan(pairs)
        schema = table.collect_schema()
        if pairs.suffix == ".csv" and len(schema) == 1:
            raise DataError(f"pairs: {pairs} has the one column {schema.names()[0]!r}. Fix: separate columns by commas")
        read_columns(table.head(0).collect())
        values = table.select(pl.len(), pl.all().exclude("len").is_null().sum())  # reads every value
        rows = int(values.collect(engine="streaming").item(0, 0))
    except POLARS_ERRORS as error:
        reason = first_line(error)
        fix = "save it as UTF-8, close every quote, and give each row as many values as the header has"
        if pairs.suffix == ".parquet":
            fix = "write it again"
        raise DataError(f"pairs: {pairs} cannot be read: {reason}. Fix: {fix}") from error
    if not rows:
        raise DataError(f"pairs: {pairs} has no rows. Fix: check that every quote in it is closed")
    no_text = [
        name
        for name, kind in schema.items()
        if (kind.is_nested() and kind != pl.List(pl.String)) or kind in (pl.Binary, pl.Duration, pl.Object)
    ]
    if no_text and out.suffix == ".csv":
        raise DataError(f"out: a CSV cannot hold the column {no_text[0]} of {pairs}. Fix: choose a .parquet")


def _top(explain: str) -> int:
    """The N of `top:N`; 0 for `all` and `none`."""
    kind, _, number = explain.partition(":")
    if explain in ("all", "none"):
        return 0
    if kind == "top" and number.isdigit() and int(number):
        return int(number)
    raise UserError(f"explain is {explain!r}. Fix: give all, none, or top:N, such as top:3")


def _users(table: pl.LazyFrame) -> list[str]:
    schema = table.collect_schema()
    column = columns_of(schema.names()).get("user")
    if column is None:
        return []
    users = table.select(as_id(pl.col(column), schema[column]).unique().alias("user")).collect(engine="streaming")
    return users["user"].drop_nulls().to_list()


def _places(start: int) -> pl.Expr:
    return pl.int_range(start, start + pl.len(), dtype=pl.Int64)
