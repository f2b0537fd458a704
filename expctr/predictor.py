"""A trained run in Python: load it once, then score pairs and explain choices."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, Self

import lightning as L
import polars as pl
import torch
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.seed import isolate_rng
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from expctr.data.batches import Batch, SampleTable, SampleText
from expctr.data.pairs import PairRows, read_columns
from expctr.data.query import Query, make_query
from expctr.data.ratings_module import CHANGED, RatingsDataModule
from expctr.errors import UserError, root_cause
from expctr.evaluation.explain import answer
from expctr.modules.checks import usable_accelerator
from expctr.modules.scoring import ScoringModule
from expctr.modules.staged import StagedModule
from expctr.run_folder import find_run, read_config
from expctr.stages.models import as_lists
from expctr.training.scheduler import StageScheduler
from expctr.training.selection import check_sharding, listed_at, select_checkpoint

EXPLANATION, PROBLEM = "explanation", "problem"
_PAIR = "_pair"
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Predictor:
    """A trained run that scores pairs and explains choices. Several threads may call it; they take turns.

    Args:
        module: with its weights, on its device.
        data: the run's data, after `setup`.
    """

    def __init__(self, module: StagedModule | ScoringModule, data: RatingsDataModule) -> None:
        self.module, self.data = module.eval(), data
        self._lock = Lock()

    @classmethod
    def load(cls, run: str | Path, checkpoint: str | None = None, device: str | torch.device | None = None) -> Self:
        """Load a run, and keep all ratings in memory for the questions that follow.

        Args:
            run: its folder.
            checkpoint: a path; null for the run's newest.
            device: `auto` (or null), `cpu`, or a GPU: `cuda`, `cuda:1`.

        Raises:
            UserError: the folder holds no run, its checkpoint cannot be used, or its weights are sharded.
        """
        device = str(device or "auto")
        if not _DEVICE.fullmatch(device):
            raise UserError(f"device is {device!r}. Fix: give auto, cpu or cuda, or one GPU of several as cuda:1")
        accelerator, _, index = device.partition(":")
        run = find_run(run).resolve()  # a link may lead to another run when the weights are read
        path = select_checkpoint("predict", checkpoint, run)
        assert path is not None
        path = listed_at(path)
        check_sharding(path, sharded=False)
        config = read_config(run)
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_lightning_class_args(L.LightningModule, "model", subclass_mode=True)
        parser.add_lightning_class_args(RatingsDataModule, "data", subclass_mode=True)
        parser.add_lightning_class_args(StageScheduler, "stages")
        with isolate_rng(), _quiet(), _own_settings():
            L.seed_everything(config["seed_everything"], verbose=False)
            try:
                made = parser.instantiate_classes(
                    parser.parse_object({name: config[name] for name in ("model", "data", "stages")})
                )
                trainer = L.Trainer(
                    accelerator=usable_accelerator(accelerator),
                    devices=[int(index)] if index else 1,
                    default_root_dir=run,
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    max_epochs=-1,
                )
            except (ValueError, ArgumentError, MisconfigurationException) as error:
                raise root_cause(error) from error
            made.data.seed = config["seed_everything"]
            predictor = cls.restore(trainer, made.model, made.data, path, [made.stages])
            made.data.keep_ratings()
            return predictor

    @classmethod
    def restore(
        cls,
        trainer: L.Trainer,
        module: StagedModule | ScoringModule,
        data: RatingsDataModule,
        checkpoint: Path,
        callbacks: Sequence[Callback],
    ) -> Self:
        """Load a checkpoint into a run's module, as its trainer does: by predicting no rows.

        Raises:
            UserError: the model can score no rows but the run's own.
        """
        if isinstance(module, ScoringModule) and module.why_own_rows_only:
            raise UserError(module.why_own_rows_only)
        data.setup()
        data.query_rows = data.samples.clear()
        vars(trainer)["callbacks"] = [*callbacks]
        trainer.predict(module, None, data, return_predictions=False, ckpt_path=checkpoint, weights_only=True)
        data.query_rows = None
        if isinstance(module, ScoringModule):
            module.best.restore()  # without a batch Lightning calls no hook that does
        return cls(module.to(trainer.strategy.root_device), data)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a loaded run cannot be copied or pickled. Fix: load it in each process; threads may share it")

    # --- explaining

    def explain(self, liked: Sequence[str] = (), disliked: Sequence[str] = (), target: str = "") -> dict[str, Any]:
        """Explain whether somebody with this history will like the target.

        Args:
            liked: titles, oldest first.
            disliked: likewise.
            target: a title, or the id of an item after `id:`.

        Returns:
            What `expctr.evaluation.explain.answer` documents.
        """
        return self.answer_all([make_query(self.data, liked=liked, disliked=disliked, target=target)])[0]

    def explain_user(self, user: str, target: str) -> dict[str, Any]:
        """Explain whether a user of the dataset will like the target; otherwise as `explain`."""
        return self.answer_all([make_query(self.data, user=str(user), target=target)])[0]

    def answer_all(self, queries: Sequence[Query]) -> list[dict[str, Any]]:
        """The answers to several queries, computed together.

        Raises:
            UserError: the run writes no explanations.
        """
        if not isinstance(self.module, StagedModule):
            raise UserError(f"{type(self.module).__name__} writes no sentence that could be explained. Fix: use score")
        if not queries:
            return []
        rows = pl.concat([query.rows for query in queries])
        columns = self._predict(rows.with_columns(sample=pl.int_range(pl.len(), dtype=pl.Int64)))
        starts = accumulate((query.rows.height for query in queries), initial=0)
        parts = [
            {name: values[start : start + query.rows.height] for name, values in columns.items()}
            for start, query in zip(starts, queries, strict=False)
        ]
        return [answer(query, part, self.module.models.plain_name) for query, part in zip(queries, parts, strict=True)]

    # --- scoring

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """What `score` adds to the pairs, beside `problem`: names and types."""
        if isinstance(self.module, ScoringModule):
            return {"score": pl.Float64()}
        scores = ["s_u"]
        spread = ["s_u_std"] if self.explanations_per_row > 1 else []
        if self.module.models.ctr_trained:
            scores += ["s_r", "s_0", "s_plain"]
            spread += ["s_r_std"] if spread else []
        return {EXPLANATION: pl.String(), **dict.fromkeys([*scores, *spread], pl.Float64())}

    def score(
        self, pairs: pl.DataFrame, explain: bool | Sequence[bool] | pl.Series = True, rows: PairRows | None = None
    ) -> pl.DataFrame:
        """Score pairs of a user and an item.

        Args:
            pairs: with the columns `user` and `item` (ids of the data), or `liked_titles`, `disliked_titles` and
                `target_title`, or a mixture; see `expctr.data.pairs`.
            explain: write a sentence for all pairs (True), for none, or for some: a list or polars Series of bools.
                Without a sentence only the CTR models score a pair.
            rows: made before for all of the pairs' users; null reads their ratings now.

        Returns:
            The pairs with all their columns, and: `explanation`, `s_u` (the language model), `s_r` (the CTR model with
            the sentence), `s_0` (without it), `s_plain` (trained without sentences), `s_u_std` and `s_r_std` where
            there are several explanations per row, and `problem`: why a pair could not be scored, null where it was. A
            model that writes no sentences adds `score` and `problem` alone.

        Raises:
            DataError: a column is missing.
            UserError: pairs are no data frame of polars, or a column has the name of one that is added.
        """
        if not isinstance(pairs, pl.DataFrame):
            raise UserError(f"pairs are a {type(pairs).__name__}. Fix: give a polars DataFrame")
        self.check_names(pairs.columns)
        wanted = pl.Series([explain] * pairs.height if isinstance(explain, bool) else explain)
        if wanted.is_empty():
            wanted = wanted.cast(pl.Boolean)
        if wanted.dtype != pl.Boolean or wanted.null_count() or len(wanted) != pairs.height:
            raise UserError(
                "explain has no bool for each pair. Fix: give True, False, a list or a polars Series of bools"
            )
        columns = read_columns(pairs)
        rows = rows or PairRows(self.data, columns["user"].unique().to_list())
        made, problems = rows.make(columns)
        explained = wanted.gather(made["sample"])
        scores = pl.concat([self._scores(made.filter(explained)), self._scores(made.filter(~explained), explain=False)])
        numbered = pairs.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(_PAIR))
        scored = numbered.join(scores, on=_PAIR, how="left", maintain_order="left").drop(_PAIR)
        return scored.with_columns(problems.alias(PROBLEM))

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse pairs with a column that `score` would overwrite, with a `UserError`."""
        if taken := {*names} & {*self.columns, PROBLEM, _PAIR}:
            raise UserError(f"pairs have a column {min(taken)}, which is needed for the scores. Fix: rename it")

    def _scores(self, rows: pl.DataFrame, explain: bool = True) -> pl.DataFrame:
        """All of `columns` of some rows, null where there is none."""
        found = self._predict(rows, explain)
        found[EXPLANATION] = found.pop("text", [])
        values = {name: found.get(name) or [None] * rows.height for name in self.columns}
        return pl.DataFrame({_PAIR: rows["sample"], **values}, schema={_PAIR: pl.Int64(), **self.columns})

    def _predict(self, rows: pl.DataFrame, explain: bool = True) -> dict[str, list[Any]]:
        """Columns of rows like those of `make_samples`, in their order."""
        table, columns = SampleTable.from_samples(rows, self.data.features), dict[str, list[Any]]()
        with self._lock, torch.no_grad(), _own_settings():
            for places in shared_batches(table.texts, self.batch_size):
                batch = table.batch(places).to(self.module.device)
                for name, values in as_lists(self._score_batch(batch, explain)).items():
                    column = columns.setdefault(name, [None] * len(table))
                    for place, value in zip(places, values, strict=True):
                        column[place] = value
        return columns

    def _score_batch(self, batch: Batch, explain: bool) -> dict[str, Any]:
        if isinstance(self.module, ScoringModule):
            return {"score": self.module.row_scores(batch)}
        models = self.module.models
        if explain:
            return models.explain(batch, self.explanations_per_row)[0]
        if not (models.ctr_trained and models.ctr and models.plain):
            raise UserError("this run has no trained CTR model, so only sentences score a pair. Fix: explain all pairs")
        return {"s_0": models.ctr.score(batch), "s_plain": models.plain.score(batch)}

    @property
    def explanations_per_row(self) -> int:
        """How many explanations a score with a sentence is the mean of."""
        return self.module.models.policy.evaluation.samples if isinstance(self.module, StagedModule) else 1

    @property
    def batch_size(self) -> int:
        """Rows per batch: as many explanations in memory at a time as `eval_batch_size` says."""
        return max(1, self.data.eval_batch_size // self.explanations_per_row)


def shared_batches(texts: Sequence[SampleText], size: int) -> Iterator[list[int]]:
    """Positions in batches of at most `size`, rows of one history next to each other.

    The language model computes what all prompts of a batch begin with only once. Prompts of one history differ in the
    target alone, so such rows get batches of their own, as far as they fill one.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, text in enumerate(texts):
        groups.setdefault(text[1:], []).append(place)
    rest: list[int] = []
    for group in groups.values():
        whole = len(group) // size * size
        yield from (group[start : start + size] for start in range(0, whole, size))
        rest += group[whole:]
    yield from (rest[start : start + size] for start in range(0, len(rest), size))


load = Predictor.load


@contextmanager
def _own_settings() -> Iterator[None]:
    """Computes in the run's own precision, where a notebook has set another; tensors begin on the CPU.

    Raises:
        UserError: torch's default dtype, which all threads have in common, is another one than float32.
    """
    if torch.get_default_dtype() != torch.float32:
        raise UserError(
            f"torch's default dtype is {torch.get_default_dtype()}. Fix: torch.set_default_dtype(torch.float32)"
        )
    with torch.device("cpu"), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of Lightning and the bars of transformers on the loading of a model."""
    shows_bars = is_progress_bar_enabled()
    disable_progress_bar()
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional package for 4 bits on CPU
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", CHANGED)
            yield
    finally:
        logger.setLevel(level)
        if shows_bars:
            enable_progress_bar()
