"""From interactions to samples: a target, the items before it, a label, a split (paper 5.1.1).

All of it is columns and index arithmetic: interactions are sorted by user and time once, and a history is then a range
of positions that ends before its target, so nothing at or after the target can be in it. Draws are hashes of the seed
and the ids: they depend neither on the order of rows in the file nor on a library's random numbers.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expctr.data.readers.tables import DataError, OnBadRow, Table, Tables
from expctr.data.summary import SPLITS, PrepareReport, describe

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class SampleOptions:
    """How samples are drawn from interactions."""

    threshold: float = 4.0
    """Ratings from here on are likes (`threshold_op: ge`), or only those above (`gt`)."""
    threshold_op: Literal["ge", "gt"] = "ge"
    """Whether a rating equal to the threshold is a like: `ge` yes, `gt` no."""
    zero_ratings: Literal["keep", "drop"] = "keep"
    """Rows with rating 0, which mean "not rated" in BookCrossing: keep them as dislikes, or drop them."""
    balance: bool = False
    """Keep as many likes as dislikes among the targets."""
    order: Literal["time", "shuffle"] = "time"
    """Order of a user's interactions: by timestamp, or a seeded shuffle for data without timestamps."""
    targets_per_user: int = 1
    """Targets drawn from each user, without replacement (1 in the paper)."""
    max_history: int = 10
    """A history is at most this many items before the target."""
    min_history: int = 1
    """Only interactions with at least this many earlier ones can be targets."""
    min_ratings: int = 2
    """Users with fewer interactions are dropped."""
    max_samples: int | None = None
    """Keep a random subset of this many samples over all splits; null keeps all."""
    split: Literal["random", "user", "time"] = "random"
    """Split samples at random (paper), by user (no user in two splits), or by time (the newest targets are test)."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    seed: int = 0
    """Seed of all draws; independent of the seed of training, so that runs compare on the same samples."""
    on_bad_row: OnBadRow = "error"
    """A row that cannot be used: `error` names the first, `skip` counts and skips them."""

    def __post_init__(self) -> None:
        if min(self.fractions) < 0 or not np.isclose(sum(self.fractions), 1):
            raise ValueError(f"samples.fractions are shares of train, val and test that sum to 1, not {self.fractions}")
        if self.split == "time" and self.order == "shuffle":
            raise ValueError("samples.split: time needs samples.order: time")
        if (
            min(self.targets_per_user, self.max_history, 1 if self.max_samples is None else self.max_samples) < 1
            or self.min_history < 0
        ):
            raise ValueError("samples.targets_per_user, max_history and max_samples are at least 1, min_history 0")
        if self.min_history > self.max_history:
            raise ValueError(f"samples.min_history {self.min_history} is more than max_history {self.max_history}")


IDLE = ("targets_per_user", "balance", "max_samples", "split", "fractions")
"""Options that say nothing where the splits are the user's own."""


