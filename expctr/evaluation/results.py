"""What people read of a run: tables of explanations, the result table, the predictions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

import lightning as L
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from expctr.data.batches import Batch, SampleText
from expctr.data.datamodules import RatingsDataModule
from expctr.distributed import all_gather_objects
from expctr.errors import UserError, check_range
from expctr.evaluation import audit, quality
from expctr.evaluation.table import ResultTable
from expctr.evaluation.tested import Told, ask, tell
from expctr.metrics import ctr_metrics
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.scoring import ScoringModule
from expctr.training.checkpoint import position
from expctr.untrusted import printable

ROWS = {"ICL": "s_icl", "DeepFM": "s_plain", "ExpCTR-LLM": "s_u", "ExpCTR-Aug": "s_r"}
"""The table's rows and the columns of their scores."""

SOURCES = {
    "ExpCTR-LLM, untrained": "s_u_untrained",
    "ExpCTR-Aug, explanations of the untrained model": "s_r_untrained",
    "ExpCTR-Aug, explanations of other rows": "s_r_exchanged",
    "ExpCTR-Aug, none (z = 0)": "s_0",
}
"""Where the gain comes from: the same models on other explanations, and the columns of their scores."""

_SHOWN = 1000
"""Characters of a title or an explanation on the console."""


class ResultWriter(Callback):
    """Shows explanations in TensorBoard after each validation, and writes the results of test and predict.

    Args:
        examples: how many explanations are shown.
        counterfactual_rows: of how many test rows the prompts are changed and explained anew, to see whether the
            explanation follows (about a dozen explanations a row); 0 for none.
    """

    def __init__(self, examples: int = 8, counterfactual_rows: int = 64) -> None:
        self.examples, self.counterfactual_rows = examples, counterfactual_rows
        check_range("results", self, examples=(0, inf), counterfactual_rows=(0, inf))
        self._scored: list[pl.DataFrame] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse to make a table of no rows: Lightning would pass over it without a word."""
        if stage == "test" and not len(_data(trainer).table("test")):
            raise UserError("no test rows: give data.samples.fractions a last share above 0")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The data in the run's folder, once its checkpoint, if any, is known to be of the same."""
        if trainer.is_global_zero and not trainer.strategy.restore_checkpoint_after_setup:
            _describe(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Likewise under sharding, where a checkpoint is restored later."""
        if trainer.is_global_zero and trainer.strategy.restore_checkpoint_after_setup:
            _describe(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Likewise."""
        if trainer.is_global_zero:
            _describe(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A text table of explanations in TensorBoard; where validation is all there is, the metrics on the console."""
        if not isinstance(pl_module, ExpCTRModule):
            return
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            Console().print(_validation(pl_module.evaluated))
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        columns, texts = pl_module.evaluated, _texts(pl_module, "val")
        if "text" not in columns or not trainer.is_global_zero:
            return
        shown = {name: values[: self.examples] for name, values in columns.items()}
        numbers = {"s_u": shown["s_u"], "LC reward": shown["reward_lc"]}
        numbers |= {name: shown[name] for name in ("s_r", "s_0") if name in shown}
        lines = [f"| label | explanation | {' | '.join(numbers)} | prompt |", "|---" * (3 + len(numbers)) + "|"]
        for i, sample in enumerate(shown["sample"]):
            prompt = pl_module.explainer.prompts.explanation([texts[sample]])[0]
            cells = [
                f"{shown['label'][i]:.0f}",
                _plain(shown["text"][i]),
                *(f"{values[i]:.3f}" for values in numbers.values()),
                _plain(str(pl_module.explainer.model.tokenizer.decode(prompt))),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        trainer.logger.experiment.add_text("explanations", "\n".join(lines), pl_module.batches)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of a model that has nothing else."""
        if isinstance(pl_module, ScoringModule):
            scores, labels = outputs["score"], outputs["label"]
            self._keep(sample=batch.sample, score=scores, label=labels)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of a model that has nothing else."""
        if isinstance(pl_module, ScoringModule):
            self._keep(**outputs)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The table (console, `table.json`, `table.md`), and the explanations."""
        if isinstance(pl_module, ScoringModule):
            rows = self._gather()
            if trainer.is_global_zero:
                scores = {pl_module.name: _tensor(rows["score"].to_list())}
                _write(trainer, [pl_module.name], scores, rows["sample"].to_list(), rows["label"].to_list())
            return
        if not isinstance(pl_module, ExpCTRModule):
            return
        columns, texts = pl_module.evaluated, _texts(pl_module, "test")
        given = [pl_module.explainer.prompts.shown(texts[sample]) for sample in columns["sample"]]
        asked = ask(pl_module, given, self.counterfactual_rows)  # by all ranks: the models may be sharded
        if not trainer.is_global_zero:
            return
        told = tell(pl_module, given, asked)
        examples = self._before_and_after(columns, texts)
        folder, console = pl_module.folder, Console()
        (folder / "explanations").mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame({**columns, **told.columns}, schema_overrides=told.schema)
        frame.write_parquet(folder / "explanations" / "test.parquet")
        pl.DataFrame(examples).write_parquet(folder / "explanations" / "examples.parquet")
        _latest(pl_module).write_parquet(folder / "explanations" / "latest.parquet")
        for row in examples:
            target, before, after = (printable(row[name], _SHOWN) for name in ("target", "before", "after"))
            console.print(Text(f"\n{target} ({'liked' if row['label'] else 'disliked'})", style="bold"))
            console.print(Text(f"  before: {before}\n  after:  {after}"))
        systems = {pl_module.baseline.name if name == "DeepFM" else name: column for name, column in ROWS.items()}
        scores, sources = (
            {name: _tensor(columns[column]) for name, column in rows.items() if column in columns}
            for rows in (systems, SOURCES)
        )
        if standing := _standing(trainer, pl_module):
            console.print(standing)
        _write(trainer, list(systems), scores, columns["sample"], columns["label"], sources, told)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One row a sample in `predictions.parquet`: ids, explanation, s_u, s_r; else ids and score."""
        if isinstance(pl_module, ScoringModule):
            frame = self._gather()
        elif isinstance(pl_module, ExpCTRModule):
            frame = pl.DataFrame(pl_module.evaluated).drop("label").rename({"text": "explanation"})
        else:
            return
        if trainer.is_global_zero:
            path = _folder(trainer) / "predictions.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            _data(trainer).prediction_ids().join(frame, on="sample", how="inner").write_parquet(path)
            Console().print(f"{frame.height} predictions in {printable(str(path))}", markup=False)

    def _keep(self, **columns: Tensor) -> None:
        self._scored.append(pl.DataFrame({name: values.tolist() for name, values in columns.items()}))

    def _gather(self) -> pl.DataFrame:
        """The kept rows of all ranks, in the order of the samples."""
        ranks: list[list[pl.DataFrame]] = all_gather_objects(self._scored)
        parts = [part for rank in ranks for part in rank if part.height]
        self._scored = []
        return pl.concat(parts).sort("sample")

    def _before_and_after(self, columns: dict[str, list[Any]], texts: dict[int, SampleText]) -> list[dict[str, Any]]:
        """The first explanations, beside what the untrained model writes on the same prompts."""
        rows = zip(*(columns[name] for name in ("sample", "label", "text_untrained", "text")), strict=True)
        return [
            {"target": texts[sample].target, "label": int(label), "before": before, "after": after}
            for sample, label, before, after in islice(rows, self.examples)
        ]


def _texts(module: ExpCTRModule, split: str) -> dict[int, SampleText]:
    table = module.data.table(split)
    return dict(zip(table.sample.tolist(), table.texts, strict=True))


def _validation(columns: dict[str, list[Any]]) -> Table:
    """AUC and LogLoss of every system that has scores."""
    table = Table("", "AUC ↑", "LogLoss ↓", title="Validation", box=box.SIMPLE_HEAD)
    for name, column in ROWS.items():
        if column in columns:
            metrics = ctr_metrics(_tensor(columns[column]), _tensor(columns["label"]))
            table.add_row(name, *(f"{metrics[metric]:.4f}" for metric in ("auc", "logloss")))
    return table


def _standing(trainer: L.Trainer, module: ExpCTRModule) -> str:
    """Where in its plan a run's checkpoint was made, unless at the end."""
    place = position(Path(str(trainer.ckpt_path)))
    if place is None or place[0] >= len(module.plan):
        return ""
    epoch, batch = place
    return (
        f"The plan is not finished: the checkpoint is of {module.plan[epoch].name}, epoch {epoch + 1} of "
        f"{len(module.plan)}, after {batch} batches; expctr fit --ckpt_path last goes on."
    )


def _latest(module: ExpCTRModule) -> pl.DataFrame:
    """The newest explanation of each sample, those of the test rows among them: what another model may read."""
    written = module.store.latest | dict(zip(module.evaluated["sample"], module.evaluated["text"], strict=True))
    texts = pl.DataFrame(
        {"sample": list(written), "text": list(written.values())}, {"sample": pl.Int64, "text": pl.String}
    )
    rows: pl.DataFrame = module.data.samples
    return rows.select("sample", "split", "target").join(texts, on="sample", how="inner", maintain_order="left")


def _write(
    trainer: L.Trainer,
    systems: Sequence[str],
    scores: Mapping[str, Tensor],
    samples: list[int],
    labels: list[float],
    sources: Mapping[str, Tensor] = {},
    told: Told | None = None,
) -> None:
    """The table (console, `table.json`, `table.md`), and each row's scores in `scores.parquet`.

    Args:
        trainer: whose run it is.
        systems: the table's rows; one without scores shows dashes.
        scores: by system.
        samples: the rows' sample ids; the data know whose they are.
        labels: the rows'.
        sources: scores of trained models on other explanations.
        told: what there is to say of the explanations.
    """
    data, folder = _data(trainer), _folder(trainer)
    place = torch.tensor(samples) - data.table("test").sample[0]
    slices = {name: rows[place] for name, rows in data.slices("test").items()}
    users = data.rows("test")["user"][place.tolist()]
    rate = float(data.table("train").label.mean())
    paper = data.paper_dataset or ""
    table = ResultTable.from_scores(
        scores, _tensor(labels), rate, paper, users=users.rank("dense").to_torch(), sources=sources, slices=slices
    )
    table = replace(table, systems={name: table.systems.get(name, {}) for name in systems})
    if told is not None:
        short = {"Explanations": quality.lines(told.quality), "Audit": audit.lines(told.audit)}
        short["Left out"] = [f"- {note}" for note in told.notes]
        table = replace(table, quality=told.quality, audit=told.audit, notes=told.notes, short=short)
    table.write(folder)
    columns = {name: values.tolist() for name, values in scores.items()}
    frame = pl.DataFrame({"sample": samples, "user": users, "label": labels, **columns})
    frame.write_parquet(folder / "scores.parquet")
    Console().print(table)
    for line in table.short_lines():
        Console().print(Text(line))


def _describe(trainer: L.Trainer) -> None:
    """What became of the raw rows in `data.json`, and what each sample's id stands for in `samples.parquet`."""
    data, folder = _data(trainer), _folder(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(asdict(data.summary), indent=2) + "\n", "utf-8")
    columns = ["sample", "split", "user", "target", "target_title", "label"]
    data.samples.select(columns).write_parquet(folder / "samples.parquet")


def _data(trainer: L.Trainer) -> RatingsDataModule:
    data: RatingsDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


def _folder(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir)


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _plain(text: str) -> str:
    """Text that neither Markdown nor HTML reads anything into: every special character as an entity."""
    return "".join(c if c.isalnum() or c in " ,.'" else f"&#{ord(c)};" for c in text)
