"""The interactions of a dataset: all ratings in one table, cleaned and sorted by user and time."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from expctr.data.options import SPLITS, SampleOptions
from expctr.data.random_draws import draws_of_ids, id_codes, mix
from expctr.data.readers.bad_rows import NO_TIME, OTHER_TIME, OUT_OF_RANGE, ROUNDED_TIME, mark, take_missing
from expctr.data.readers.base import RawTable, RawTables
from expctr.data.readers.timestamps import doubtful_times, find_times, lost_seconds
from expctr.data.readers.values import MAX_TITLE
from expctr.data.summary import COPIES, REPEATED, SUPERSEDED, DataSummary
from expctr.data.unmatched_ids import check_spellings, doubtful_spellings, explain_unmatched
from expctr.errors import DataError, listed

_DAY = 86400  # seconds
_LATE = 10**12  # larger times are microseconds


def load_interactions(
    sources: Mapping[str, RawTable], titled: pl.Series, options: SampleOptions, summary: DataSummary
) -> pl.DataFrame:
    """Reads the ratings, drops those that cannot be used, and sorts the others by user and time.

    Args:
        sources: ratings tables by split, or one table under an empty name.
        titled: ids of the items that have a title.
        options: how samples are made.
        summary: gets the counts.

    Returns:
        `user` and `item` (categorical), `rating`, `timestamp`, `split` (position in `SPLITS`), `tie` and `draw`: two
        random uint64 of seed, user and item. `tie` is also the order of ratings at the same time. Also `place` if
        a table has places.

    Raises:
        DataError: a bad row, a row without a timestamp, or no row is left.
    """
    dropped = Counter[str]()
    events = _clean(_read(sources, options, dropped, summary), titled, options, dropped, summary)
    summary.dropped = dict(dropped)
    tie = mix(draws_of_ids(events["user"], options.seed) ^ mix(draws_of_ids(events["item"], options.seed)))
    keys = ["timestamp", "tie"] if options.order == "time" else ["tie"]
    if options.repeats == "keep":
        tie = mix(tie + events["timestamp"].fill_null(0).to_numpy().astype(np.uint64))
        keys.append("rating")
    events = events.with_columns(pl.Series("tie", tie)).sort(pl.col("user").to_physical(), *keys)
    tie = events["tie"].to_numpy()
    if options.repeats == "keep":  # rows of one user, item and time have one tie, but each needs its own draw
        place = np.arange(tie.size, dtype=np.uint64)
        is_new = np.append(True, tie[1:] != tie[:-1])[: tie.size]
        tie = tie + place - np.maximum.accumulate(np.where(is_new, place, np.uint64(0)))
    summary.tied = _tied_share(events)
    return events.with_columns(pl.Series("draw", mix(tie)))


def titled_items(
    tables: RawTables, options: SampleOptions, dropped: Counter[str], read: dict[str, int] | None = None
) -> pl.DataFrame:
    """The items that have a title, one row per item. For `dropped` and `read` see `RawTable.collect`."""
    items = tables.items.collect_unique("item", options.on_bad_row, dropped, read)
    if cut := int((items["title"].str.len_chars() >= MAX_TITLE).sum()):
        dropped[f"{tables.items.path.name}: what titles have after {MAX_TITLE:,} characters"] += cut
    return items.filter(pl.col("title").fill_null("") != "")


def time_checks(table: RawTable, rows: pl.LazyFrame, doubts: list[str]) -> list[tuple[pl.Expr, str, str]]:
    """The checks, for `mark`, of timestamps each of which was read by itself: which are unlike most others, and, if any
    may have, which lost their last digits. For its errors see `find_times`.

    Args:
        table: the ratings, for messages.
        rows: all of them that are good: `timestamp` and `user`.
        doubts: gets what looks wrong.
    """
    where, fix = f"{table.path}, column timestamp", "or order ratings at random with data.samples.order: shuffle"
    times = find_times(rows, pl.col("timestamp"), pl.Int64(), where, fix)
    doubts += doubtful_times(times, rows, pl.col("user"), where, "")
    odd = times.micros.is_null() & pl.col("timestamp").is_not_null()
    lost = lost_seconds(table.frame)
    checks = [(odd, OTHER_TIME, "timestamp")]
    return checks if lost is None else [*checks, (lost, ROUNDED_TIME, "timestamp")]


def is_liked(options: SampleOptions) -> pl.Expr:
    """Whether the column `rating` means liked."""
    rating = pl.col("rating")
    if options.threshold is None:
        return rating > 0
    return rating >= options.threshold if options.threshold_op == "ge" else rating > options.threshold


def _read(
    sources: Mapping[str, RawTable], options: SampleOptions, dropped: Counter[str], summary: DataSummary
) -> pl.DataFrame:
    """The interactions of all files. Ids are categorical, four bytes each, because there may be 20 million rows.

    Of a review it keeps a hash of text and time (`review`; null if there is none), and perhaps its `place` in the file.
    """
    ids = [pl.col(name).cast(pl.Categorical) for name in ("user", "item")]
    is_known = (pl.col("review") != "") & pl.col("timestamp").is_not_null()
    review = pl.when(is_known).then(pl.col("review").hash() ^ pl.col("timestamp").hash(1)).alias("review")
    frames = []
    for name, source in sources.items():
        skipped = Counter[str]()
        table = _without_times(source) if options.order == "shuffle" else source
        more = [review] if table.has_variants and "review" in table.frame.collect_schema() else []
        place = ["place"] if table.texts_at or table.own_texts else []
        columns: list[str | pl.Expr] = [*ids, "rating", "timestamp", *more, *place]
        frame = table.collect(columns, options.on_bad_row, skipped, summary.files)
        if table.has_single_times and options.order == "time":
            checks = time_checks(table, frame.lazy(), summary.doubts)
            is_odd, *_ = checks[0]
            if len(checks) > 1 or frame.select(is_odd.any()).item():
                skipped.clear()
                table = replace(table, frame=mark(table.frame, *checks))
                frame = table.collect(columns, options.on_bad_row, skipped, summary.files)
        if skipped[table.reason(OUT_OF_RANGE)] and frame["rating"].eq(1).all():
            raise _not_ratings(table)
        summary.counts += take_missing(skipped)
        dropped.update(skipped)
        summary.rows += frame.height + skipped.total()
        frames.append(frame.with_columns(split=pl.lit(SPLITS.index(name) if name else 0, pl.Int8)))
    events = pl.concat(frames, how="diagonal")
    paths = dict.fromkeys(table.path for table in sources.values())
    for column in ("user", "item"):
        check_spellings(events[column], column, paths)
        summary.unmatched += doubtful_spellings(events[column], column, paths)
    if len(sources) > 1 and len(paths) == 1:
        summary.files[str(*paths)] = summary.rows
        rows = zip(sources, frames, strict=True)
        summary.counts.append(f"rows by split: {', '.join(f'{name} {frame.height:,}' for name, frame in rows)}")
    users = id_codes(events["user"])
    if users.size:
        counts = np.bincount(users)
        summary.busiest = str(events["user"][int(np.argmax(users == counts.argmax()))])
        summary.busiest_share = float(counts.max() / users.size)
    untimed = events["timestamp"].null_count()
    if options.order == "time" and untimed:
        table = next((table for table in sources.values() if "timestamp" in table.absent), table)
        unused = f"; its columns {listed(table.unused)} are not used" if table.unused else ""
        rename = "rename the column with the times to timestamp" if unused else "add timestamps"
        raise DataError(
            f"{untimed:,} of {events.height:,} rows have no timestamp, {table.path}, column timestamp{unused}. Fix: "
            f"{rename}; or, if there are no times, order ratings at random with data.samples.order: shuffle"
        )
    return events


def _without_times(table: RawTable) -> RawTable:
    """The table, in which no row needs a timestamp."""
    problem = pl.when(pl.col("problem").cast(pl.String) != NO_TIME).then("problem")
    return replace(table, frame=table.frame.with_columns(problem.alias("problem")))


def _not_ratings(table: RawTable) -> DataError:
    return DataError(
        f"the ratings are not {table.scale}, {table.path}, column rating: none but 1 is in that range, so all labels "
        "would be the same. Fix: read clicks (0 and 1), or ratings on another scale by data.samples.threshold, with "
        f"--data TableDataModule --data.interactions {table.path}"
    )


def _clean(
    events: pl.DataFrame, titled: pl.Series, options: SampleOptions, dropped: Counter[str], summary: DataSummary
) -> pl.DataFrame:
    """Drops the rows that cannot be used, and counts them by reason."""

    def keep(events: pl.DataFrame, mask: pl.Series | pl.Expr, reason: str) -> pl.DataFrame:
        kept = events.filter(mask)
        if kept.height < events.height:
            dropped[reason] += events.height - kept.height
        return kept

    if options.zero_ratings == "drop":
        events = keep(events, pl.col("rating") != 0, "rating 0")
    codes, titles = id_codes(events["item"]), id_codes(titled.cast(pl.Categorical))
    known = np.zeros(1 + max(codes.max(initial=0), titles.max(initial=0)), dtype=np.bool_)
    known[titles] = True
    summary.untitled = 1 - float(known[np.unique(codes)].mean()) if codes.size else 0.0
    unmatched = ""
    if summary.untitled:
        rated = events["item"].unique().cast(pl.String)
        unmatched = explain_unmatched(rated, titled, "rated items", "the items with a title").finding
        summary.unmatched += [unmatched] if unmatched else []
    events = keep(events, pl.Series(known[codes]), "item without a title")
    if options.repeats == "latest":
        latest = keep(events, ~_is_superseded(events), SUPERSEDED)
        summary.overruled = _overruled_share(events, latest, is_liked(options))
        events = latest
    elif not _are_days(events["timestamp"]):  # at one time nothing is shown twice; in one day it may be
        events = keep(events, ~_is_repeated(events), REPEATED)
    if "review" in events.columns:
        events = keep(events, ~_is_copy(events), COPIES).drop("review")
    events = keep(events, pl.len().over("user") >= options.min_ratings, "user with fewer ratings than min_ratings")
    summary.interactions, summary.users = events.height, events["user"].n_unique()
    summary.items = events["item"].n_unique()
    if events.is_empty():
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
        fix = unmatched or "Fix: check that items have titles, or lower data.samples.min_ratings"
        raise DataError(f"no rating is left of {summary.rows:,} rows ({reasons}). {fix}")
    return events


def _tied_share(events: pl.DataFrame) -> float:
    """The share of rows, sorted by user and time, at the same time as another row of their user."""
    user, time = id_codes(events["user"]), events["timestamp"].fill_null(0).to_numpy()
    same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    return float((np.r_[same, False] | np.r_[False, same]).mean())


def _is_superseded(events: pl.DataFrame) -> pl.Series:
    """True for all but the latest rating of an item by a user. A rating in val or test is later than one in train.

    Of ratings at one time the highest is the latest: a click comes after its impression.
    """
    pair = id_codes(events["user"]) << 32 | id_codes(events["item"])
    return _all_but_last(events, pl.Series("key", pair), pl.col("split"), pl.col("timestamp"), pl.col("rating"))


def _are_days(times: pl.Series) -> bool:
    """Whether most rows share one or two times of day, as midnights of a zone do: summer time moves them in UTC."""
    day = _DAY * 10**6 if (times.abs() > _LATE).any() else _DAY
    return int((times % day).value_counts(sort=True)["count"].head(2).sum()) > len(times) / 2


def _is_repeated(events: pl.DataFrame) -> pl.Series:
    """True for all but one of the rows that agree in user, item, time and rating."""
    key = mix((id_codes(events["user"]) << 32 | id_codes(events["item"])).view(np.uint64))
    key = mix(key ^ events["timestamp"].fill_null(0).to_numpy().view(np.uint64))
    key ^= events["rating"].cast(pl.Float64).to_numpy().view(np.uint64)
    return _all_but_last(events, pl.Series("key", mix(key)), pl.col("split"))


def _overruled_share(events: pl.DataFrame, latest: pl.DataFrame, liked: pl.Expr) -> float:
    """The share of the liked pairs of user and item whose latest row is not liked."""
    if events.height == latest.height:
        return 0.0
    once = events.filter(liked).select("user", "item").unique()
    last = once.join(latest.filter(~liked), on=["user", "item"], how="semi")
    return last.height / max(1, once.height)


def _is_copy(events: pl.DataFrame) -> pl.Series:
    """True for all but one of the interactions of a user that have the same text and time.

    Amazon lists the review of a product under several of its variants. The one under the last id stays.
    """
    key = mix(id_codes(events["user"]).view(np.uint64))
    key ^= events["review"].fill_null(0).to_numpy()
    unknown = events["review"].is_null().to_numpy()
    key[unknown] = np.flatnonzero(unknown)  # each is one of its kind
    return _all_but_last(events, pl.Series("key", key), pl.col("split"), pl.col("item").cast(pl.String))


def _all_but_last(events: pl.DataFrame, key: pl.Series, *order: pl.Expr) -> pl.Series:
    """True for all rows of a key except the last one in some order."""
    ordered = np.sort(key.to_numpy())  # finds the few repeated keys in a fraction of the memory of a table of all keys
    repeated = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]])
    is_repeated = key.is_in(repeated.implode())
    rows = events.with_columns(key, row=pl.int_range(pl.len())).filter(is_repeated)
    return is_repeated.scatter(rows.sort(*order, "row").unique("key", keep="last")["row"], False)
