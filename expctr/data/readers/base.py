"""Base of the readers: raw files as lazy tables. Bad rows are raised or counted when a table is collected."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from expctr.data.readers import interrupts
from expctr.data.readers.bad_rows import BAD_FEATURE, FIXES, MISSING, OnBadRow, has_row
from expctr.data.readers.snapshots import one_per_key
from expctr.errors import DataError, first_line, listed

os.environ.setdefault("POLARS_IGNORE_TIMEZONE_PARSE_ERROR", "1")  # otherwise +05:30, as pandas writes it, is a panic
POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises about a file: it panics where a damaged one contradicts itself."""
OTHER_TITLES = "other_titles"
"""Column of a table of items: what else the interactions call them."""
OTHER_TITLE = "another title of an item in the interactions"
"""Begins the reason why such a title is not used."""


@contextmanager
def readable(source: str | Path) -> Iterator[None]:
    """Raises DataError, which names the file or option, in place of errors of polars and of the system."""
    try:
        yield
    except (OSError, *POLARS_ERRORS) as error:
        raise DataError(
            f"cannot read {source}: {first_line(error)}. Fix: check its permissions, that its download is complete, "
            "and that it is of the format of its name"
        ) from error


@dataclass(frozen=True)
class RawTable:
    """One raw file, or several of one kind, as a lazy table.

    Attributes:
        frame: the columns of the reader, and `row` (line of the file, from 1), `problem` (null in a good row), `column`
            (where the problem is) and `line` (the raw text); of several files, also `file`.
        path: the file, for messages; of several files, what the user named.
        parts: the files, if there are several.
        absent: columns of the reader that the file does not have; they are null.
        unused: columns of the file that the reader does not use.
        scale: of ratings, such as "0.5 to 5 for MovieLens".
        texts_at: reads one column of the rows at some places (the column `place`); None if the table has no places.
        empty: what is wrong if it has no rows, and how to fix it.
        has_single_times: each timestamp was read by itself, as seconds, and its text is `time_text`:
            `interactions.time_checks` compares them.
        dated_by: the column of the file that `SNAPSHOT` is of; empty if there is none; None if none was looked for.
        is_latin: it was read as Latin-1, because it is not UTF-8.
        has_variants: one review may stand under several variants of a product: of a user's rows with the same text and
            time, one counts.
        may_be_empty: having no rows is no error, because the table is made of another one, which says what is wrong.
    """

    frame: pl.LazyFrame
    path: Path
    parts: tuple[Path, ...] = ()
    absent: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    scale: str = ""
    texts_at: Callable[[pl.Series, str], pl.Series] | None = None
    empty: str = ". Fix: check that this is the right file and that its download is complete"
    is_latin: bool = False
    has_variants: bool = False
    may_be_empty: bool = False
    has_single_times: bool = False
    dated_by: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        return self.parts or (self.path,)

    @property
    def own_texts(self) -> list[str]:
        """The columns that are read again, for the targets alone: `review`, and features `context_*`."""
        return [n for n in self.frame.collect_schema().names() if n == "review" or n.startswith("context_")]

    def with_places(self) -> "RawTable":
        """The table with the position of each row as `place`, if it has `own_texts`, unless it has places."""
        if self.texts_at or not self.own_texts:
            return self
        return replace(self, frame=self.frame.with_row_index("place"))

    def reason(self, problem: str) -> str:
        """What a row with this problem is counted under, if bad rows are skipped."""
        return f"{self.path.name}: {problem}"

    def collect(
        self,
        columns: Sequence[str | pl.Expr],
        on_bad_row: OnBadRow,
        dropped: Counter[str],
        read: dict[str, int] | None = None,
    ) -> pl.DataFrame:
        """Reads some columns of the good rows.

        If bad rows are skipped, a row of which only a feature's value is bad stays without this value.

        Args:
            columns: which.
            on_bad_row: what to do with bad rows.
            dropped: gets the number of skipped rows by reason, and of such values (`MISSING`) by column.
            read: gets the number of all rows, by path.

        Raises:
            DataError: a row is bad and `on_bad_row` is `error`, or the file has no rows.
        """
        try:
            with readable(self.path):
                frame = self.frame.select(*columns, "problem").collect(engine="streaming")
        except KeyboardInterrupt:
            try:
                interrupts.end_sources()
            except KeyboardInterrupt:  # one Ctrl-C is raised twice: by polars and by Python
                interrupts.end_sources()
            raise
        if frame.is_empty() and not self.may_be_empty:
            raise DataError(f"no rows in {self.path}{self.empty}")
        if read is not None:
            read[str(self.path)] = max(frame.height, read.get(str(self.path), 0))  # one file may hold several tables
        problems = frame["problem"].drop_nulls()
        if problems.len() and on_bad_row == "error":
            raise self._first_problem(problems.len(), frame.height)
        for problem, count in problems.value_counts().iter_rows():
            if problem == BAD_FEATURE:
                bad = self.frame.filter(pl.col("problem") == BAD_FEATURE).select("column").collect()["column"]
                dropped.update(f"{self.path.name}, column {column}: {MISSING}" for column in bad)
            else:
                dropped[self.reason(problem)] += count
        good = frame.filter(has_row()) if problems.len() else frame  # a filter copies the whole table
        return good.drop("problem")

    def collect_unique(
        self, key: str, on_bad_row: OnBadRow, dropped: Counter[str], read: dict[str, int] | None = None
    ) -> pl.DataFrame:
        """Collects all columns of a small table. Keeps one row per key, and counts the others as dropped.

        For the choice see `one_per_key`.
        """
        frame = self.collect([pl.exclude("place", "line", "problem", "column")], on_bad_row, dropped, read)
        unique = one_per_key(frame, key, self.dated_by, self.path.name, dropped)
        if OTHER_TITLES in unique.columns:
            others = unique.select(key, "title", OTHER_TITLES).explode(OTHER_TITLES).drop_nulls(OTHER_TITLES)
            for item, title, other in others.sort(key, OTHER_TITLES).head(1).iter_rows():
                dropped[f"{OTHER_TITLE}, such as {other!r} of {item}, {title!r}"] += others.height
            unique = unique.drop(OTHER_TITLES)
        return unique

    def _first_problem(self, count: int, rows: int) -> DataError:
        place = pl.col("file") if "file" in self.frame.collect_schema() else pl.lit(str(self.path))
        bad = self.frame.filter(pl.col("problem").is_not_null()).select(place, "row", "problem", "column", "line")
        path, row, problem, column, line = bad.head(1).collect().row(0)
        fix = FIXES[problem].format(scale=self.scale, path=path)
        what = "values" if problem == BAD_FEATURE else "rows"
        return DataError(
            f"{problem}, {path}, row {row:,}, column {column}: {line[:120]!r}. Fix: {fix}; or count "
            f"and skip bad {what} with data.samples.on_bad_row: skip ({count:,} of {rows:,} rows read are bad)"
        )


