"""Samples from interactions: a target, the items before it, a label, a split (paper, section 5.1.1).

Interactions are sorted by user and time once. A history is then a range of rows that ends before its target, so nothing
at or after the target can be in it.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import islice

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expctr.data.interactions import is_liked, load_interactions, titled_items
from expctr.data.negatives import with_negatives
from expctr.data.options import IGNORED_WITH_SPLITS, SPLITS, SampleOptions
from expctr.data.random_draws import Ints, id_codes, redraw
from expctr.data.readers.bad_rows import has_row
from expctr.data.readers.base import RawTable, RawTables
from expctr.data.ready_rows import ready_targets
from expctr.data.sample_rows import history_lists, target_features
from expctr.data.summary import DataSummary
from expctr.data.targets import Targets, draw_splits, draw_targets
from expctr.data.unmatched_ids import doubtful_spellings, explain_unmatched
from expctr.errors import DataError


def make_samples(
    tables: RawTables,
    options: SampleOptions,
    splits: Mapping[str, RawTable] | None = None,
    items: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, DataSummary]:
    """Draws the samples of a dataset.

    Args:
        tables: the raw tables.
        options: how to draw.
        splits: ratings tables named train, val and test, in place of `tables.interactions`. All their rows are targets,
            and histories hold earlier rows of train only. `IGNORED_WITH_SPLITS` have no effect.
        items: the items that have a title, if they were read already.

    Returns:
        One row per sample, in the order train, val, test, and what became of the raw rows. Columns: `sample` int64 from
        0, `split`, `user`, `target`, `target_title`, `liked`, `disliked`, `liked_titles`, `disliked_titles` (lists,
        oldest first), `history` and `history_liked` (ids of both lists in one, and which of them are liked), `label`
        int8, `rating`, `timestamp`, `review`, and side features as `user_*`, `target_*` and `context_*`.

    Raises:
        DataError: a bad row (`on_bad_row: error`), no timestamps to order by, or a split without samples.
    """
    summary = DataSummary(rule=options.rule, no_titles=tables.no_titles, doubts=[*tables.doubts])
    summary.notes, summary.own_splits = notes_on(tables, splits), bool(splits)
    side_dropped, dropped = Counter[str](), Counter[str]()
    if items is None:
        items = titled_items(tables, options, side_dropped, summary.files)
    if not tables.is_ready:  # whose names are compared where they are read
        summary.unmatched += doubtful_spellings(items["item"], "item", tables.items.files)
    if items.height > 1 and items["title"].n_unique() == 1:
        summary.doubts.append(
            f"all {items.height:,} items have one title, {items['title'][0][:120]!r}: sentences cannot tell them "
            "apart. Fix: check the column of titles; in a table of yours, name another one in data.columns.title"
        )
    named = {name: splits[name] for name in SPLITS} if splits else {"": tables.interactions}
    sources = {name: table.with_places() for name, table in named.items()}
    if tables.is_ready:
        targets = ready_targets(sources, items, options, summary, dropped)
    else:
        targets = _choose(sources, items["item"], options, summary, dropped)
    samples = _assemble(targets, items, options)
    enough = samples["history"].list.len() >= options.min_history
    withheld = "" if tables.is_ready else " after withholding later targets"
    dropped[f"history shorter than min_history{withheld}"] += int((~enough).sum())
    summary.samples_dropped = {reason: count for reason, count in dropped.items() if count}

    samples = samples.filter(enough)
    texts = [_texts(samples.filter(split=name) if name else samples, table) for name, table in sources.items()]
    samples = pl.concat([samples, pl.concat(texts, how="diagonal")], how="horizontal").drop("place", strict=False)
    if tables.users is not None:
        users = users_with_features(tables.users, options, side_dropped, summary.files)
        summary.unmatched += doubtful_spellings(users["user"], "user", tables.users.files)
        _compare(samples["user"], users["user"], "users with samples", tables.users, summary)
        samples = samples.join(users, on="user", how="left", maintain_order="left")
    if tables.described is not None:
        names = (
            ["item", "title"] if tables.is_ready and "title" in tables.described.frame.collect_schema() else ["item"]
        )
        described = tables.described.collect(names, options.on_bad_row, Counter())
        ids = pl.concat([described[name].rename("item") for name in names])
        used, used_in = samples["target"], "items of samples"
        if tables.is_ready:  # a title that no item has is its own id
            used, used_in = targets.events["item"].unique().cast(pl.String), "items of histories and targets"
        _compare(used, ids, used_in, tables.described, summary)
    if options.negatives:
        skipped = [table.frame.filter(~has_row()).select("user", "item").drop_nulls() for table in sources.values()]
        samples = with_negatives(samples, targets.events, items, options, summary, pl.concat(skipped).collect())
    samples = samples.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("sample"))
    summary.side_dropped = dict(side_dropped)
    summary.count_samples(samples)
    for name, share in zip(SPLITS, options.fractions, strict=True):
        if not summary.splits[name]["samples"] and (splits or share):
            raise _empty_split(name, samples.height, summary, options, own=bool(splits))
    return samples, summary


def users_with_features(
    users: RawTable, options: SampleOptions, dropped: Counter[str], read: dict[str, int] | None = None
) -> pl.DataFrame:
    """`user`, and the side features as `user_*`, one row per user. For `dropped` and `read` see `RawTable.collect`."""
    unique = users.collect_unique("user", options.on_bad_row, dropped, read)
    return unique.rename({name: f"user_{name}" for name in unique.columns if name != "user"})


def notes_on(tables: RawTables, splits: Mapping[str, RawTable] | None) -> list[str]:
    """How the files were understood, and what in them is not used."""
    notes = [*tables.notes, *(f"not used: {columns}" for columns in tables.unused_columns)]
    if latin := dict.fromkeys(table.path.name for table in tables.tables if table.is_latin):
        notes.append(f"read as Latin-1 or Windows-1252, because they are not UTF-8: {', '.join(latin)}")
    if splits:
        names = ", ".join({table.path.name: 0 for table in splits.values()})
        notes.append(f"not used, because {names} are the splits: data.samples.{', '.join(IGNORED_WITH_SPLITS)}")
    return notes


def _compare(used: pl.Series, described: pl.Series, used_in: str, table: RawTable, summary: DataSummary) -> None:
    """Says which ids the table of users or items does not have."""
    finding, note = explain_unmatched(used, described, used_in, f"the rows of {table.path.name}")
    summary.unmatched += [finding] if finding else []
    summary.counts += [note] if note else []


def _choose(
    sources: Mapping[str, RawTable],
    titled: pl.Series,
    options: SampleOptions,
    summary: DataSummary,
    dropped: Counter[str],
) -> Targets:
    """Chooses the targets among the interactions, their splits, and what was before them."""
    events = load_interactions(sources, titled, options, summary)
    lengths, starts, tied = _history_lengths(events, options)
    if "" in sources:
        rows = draw_targets(events, lengths, options, dropped)
        split = draw_splits(events[rows], options)
    else:
        rows = np.flatnonzero(lengths >= options.min_history)
        dropped["history shorter than min_history"] += events.height - rows.size
        split = events["split"].to_numpy()[rows]
    order = np.lexsort((redraw(events["draw"].to_numpy()[rows], 3), split))
    rows, split = rows[order], split[order]
    summary.same_time = float((tied[rows] > 0).mean()) if rows.size else 0.0
    summary.same_time_option = options.same_time
    entries, summary.withheld = _histories(events, rows, split, starts, lengths, options)
    return Targets(events, rows, split, entries)


def _empty_split(name: str, samples: int, summary: DataSummary, options: SampleOptions, own: bool) -> DataError:
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in summary.samples_dropped.items())
    fix = "raise data.samples.targets_per_user or the share in data.samples.fractions"
    if own:
        fix = f"check that the users of data.splits.{name} have earlier rows in data.splits.train"
    if options.same_time == "drop" and options.order == "time" and summary.tied > 0.5:
        fix = (
            f"{summary.tied:.0%} of the rows have the time of another row of their user, and are in no history of it: "
            f"keep them with data.samples.same_time: keep, or {fix}"
        )
    return DataError(
        f"the {name} split is empty: {samples} samples from {summary.users} users in all"
        f"{f', not used: {reasons}' if reasons else ''}. Fix: {fix}, or lower data.samples.min_ratings or "
        "data.samples.min_history"
    )


def _history_lengths(events: pl.DataFrame, options: SampleOptions) -> tuple[Ints, Ints, Ints]:
    """Per interaction: how many training interactions its history can hold, and where among all these its user starts.

    Third, how many training interactions of its user are before it and have its own time. With `same_time: drop` its
    history ends before these.
    """
    user, time = events["user"].to_physical().to_numpy(), events["timestamp"].to_numpy()
    usable = events["split"].to_numpy() == 0
    before = np.cumsum(usable) - usable
    new_user = np.r_[True, user[1:] != user[:-1]]
    starts = _first_of_run(before, new_user)
    if options.order == "shuffle":
        return before - starts, starts, np.zeros_like(starts)
    tied = before - _first_of_run(before, new_user | np.r_[True, time[1:] != time[:-1]])
    return before - starts - (tied if options.same_time == "drop" else 0), starts, tied


def _first_of_run(values: Ints, is_first: NDArray[np.bool_]) -> Ints:
    """Per row, the value of the first row of its run."""
    first = np.flatnonzero(is_first)
    return np.repeat(values[first], np.diff(np.r_[first, values.size]))


def _histories(
    events: pl.DataFrame,
    rows: Ints,
    split: NDArray[np.int8],
    starts: Ints,
    lengths: Ints,
    options: SampleOptions,
) -> tuple[pl.DataFrame, int]:
    """The history entries of all targets, oldest first: `sample` (position in `rows`) and `row` of events.

    Entries that are targets of a later split are withheld, because they would reveal its labels, and counted.
    """
    usable = np.flatnonzero(events["split"].to_numpy() == 0)
    target_of = np.zeros(events.height, dtype=np.int8)
    target_of[rows] = split
    ends = starts[rows] + lengths[rows]
    if options.repeats == "keep":
        item = id_codes(events["item"])
        sample, place, first = _last_seen(
            item[usable], target_of[usable], item[rows], split, starts[rows], ends, options
        )
        hidden = [np.r_[0, np.cumsum(target_of[usable] > later)] for later in range(len(SPLITS))]
        withheld = sum(
            int((hidden[i][ends[split == i]] - hidden[i][first[split == i]]).sum()) for i in range(len(SPLITS))
        )
        return pl.DataFrame({"sample": sample, "row": usable[place]}).sort("sample", "row"), withheld
    count = np.minimum(lengths[rows], options.max_history)
    sample = np.repeat(np.arange(rows.size), count)
    back = np.repeat(np.cumsum(count), count) - np.arange(sample.size)  # of the last entry: 1
    entry = usable[ends[sample] - back]
    allowed = target_of[entry] <= split[sample]
    return pl.DataFrame({"sample": sample[allowed], "row": entry[allowed]}), int((~allowed).sum())


def _last_seen(
    item: Ints,
    target_of: NDArray[np.int8],
    target: Ints,
    split: NDArray[np.int8],
    starts: Ints,
    ends: Ints,
    options: SampleOptions,
) -> tuple[Ints, Ints, Ints]:
    """The histories where repeats are kept: the latest items before the target, each once, as last seen.

    The target itself is not among them: an explanation that repeats what the user did with this very item would explain
    nothing. The rows of each user are read once, because a user may see a few items ten thousand times.

    Args:
        item: per usable row.
        target_of: per usable row, the split of which it is a target; 0 if it is none.
        target: per sample, its item.
        split: per sample.
        starts: per sample, where the usable rows of its user start.
        ends: per sample, where its past ends.
        options: how samples are made.

    Returns:
        The sample and the usable row of each entry; and per sample the first usable row that mattered.
    """
    samples, places, first = [], [], starts.copy()
    start, place, seen = -1, 0, list[dict[int, int]]()
    for sample in np.lexsort((ends, starts)).tolist():
        if starts[sample] != start:
            start = place = int(starts[sample])
            seen = [{} for _ in SPLITS]  # item -> row, in the order of rows
        new = slice(place, ends[sample])
        for at, own, later in zip(range(place, ends[sample]), item[new].tolist(), target_of[new].tolist(), strict=True):
            for rows in seen[later:]:
                rows.pop(own, None)
                rows[own] = at
        place = int(ends[sample])
        known = seen[split[sample]]
        latest = [*islice(reversed(known.values()), options.max_history + 1)]
        own = known.get(int(target[sample]))
        latest = [at for at in latest if at != own][: options.max_history]
        if len(latest) == options.max_history:
            first[sample] = latest[-1]
        samples += [sample] * len(latest)
        places += latest
    return np.array(samples, np.int64), np.array(places, np.int64), first


def _assemble(targets: Targets, items: pl.DataFrame, options: SampleOptions) -> pl.DataFrame:
    """One row per target, with its history as lists of ids and of titles, and side features."""
    events, rows, split, entries = targets
    history = _titled(events[entries["row"]], items)
    history = history.with_columns(entries["sample"], is_liked=is_liked(options))
    samples = events[rows].select(
        sample=pl.int_range(pl.len()),
        split=pl.Series(split).replace_strict(dict(enumerate(SPLITS)), return_dtype=pl.String),
        user=pl.col("user").cast(pl.String),
        target=pl.col("item").cast(pl.String),
        target_title=_titled(events[rows], items)["title"],
    )
    lists = history.group_by("sample").agg(history_lists(pl.col("is_liked")))
    samples = samples.join(lists, on="sample", how="left", maintain_order="left")
    samples = samples.with_columns(pl.col(pl.List(pl.String), pl.List(pl.Boolean)).fill_null([]))
    place = [name for name in ("place",) if name in events.columns]
    label, rating = is_liked(options).cast(pl.Int8).alias("label"), pl.col("rating").cast(pl.Float32)
    outcome = events[rows].select(label, rating, "timestamp", *place)
    samples = pl.concat([samples, outcome], how="horizontal")
    return samples.join(target_features(items.drop("title")), on="target", how="left", maintain_order="left")


def _titled(events: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Rows with the titles of their items, unless they have them: those of ready rows may be nobody's."""
    events = events.with_columns(pl.col("item").cast(pl.String))
    if "title" in events.columns:
        return events
    return events.join(items.select("item", "title"), on="item", how="left", maintain_order="left")


def _texts(samples: pl.DataFrame, table: RawTable) -> pl.DataFrame:
    """What the targets' own rows say besides: `review`, and features `context_*`.

    They are read now, so that the texts of all reviews need not fit in memory.
    """
    empty = pl.select(review=pl.repeat(None, samples.height, dtype=pl.String))
    if table.texts_at:
        return empty.with_columns(review=table.texts_at(samples["place"], "review"))
    if not (more := table.own_texts):
        return empty
    places = samples.select("place")
    found = table.frame.select("place", *more).join(places.lazy(), on="place", how="semi").collect(engine="streaming")
    found = places.join(found, on="place", how="left", maintain_order="left").select(more)
    return found if "review" in more else pl.concat([empty, found], how="horizontal")