def make_samples(
    tables: Tables, options: SampleOptions, splits: Mapping[str, Table] | None = None
) -> tuple[pl.DataFrame, PrepareReport]:
    """Draws the samples of a dataset.

    Args:
        tables: the raw tables.
        options: how to draw; `splits` makes those named in `IDLE` idle.
        splits: ratings tables named train, val and test, in place of `tables.interactions`: their rows are the
            targets, and histories come from earlier rows of train alone.

    Returns:
        One row a sample, in the order train, val, test, and what became of the raw rows. Columns: `sample` int64 from
        0, `split`, `user`, `target`, `target_title`, `liked`, `disliked`, `liked_titles`, `disliked_titles` (lists,
        oldest first), `history` and `history_liked` (ids of both lists in one, and which of them are liked), `label`
        int8, `rating`, `timestamp`, `review`, and side features as `user_*` and `target_*`.

    Raises:
        DataError: a bad row (`on_bad_row: error`), no timestamps to order by, or a split without samples.
    """
    report, dropped, side_dropped = PrepareReport(rule=_rule(options)), Counter[str](), Counter[str]()
    items = collect_all(tables.items, "item", options.on_bad_row, side_dropped)
    titled = items.filter(pl.col("title").fill_null("") != "")
    sources = splits or {"": tables.interactions}
    events = _clean(_read(sources, options, dropped, report), titled["item"], options, dropped, report)
    events = _ordered(events, options)

    lengths, starts = _history_lengths(events)
    samples_dropped = Counter[str]()
    if splits:
        rows = np.flatnonzero(lengths >= options.min_history)
        samples_dropped["history shorter than min_history"] += events.height - rows.size
        split = events["split"].to_numpy()[rows]
    else:
        rows = _draw_targets(events, lengths, options, samples_dropped)
        split = _assign(events[rows], options)
    order = np.lexsort((_again(events["draw"].to_numpy()[rows], 3), split))
    rows, split = rows[order], split[order]

    entries, report.withheld = _histories(events, rows, split, starts, lengths, options.max_history)
    enough = np.bincount(entries["sample"].to_numpy(), minlength=rows.size) >= options.min_history
    samples_dropped["history shorter than min_history once later targets are withheld"] += int((~enough).sum())
    report.samples_dropped = {reason: count for reason, count in samples_dropped.items() if count}

    samples = _assemble(events, rows, split, entries, titled, options).filter(pl.Series(enough))
    samples = samples.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("sample"))
    samples = _with_reviews(samples, sources)
    if tables.users is not None:
        users = collect_all(tables.users, "user", options.on_bad_row, side_dropped)
        users = users.rename({c: f"user_{c}" for c in users.columns if c != "user"})
        samples = samples.join(users, on="user", how="left", maintain_order="left")
    report.dropped, report.side_dropped = dict(dropped), dict(side_dropped)
    describe(samples, report)
    for name, share in zip(SPLITS, options.fractions, strict=True):
        if not report.splits[name]["samples"] and (splits or share):
            raise DataError(
                f"the {name} split is empty: {samples.height} samples from {report.users} users in all (not used: "
                f"{report.samples_dropped}). Mend: raise samples.targets_per_user or samples.fractions, or lower "
                "samples.min_ratings and samples.min_history"
            )
    return samples, report


def ratings_of(
    user: str, tables: Tables, options: SampleOptions, splits: Mapping[str, Table] | None = None
) -> pl.DataFrame:
    """What one user's histories are made of, by the rules of `make_samples` but without its minima.

    Args:
        user: the id.
        tables: as for `make_samples`.
        options: as for `make_samples`.
        splits: as for `make_samples`: of these, train alone.

    Returns:
        `item`, `title`, `liked`, oldest first; no row for a user that has no ratings.

    Raises:
        DataError: a bad row of the user, or no rating of an item with a title.
    """
    name, table = ("train", splits["train"]) if splits else ("", tables.interactions)
    own = table.frame.filter(pl.col("user") == user).collect(engine="streaming")
    if own.is_empty():
        return pl.DataFrame(schema={"item": pl.String, "title": pl.String, "liked": pl.Boolean})
    items = collect_all(tables.items, "item", options.on_bad_row, Counter()).select("item", "title")
    titled = items.filter(pl.col("title").fill_null("") != "")
    report, dropped = PrepareReport(), Counter[str]()
    events = _read({name: Table(own.lazy(), table.path)}, options, dropped, report)
    events = _clean(events, titled["item"], replace(options, min_ratings=1), dropped, report)
    rated = _ordered(events, options).select(pl.col("item").cast(pl.String), liked=_liked(options))
    return rated.join(titled, on="item", how="left", maintain_order="left").select("item", "title", "liked")


def _rule(options: SampleOptions) -> str:
    sign = ">=" if options.threshold_op == "ge" else ">"
    zeros = "" if options.zero_ratings == "keep" else ", zeros dropped"
    return f"liked when rating {sign} {options.threshold:g}{zeros}"


def _liked(options: SampleOptions) -> pl.Expr:
    rating = pl.col("rating")
    return rating >= options.threshold if options.threshold_op == "ge" else rating > options.threshold


