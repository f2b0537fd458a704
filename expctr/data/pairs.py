"""Pairs of a user and an item, given by ids or by titles, as rows for prediction."""

from collections.abc import Sequence

import polars as pl

from expctr.data.catalogue import Item
from expctr.data.ratings_module import RatingsDataModule
from expctr.data.readers.columns import named_columns
from expctr.data.readers.lost_digits import is_rounded
from expctr.data.readers.values import as_key, as_title, as_titles, is_bad_list
from expctr.data.sample_rows import HistoryEntry, NewTitles, contradiction, find_history, history_lists, target_features
from expctr.errors import DataError, listed

_LISTS = ("liked_titles", "disliked_titles")
COLUMNS = ("user", "item", *_LISTS, "target_title")
"""Columns that are read. A table needs `item` or `target_title`, and `user` or titles."""

_BAD_LIST = '{} is a list that cannot be read; write ["Heat", "Fargo"] or Heat|Fargo'
_BAD_ID = "{} is a number that lost its last digits; write ids as whole numbers or texts"
_ENTRY = {"pair": pl.Int64, "item": pl.String, "title": pl.String, "liked": pl.Boolean}


def columns_of(names: Sequence[str]) -> dict[str, str]:
    """Which of a table's columns are which of `COLUMNS`.

    Raises:
        DataError: two could be the same one.
    """
    return named_columns(COLUMNS, names, "pairs")


def read_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """The `COLUMNS` of a table: ids and a title as text, and lists of titles; what is missing, or says so, is empty.

    Titles are a list, JSON text, or text in which they are separated by `|`. The column `unread` says which list or id
    cannot be read, and is null where there is none.

    Raises:
        DataError: there is no column of targets, or none of people; one is of a type that holds no text; or two could
            be the same one.
    """
    names, found = frame.columns, columns_of(frame.columns)
    frame = frame.select(pl.col(column).alias(name) for name, column in found.items())
    for needed in (("item", "target_title"), ("user", *_LISTS)):
        if not {*needed} & {*found}:
            raise DataError(
                f"pairs have no column {' or '.join(needed)}; their columns are {listed(names)}. Fix: "
                "rename the columns, or add one"
            )
    for name in frame.columns:
        kind = frame.schema[name]
        inner = getattr(kind, "inner", kind) if name in _LISTS else kind
        no_list = name in _LISTS and inner is kind and kind not in (pl.String, pl.Null)
        if no_list or inner.is_nested() or inner in (pl.Binary, pl.Object):
            given = "lists of texts, or texts separated by |" if name in _LISTS else "texts or numbers"
            raise DataError(f"pairs: the column {name} is of type {kind}. Fix: give {given}")
    lists = [name for name in _LISTS if name in frame.columns]
    unread = [_when(is_bad_list(pl.col(name), frame.schema[name]), _BAD_LIST, name) for name in lists]
    ids = [name for name in ("user", "item") if name in frame.columns]
    unread += [_when(is_rounded(pl.col(name), frame.schema[name]), _BAD_ID, name) for name in ids]
    columns = [_column(name, frame.schema) for name in COLUMNS]
    return frame.select(*columns, pl.coalesce(*unread, pl.lit(None, pl.String)).alias("unread"))


def _when(is_bad: pl.Expr, problem: str, name: str) -> pl.Expr:
    return pl.when(is_bad).then(pl.lit(problem.format(name)))


def _column(name: str, schema: pl.Schema) -> pl.Expr:
    is_list = name in _LISTS
    if name not in schema:
        return (pl.lit([], pl.List(pl.String)) if is_list else pl.lit("")).alias(name)
    read = as_titles if is_list else as_title if name == "target_title" else as_key
    value = read(pl.col(name), schema[name])
    return (value if is_list else value.fill_null("")).alias(name)


