"""The data module of ratings: samples, their batches, and the ratings of users; a subclass reads the raw files."""

import hashlib
import inspect
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import lightning as L
import polars as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor

from expctr.data.batches import BatchSpec, EpochSampler, Nouns, ResumableLoader, SampleTable
from expctr.data.cache import cached_items, cached_samples, cached_table, class_key, sha256_of
from expctr.data.catalogue import Catalogue
from expctr.data.feature_kinds import FeatureKind
from expctr.data.features import Features
from expctr.data.findings import findings
from expctr.data.interactions import titled_items
from expctr.data.new_users import NewUser, new_user_samples, read_new_users
from expctr.data.options import IGNORED_WITH_SPLITS, SPLITS, SampleOptions
from expctr.data.readers.base import RawTable, RawTables
from expctr.data.samples import make_samples, notes_on, users_with_features
from expctr.data.summary import DataSummary, summary_tables
from expctr.data.user_ratings import KeptRatings, read_ratings, with_titles
from expctr.errors import DataError, UserError, check_range

PaperDataset = Literal["BookCrossing", "ML-20M", "Amazon Books"]
"""The datasets of the paper's Table 1."""


@dataclass(frozen=True)
class SplitFiles:
    """Ratings files with the user's own splits, as CSV with a header or in the dataset's own layout."""

    train: str
    """Training targets, and the rows that all histories are made of."""
    val: str
    """Validation targets."""
    test: str
    """Test targets."""


_SHOWN = ("target_title", "history_liked", "liked_titles", "disliked_titles")
"""Columns of samples that a prompt shows."""
CHANGED = "the samples of .* are not the checkpoint's"
"""Begins the warning that titles or features are not those that a run was trained with; a regular expression."""
_SIDE = ("user_", "target_", "context_")
"""What the names of side features begin with."""