@dataclass(frozen=True)
class RawTables:
    """The raw files of a dataset.

    Attributes:
        interactions: `user` str, `item` str, `rating` float, `timestamp` int64 since 1970 or null, and `review` str
            or null if the dataset has reviews. `timestamp` only orders interactions, and only equal ones are at the
            same time. So each reader chooses its unit: seconds in the three datasets, which publish whole seconds (or
            finer ones, which are cut), microseconds in tables of one's own.
        items: `item`, `title` (null if unknown) and side features: integers, strings, lists of strings.
        users: `user` and side features; None if the dataset has no file about users.
        notes: how the files were understood, for the summary, such as "not used: file ratings.csv.part".
        splits: tables like `interactions` named train, val and test, if the dataset has its own splits. `interactions`
            is then train.
        no_titles: nothing says what the items are called, so `title` holds their ids.
        described: the table about items, where `items` holds others too, whose titles are in the interactions.
        doubts: what looks wrong in how the files were understood, and how to fix it.
    """

    interactions: RawTable
    items: RawTable
    users: RawTable | None = None
    notes: tuple[str, ...] = ()
    splits: Mapping[str, RawTable] = field(default_factory=dict)
    no_titles: bool = False
    described: RawTable | None = None
    doubts: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether each interaction has its history: `history` (titles or ids, oldest first) and `history_liked`."""
        return "history" in self.interactions.frame.collect_schema()

    @property
    def files(self) -> list[Path]:
        return list(dict.fromkeys(path for table in self.tables for path in table.files))

    @property
    def tables(self) -> list[RawTable]:
        found = [*(self.splits.values() or [self.interactions]), self.items]
        return found if self.users is None else [*found, self.users]

    @property
    def unused_columns(self) -> list[str]:
        """The columns that no table uses, in words, one entry per file."""
        unused: dict[Path, list[str]] = {}
        for table in self.tables:
            unused[table.path] = [name for name in unused.get(table.path, table.unused) if name in table.unused]
        return [f"column {listed(names)} of {path.name}" for path, names in unused.items() if names]
