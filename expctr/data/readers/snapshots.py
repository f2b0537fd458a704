"""Which of several rows of one item or user counts, as in a dated catalogue, and what is said of the others."""

from collections import Counter

import polars as pl

SNAPSHOT = "snapshot_time"
"""Column of a table of items or users: when a row was true, for those that are listed several times."""
SNAPSHOT_TEXT = "snapshot_text"
"""Column of what is written in place of that time, where it cannot be read."""
SNAPSHOTS = "several rows that differ of one"
"""In the reason why all but one of such rows are not used."""
FIRST, UNDATED = "the first counts", "without times, the first counts"
"""How such a reason ends where no time decides; `UNDATED` if the reader would read times."""
WITH_TITLE = "with a title counts"
"""How it ends where a row does not count because it has no title."""
UNREAD = "times that cannot be read or lost their last digits, so these rows count as the oldest"
"""In the reason for such rows."""


def one_per_key(frame: pl.DataFrame, key: str, dated_by: str | None, name: str, dropped: Counter[str]) -> pl.DataFrame:
    """One row per key: one with a title rather than one without, then the latest, then the first.

    Args:
        frame: the columns of a reader, and `row`; of several files also `file`.
        key: its column.
        dated_by: what `SNAPSHOT` is called in the file; empty if it has none; None if the reader reads no such times.
        name: of the table, for the reasons.
        dropped: gets the number of rows that are not used, by reason.
    """
    own = frame.select(pl.exclude("row", "file", SNAPSHOT, SNAPSHOT_TEXT)).columns
    if frame[key].n_unique() == frame.height:
        return frame.select(own)
    untitled = pl.col("title").fill_null("") == "" if "title" in own else pl.lit(False)
    time = pl.col(SNAPSHOT) if dated_by else pl.lit(None, pl.Int64)
    frame = frame.with_row_index("place")
    first = [expr for expr, is_used in ((untitled, "title" in own), (-time, dated_by)) if is_used]
    frame = frame.sort(first, nulls_last=True, maintain_order=True) if first else frame
    again = frame.filter(pl.col(key).is_duplicated())
    several = again.unique(own, keep="first", maintain_order=True).filter(pl.col(key).is_duplicated())
    if (same := again.filter(~pl.col(key).is_in(several[key].implode()))).height:
        dropped[f"{name}: {key} listed twice"] += same.height - same[key].n_unique()
    later = (time > time.first()) | (time.is_not_null() & time.first().is_null())
    if not dated_by:
        later = pl.col("place") < pl.col("place").first()
    is_tied = (untitled == untitled.first()) & time.eq_missing(time.first()) & bool(dated_by)
    keys = several.group_by(key, maintain_order=True).agg(tied=is_tied.sum() > 1, titled=(untitled & later).any())
    by_title = f"the {f'last by {dated_by}' if dated_by else 'first'} {WITH_TITLE}"
    otherwise = f"the last by {dated_by} counts" if dated_by else FIRST if dated_by is None else UNDATED
    tied = f"they have the same {dated_by}, and {FIRST}"
    ends = pl.when("tied").then(pl.lit(tied)).when("titled").then(pl.lit(by_title)).otherwise(pl.lit(otherwise))
    for (end,), found in keys.select(key, end=ends).group_by("end", maintain_order=True):
        rows = several.join(found, on=key, how="semi", maintain_order="left")
        one, other = rows.filter(pl.col(key) == rows[key][0]).head(2).iter_rows(named=True)
        places = f"{_place(one)} and {_place(other)}"
        count = again[key].is_in(found[key].implode()).sum() - found.height
        dropped[f"{name}: {SNAPSHOTS} {key}, such as {one[key]!r} in rows {places}; {end}"] += int(count)
    if dated_by:
        unread = again.filter(pl.col(key).is_in(several[key].implode()), pl.col(SNAPSHOT_TEXT).is_not_null())
        for row in unread.sort("place").head(1).iter_rows(named=True):
            shown = f"such as {row[SNAPSHOT_TEXT]!r} in row {_place(row)}"
            dropped[f"{name}, column {dated_by}: {UNREAD}, {shown}"] += unread.height
    return frame.unique(key, keep="first", maintain_order=True).select(own)


def _place(row: dict[str, object]) -> str:
    return f"{row['row']:,}" + (f" of {row['file']}" if "file" in row else "")
