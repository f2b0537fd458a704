"""`TableDataModule`: samples of any table of one's own, such as a click log."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from lightning.pytorch.utilities import rank_zero_warn

from expctr.data.batches import Nouns
from expctr.data.cache import class_key
from expctr.data.feature_kinds import FeatureKind, kind_of
from expctr.data.options import SPLITS, SampleOptions
from expctr.data.ratings_module import PaperDataset, RatingsDataModule, SplitFiles
from expctr.data.readers.base import RawTables
from expctr.data.readers.columns import TableColumns
from expctr.data.readers.ready import is_ready
from expctr.data.readers.table import CONTEXT, TableReader
from expctr.data.readers.table_features import feature_name
from expctr.data.sample_rows import history_of
from expctr.data.user_ratings import SCHEMA
from expctr.errors import DataError, UserError, listed

TABLE = SampleOptions(threshold=None, targets_per_user=20, max_samples=100_000, split=None, same_time="drop")
"""Labels are in the data. The newest targets are the test split, as a click log is used: the past predicts the future.
Twenty targets per user, because one would waste a log; few enough that the busiest users are not most of it. What has
the target's own time stays out of its history: it is of the same page, and not known before it."""


class TableDataModule(RatingsDataModule):
    """Any table of your own, such as a click log: CSV, JSON or parquet, or a data frame of polars or pandas.

    Args:
        interactions: who was shown what, when, and whether they took it: a file, a folder or a glob in quotes. CSV, TSV
            and JSON may be compressed. Not needed with `splits`. In Python also a data frame.
        items: likewise, the items' titles and features. Not needed if the interactions have a column of titles.
        users: likewise, the users' features.
        columns: which column is which, where its name is not a usual one; `expctr prepare` prints what was found.
        features: kinds of side features by column: `number`, `quantiles`, `category`, `list` or `boolean`; only these
            columns are used. By default all other columns of items and users are, of kinds by their type, or in text
            files by their content. Columns of the interactions are features only if they are named here: they may
            tell the outcome.
        samples: how targets, histories, labels and splits are drawn.
        nouns: what items and people are called in prompts.
        paper_dataset: whose rows of the paper's Table 1 `test` shows beside ours; null for none.
    """

    default_samples: ClassVar[SampleOptions] = TABLE

    def __init__(
        self,
        interactions: str | Any = None,
        items: str | Any = None,
        users: str | Any = None,
        columns: TableColumns = TableColumns(),
        features: dict[str, FeatureKind] | None = None,
        samples: SampleOptions = TABLE,
        nouns: Nouns = Nouns(),
        paper_dataset: PaperDataset | None = None,
        splits: SplitFiles | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__("", samples, nouns, paper_dataset, splits, **kwargs)
        self.splits = None  # the reader makes them splits of the tables that it returns
        if interactions is None and splits is None:
            raise UserError(
                "data.interactions is not set. Fix: name a file, a folder or a glob, or three files in data.splits"
            )
        if columns.label is not None and columns.rating is not None:
            raise UserError(
                "data.columns.label and data.columns.rating are both set. Fix: name the label if it is what you want "
                "to predict, else the rating"
            )
        if splits and columns.split is not None:
            raise UserError(
                "data.splits and data.columns.split both say which rows are train, val and test. Fix: set one to null"
            )
        if splits and interactions is not None:
            rank_zero_warn("data.interactions is not used: data.splits names the files")
        sources = {name: getattr(splits, name) for name in SPLITS} if splits else {"": interactions}
        self._reader = TableReader(sources, items, users, columns, features, samples.order == "time")

    def read(self) -> RawTables:
        self._check_labels()
        return self._reader.tables

    def setup(self, stage: str | None = None) -> None:
        self.feature_kinds = self._kinds(self._prepared[0])
        super().setup(stage)

    def cache_key(self) -> object:
        reader = self._reader
        return [class_key(type(self)), reader.named, asdict(reader.columns), reader.features, reader.is_timed]

    def keep_ratings(self) -> None:
        if not is_ready(self._reader.found):  # the samples are in memory
            super().keep_ratings()

    def ratings_of(self, users: Sequence[str]) -> pl.DataFrame:
        """Some users' ratings, oldest first (`user`, `item`, `title`, `liked`); of ready rows, the newest history."""
        if not is_ready(self._reader.found):
            return super().ratings_of(users)
        own = self.samples.filter(pl.col("user").is_in([*users])).sort("timestamp")
        last = own.unique("user", keep="last", maintain_order=True)
        rows = [(row["user"], *item, liked) for row in last.iter_rows(named=True) for item, liked in history_of(row)]
        return pl.DataFrame(rows, SCHEMA, orient="row")

    @cached_property
    def users(self) -> pl.Series:
        """The ids of all who rated something, in order; of ready rows, those of samples."""
        return self.samples["user"].unique().sort() if is_ready(self._reader.found) else super().users

    @property
    def unknown_user(self) -> str:
        """Histories of ready rows are those of the samples."""
        if not is_ready(self._reader.found):
            return super().unknown_user
        return "no sample is of user {}, though rows beyond data.samples.max_samples may be"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the samples are the checkpoint's, and say what older runs need."""
        try:
            super().load_state_dict(state_dict)
        except DataError as error:
            if is_ready(self._reader.found) and self.options.split is None:
                error.add_note(
                    "earlier versions split such rows at random: add --data.samples.split random, or, for serve and in "
                    "Python, write data.init_args.samples.split: random in the run's config.yaml"
                )
            raise

    def _files(self) -> list[Path] | None:
        return self._reader.files

    def _item_files(self) -> list[Path] | None:
        return self._reader.files  # of the interactions as well: titles may be theirs

    def _kinds(self, samples: pl.DataFrame) -> dict[str, FeatureKind]:
        """The kinds of the side features, by column: as given, else by type."""
        kinds: dict[str, FeatureKind] = {}
        given = {feature_name(name): kind for name, kind in (self._reader.features or {}).items()}
        for column, dtype in samples.schema.items():
            prefix = next((p for p in ("target_", "user_", CONTEXT) if column.startswith(p)), "")
            if prefix and column != "target_title":
                kinds[column] = given.get(column.removeprefix(prefix)) or kind_of(dtype) or "category"
        return kinds

    def _check_labels(self) -> None:
        """Raises UserError if threshold, labels and negatives contradict each other."""
        found, options = self._reader.found, self.options
        if "rating" in found and options.threshold is None:
            raise UserError(
                f"data.samples.threshold is not set, and {found['rating']} is a rating. Fix: set the rating from which "
                "an item is liked, or name a column of labels in data.columns.label"
            )
        if "label" in found and options.threshold is not None:
            raise UserError(
                f"data.samples.threshold: {found['label']} is a label, and labels are 1 or 0. Fix: set the threshold "
                "to null, or name a column of ratings in data.columns.rating"
            )
        if not found.keys() & {"rating", "label"} and not options.negatives:
            raise UserError(
                f"the interactions have no column that is known for a label or a rating; they have "
                f"{listed(self._reader.columns_read)}. Fix: name it in data.columns.label (1 or 0) or "
                "data.columns.rating; or, if every row is a positive, draw items as dislikes with "
                "data.samples.negatives: 4"
            )