class RatingsDataModule(L.LightningDataModule):
    """Samples of one dataset, prepared once, cached, and served by split; `setup` fills the attributes.

    Args:
        path: folder with the raw files; the layout is detected.
        samples: how targets, histories, labels and splits are drawn.
        nouns: what items and people are called in prompts.
        paper_dataset: whose rows of the paper's Table 1 `test` shows beside ours; null for none.
        splits: three ratings files in place of drawn targets and splits.
        rollout_batch_size: samples explained between two policy updates, over all ranks.
        ctr_batch_size: samples per batch of the CTR model.
        eval_batch_size: samples per batch of validation, test and predict; several explanations per sample
            (model.explainer.evaluation.samples) make batches of as many fewer samples, for the same memory.
        balance_rollouts: draw half of each rollout batch from liked and half from disliked targets, so that
            answering "liked" every time earns nothing.
        people: CSV of new users for `predict`, with the columns liked_titles, disliked_titles (separated by `|`) and
            target_title, of items known or new.
        seed: orders the training batches (`samples.seed` draws the samples).
        cache_dir: where prepared samples are kept; default `~/.cache/expctr`.
        fields: what the CTR models see, of `user`, `target`, the histories `liked` and `disliked` (as sets) and
            `history` (both in their order), and the side features `user_*` and `target_*`; null for all there are.
        history_counts: add the fields `history_count`, `history_liked_count` and `history_liked_share`: how many titles
            a history has, and how many and which share of them were liked. IDs alone hardly tell a model this.
    """

    samples: pl.DataFrame
    """The table of `samples.make_samples`."""
    features: Features
    """Vocabularies fitted on its training rows."""
    summary: DataSummary
    """What became of the raw rows."""
    default_samples: ClassVar[SampleOptions] = SampleOptions()
    """Whoever gives splits of their own is warned of other values than these that have no effect then."""
    feature_kinds: Mapping[str, FeatureKind] = MappingProxyType({})
    """Kinds of side features, by their column in `samples`, in place of those by type."""
    findings: Sequence[str] = ()
    """What looks wrong in the raw rows; filled by `prepare_data`."""
    version: ClassVar[int] = 0
    """Change it when `read` of a class of yours returns something else because of code outside its own file."""
    query_rows: pl.DataFrame | None = None
    """Rows like those of `samples` that `predict` is asked for, in place of `people` and of the test split."""

    def __init__(
        self,
        path: str,
        samples: SampleOptions,
        nouns: Nouns,
        paper_dataset: PaperDataset | None = None,
        splits: SplitFiles | None = None,
        rollout_batch_size: int = 32,
        ctr_batch_size: int = 2048,
        eval_batch_size: int = 64,
        balance_rollouts: bool = False,
        people: str | None = None,
        seed: int = 0,
        cache_dir: str | None = None,
        fields: list[str] | None = None,
        history_counts: bool = False,
    ) -> None:
        super().__init__()
        self.path = os.path.expanduser(path)  # in Python no shell does that
        self.options = samples
        self.nouns = nouns
        self.splits = splits
        self.rollout_batch_size = rollout_batch_size
        self.ctr_batch_size = ctr_batch_size
        self.eval_batch_size = eval_batch_size
        self.balance_rollouts = balance_rollouts
        self.people = people and os.path.expanduser(people)
        self.seed = seed
        self.cache_dir = cache_dir
        self.paper_dataset = paper_dataset
        self.fields = fields
        self.history_counts = history_counts
        idle = [name for name in IGNORED_WITH_SPLITS if getattr(samples, name) != getattr(self.default_samples, name)]
        if splits and idle:
            rank_zero_warn(
                f"data.splits: all rows of your files are samples; samples.{', samples.'.join(idle)} "
                f"{'is' if len(idle) == 1 else 'are'} not used"
            )
        check_range("data", self, rollout_batch_size=(1, inf), ctr_batch_size=(1, inf), eval_batch_size=(1, inf))
        self._kept: KeptRatings | None = None
        self._printed = False
        self._tables: dict[str, SampleTable] = {}
        self._train: Callable[[], BatchSpec] = lambda: BatchSpec(ctr_batch_size, epoch=self._trainer.current_epoch)
        self._val: Callable[[], BatchSpec] = lambda: BatchSpec(ctr_batch_size)
        self._test: Callable[[], BatchSpec] = lambda: BatchSpec(eval_batch_size, titles=True)

    def read(self) -> RawTables:
        """The raw tables of `path`; each dataset has its own."""
        raise NotImplementedError

    def read_ratings(self, path: Path) -> RawTable:
        """One ratings file, for `splits`; each dataset has its own."""
        raise NotImplementedError

    def cache_key(self) -> object:
        """Whatever else decides what `read` returns, besides the files: a part of the cache's key.

        It is the class, its `version`, the source file of a class of yours, and what its `__init__` takes in addition
        to this one's. If `read` depends on something else, add that, as plain values.
        """
        known = inspect.signature(RatingsDataModule.__init__).parameters
        added = [name for name in inspect.signature(type(self).__init__).parameters if name not in known]
        return [class_key(type(self)), {name: getattr(self, name, None) for name in added}]

    def prepare_data(self) -> None:
        """Makes the samples, unless the cache has them.

        Before training, and in `expctr prepare`, it prints once what became of the raw rows and what looks wrong.
        """
        _, summary = self._prepared
        self.findings = findings(summary, self.options)
        is_training = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if is_training and not self._printed:
            Console().print(summary_tables(summary, self.findings))
            self._printed = True

    def setup(self, stage: str | None = None) -> None:
        """Loads the samples and fits the vocabularies; the same on every rank."""
        if self.trainer is not None:
            vars(self.trainer)["reload_dataloaders_every_n_epochs"] = 1  # each epoch has its own order
        if not self._tables:
            self.samples, self.summary = self._prepared
            self.features = Features.fit(self.samples, self.fields, self.history_counts, self.feature_kinds)
        if stage == "predict" and self.people is not None:
            self._people  # noqa: B018  # an error in the file comes before the language model is loaded

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Hashes of every sample's split, user, target and label, of what prompts show, and of CTR models' features."""
        rows = self.samples.select("sample", "split", "user", "target", pl.col("label").cast(pl.Int8))
        side = sorted(name for name in self.features.fields if name.startswith(_SIDE))
        tables = {"samples": rows, "texts": self.samples.select(_SHOWN), "features": self.samples.select(side)}
        return {name: _digest(table) for name, table in tables.items()}

    def content_digest(self) -> str:
        """A hash of all that the samples hold."""
        return _digest(self.samples.clone())

    def source_digest(self) -> str:
        """A hash of all that the samples hold, and of the files that titles and ratings are read of."""
        files = [sha256_of(path) for path in self._files() or ()]
        return hashlib.sha256(" ".join([self.content_digest(), *files]).encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: what shows whether the samples are the same."""
        return {**self._digests}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the samples are the checkpoint's.

        Raises:
            DataError: they are not. Their vocabularies are compared before, with a message on what differs.
        """
        files, fix = ", ".join(self.summary.files), "Fix: put the run's files back, or start a run in another folder"
        if state_dict["samples"] != self._digests["samples"]:
            raise DataError(
                f"the samples of {files} are not the checkpoint's: labels, or who rated what, have changed, or another "
                f"version drew them. {fix}"
            )
        words = {"texts": "titles or histories", "features": "side features"}
        now = self._digests  # older checkpoints have not all of these
        if changed := [what for part, what in words.items() if state_dict.get(part, now[part]) != now[part]]:
            said = f"the samples of {files} are not the checkpoint's: {' and '.join(changed)} have changed"
            if self.trainer is None or self.trainer.state.fn != TrainerFn.PREDICTING:
                raise DataError(f"{said}. {fix}")
            rank_zero_warn(f"{said}. Scores and sentences are of the new ones")

    def rows(self, split: str) -> pl.DataFrame:
        return self.samples.filter(split=split)

    def table(self, split: str) -> SampleTable:
        """The samples of train, val or test as tensors and titles; made once."""
        if split == "predict":
            rows = self.asked_rows
            return self.table("test") if rows is None else SampleTable.from_samples(rows, self.features)
        if split not in self._tables:
            self._tables[split] = SampleTable.from_samples(self.rows(split), self.features)
        return self._tables[split]

    def request(
        self,
        train: Callable[[], BatchSpec],
        val: Callable[[], BatchSpec],
        test: Callable[[], BatchSpec] | None = None,
    ) -> None:
        """Choose the batches of each training epoch, each validation, and of test and predict.

        By default, the first two are those of a CTR model, and the last have `eval_batch_size` rows with titles.
        """
        self._train, self._val, self._test = train, val, test or self._test

    def rollout_spec(self, epoch: int) -> BatchSpec:
        """The rollout batches of an epoch, by the options."""
        return BatchSpec(self.rollout_batch_size, titles=True, epoch=epoch, balanced=self.balance_rollouts)

    def check_rows(self, validated: bool = True) -> None:
        """Raises UserError if there are no training rows, or no validation rows where they are needed."""
        if not len(self.table("train")):
            raise UserError("there are no training rows. Fix: give data.samples.fractions a first share above 0")
        if validated and not len(self.table("val")):
            raise UserError(
                "there are no validation rows, by which training stops early and keeps its best weights. Fix: give "
                "data.samples.fractions a middle share above 0"
            )

    def train_dataloader(self) -> ResumableLoader:
        return self._loader("train", self._train())

    def val_dataloader(self) -> ResumableLoader:
        return self._loader("val", self._val())

    def test_dataloader(self) -> ResumableLoader:
        return self._loader("test", self._test())

    def predict_dataloader(self) -> ResumableLoader:
        return self._loader("predict", self._test())

    def prediction_ids(self) -> pl.DataFrame:
        """Who and what the rows of `predict` are about: `sample`, `user`, `target`, `target_title`."""
        columns = ["sample", "user", "target", "target_title"]
        if self.people is None:
            return self.rows("test").select(columns)
        people, found = self._people
        rows = [
            (i, p.user, p.target or target, p.text.target)
            for i, (p, target) in enumerate(zip(people, found["target"], strict=True))
        ]
        return pl.DataFrame(rows, schema=columns, orient="row")

    @property
    def asked_rows(self) -> pl.DataFrame | None:
        """The rows that `predict` is asked for in place of the test split."""
        return self._people[1] if self.query_rows is None and self.people is not None else self.query_rows

    @cached_property
    def _people(self) -> tuple[list[NewUser], pl.DataFrame]:
        """The new users of `people`, and their rows for prediction."""
        path = Path(str(self.people))
        people = read_new_users(path)
        return people, new_user_samples(people, self.catalogue, self.samples, path)

    def slices(self, split: str) -> dict[str, Tensor]:
        """Which rows of `table(split)` are about warm or cold users and items; bool `[rows]` by the slice's name.

        Training rows hold the warm ones, as target or in a history.
        """
        train, rows = self.rows("train"), self.rows(split)
        items = pl.concat([train["target"], train["history"].explode()])
        slices: dict[str, Tensor] = {}
        for name, held, known in (("users", rows["user"], train["user"]), ("items", rows["target"], items)):
            warm = torch.from_numpy(held.is_in(known.drop_nulls().unique().to_list()).to_numpy().copy())
            slices |= {f"warm {name}": warm, f"cold {name}": ~warm}
        return slices

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items that have a title, rated or not."""
        return Catalogue(self._titled_items()[0])

    def keep_ratings(self) -> None:
        """Keep all ratings in memory, for many questions about users; they are read once, and then from the cache."""
        self._kept = KeptRatings(self._cached_ratings())

    def ratings_of(self, users: Sequence[str]) -> pl.DataFrame:
        """Some users' ratings, kept or from the raw files, oldest first: `user`, `item`, `title`, `liked`."""
        rated = self._kept.of(users) if self._kept else self._read_ratings(users)
        return with_titles(rated, self.catalogue.items)

    @cached_property
    def users(self) -> pl.Series:
        """The ids of all who rated something, in order; with `splits`, in train."""
        tables = self.read()
        ratings = self._splits(tables).get("train", tables.interactions)
        frame = ratings.frame.select(pl.col("user").unique()).collect(engine="streaming")
        return frame["user"].drop_nulls().sort()

    @property
    def unknown_user(self) -> str:
        """What is said of a user, `{}`, of whom nothing is known."""
        return "the ratings have no user {}"

    @cached_property
    def user_features(self) -> pl.DataFrame:
        """The side features of all users, with samples or without: `user` and `user_*`."""
        if not any(name.startswith("user_") for name in self.samples.columns):
            return self.samples.select("user").clear()
        files = self._files()
        if files is None:
            return self._read_users()
        return cached_table("users", files, self.options, self._read_users, self.cache_dir, self.cache_key())

    def rollout_batches(self) -> list[int]:
        """Rows per rollout batch of an epoch, over all ranks."""
        return [len(rows) for rows in self._sampler(self.table("train"), self.rollout_spec(0)).batches]

    def _loader(self, split: str, spec: BatchSpec) -> ResumableLoader:
        table = self.table(split)
        rows = torch.arange(len(table)) if spec.rows is None else spec.rows
        return ResumableLoader(self._sampler(table, spec), lambda places: table.batch(rows[places], spec.titles))

    def _sampler(self, table: SampleTable, spec: BatchSpec) -> EpochSampler:
        labels = table.label if spec.rows is None else table.label[spec.rows]
        return EpochSampler(len(labels), spec.size, self.seed, spec.epoch, labels if spec.balanced else None)

    @property
    def _trainer(self) -> L.Trainer:
        assert self.trainer is not None
        return self.trainer

    def _splits(self, tables: RawTables) -> Mapping[str, RawTable]:
        """The user's own splits, or those that the dataset has; perhaps none."""
        if self.splits:
            return {name: self.read_ratings(Path(os.path.expanduser(getattr(self.splits, name)))) for name in SPLITS}
        return tables.splits

    @cached_property
    def _prepared(self) -> tuple[pl.DataFrame, DataSummary]:
        files = self._files()
        if files is None:
            return self._make()
        samples, summary = cached_samples(files, self.options, self._make, self.cache_dir, self.cache_key())
        tables = self.read()
        summary.notes = notes_on(tables, self._splits(tables))  # the cache's key does not cover unused files
        return samples, summary

    def _files(self) -> list[Path] | None:
        """The files of which samples are made; None if they are made of data frames, and not cached."""
        tables = self.read()
        return [*tables.files, *(path for table in self._splits(tables).values() for path in table.files)]

    def _item_files(self) -> list[Path] | None:
        """The files in which titles are; None as for `_files`."""
        return [*self.read().items.files]

    def _make(self) -> tuple[pl.DataFrame, DataSummary]:
        """Reads the files only when samples must be made: a file that is not UTF-8 is held in memory."""
        (items, counts), tables = self._titled_items(), self.read()
        samples, summary = make_samples(tables, self.options, self._splits(tables), items)
        summary.side_dropped = counts["dropped"] | summary.side_dropped
        summary.files = counts["read"] | summary.files
        rate = float(samples["label"].mean() or 0.0)  # type: ignore[arg-type]
        if rate in (0, 1):
            raise UserError(
                f"all {samples.height:,} samples have the label {rate:g}, which no model can learn from. Fix: check "
                "data.samples.threshold against the scale of the ratings, or of a table data.columns.label"
                + ("; or draw items as dislikes with data.samples.negatives: 4" if rate else "")
            )
        return samples, summary

    def _titled_items(self) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
        """The items that have a title, from the cache if it has them, and what `titled_items` counts."""
        files = self._item_files()
        if files is None:
            return self._read_items()
        return cached_items(files, self.options.on_bad_row, self._read_items, self.cache_dir, self.cache_key())

    def _cached_ratings(self) -> pl.DataFrame:
        """All ratings, from the cache if it has them."""
        files = self._files()
        if files is None:
            return self._read_ratings()
        return cached_table("ratings", files, self.options, self._read_ratings, self.cache_dir, self.cache_key())

    def _read_ratings(self, users: Sequence[str] | None = None) -> pl.DataFrame:
        tables = self.read()
        return read_ratings(tables, self.catalogue.items, self.options, self._splits(tables), users)

    def _read_users(self) -> pl.DataFrame:
        users = self.read().users
        assert users is not None, "samples have features of users"
        return users_with_features(users, self.options, Counter())

    def _read_items(self) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
        dropped, read = Counter[str](), dict[str, int]()
        items = titled_items(self.read(), self.options, dropped, read)
        return items, {"dropped": dict(dropped), "read": read}


def _digest(rows: pl.DataFrame) -> str:
    """A hash of a table, the same with all versions of polars."""
    digest = hashlib.sha256()
    for name in [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.List)]:
        lists = rows.drop_in_place(name)
        digest.update(lists.list.len().to_numpy().tobytes())
        entries = lists.explode(empty_as_null=False)
        for start in range(0, len(entries), 1 << 20):
            text = entries[start : start + (1 << 20)].cast(pl.String).fill_null("").str.join("\x1f")
            digest.update(text.item().encode())
    if rows.width:  # else all were lists
        digest.update(rows.write_csv().encode())
    return digest.hexdigest()
