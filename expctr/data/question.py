"""One person and one target, as `expctr explain` is asked, as rows that `predict` takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from expctr.data.catalogue import BY_ID, Catalogue, Item, nearest
from expctr.data.datamodules import RatingsDataModule
from expctr.data.new_users import Rated, about, as_samples, read_titles, split_titles, with_history
from expctr.errors import UserError

_SPLITS = {
    "train": "a training row: the models have learnt from it, so their scores are no forecast",
    "val": "a validation row: the CTR models stopped training where they did best on such rows",
    "test": "a test row",
}


@dataclass(frozen=True)
class Question:
    """Will this person like this target, and which item of the history decides it?

    Attributes:
        user: the id; empty for a person that was typed in.
        target: its id is empty for an item that is new.
        history: oldest first, without the target.
        label: what the ratings say of user and target: 1 liked, 0 disliked, `None` nothing.
        split: of the sample that user and target are; empty where they are none.
        rows: as `samples.make_samples` gives them: the question, then the question without each entry of the history.
        notes: what the reader of the answer should know.
    """

    user: str
    target: Item
    history: list[Rated]
    label: int | None
    split: str
    rows: pl.DataFrame
    notes: list[str]


def ask(
    data: RatingsDataModule,
    user: str | None = None,
    liked: Sequence[str] | str | None = None,
    disliked: Sequence[str] | str | None = None,
    target: str = "",
) -> Question:
    """Finds the person and the target.

    A user that is in the ratings has the latest `max_history` of their ratings for a history; where user and target are
    a sample, that sample's own history, so that the answer is the one `expctr test` gives.

    Args:
        data: set up.
        user: an id of the ratings.
        liked: in place of a user: titles that a person likes, oldest first, as a list or separated by `|`.
        disliked: titles that this person dislikes.
        target: a title or an item's id.

    Raises:
        UserError: no or two persons, an unknown user, no target or an ambiguous one, nothing in the history.
    """
    typed = liked is not None or disliked is not None
    if typed == (user is not None):
        raise UserError(
            f"{'two persons' if typed else 'nobody'} to explain: give --user ID, of the ratings, or what somebody "
            "--liked and --disliked"
        )
    if not target.strip():
        raise UserError("nothing to explain: give a title or an item's id as --target")
    notes: list[str] = []
    item = _target(target, data.catalogue, notes)
    row, label, split = about(item, data.catalogue), None, ""
    if user is None:
        history = _typed(_titles(liked), _titles(disliked), data.catalogue, notes)
    else:
        sample = data.samples.filter(user=user, target=item.id)
        if sample.height:
            row = sample.row(0, named=True)
            history, label, split = _history(row), row["label"], row["split"]
            notes.append(f"user {user} and this target are {_SPLITS[split]}; the history is the one before it")
        else:
            row |= {"user": user, **_of_user(user, data)}
            history = [Rated(Item(i, title), liked) for i, title, liked in _ratings(user, data).iter_rows()]
    about_it = [entry for entry in history if entry.item == item]
    if about_it:
        label = int(about_it[-1].liked)
        history = [entry for entry in history if entry.item != item]
        notes.append(f"the target itself was {'liked' if label else 'disliked'}; that is left out of the history")
    if user is not None:
        history = history[-data.options.max_history :]
    if not history:
        raise UserError(
            f"no history to explain by: user {user!r} has rated no other item"
            if user is not None
            else "no history to explain by: give titles other than the target as --liked or --disliked"
        )
    without = [[*history[:i], *history[i + 1 :]] for i in range(len(history))]
    rows = as_samples([with_history(row, entries) for entries in (history, *without)], data.samples)
    notes += _untrained(user, item, data)
    return Question(user or "", item, history, label, split, rows, notes)


def _target(typed: str, catalogue: Catalogue, notes: list[str]) -> Item:
    found = catalogue.matches(typed, ids=True)
    if len(found) > 1:
        raise UserError(
            f"--target: {typed!r} may be {_several(found, catalogue)}. Give one as --target {BY_ID}{found[0].id}"
        )
    if found:
        return found[0]
    if typed.startswith(BY_ID):
        raise UserError(f"--target: no item with a title has the id {typed.removeprefix(BY_ID)!r}; or give a title")
    notes.append(f"no item is called {typed!r}: taken as a new one.{_near(typed, catalogue)}")
    return Item("", typed.strip())


def _titles(typed: Sequence[str] | str | None) -> tuple[str, ...]:
    titles = split_titles(typed) if isinstance(typed, str) else [title.strip() for title in typed or ()]
    return tuple(filter(None, titles))


def _typed(liked: Sequence[str], disliked: Sequence[str], catalogue: Catalogue, notes: list[str]) -> list[Rated]:
    history = list(dict.fromkeys(read_titles(liked, True, catalogue) + read_titles(disliked, False, catalogue)))
    for entry in history:
        if entry.liked and Rated(entry.item, False) in history:
            raise UserError(f"{entry.item.title!r} is in both --liked and --disliked")
    for entry in history:
        if not entry.item.id:
            title = entry.item.title
            if found := catalogue.matches(title):
                notes.append(f"{title!r} may be {_several(found, catalogue)}: read without an id")
            else:
                notes.append(f"no item is called {title!r}: read without an id.{_near(title, catalogue)}")
    return history


def _history(row: dict[str, list[str]]) -> list[Rated]:
    """A sample's history in its order, with titles."""
    titles = dict(zip(row["liked"] + row["disliked"], row["liked_titles"] + row["disliked_titles"], strict=True))
    entries = zip(row["history"], row["history_liked"], strict=True)
    return [Rated(Item(item, titles[item]), bool(liked)) for item, liked in entries]


def _ratings(user: str, data: RatingsDataModule) -> pl.DataFrame:
    rated = data.ratings_of(user)
    if rated.is_empty():
        raise UserError(f"--user: the ratings have no user {user!r}; {_ids(user, data.users())}")
    return rated


def _of_user(user: str, data: RatingsDataModule) -> dict[str, object]:
    """The user's side features, from any of their samples."""
    row = next(data.samples.filter(user=user).head(1).iter_rows(named=True), {})
    return {name: value for name, value in row.items() if name.startswith("user_")}


def _untrained(user: str | None, item: Item, data: RatingsDataModule) -> list[str]:
    """Who and what has an id that the CTR models have not seen."""
    known = data.features.vocabularies
    asked = [("user", f"user {user}", user), ("target", "the target", item.id)]
    new = [name for field, name, value in asked if value and field in known and value not in known[field]]
    return [f"no training row is about {name}: the CTR models take the id for a new one" for name in new]


def _several(items: Sequence[Item], catalogue: Catalogue) -> str:
    shown = [catalogue.described(item) for item in items[:6]]
    return "one of several items: " + ", ".join(shown) + (", ..." if items[6:] else "")


def _near(typed: str, catalogue: Catalogue) -> str:
    found = catalogue.nearest(typed)
    return f" The nearest titles: {', '.join(map(repr, found))}" if found else ""


def _ids(user: str, users: pl.Series) -> str:
    """How the ids look."""
    numbers = users.cast(pl.Int64, strict=False)
    if numbers.null_count() == 0:
        return f"ids are {users.len():,} numbers from {numbers.sort()[0]} to {numbers.sort()[-1]}"
    found = nearest(user, users) or users.head(3).to_list()
    return f"of {users.len():,} ids the nearest are {', '.join(map(repr, found))}"
