"""What looks wrong in a dataset's samples, each with what to do about it; `expctr prepare` prints it."""

from collections import Counter
from pathlib import Path

from expctr.data.options import SampleOptions
from expctr.data.readers.base import OTHER_TITLE
from expctr.data.readers.snapshots import FIRST, SNAPSHOTS, UNDATED, UNREAD, WITH_TITLE
from expctr.data.summary import BEYOND_MAX_SAMPLES, BEYOND_TARGETS, COPIES, REPEATED, SUPERSEDED, DataSummary

_FEW = 10  # rows of a label
_WARM, _HARDLY = 0.5, 0.01
"""Share of users of the test rows whom training knows, up to which their ids say little, and nothing."""
_DRIFT, _ERRORS = 0.1, 4.0  # a difference of base rates that matters, in itself and in standard errors
_DROPPED = 0.1
_OVERRULED = 0.05
_REPEATED = 0.01  # of the rows of a table of items; published ones repeat a few
_BUSY, _TIMES = 0.2, 10  # share of all rows that one user has, and how many times the average


def findings(summary: DataSummary, options: SampleOptions) -> list[str]:
    """Judges the samples by what became of the raw rows.

    Args:
        summary: the counts.
        options: with which the samples were made.

    Returns:
        One text per finding, which says what was found and how to fix it; none if nothing looks wrong.
    """
    more = _more(summary)
    return [
        *summary.doubts,
        *_dropped_rows(summary),
        *_overruled_likes(summary),
        *_busiest_user(summary),
        *_other_titles(summary),
        *_snapshots(summary),
        *_ids_as_titles(summary),
        *(summary.unmatched or _titles(summary)),
        *_labels(summary, options, more),
        *_drift(summary, options),
        *_users(summary, options, more),
        *_order(summary, options),
        *_histories(summary),
    ]


def _more(summary: DataSummary) -> str:
    """How to get more samples: by the limit that takes most."""
    if summary.own_splits:
        return "give the files of data.splits more rows"
    dropped = summary.samples_dropped
    limits = {"max_samples": BEYOND_MAX_SAMPLES, "targets_per_user": BEYOND_TARGETS}
    limit = max(limits, key=lambda name: dropped.get(limits[name], 0))
    return f"raise data.samples.{limit}" if dropped.get(limits[limit]) else "give more rows"


def _dropped_rows(summary: DataSummary) -> list[str]:
    copies = sum(summary.dropped.get(reason, 0) for reason in (COPIES, REPEATED))  # another row stands for each
    dropped = summary.rows - summary.interactions - copies
    if dropped <= _DROPPED * summary.rows:
        return []
    reasons = sorted(summary.dropped.items(), key=lambda reason: -reason[1])
    reasons = [reason for reason in reasons if reason[0] not in (COPIES, REPEATED)]
    named = "; ".join(f"{reason}: {count:,}" for reason, count in reasons[:3])
    keep = "; data.samples.repeats: keep uses all impressions of an item" if reasons[0][0] == SUPERSEDED else ""
    return [
        f"{dropped / summary.rows:.0%} of the rows are dropped ({named}). Fix: check that these rows are of no use, or "
        f"repair them{keep}"
    ]


def _overruled_likes(summary: DataSummary) -> list[str]:
    if summary.overruled <= _OVERRULED:
        return []
    return [
        f"{summary.overruled:.0%} of the items that somebody liked do not count as liked, because only the latest row "
        "of a user and an item counts, and it is not a like. Fix: data.samples.repeats: keep uses all rows"
    ]


def _busiest_user(summary: DataSummary) -> list[str]:
    if summary.busiest_share <= max(_BUSY, _TIMES / max(summary.users, 1)):
        return []
    return [
        f"user {summary.busiest!r} has {summary.busiest_share:.0%} of all rows, more than a person would. Fix: remove "
        "the rows of a test account, and those whose id stands for nobody"
    ]


def _other_titles(summary: DataSummary) -> list[str]:
    return [
        f"some items have several titles ({reason}: {count:,} in all). Fix: write one title per item"
        for reason, count in summary.side_dropped.items()
        if reason.startswith(OTHER_TITLE)
    ]


