"""Any table as raw tables: interactions, items and users of one's own, in columns of any names."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from expctr.data.feature_kinds import FeatureKind
from expctr.data.options import SPLITS
from expctr.data.readers.bad_rows import (
    BAD_LABEL,
    BAD_SPLIT,
    NESTED_ID,
    NO_ID,
    NO_TIME,
    NOT_A_NUMBER,
    OTHER_TIME,
    ROUNDED_ID,
    ROUNDED_TIME,
    bad_ids,
    has_row,
)
from expctr.data.readers.base import OTHER_TITLES, RawTable, RawTables, readable
from expctr.data.readers.columns import (
    USUAL,
    TableColumns,
    check_named,
    find_columns,
    match_name,
    missing_column,
    snapshot_columns,
    time_columns,
)
from expctr.data.readers.files import odd_copies
from expctr.data.readers.lost_digits import is_rounded
from expctr.data.readers.named_files import find_files, left_out, linked_folders, same_content, unused_files
from expctr.data.readers.ready import all_items, history_columns, is_ready, with_flags, with_tallrec
from expctr.data.readers.snapshots import SNAPSHOT, SNAPSHOT_TEXT
from expctr.data.readers.sources import NESTED, Source, open_source
from expctr.data.readers.splits import check_alike
from expctr.data.readers.table_features import find_kinds
from expctr.data.readers.timestamps import doubtful_times, find_times
from expctr.data.readers.typed import (
    Checks,
    as_written,
    feature_columns,
    lost_in_some_files,
    title_checks,
    typed_table,
    value_of,
)
from expctr.data.readers.values import as_key, as_label, as_title, is_missing
from expctr.errors import DataError, listed

CONTEXT = "context_"
"""Prefix of the features of an interaction itself, such as the position on the page."""

_HEAD = 10_000
"""Rows by which columns of times are told apart."""
_SPLITS = {name: name for name in SPLITS} | dict.fromkeys(("valid", "validation", "dev"), "val")
_SPLITS |= {"training": "train", "testing": "test"}


@dataclass
class TableReader:
    """Reads tables of one's own. Headers are read when it is first asked, and rows when they are needed."""

    interactions: Mapping[str, Any]
    """One source (see `open_source`) under an empty name, or those of train, val and test."""
    items: Any
    """A source, or None."""
    users: Any
    """A source, or None."""
    columns: TableColumns
    features: Mapping[str, FeatureKind] | None
    """Kinds by column; with None all columns of items and users are features, of kinds by type or content."""
    is_timed: bool
    """Whether interactions need times."""
    notes: list[str] = field(default_factory=list, init=False)
    doubts: list[str] = field(default_factory=list, init=False)
    _featured: set[str] = field(default_factory=set, init=False)
    _described: RawTable | None = field(default=None, init=False)

    @property
    def named(self) -> dict[str, Any]:
        """All sources, by the option that names each."""
        given = {_option(name): source for name, source in self.interactions.items()}
        return given | {f"data.{name}": source for name, source in self._given_side.items()}

    @property
    def files(self) -> list[Path] | None:
        """All files, of which nothing is read yet; None if something is a data frame."""
        if not all(isinstance(source, str) for source in self.named.values()):
            return None
        return [path for option, source in self.named.items() for path in find_files(source, option)]

    @cached_property
    def tables(self) -> RawTables:
        """The three tables; the interactions are those of all splits that histories are made of."""
        interactions, items, users = next(iter(self._interactions.values())), self._read_items(), self._read_users()
        self._check_features()
        named = [source for source in self.named.values() if isinstance(source, str)]
        unused = [name for source in named for name in unused_files(source)]
        self.notes += [f"not used: file {listed(unused, 5)}"] if unused else []
        self.doubts += odd_copies(file for source in named for file in left_out(source))
        linked = [name for source in named for name in linked_folders(source)]
        self.notes += [f"not read: link to a folder {listed(linked, 5)}"] if linked else []
        no_titles = not any("title" in found for found in self._found.values()) and not self._items_have_titles
        return RawTables(
            interactions, items, users, tuple(self.notes), self._splits, no_titles, self._described, tuple(self.doubts)
        )

    @property
    def _splits(self) -> dict[str, RawTable]:
        """The interactions of train, val and test, if there are files or a column of splits."""
        if "" not in self._interactions:
            return self._interactions
        if "split" not in self.found:
            return {}
        table, bad = self._interactions[""], ~has_row()
        rows = {name: ~bad & (pl.col("split") == name) for name in SPLITS}
        rows["train"] |= bad  # in one of the three, so that they are counted once
        column, fix = self.found["split"], "Fix: give some rows this value; or rename the column, and splits are drawn"
        return {
            name: replace(table, frame=table.frame.filter(own), empty=f" whose {column} is {name}. {fix}")
            for name, own in rows.items()
        }

    @property
    def found(self) -> dict[str, str]:
        """What the columns of the (first) interactions are: role -> column."""
        return next(iter(self._found.values()))

    @property
    def columns_read(self) -> list[str]:
        """The names of the columns of the (first) interactions."""
        return next(iter(self._sources.values())).names

    @property
    def _given_side(self) -> dict[str, Any]:
        return {name: source for name in ("items", "users") if (source := getattr(self, name)) is not None}

    @cached_property
    def _sources(self) -> dict[str, Source]:
        sources = {}
        for name, source in self.interactions.items():
            with readable(_option(name)):
                sources[name] = with_flags(with_tallrec(open_source(source, _option(name))))
        return sources

    @cached_property
    def _side(self) -> dict[str, Source]:
        return {name: open_source(source, f"data.{name}") for name, source in self._given_side.items()}

    @cached_property
    def _found(self) -> dict[str, dict[str, str]]:
        """Role -> column, of each source of interactions."""
        own = {str(source.table.path): source.names for source in self._sources.values()}
        every = own | {str(source.table.path): source.names for source in self._side.values()}
        for role in USUAL:
            check_named(self.columns, role, f"data.columns.{role}", every if role == "title" else own)
        roles = [role for role in USUAL if role != "split" or "" in self.interactions]
        found = {name: find_columns(self.columns, roles, source.types) for name, source in self._sources.items()}
        paths = {name: str(source.table.path) for name, source in self._sources.items()}
        check_alike({_option(name): (paths[name], columns) for name, columns in found.items()})
        for name, source in self._sources.items():
            self._check_roles(source, found[name])
        first = next(iter(found))
        if self.is_timed and "timestamp" in found[first]:
            times = self._likely_times(self._sources[first], found[first])
            for name, source in self._sources.items():  # one column for all splits
                if times in source.names and "timestamp" in found[name]:
                    found[name]["timestamp"] = times
        return found

    def _likely_times(self, source: Source, found: Mapping[str, str]) -> str:
        """Of several columns with usual names for times the first that holds likely ones: `time` may be a duration."""
        first, *others = time_columns(self.columns, found, source.types) or [found["timestamp"]]
        head = source.table.frame.head(_HEAD)
        for name in (first, *others) if others else ():
            with suppress(DataError), readable(source.table.path):
                if find_times(head, *value_of(source, name)).are_likely:
                    return name
        return first

    def _check_roles(self, source: Source, found: Mapping[str, str]) -> None:
        wanted: list[tuple[str, ...]] = [("user",), ("item",)]
        if is_ready(found):
            wanted = [("label", "rating"), ("title", "item")]
        if self.is_timed and not is_ready(found):
            wanted.append(("timestamp",))
        missing = [roles[0] for roles in wanted if not found.keys() & {*roles}]
        if missing:
            named = " ".join(f"--data.columns.{role} NAME" for role in missing)
            if not found.keys() & {"label", "rating"}:
                named += ", and perhaps --data.columns.label NAME or --data.columns.rating NAME"
            shuffle = (
                "; or, without times, choose a random order with data.samples.order: shuffle (a history may then hold "
                "what happened after its target)"
            )
            raise DataError(
                f"{source.table.path}: which column is the {' and which the '.join(missing)}? It has "
                f"{listed(source.names)}. Fix: add {named}{shuffle if 'timestamp' in missing else ''}"
            )

    @cached_property
    def _interactions(self) -> dict[str, RawTable]:
        tables = {}
        for name, source in self._sources.items():
            with readable(source.table.path):
                tables[name] = self._read_interactions(source, self._found[name])
        return tables

    def _read_interactions(self, source: Source, found: Mapping[str, str]) -> RawTable:
        self.doubts += _copied_files(source.table)
        columns: dict[str, pl.Expr] = {}
        checks: Checks = []
        forms: dict[str, str] = {}

        def value(role: str) -> tuple[pl.Expr, pl.DataType]:
            return value_of(source, found[role])

        for role in ("user", "item"):
            if role in found:
                columns[role] = as_key(*value(role))
                named_otherwise = role == "item" and is_ready(found)  # by a title, see below
                wrong = _id_checks(source, role, found[role])
                checks += [check for check in wrong if not (named_otherwise and check[1] == NO_ID)]
            elif role == "user":
                columns["user"] = pl.lit("")  # ready rows may name nobody
        columns["rating"] = pl.lit(1.0, pl.Float32)  # without a label or a rating, a row is a positive
        if "label" in found:
            columns["rating"] = as_label(*value("label"))
            checks.append((pl.col("rating").is_null(), BAD_LABEL, found["label"]))
        elif "rating" in found:
            columns["rating"] = as_written(source, found["rating"])
            checks.append((pl.col("rating").is_null(), NOT_A_NUMBER, found["rating"]))
        columns["timestamp"] = pl.lit(None, pl.Int64)
        if self.is_timed and "timestamp" in found and not is_ready(found):
            where = f"{source.table.path}, column {found['timestamp']}"
            times = find_times(source.table.frame, *value("timestamp"), where)
            columns["timestamp"], forms["timestamp"] = times.micros, f" ({times.form})"
            self.doubts += doubtful_times(times, source.table.frame, columns["user"], where)
            checks.append((is_missing(*value("timestamp")), NO_TIME, found["timestamp"]))
            rounded = times.is_rounded | lost_in_some_files(source, found["timestamp"])
            checks.append((rounded, ROUNDED_TIME, found["timestamp"]))
            checks.append((pl.col("timestamp").is_null(), OTHER_TIME, found["timestamp"]))
        elif "timestamp" in found and is_ready(found):  # which need no times
            columns["timestamp"], forms["timestamp"] = self._times_of_ready_rows(source, found["timestamp"])
        if "split" in found:
            text = value("split")[0].cast(pl.String).str.strip_chars().str.to_lowercase()
            columns["split"] = text.replace_strict(_SPLITS, default=None, return_dtype=pl.String)
            checks.append((pl.col("split").is_null(), BAD_SPLIT, found["split"]))
        if "title" in found:
            columns["title"] = as_title(*value("title"))
            checks += title_checks(source, found["title"])
        if "review" in found:
            text = as_key(*value("review"))
            columns["review"] = pl.when(text != "-").then(text)
        if is_ready(found):
            lists, unread = history_columns(source, found)
            columns |= lists
            checks += unread
            target = pl.coalesce(*(role for role in ("item", "title") if role in found))
            checks.append((target.fill_null("") == "", NO_ID, found.get("title", found.get("item", ""))))
        others = [name for name in source.names if name not in found.values()]
        side = {name for table in self._side.values() for name in table.names}
        kinds = {name: kind for name, kind in (self.features or {}).items() if name in others and name not in side}
        columns |= feature_columns(source, kinds, checks, CONTEXT)
        unused = dict.fromkeys((name for name in others if name not in kinds), "")
        if not found.keys() & {"label", "rating"}:
            self.doubts += _unused_labels(source, unused)
        self._say(source, {role: name + forms.get(role, "") for role, name in found.items()}, kinds, unused)
        return typed_table(source, columns, checks)

    def _times_of_ready_rows(self, source: Source, name: str) -> tuple[pl.Expr, str]:
        """Times, and what they are for people; null and why not, if they are not likely ones and were not named."""
        none = pl.lit(None, pl.Int64)
        try:
            times = find_times(source.table.frame, *value_of(source, name))
        except DataError:
            return none, " (not used: cannot be read)"
        if not times.are_likely and not self.columns.timestamp:
            return none, " (not used: most are not from 1980 to 2100)"
        lost = times.is_rounded | lost_in_some_files(source, name)
        any_lost = source.table.frame.select(lost.any()).collect(engine="streaming").item()
        note = "; some lost their last digits" if any_lost else ""
        return pl.when(~lost).then(times.micros), f" ({times.form}{note})"

    def _read_items(self) -> RawTable:
        """The items with titles: of the table of items, else of the interactions; without any, their ids."""
        table = self._read_side("items", "item", "title") if "items" in self._side else None
        if is_ready(self.found):
            self._described = table
            return all_items([*self._interactions.values()], table)
        rows = [table.frame.filter(has_row()) for table in self._interactions.values()]
        titled = [frame for frame in rows if "title" in frame.collect_schema()]
        if table is not None and self._items_have_titles and not titled:
            return table
        seen = pl.concat([frame.select("item", title="title" if titled else "item") for frame in titled or rows])
        by_item = (
            seen.filter(pl.col("title") != "").unique().sort("item", "title").group_by("item", maintain_order=True)
        )
        seen = by_item.agg(pl.first("title"), pl.col("title").slice(1).alias(OTHER_TITLES))
        if table is None:
            first = next(iter(self._interactions.values()))
            return replace(first, frame=seen.with_columns(problem=pl.lit(None, pl.String)), may_be_empty=True)
        self._described = table
        frame = table.frame.join(seen.rename({"title": "seen"}), on="item", how="full", coalesce=True)
        own = pl.col("title").replace("", None) if "title" in frame.collect_schema() else pl.lit(None, pl.String)
        others = pl.when(own.is_null()).then(OTHER_TITLES).alias(OTHER_TITLES)
        return replace(table, frame=frame.with_columns(others, title=pl.coalesce(own, "seen")).drop("seen"))

    @property
    def _items_have_titles(self) -> bool:
        return "items" in self._side and "title" in self._find_side("items", "item", "title")

    def _read_users(self) -> RawTable | None:
        return self._read_side("users", "user") if "users" in self._side else None

    def _find_side(self, table: str, key: str, *more: str) -> dict[str, str]:
        """The columns of the items or users. The interactions' own name of the key comes before any usual one."""
        source, name = self._side[table], self.found.get(key)
        own = match_name(name, source.names) if name else None
        columns = replace(self.columns, **{key: own}) if own else self.columns
        return find_columns(columns, [key, *more], source.types)

    def _read_side(self, table: str, key: str, *more: str) -> RawTable:
        """The items or the users: the key, perhaps a title, and side features."""
        source, found = self._side[table], self._find_side(table, key, *more)
        name = found.setdefault(key, match_name("id", source.names) or "")
        if not name:
            named = self.found.get(key, key)
            fix = f"rename the column of ids to {named}, as in the interactions: all tables need one name for it"
            raise missing_column(named, f"data.{table}", {str(source.table.path): source.names}, fix)
        columns = {key: as_key(*value_of(source, name))}
        checks = _id_checks(source, key, name)
        if "title" in found:
            columns["title"] = as_title(*value_of(source, found["title"]))
            checks += title_checks(source, found["title"])
        events = self._events(source, table, key)
        others = [column for column in source.names if column not in found.values() and column not in events]
        unused: dict[str, str] = dict.fromkeys(events, "of one event")
        remarks: dict[str, str] = {}
        with readable(source.table.path):
            kinds = find_kinds(source, others, unused, remarks) if self.features is None else self.features
        kinds = {column: kinds[column] for column in others if column in kinds}
        unused |= dict.fromkeys((column for column in others if column not in kinds and column not in unused), "")
        columns |= feature_columns(source, kinds, checks, "")
        self._say(source, found, kinds, unused, remarks)
        dated_by = ""
        for name in snapshot_columns(self.columns, source.types):
            with suppress(DataError), readable(source.table.path):
                text, dtype = value_of(source, name)
                times = find_times(source.table.frame, text, dtype)
                if times.are_likely:
                    time = pl.when(~(times.is_rounded | lost_in_some_files(source, name))).then(times.micros)
                    columns[SNAPSHOT], dated_by = time, name
                    unread = time.is_null() & ~is_missing(text, dtype)
                    columns[SNAPSHOT_TEXT] = pl.when(unread).then(text.cast(pl.String).str.slice(0, 60))
                    break
        return replace(typed_table(source, columns, checks), dated_by=dated_by)

    def _events(self, source: Source, table: str, key: str) -> list[str]:
        """The columns of a log that is given as items or users: of its last event, they would tell the outcome."""
        other = {"item": "user", "user": "item"}[key]
        roles = [role for role in (other, "label", "rating", "timestamp", "split", "review") if role in self.found]
        events = [self.found[role] for role in roles if self.found[role] in source.names]
        if len(events) < 2 or self.found.get(other) not in events:
            return []
        self.doubts.append(
            f"data.{table}: {source.table.path} has a row per event, with {listed(events)}: its features of {key}s are "
            f"those of one event of each, perhaps of the target. Fix: give a table with one row per {key}"
        )
        return [name for name in events if name not in (self.features or ())]

    def _check_features(self) -> None:
        sources = [*self._sources.values(), *self._side.values()]
        there = {str(source.table.path): source.names for source in sources}
        for name in self.features or ():
            if not any(name in names for names in there.values()):
                raise missing_column(name, "data.features", there)
            if name not in self._featured:
                raise DataError(
                    f"data.features: {name} is one of the columns that samples are made of, see data.columns. Fix: "
                    "leave it out of data.features"
                )

    def _say(
        self,
        source: Source,
        found: Mapping[str, str],
        kinds: Mapping[str, FeatureKind],
        unused: Mapping[str, str],
        remarks: Mapping[str, str] = {},
    ) -> None:
        """Notes what became of each column."""
        self._featured |= kinds.keys()
        said = [f"{role} = {name}" for role, name in found.items()]
        if kinds:
            features = (f"{name} ({kind}{remarks.get(name, '')})" for name, kind in kinds.items())
            said.append(f"features {', '.join(features)}")
        if unused:
            said.append("not used: " + ", ".join(f"{name} ({why})" if why else name for name, why in unused.items()))
        self.notes.append(f"{source.table.path}: {'; '.join(said)}")