def collect_all(table: Table, key: str, on_bad_row: OnBadRow, dropped: Counter[str]) -> pl.DataFrame:
    """A small table with all its own columns, one row a key.

    Args:
        table: the items or the users.
        key: their id's column.
        on_bad_row: as `Table.collect`.
        dropped: counts what is left out; added to in place.
    """
    own = [c for c in table.frame.collect_schema().names() if c not in ("row", "line", "problem", "column")]
    frame = table.collect(own, on_bad_row, dropped)
    unique = frame.unique(key, keep="first", maintain_order=True)
    if frame.height > unique.height:
        dropped[f"{table.path.name}: {key} listed twice"] += frame.height - unique.height
    return unique


def _read(
    sources: Mapping[str, Table], options: SampleOptions, dropped: Counter[str], report: PrepareReport
) -> pl.DataFrame:
    """The interactions of all files; ids as categories, four bytes each, because there may be 20 million rows."""
    ids = [pl.col(name).cast(pl.Categorical) for name in ("user", "item")]
    frames = []
    for name, table in sources.items():
        skipped = Counter[str]()
        frame = table.collect([*ids, "rating", "timestamp"], options.on_bad_row, skipped)
        dropped.update(skipped)
        report.rows += frame.height + skipped.total()
        rank = SPLITS.index(name) if name else 0
        frames.append(frame.with_columns(pl.lit(rank, pl.Int8).alias("split")))
    events = pl.concat(frames)
    untimed = events["timestamp"].null_count()
    if options.order == "time" and untimed:
        path = next(iter(sources.values())).path
        raise DataError(
            f"{untimed:,} of {events.height:,} rows have no timestamp, {path}, column timestamp. Mend: "
            "samples.order: shuffle"
        )
    return events


def _clean(
    events: pl.DataFrame, titled: pl.Series, options: SampleOptions, dropped: Counter[str], report: PrepareReport
) -> pl.DataFrame:
    """Drops what cannot be used, counting each reason."""

    def keep(events: pl.DataFrame, mask: pl.Series | pl.Expr, reason: str) -> pl.DataFrame:
        kept = events.filter(mask)
        if kept.height < events.height:
            dropped[reason] += events.height - kept.height
        return kept

    if options.zero_ratings == "drop":
        events = keep(events, pl.col("rating") != 0, "rating 0")
    codes, titles = _codes(events["item"]), _codes(titled.cast(pl.Categorical))
    known = np.zeros(1 + max(codes.max(initial=0), titles.max(initial=0)), dtype=np.bool_)
    known[titles] = True
    report.untitled = 1 - float(known[np.unique(codes)].mean()) if codes.size else 0.0
    events = keep(events, pl.Series(known[codes]), "item without a title")
    events = keep(events, ~_earlier_duplicate(events), "earlier rating of the same item by the same user")
    events = keep(events, pl.len().over("user") >= options.min_ratings, "user below min_ratings")
    report.interactions, report.users = events.height, events["user"].n_unique()
    report.items = events["item"].n_unique()
    if events.is_empty():
        raise DataError(f"no interaction is left of {report.rows:,} rows: {dict(dropped)}")
    return events


def _earlier_duplicate(events: pl.DataFrame) -> pl.Series:
    """True for all but the latest rating of an item by a user, where a held-out rating is later than a training one."""
    pair = _codes(events["user"]) << 32 | _codes(events["item"])
    ordered = np.sort(pair)  # finds the few doubles in a fraction of the memory of a table of all pairs
    doubles = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]])
    pairs = pl.Series(pair)
    double = pairs.is_in(doubles.implode())
    again = events.select("split", "timestamp", pair=pairs, row=pl.int_range(pl.len())).filter(double)
    latest = again.sort("split", "timestamp", "row").unique("pair", keep="last")["row"]
    flags = double.to_numpy().copy()
    flags[latest.to_numpy()] = False
    return pl.Series(flags)


