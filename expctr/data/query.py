"""A query of `expctr explain`: one person and one target, as rows for prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from expctr.data.catalogue import BY_ID, Catalogue, Item, nearest
from expctr.data.ratings_module import RatingsDataModule
from expctr.data.sample_rows import (
    HistoryEntry,
    as_samples,
    as_text,
    contradiction,
    find_history,
    history_of,
    read_titles,
    target_columns,
    with_history,
    without_each,
)
from expctr.errors import UserError

_SPLITS = {
    "train": "a training row: the models were trained on it, so their scores are not forecasts",
    "val": "a validation row: the CTR models stopped training at their best score on such rows",
    "test": "a test row",
}


@dataclass(frozen=True)
class Query:
    """Will this person like this target, and which item of the history decides it?

    Attributes:
        user: the id; empty for a person given by titles.
        target: its id is empty if it is new.
        history: oldest first, without the target.
        label: 1 if the user liked the target, 0 if not, None unknown.
        split: of the sample with this user and target; empty if there is none.
        rows: rows of the table of `make_samples`: the query, then the query without each entry of the history.
        notes: remarks for the reader of the answer.
    """

    user: str
    target: Item
    history: list[HistoryEntry]
    label: int | None
    split: str
    rows: pl.DataFrame
    notes: list[str]


def make_query(
    data: RatingsDataModule,
    user: str | None = None,
    liked: Sequence[str] | str | None = None,
    disliked: Sequence[str] | str | None = None,
    target: str = "",
) -> Query:
    """Finds the person and the target in the dataset.

    The history of a user in the ratings is their latest `max_history` ratings. If user and target are a sample, it is
    the history of that sample, so the scores are the ones of `expctr test`.

    Args:
        data: the dataset, after `setup`.
        user: an id in the ratings; null if titles are given.
        liked: titles that a person likes, oldest first: a list, a JSON list as text, or separated by `|`.
        disliked: titles that this person dislikes.
        target: a title or the id of an item.

    Raises:
        UserError: no person or two, an unknown user, no target or an ambiguous one, a list that cannot be read, or an
            empty history.
    """
    typed = liked is not None or disliked is not None
    if typed == (user is not None):
        raise UserError(
            f"{'two persons' if typed else 'no person'} to explain. Fix: give either a user's id, as in the ratings, "
            "or titles as liked and disliked"
        )
    target = as_text(target)
    if not read_titles([target]):
        raise UserError("no target to explain. Fix: give a title or the id of an item as target")
    notes: list[str] = []
    item = _find_target(target, data.catalogue, notes)
    row, label, split = target_columns(item, data.catalogue), None, ""
    if user is None:
        history = _find_typed(read_titles(liked), read_titles(disliked), data.catalogue, notes)
    else:
        sample = data.samples.filter(user=user, target=item.id, target_title=item.title).sort("timestamp")
        if sample.height:
            row = sample.row(-1, named=True)
            history, label, split = history_of(row), row["label"], row["split"]
            if row["rating"] is None:  # drawn, see data.samples.negatives
                label = None
            notes.append(f"user {user} and this target are {_SPLITS[split]}; the history is the one before the target")
        else:
            row |= next(data.user_features.filter(user=user).iter_rows(named=True), {"user": user})
            history = [
                HistoryEntry(Item(i, title), liked) for _, i, title, liked in data.ratings_of([user]).iter_rows()
            ]
            if not history:
                users = data.users
                if user in users:
                    raise UserError(f"user: {user!r} has rated no item with a title. Fix: give another id")
                hint = _ids(user, users)
                raise UserError(f"user: {data.unknown_user.format(repr(user))}. Fix: give another id; {hint}")
    if ratings_of_target := [entry.liked for entry in history if entry.item == item]:
        label = int(ratings_of_target[-1])
        history = [entry for entry in history if entry.item != item]
        notes.append(f"the person {'liked' if label else 'disliked'} the target itself; the history leaves it out")
    if user is not None:
        history = history[-data.options.max_history :]
    if not history:
        raise UserError(
            f"no history: user {user!r} has rated no other item. Fix: choose another user or target"
            if user is not None
            else "no history. Fix: give titles other than the target as liked or disliked"
        )
    rows = as_samples([with_history(row, entries) for entries in without_each(history)], data.samples)
    notes += _untrained(user, item, data)
    return Query(user or "", item, history, label, split, rows, notes)


def _find_target(typed: str, catalogue: Catalogue, notes: list[str]) -> Item:
    found = catalogue.matches(typed, ids=True)
    if len(found) > 1:
        raise UserError(
            f"target: {typed!r} can be {_several(found, catalogue)}. Fix: name one, such as {BY_ID}{found[0].id}"
        )
    if found:
        return found[0]
    if typed.startswith(BY_ID):
        raise UserError(
            f"target: no item with a title has the id {typed.removeprefix(BY_ID)!r}. Fix: give a title, or another id"
        )
    notes.append(f"no item is called {typed!r}: it is treated as a new item.{_similar(typed, catalogue)}")
    return Item("", typed.strip())


def _find_typed(
    liked: Sequence[str], disliked: Sequence[str], catalogue: Catalogue, notes: list[str]
) -> list[HistoryEntry]:
    history = list(dict.fromkeys(find_history(liked, disliked, catalogue)))
    if both := contradiction(history):
        raise UserError(f"{both!r} is in both liked and disliked. Fix: remove it from one of them")
    for title in (entry.item.title for entry in history if not entry.item.id):
        if found := catalogue.matches(title):
            notes.append(f"{title!r} can be {_several(found, catalogue)}: it is used without an id")
        else:
            notes.append(f"no item is called {title!r}: it is used without an id.{_similar(title, catalogue)}")
    return history


def _untrained(user: str | None, item: Item, data: RatingsDataModule) -> list[str]:
    """Notes on ids that the CTR models were not trained on."""
    known = data.features.vocabularies
    ids = [("user", f"user {user}", user), ("target", "the target", item.id)]
    new = [name for field, name, value in ids if value and field in known and value not in known[field]]
    return [f"no training row is about {name}: the CTR models treat its id as new" for name in new]


def _several(items: Sequence[Item], catalogue: Catalogue) -> str:
    shown = [catalogue.described(item) for item in items[:6]]
    return "one of several items: " + ", ".join(shown) + (", ..." if items[6:] else "")


def _similar(typed: str, catalogue: Catalogue) -> str:
    found = catalogue.nearest(typed)
    return f" The nearest titles: {', '.join(map(repr, found))}" if found else ""


def _ids(user: str, users: pl.Series) -> str:
    """What the ids of the ratings look like."""
    numbers = users.cast(pl.Int64, strict=False)
    if numbers.null_count() == 0:
        return f"the {users.len():,} ids are numbers from {numbers.sort()[0]} to {numbers.sort()[-1]}"
    found = nearest(user, users) or users.head(3).to_list()
    return f"of {users.len():,} ids the nearest are {', '.join(map(repr, found))}"
