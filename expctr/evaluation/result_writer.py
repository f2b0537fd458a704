"""The result writer: writes the results of validation, test and predict into the run's folder."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from math import inf
from os.path import samestat
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import lightning as L
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.text import Text
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from expctr.data.batches import Batch, SampleText
from expctr.data.ratings_module import RatingsDataModule
from expctr.data.sample_rows import NewTitles
from expctr.distributed import all_gather_columns
from expctr.errors import UserError, check_range
from expctr.evaluation.assessment import Assessment, assess, query_models
from expctr.evaluation.comparison_models import comparison_scores
from expctr.evaluation.examples import before_and_after, print_examples
from expctr.evaluation.simple_baselines import simple_scores
from expctr.evaluation.table import ResultTable, validation_table
from expctr.evaluation.temperature import fit_temperatures
from expctr.evaluation.tensorboard import add_first_page, explanations_to_read
from expctr.metrics import fit_temperature
from expctr.modules.scoring import ScoringModule
from expctr.modules.staged import StagedModule
from expctr.run_folder import position
from expctr.systems import COMPARISONS, PLAIN, SOURCES, SYSTEMS, of_backbone
from expctr.untrusted import printable
from expctr.whole_files import replacing, write_parquet, write_together


class ResultWriter(Callback):
    """Shows explanations in TensorBoard after each validation, and writes the results of test and predict.

    Args:
        examples: number of explanations to show.
        counterfactual_rows: number of test rows whose prompts are changed and explained again, to see whether the
            explanation follows (about twelve prompts per row); 0 for none.
        untrained_model: after a test, train one more CTR model, on sentences of the untrained language model, to see
            what training the language model was worth. The sentences of all rows are sampled first, which takes about
            as long as an epoch of the LC stage without its updates.
        temperature: whether a test also reports LogLoss and ECE after a temperature: one number per system, with the
            lowest LogLoss on the validation rows, which are explained and scored for it.
    """

    def __init__(
        self,
        examples: int = 8,
        counterfactual_rows: int = 64,
        untrained_model: bool = False,
        temperature: bool = False,
    ) -> None:
        self.examples, self.counterfactual_rows = examples, counterfactual_rows
        self.untrained_model, self.temperature = untrained_model, temperature
        check_range("results", self, examples=(0, inf), counterfactual_rows=(0, inf))
        self._scored: list[Mapping[str, list[Any]]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a test without rows, which Lightning would skip silently, and a folder that cannot be written to."""
        option = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}
        if stage in option and getattr(trainer, option[stage]) == 0:
            raise UserError(f"trainer.{option[stage]} is 0, so there is nothing to do. Fix: raise it, or leave it out")
        if stage in ("test", "predict") and vars(trainer)["fast_dev_run"]:
            raise UserError(
                "trainer.fast_dev_run tries a fit; here it would replace the run's results by those of one batch. Fix: "
                f"leave it out, or limit the rows with trainer.{option[stage]}"
            )
        if stage in ("test", "predict") and trainer.is_global_zero:
            _check_writable(_folder(trainer))
            if (inner := _folder(trainer) / "explanations").is_dir():  # which another user's test may have made
                _check_writable(inner)
            self._place = _folder(trainer).stat()
        if stage == "test" and not len(_data(trainer).table("test")):
            raise UserError("there are no test rows. Fix: set the last share of data.samples.fractions above 0")
        if stage == "test" and self.temperature and not len(_data(trainer).table("val")):
            raise UserError(
                "results.temperature is fitted on validation rows, and there are none. Fix: set the middle share of "
                "data.samples.fractions above 0, or results.temperature to false"
            )

    def _check_place(self, trainer: L.Trainer) -> None:
        """Refuse to write where another run's folder is by now."""
        folder = _folder(trainer)
        if not (folder.is_dir() and samestat(folder.stat(), self._place)):
            raise UserError(
                f"{folder} is no longer the folder that this command began with: that was moved or removed, so no "
                "results are written. Fix: run the command again, with the folder's new name"
            )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say that a command that is stopped leaves no results: they are written at its end."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn in ("test", "predict"):
            exception.add_note("no results were written")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Describe the data, once a checkpoint, if any, is known to fit them."""
        if not trainer.strategy.restore_checkpoint_after_setup:
            _describe_data(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lay out TensorBoard's first page; under sharding, describe the data: only now is a checkpoint restored."""
        if trainer.is_global_zero and isinstance(pl_module, StagedModule):
            for board in _boards(trainer):
                add_first_page(board)
        if trainer.strategy.restore_checkpoint_after_setup:
            _describe_data(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Describe the data."""
        _describe_data(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show explanations in TensorBoard; after `expctr validate`, print the metrics."""
        if not isinstance(pl_module, StagedModule) or not trainer.is_global_zero:
            return
        columns = pl_module.evaluated
        if trainer.state.fn == "validate":
            Console().print(validation_table(columns))
        if "text" in columns and (boards := _boards(trainer)):
            shown = explanations_to_read(pl_module, _texts(pl_module, "val"), self.examples)
            for board in boards:
                board.add_text("explanations", shown, pl_module.batches)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the scores of a model without explanations."""
        if isinstance(pl_module, ScoringModule):
            self._keep(sample=batch.sample, score=outputs["score"], label=outputs["label"])

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the scores of a model without explanations."""
        if isinstance(pl_module, ScoringModule):
            self._keep(**outputs)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and print the result table; write the explanations."""
        if isinstance(pl_module, ScoringModule):
            columns, fitted = self._gather(), self._temperatures(trainer, pl_module)
            if trainer.is_global_zero:
                self._check_place(trainer)
                scores = {pl_module.name: _tensor(columns["score"])}
                temperatures = {pl_module.name: fitted["score"]} if fitted else {}
                _write_table(trainer, columns, scores, systems=[pl_module.name], temperatures=temperatures)
        elif isinstance(pl_module, StagedModule):
            self._write_explained(trainer, pl_module)

    def _write_explained(self, trainer: L.Trainer, module: StagedModule) -> None:
        columns, texts = module.evaluated, _texts(module, "test")
        prompts = [module.models.policy.prompts.shown(texts[sample]) for sample in columns["sample"]]
        outputs = query_models(module, prompts, self.counterfactual_rows)  # on all ranks: models may be sharded
        fitted = self._temperatures(trainer, module)
        if module.models.ctr_trained:
            compared = comparison_scores(module, self.untrained_model)
            columns |= {column: scores.test for column, scores in compared.items()}
            if self.temperature:
                fitted |= {column: scores.temperature for column, scores in compared.items()}
        if not trainer.is_global_zero:
            return
        self._check_place(trainer)
        assessment = assess(module, prompts, outputs)
        examples = before_and_after(columns, texts, self.examples)
        explanations = {
            "test": pl.DataFrame({**columns, **assessment.columns}, schema_overrides=assessment.schema),
            "examples": pl.DataFrame(examples),
            "latest": _latest_explanations(module),
        }
        files = {f"explanations/{name}.parquet": frame for name, frame in explanations.items()}
        console = Console()
        print_examples(examples, console)
        backbone = module.models.plain_name
        shown = (*SYSTEMS, *(system for system in COMPARISONS if system.column in columns))
        names = {system.column: of_backbone(system, backbone) for system in shown}
        scores = {name: _tensor(columns[column]) for column, name in names.items() if column in columns}
        sources = {source.name: _tensor(columns[source.column]) for source in SOURCES if source.column in columns}
        if unfinished := _unfinished(trainer, module):
            console.print(unfinished)
        temperatures = {name: fitted[column] for column, name in names.items() if column in fitted}
        _write_table(trainer, columns, scores, [*names.values()], sources, assessment, temperatures, backbone, files)

    def _temperatures(self, trainer: L.Trainer, module: ScoringModule | StagedModule) -> dict[str, float]:
        return fit_temperatures(trainer, module) if self.temperature else {}

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `predictions.parquet`, one row per sample.

        Its columns are ids, explanation, s_u, s_r, s_0 and s_plain, and of several explanations per row also s_u_std
        and s_r_std; or ids and score.
        """
        if isinstance(pl_module, ScoringModule):
            frame = pl.DataFrame(self._gather())
        elif isinstance(pl_module, StagedModule):
            frame = (
                pl.DataFrame(pl_module.evaluated).drop("label", "texts", strict=False).rename({"text": "explanation"})
            )
        else:
            return
        if trainer.is_global_zero:
            self._check_place(trainer)
            path = _folder(trainer) / "predictions.parquet"
            write_parquet(_data(trainer).prediction_ids().join(frame, on="sample", how="inner"), path)
            lines = [f"{frame.height} predictions in {path}"]
            if (rows := _data(trainer).asked_rows) is not None and (new := NewTitles.of(rows)).example:
                lines.append(f"  {new}")
            Console().print("\n".join(map(printable, lines)), markup=False)

    def _keep(self, **columns: Tensor) -> None:
        self._scored.append({name: values.tolist() for name, values in columns.items()})

    def _gather(self) -> dict[str, list[Any]]:
        """The kept columns of all ranks, in the order of the samples."""
        columns = all_gather_columns(self._scored, order="sample")
        self._scored = []
        return columns


def _check_writable(folder: Path) -> None:
    """Refuse, before hours of scoring, a folder in which no results can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise not_writable(folder, error) from error


def not_writable(folder: Path, error: OSError) -> UserError:
    """The error of a folder in which no results can be written."""
    return UserError(
        f"{folder}: {error.strerror}, so the results cannot be written there. Fix: give another folder by "
        "--trainer.default_root_dir, and --ckpt_path CHECKPOINT of this run"
    )


def _texts(module: StagedModule, split: str) -> dict[int, SampleText]:
    table = module.data.table(split)
    return dict(zip(table.sample.tolist(), table.texts, strict=True))


def _unfinished(trainer: L.Trainer, module: StagedModule) -> str:
    """Where in the plan the checkpoint was made; empty at the plan's end."""
    place = position(Path(str(trainer.ckpt_path)))
    if place is None or place[0] >= len(module.plan):
        return ""
    epoch, batch = place
    return (
        f"The plan is not finished: this checkpoint was made in {module.plan[epoch].name}, epoch {epoch + 1} of "
        f"{len(module.plan)}, after {batch} batches. To resume training, run expctr fit --ckpt_path last."
    )


def _latest_explanations(module: StagedModule) -> pl.DataFrame:
    """The newest explanation of each sample, test rows included, for another model to read."""
    written = module.store.latest | dict(zip(module.evaluated["sample"], module.evaluated["text"], strict=True))
    texts = pl.DataFrame([*written.items()], {"sample": pl.Int64, "text": pl.String}, orient="row")
    rows: pl.DataFrame = module.data.samples
    return rows.select("sample", "split", "target").join(texts, on="sample", how="inner", maintain_order="left")


def _write_table(
    trainer: L.Trainer,
    columns: Mapping[str, list[Any]],
    scores: Mapping[str, Tensor],
    systems: list[str],
    sources: Mapping[str, Tensor] = {},
    assessment: Assessment | None = None,
    temperatures: Mapping[str, float] = {},
    backbone: str = PLAIN.name,
    files: Mapping[str, pl.DataFrame] = {},
) -> None:
    """Print the table; write it (`table.json`, `table.md`), each row's scores (`scores.parquet`) and further `files`.

    All are written before the first replaces that of an earlier test, and `table.json`, which names the checkpoint,
    comes last.

    `systems` are the table's rows below the simple baselines; one without scores shows dashes. `sources` are scores of
    trained models on other explanations, `temperatures` those of the systems, and `backbone` is the CTR model's name.
    """
    data, folder = _data(trainer), _folder(trainer)
    samples, labels = columns["sample"], _tensor(columns["label"])
    place = torch.tensor(samples) - data.table("test").sample[0]
    users = data.rows("test")["user"][place.tolist()]
    counted = simple_scores(data.samples)  # of all splits
    if temperatures:
        val = data.table("val")
        fitted = {name: fit_temperature(values[val.sample], val.label) for name, values in counted.items()}
        temperatures = fitted | dict(temperatures)
    simple = {name: values[samples] for name, values in counted.items()}
    scores, systems = simple | dict(scores), [*simple, *systems]
    table = ResultTable.from_scores(
        scores,
        labels,
        train_rate=float(data.table("train").label.mean()),
        dataset=data.paper_dataset or "",
        systems=systems,
        users=users.rank("dense").to_torch(),
        sources=sources,
        slices={name: rows[place] for name, rows in data.slices("test").items()},
        temperatures=temperatures,
        backbone=backbone,
    )
    if trainer.ckpt_path:
        table = replace(table, checkpoint=Path(trainer.ckpt_path).resolve().name)
    if assessment is not None:
        table = replace(table, quality=assessment.quality, audit=assessment.audit, notes=assessment.notes)
    by_system = {name: values.tolist() for name, values in scores.items()}
    frame = pl.DataFrame({"sample": samples, "user": users, "label": labels.tolist(), **by_system})
    contents: dict[str, str | Callable[[Path], object]] = {
        **{name: rows.write_parquet for name, rows in {**files, "scores.parquet": frame}.items()},
        **table.files(),
    }
    for name in contents:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_together({folder / name: content for name, content in contents.items()})
    console = Console()
    console.print(table, *map(Text, table.detail_lines()), sep="\n")


def _boards(trainer: L.Trainer) -> list[SummaryWriter]:
    """The writers of all TensorBoard loggers."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _describe_data(trainer: L.Trainer) -> None:
    """Write what became of the raw rows (`data.json`), and what each sample id stands for (`samples.parquet`)."""
    if trainer.is_global_zero and not vars(trainer)["fast_dev_run"]:
        data, folder = _data(trainer), _folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "data.json") as part:
            part.write_text(json.dumps(asdict(data.summary), indent=2) + "\n", "utf-8")
        columns = ["sample", "split", "user", "target", "target_title", "label"]
        write_parquet(data.samples.select(columns), folder / "samples.parquet")


def _data(trainer: L.Trainer) -> RatingsDataModule:
    data: RatingsDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir)


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