def _ordered(events: pl.DataFrame, options: SampleOptions) -> pl.DataFrame:
    """Sorts by user and time. Adds `draw`, a uniform uint64 of seed, user and item, which also breaks ties in time."""
    pair = _mix(_hashes(events["user"], options.seed) ^ _mix(_hashes(events["item"], options.seed)))
    time = ["timestamp"] if options.order == "time" else []
    events = events.with_columns(pl.Series("tie", pair)).sort(pl.col("user").to_physical(), *time, "tie")
    return events.with_columns(pl.Series("draw", _mix(events["tie"].to_numpy())))


def _codes(ids: pl.Series) -> Ints:
    return ids.to_physical().to_numpy().astype(np.int64)


def _hashes(ids: pl.Series, seed: int) -> Hashes:
    """A uint64 of seed and id for each row; hashed once an id, and not by polars, whose hashes change with versions."""
    unique, codes = ids.unique(), _codes(ids)
    digests = (hashlib.blake2b(f"{seed}/{i}".encode(), digest_size=8).digest() for i in unique.cast(pl.String))
    table = np.zeros(1 + codes.max(initial=0), dtype=np.uint64)
    table[_codes(unique)] = np.frombuffer(b"".join(digests), dtype="<u8")
    return np.asarray(table[codes])


def _mix(x: Hashes) -> Hashes:
    """The finalizer of splitmix64: a bijection whose output bits all depend on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _again(draw: Hashes, number: int) -> Hashes:
    """Another draw for the same rows, independent of the first."""
    return _mix(draw + np.uint64(number))


def _history_lengths(events: pl.DataFrame) -> tuple[Ints, Ints]:
    """For each interaction, how many training interactions of its user come before it, and where they start.

    Starts count training interactions only, over the whole table.
    """
    user = events["user"].to_physical().to_numpy()
    usable = events["split"].to_numpy() == 0
    before = np.cumsum(usable) - usable
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    starts = np.repeat(before[first], np.diff(np.r_[first, user.size]))
    return before - starts, starts


def _draw_targets(events: pl.DataFrame, lengths: Ints, options: SampleOptions, dropped: Counter[str]) -> Ints:
    """The rows of the targets: the lowest draws of each user, then a random subset of all users' targets."""
    eligible = events.select("user", "draw", row=pl.int_range(pl.len())).filter(lengths >= options.min_history)
    lowest = pl.col("row").bottom_k_by("draw", options.targets_per_user)  # a sort would copy all there is
    by_user = eligible.group_by("user").agg(lowest)
    dropped["user without an interaction that has min_history before it"] += events["user"].n_unique() - by_user.height
    row = by_user["row"].explode().sort()
    drawn = events[row].select("draw", _liked(options).alias("label"), row=row)

    # The lowest of many draws is lower than the lowest of few, so a second draw must say whose targets are kept.
    turn = pl.col("lot").rank("ordinal")
    drawn = drawn.with_columns(lot=_again(drawn["draw"].to_numpy(), 1)).with_columns(
        turn=turn.over("label") if options.balance else turn
    )
    if options.balance:
        likes = int(drawn["label"].sum())
        smaller = min(likes, drawn.height - likes)
        dropped["more of this label than of the other (balance)"] += drawn.height - 2 * smaller
        drawn = drawn.filter(pl.col("turn") <= smaller)
    kept = drawn.sort("turn", "lot").head(drawn.height if options.max_samples is None else options.max_samples)
    dropped["beyond max_samples"] += drawn.height - kept.height
    return kept["row"].to_numpy().astype(np.int64)


def _assign(targets: pl.DataFrame, options: SampleOptions) -> NDArray[np.int8]:
    """The split of each target: 0, 1 or 2."""
    val, test = (round(targets.height * share) for share in options.fractions[1:])
    bounds = np.array([targets.height - val - test, targets.height - test])
    if options.split == "time":
        order = np.lexsort((targets["tie"].to_numpy(), targets["timestamp"].to_numpy()))
    else:
        by_user = options.split == "user"
        draw = _hashes(targets["user"], options.seed) if by_user else targets["draw"].to_numpy()
        order = np.argsort(_again(draw, 2), kind="stable")
    place = np.empty(targets.height, dtype=np.int64)
    place[order] = np.arange(targets.height)
    if options.split == "user":
        place = targets.with_columns(pl.Series("place", place)).select(pl.min("place").over("user"))["place"].to_numpy()
    return np.searchsorted(bounds, place, side="right").astype(np.int8)