def _snapshots(summary: DataSummary) -> list[str]:
    rows: Counter[str] = Counter()
    for path, count in summary.files.items():
        rows[Path(path).name] += count
    fixes = {
        UNDATED: "keep one row of each, or add a column updated_at (2024-04-30), by which the last one counts",
        FIRST: "keep one row of each",
        WITH_TITLE: "give each row its title, or keep one row of each",
    }
    said = []
    for reason, count in summary.side_dropped.items():
        fix = next((fix for end, fix in fixes.items() if SNAPSHOTS in reason and reason.endswith(end)), "")
        if fix and count > _REPEATED * rows[reason.partition(f": {SNAPSHOTS}")[0]]:
            said.append(f"{reason} ({count:,} rows are not used). Fix: {fix}")
        if UNREAD in reason:
            said.append(f"{reason} ({count:,} rows). Fix: write all times of the column in one form, with all digits")
    return said


def _ids_as_titles(summary: DataSummary) -> list[str]:
    if not summary.no_titles:
        return []
    return ["no titles: the language model reads the ids of the items. Fix: name the column in data.columns.title"]


def _titles(summary: DataSummary) -> list[str]:
    if summary.untitled <= 0.5:
        return []
    return [
        f"{summary.untitled:.0%} of the rated items have no title, and their rows are dropped. Fix: check that the "
        "file of items belongs to these ratings and uses the same ids"
    ]


def _labels(summary: DataSummary, options: SampleOptions, more: str) -> list[str]:
    few = []
    for name, split in summary.splits.items():
        liked = round(split["samples"] * split["base_rate"])
        if split["samples"] and min(liked, split["samples"] - liked) < _FEW:
            few.append(f"{name} has {liked:,} liked and {split['samples'] - liked:,.0f} disliked")
    if not few:
        return []
    scale = f"check data.samples.threshold ({options.threshold or 0:g}) against the scale of the ratings"
    labels = "check that the column of labels is the right one" if options.threshold is None else scale
    return [
        f"few rows of a label: {', '.join(few)}. Below {_FEW} rows an AUC is mostly chance, and without any there is "
        f"none. Fix: {more if options.negatives else f'{labels}, or {more}'}"  # with negatives, labels are right
    ]


def _drift(summary: DataSummary, options: SampleOptions) -> list[str]:
    train, val = summary.splits["train"], summary.splits["val"]
    if not (train["samples"] and val["samples"]):
        return []
    error = (train["base_rate"] * (1 - train["base_rate"]) / val["samples"]) ** 0.5
    if abs(train["base_rate"] - val["base_rate"]) <= max(_DRIFT, _ERRORS * error):
        return []
    by_time = options.split_rule == "time" and not summary.own_splits
    fix = "data.samples.split: random shows whether time is the reason" if by_time else "check how the splits were made"
    return [
        f"{val['base_rate']:.0%} of the validation rows are liked, and {train['base_rate']:.0%} of the training rows: "
        f"stopping and calibration follow the wrong rate. Fix: {fix}"
    ]


def _users(summary: DataSummary, options: SampleOptions, more: str) -> list[str]:
    test = summary.splits["test"]
    if not test["samples"] or test["warm_users"] > _WARM or options.split == "user":
        return []
    if test["warm_users"] > _HARDLY:
        return [
            f"{1 - test['warm_users']:.0%} of the test rows are of users who are unknown to training: of these the "
            f"models learn nothing from ids. Fix: {more}; data.samples.split: random shows what known users would give"
        ]
    paper = " (one target per user, as in the paper)" if options.targets_per_user == 1 else ""
    return [
        f"every user of the test rows is unknown to training{paper}: the models learn nothing from user ids, and only "
        f"histories tell people apart. Fix: {more}, if your users come back; or leave `user` out of data.fields"
    ]


def _order(summary: DataSummary, options: SampleOptions) -> list[str]:
    if options.order != "time" or summary.tied <= 0.5:
        return []
    return [
        f"{summary.tied:.0%} of the interactions share their time with another of the same user, so the order of a "
        "history is mostly drawn at random. Fix: give finer timestamps. Where people rate many items at once, "
        "there are none, and the order says little"
    ]


def _histories(summary: DataSummary) -> list[str]:
    if summary.history.get("median", 1):
        return []
    return [
        "most histories are empty: a sentence has nothing to go by. Fix: raise data.samples.min_history, or give "
        "earlier interactions of these users"
    ]