def _id_checks(source: Source, role: str, name: str) -> Checks:
    """What is wrong with an id, the column of a role."""
    value = value_of(source, name)
    rounded = is_rounded(*value) | lost_in_some_files(source, name)
    if name in source.json.floats and value[1] == pl.String:
        rounded |= value[0].str.contains(r"^\d{16,}$").fill_null(False)
    nested = value[0].str.contains(NESTED) if name in source.json.plain and value[1] == pl.String else pl.lit(False)
    return [*bad_ids(role, shown=name), (rounded, ROUNDED_ID, name), (nested, NESTED_ID, name)]


def _unused_labels(source: Source, unused: Iterable[str]) -> list[str]:
    """What looks wrong if every row counts as a positive, and a column that is not used tells two kinds of rows."""
    types = {name: source.schema[name] for name in unused}
    may_be = [name for name, dtype in types.items() if dtype.is_numeric() or dtype in (pl.Boolean, pl.String)]
    values = {name: value_of(source, name) for name in may_be}
    if not values:
        return []
    checks = []
    for name, value in values.items():
        label = as_label(*value)
        others = label.is_null() & ~is_missing(*value)
        checks.append(((label == 1).any() & (label == 0).any() & ~others.any()).alias(name))
    found = source.table.frame.select(checks).collect(engine="streaming").row(0, named=True)
    return [
        f"{source.table.path}: every row counts as a positive, and the column {name}, which is not used, has 1 and 0. "
        "Fix: if it says what people chose, name it in data.columns.label and draw no negatives; else leave it out"
        for name, is_label in found.items()
        if is_label
    ]


def _copied_files(table: RawTable) -> list[str]:
    """What looks wrong if files hold the same rows."""
    if not (copies := same_content(table.parts)):
        return []
    read = {*table.frame.select(pl.col("file").unique()).collect(engine="streaming")["file"]}
    pairs = [pair for pair in copies.items() if str(pair[0]) in read]  # parts without rows are alike
    if not pairs:
        return []
    (copy, original), *others = pairs
    more = f" (further copies: {len(others):,})" if others else ""
    return [
        f"{original} and {copy} have the same content, so these rows are read twice{more}. Fix: remove one of them, or "
        "name the files by a pattern that leaves it out"
    ]


def _option(split: str) -> str:
    return f"data.splits.{split}" if split else "data.interactions"