def _histories(
    events: pl.DataFrame, rows: Ints, split: NDArray[np.int8], starts: Ints, lengths: Ints, longest: int
) -> tuple[pl.DataFrame, int]:
    """The history entries of all targets, oldest first: `sample` (position in `rows`) and `row` of events.

    An entry that is itself a target of a later split is withheld: a training history would tell its label.
    """
    count = np.minimum(lengths[rows], longest)
    last = starts[rows] + lengths[rows]
    sample = np.repeat(np.arange(rows.size), count)
    within = np.arange(sample.size) - np.repeat(np.cumsum(count) - count, count)
    entry = np.flatnonzero(events["split"].to_numpy() == 0)[(last - count)[sample] + within]
    target_of = np.zeros(events.height, dtype=np.int8)
    target_of[rows] = split
    told = target_of[entry] <= split[sample]
    return pl.DataFrame({"sample": sample[told], "row": entry[told]}), int((~told).sum())


def _assemble(
    events: pl.DataFrame,
    rows: Ints,
    split: NDArray[np.int8],
    entries: pl.DataFrame,
    items: pl.DataFrame,
    options: SampleOptions,
) -> pl.DataFrame:
    """One row a target, with its history in lists of ids and of titles, and side features."""
    titles = items.select("item", "title")
    history = events[entries["row"]].select(
        entries["sample"], pl.col("item").cast(pl.String), _liked(options).alias("by")
    )
    history = history.join(titles, on="item", how="left", maintain_order="left")
    targets = events[rows].select(
        sample=pl.int_range(pl.len()),
        split=pl.Series(split).replace_strict(dict(enumerate(SPLITS)), return_dtype=pl.String),
        user=pl.col("user").cast(pl.String),
        target=pl.col("item").cast(pl.String),
    )
    side = items.rename({"item": "target"} | {c: f"target_{c}" for c in items.columns if c != "item"})
    targets = targets.join(side.select("target", "target_title"), on="target", how="left", maintain_order="left")
    for name, by in (("liked", True), ("disliked", False)):
        lists = history.filter(pl.col("by") == by).group_by("sample", maintain_order=True)
        lists_of = lists.agg(pl.col("item").alias(name), pl.col("title").alias(f"{name}_titles"))
        empty = [pl.col(c).fill_null(pl.lit([], pl.List(pl.String))) for c in (name, f"{name}_titles")]
        targets = targets.join(lists_of, on="sample", how="left", maintain_order="left").with_columns(empty)
    in_order = history.group_by("sample").agg(history="item", history_liked="by")
    targets = targets.join(in_order, on="sample", how="left", maintain_order="left").with_columns(
        pl.col("history").fill_null(pl.lit([], pl.List(pl.String))),
        pl.col("history_liked").fill_null(pl.lit([], pl.List(pl.Boolean))),
    )
    outcome = events[rows].select(_liked(options).cast(pl.Int8).alias("label"), "rating", "timestamp")
    targets = pl.concat([targets, outcome], how="horizontal")
    return targets.join(side.drop("target_title"), on="target", how="left", maintain_order="left")


def _with_reviews(samples: pl.DataFrame, sources: Mapping[str, Table]) -> pl.DataFrame:
    """Adds the target's review, read in a pass of its own: the texts of all interactions need not fit in memory."""
    key = ["user", "target", "timestamp"]
    wanted = samples.lazy().select(key)
    found = [
        table.frame.filter(pl.col("problem").is_null())
        .select("user", pl.col("item").alias("target"), "timestamp", "review")
        .join(wanted, on=key, how="semi", nulls_equal=True)
        for table in sources.values()
        if "review" in table.frame.collect_schema()
    ]
    if not found:
        return samples.with_columns(review=pl.lit(None, pl.String))
    reviews = pl.concat(found).collect(engine="streaming").unique(key, keep="last", maintain_order=True)
    return samples.join(reviews, on=key, how="left", nulls_equal=True, maintain_order="left")