class PairRows:
    """Turns pairs into rows of the table of `make_samples`.

    A user who is known by id has the history of the sample with this target, if there is one, or else the latest
    `max_history` ratings without the target. So a pair has the same scores as `expctr explain` gives it. Titles make a
    history for anyone; `user` is then a name only.

    Args:
        data: the dataset, after `setup`.
        users: ids of all users who may occur. Their ratings are looked up once, here.

    Attributes:
        new: the new titles of the latest rows.
    """

    def __init__(self, data: RatingsDataModule, users: Sequence[str]) -> None:
        self.data = data
        self.new = NewTitles()
        longest = data.options.max_history + 1  # the target may be one of them
        ratings = data.ratings_of(users)
        self._latest = ratings.filter(pl.int_range(pl.len()).reverse().over("user") < longest)

    def make(self, pairs: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        """The rows of pairs, and why others have none.

        Args:
            pairs: as from `read_columns`.

        Returns:
            The rows, whose `sample` is the position of the pair; and for each pair its problem, null where there is
            none.
        """
        pairs = pairs.with_columns(
            pair=pl.int_range(pl.len(), dtype=pl.Int64), typed=pl.sum_horizontal(pl.col(*_LISTS).list.len()) > 0
        )
        pairs = self._with_targets(pairs)
        known = ~pl.col("typed")
        asked = self.data.samples.filter(pl.col("user").is_in(pairs["user"].implode())).drop("sample")
        newest = asked.sort("timestamp", nulls_last=False, maintain_order=True)
        newest = newest.unique(["user", "target"], keep="last")
        of_samples = (
            pairs.filter(known & (pl.col("user") != ""))
            .select("pair", "user", "target")
            .join(newest, on=["user", "target"])
        )
        others = pairs.join(of_samples, on="pair", how="anti")
        typed, contradictory = self._typed(others.filter("typed"))
        entries = pl.concat([typed, self._rated(others.filter(known))])
        problem = (
            pl.when(pl.col("unread").is_not_null())
            .then("unread")
            .when((pl.col("item") == "") & (pl.col("target_title") == ""))
            .then(pl.lit("no item and no target_title"))
            .when(pl.col("target_title").is_null())
            .then(pl.format("no item with a title has the id {}", "item"))
            .when(pl.col("misnamed").is_not_null())
            .then("misnamed")
            .when(known & (pl.col("user") == ""))
            .then(pl.lit("no user and no titles of a history"))
            .when(known & ~pl.col("user").is_in(self._latest["user"].implode()))
            .then(pl.format(self.data.unknown_user, "user"))
            .when(
                ~pl.col("pair").is_in(entries["pair"].implode()) & ~pl.col("pair").is_in(of_samples["pair"].implode())
            )
            .then(
                pl.when(known)
                .then(pl.format("user {} has rated no other item", "user"))
                .otherwise(pl.lit("no title of a history but the target"))
            )
            .when(pl.col("pair").is_in(contradictory))
            .then(pl.lit("a title is both liked and disliked"))
        )
        pairs = pairs.with_columns(problem=problem)
        good = pairs.filter(pl.col("problem").is_null()).select("pair")
        of_samples, others = (rows.join(good, on="pair", how="semi") for rows in (of_samples, others))
        rows = pl.concat([self._like_samples(of_samples), self._like_samples(self._with_features(others, entries))])
        rows = rows.sort("sample")
        self.new = NewTitles.of(rows)
        return rows, pairs["problem"]

    def _with_targets(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Adds the target's id (empty for a new item) and title (null for an unknown id), and whether it has another.

        `misnamed` says that the item of a given id has another title than the given one.
        """
        catalogue = self.data.catalogue
        typed = pairs.filter(pl.col("item") == "")["target_title"].unique().to_list()
        found = {title: catalogue.matches(title) for title in typed}
        ids = {title: items[0].id if len(items) == 1 else "" for title, items in found.items()}
        by_title = pl.col("target_title").replace_strict(ids, default="", return_dtype=pl.String)
        titles = catalogue.items.select(target="item", known_title="title")
        pairs = pairs.with_columns(target=pl.when(pl.col("item") == "").then(by_title).otherwise("item")).join(
            titles, on="target", how="left", maintain_order="left"
        )
        differ = (
            (pl.col("item") != "") & (pl.col("target_title") != "") & (pl.col("target_title") != pl.col("known_title"))
        )
        both = pairs.filter(differ).select("item", "target_title", "known_title").unique()
        is_wrong = [not catalogue.is_called(item, title) for item, title, _ in both.iter_rows()]
        wrong = both.filter(pl.Series(is_wrong, dtype=pl.Boolean))
        misnamed = pl.format("item {} is called {}, not {}", "item", "known_title", "target_title")
        wrong = wrong.select("item", "target_title", misnamed=misnamed)
        return pairs.join(wrong, on=["item", "target_title"], how="left", maintain_order="left").with_columns(
            target_title=pl.when(pl.col("target") == "").then("target_title").otherwise("known_title")
        )

    def _typed(self, pairs: pl.DataFrame) -> tuple[pl.DataFrame, list[int]]:
        """The entries of typed histories, liked titles first, without the target; each once, as in `explain`.

        Also the pairs in which an item is both liked and disliked.
        """
        found: dict[tuple[str | None, ...], tuple[list[HistoryEntry], bool]] = {}
        rows, contradictory = [], []
        for pair, target, title, liked, disliked in pairs.select("pair", "target", "target_title", *_LISTS).iter_rows():
            key = (*liked, None, *disliked)
            if key not in found:
                history = list(dict.fromkeys(find_history(liked, disliked, self.data.catalogue)))
                found[key] = history, bool(contradiction(history))
            history, is_contradictory = found[key]
            contradictory += [pair] if is_contradictory else []
            entries = [entry for entry in history if entry.item != Item(target, title)]
            rows += [(pair, entry.item.id, entry.item.title, entry.liked) for entry in entries]
        return pl.DataFrame(rows, schema=_ENTRY, orient="row"), contradictory

    def _rated(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """The entries of users' ratings, oldest first, without the target."""
        entries = pairs.select("pair", "user", "target").join(
            self._latest, on="user", how="inner", maintain_order="left_right"
        )
        entries = entries.filter(pl.col("item") != pl.col("target"))
        latest = pl.int_range(pl.len()).reverse().over("pair") < self.data.options.max_history
        return entries.filter(latest).select(*_ENTRY)

    def _with_features(self, pairs: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
        """Adds the histories, and the side features of known users and items."""
        lists = entries.group_by("pair", maintain_order=True).agg(history_lists(pl.col("liked")))
        items = target_features(self.data.catalogue.items.drop("title"))
        return (
            pairs.select("pair", pl.when(~pl.col("typed")).then("user").alias("user"), "target", "target_title")
            .join(lists, on="pair", how="inner")
            .join(items, on="target", how="left")
            .join(self.data.user_features, on="user", how="left")
        )

    def _like_samples(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The columns of samples; those that the rows lack are null."""
        rows, schema = rows.rename({"pair": "sample"}), self.data.samples.schema
        missing = [pl.lit(None).alias(name) for name in schema if name not in rows.columns]
        return rows.with_columns(missing).select(schema.names()).cast(dict(schema))  # type: ignore[arg-type]
