"""The commands that Lightning's trainer does not have: prepare, plan, export, explain; and predict for pairs."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import polars as pl
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback

from expctr.cli.predict_pairs import check_options, predict_pairs, reasons
from expctr.data.query import make_query
from expctr.data.ratings_module import RatingsDataModule
from expctr.errors import UserError, listed
from expctr.evaluation.explain import ExplanationPrinter
from expctr.evaluation.result_writer import ResultWriter
from expctr.export.exporter import Exporter
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.scoring import ScoringModule
from expctr.modules.staged import StagedModule
from expctr.predictor import PROBLEM, Predictor
from expctr.training.scheduler import StageScheduler
from expctr.untrusted import printable


class Trainer(L.Trainer):
    """Lightning's trainer, with `prepare`, `plan`, `export`, `explain`, and a `predict` that takes pairs."""

    def prepare(self, model: L.LightningModule, datamodule: RatingsDataModule, strict: bool = False) -> None:
        """Read the raw files, draw the samples, and print the counts and what looks wrong.

        Args:
            model: not used.
            datamodule: the config's data.
            strict: end with exit code 1 if something looks wrong.
        """
        datamodule.prepare_data()
        if strict and datamodule.findings:
            sys.exit(1)

    def plan(
        self,
        model: L.LightningModule,
        datamodule: L.LightningDataModule,
        devices: int = 1,
        memory: str = "80GB",
        prompt_tokens: int | None = None,
        processor: bool | None = None,
        samples: int | None = None,
        tflops: float = 312.0,
        utilisation: float = 0.3,
        bandwidth: float = 1600.0,
        launch_us: float = 10.0,
        json: bool = False,
    ) -> None:
        """Forecast a run's memory, steps, tokens and hours from the language model's config. Nothing is trained.

        Args:
            model: the config's model.
            datamodule: the config's data; only its options are used.
            devices: number of devices that share the run.
            memory: memory of each device, such as 80GB or 24GiB.
            prompt_tokens: length of the longest prompt; null for model.explainer.prompts.prompt_tokens.
            processor: the run is on CPUs instead of GPUs; null for whether trainer.accelerator is cpu.
            samples: number of samples over all splits; null for data.samples.max_samples.
            tflops: peak rate of each device, in 10^12 operations per second; 312 is an A100's or A800's in bfloat16.
            utilisation: the share of the peak rate that matrix products reach.
            bandwidth: memory that a device reads while it decodes, in 10^9 bytes per second; an A100 reaches 2039 at
                its peak.
            launch_us: microseconds to start a kernel while decoding; llm.compile_decoding starts one per token.
            json: print one line of JSON, with memory in bytes.
        """
        if not isinstance(model, ExpCTRModule):
            raise UserError(f"model: {type(model).__name__} has no plan. Fix: give ExpCTRModule")
        from expctr.planning.output import PlanOptions, print_plan  # it imports peft, which --help can do without

        processor = isinstance(self.accelerator, CPUAccelerator) if processor is None else processor
        options = PlanOptions(
            devices=devices,
            memory=memory,
            prompt_tokens=prompt_tokens,
            processor=processor,
            samples=samples,
            tflops=tflops,
            utilisation=utilisation,
            bandwidth=bandwidth,
            launch_us=launch_us,
            json=json,
        )
        (stages,) = [callback for callback in vars(self)["callbacks"] if isinstance(callback, StageScheduler)]
        print_plan(model.explainer, datamodule, stages.plan, stages.explanations, options)

    def export(
        self,
        model: L.LightningModule,
        datamodule: RatingsDataModule,
        ckpt_path: str | None = None,
        out: str | None = None,
        merged: bool = False,
    ) -> None:
        """Write the trained weights to files that need no expctr: the adapter for PEFT, the rest as safetensors.

        Args:
            model: the run's module.
            datamodule: the run's data.
            ckpt_path: the checkpoint; null or `last` for the run's newest.
            out: the new folder; null for `export` in the run's folder.
            merged: also write the language model with the adapter merged into its weights, in float32.
        """
        run = Path(self.default_root_dir)
        exporter = Exporter(model, Path(os.path.realpath(out or run / "export")), merged, run)  # a link may change
        datamodule.setup()
        self._predict_for(exporter, model, datamodule, datamodule.samples.head(1), ckpt_path)

    def explain(
        self,
        model: L.LightningModule,
        datamodule: RatingsDataModule,
        target: str = "",
        user: str | None = None,
        liked: list[str] | str | None = None,
        disliked: list[str] | str | None = None,
        json: bool = False,
        ckpt_path: str | None = None,
    ) -> None:
        """Explain one choice: the sentence, the scores, and the title of the history that moved them most.

        Args:
            model: the module of an ExpCTR run.
            datamodule: the run's data.
            target: the title in question, or an item's id (id:7, where a title reads like an id).
            user: a user's id, as in the ratings file.
            liked: in place of a user: titles that a person likes, oldest first; a JSON list, or separated by |.
            disliked: titles that the person dislikes, likewise.
            json: print one line of JSON; expctr.evaluation.explain.answer documents its keys.
            ckpt_path: the checkpoint; null or `last` for the run's newest.
        """
        datamodule.setup()
        question = make_query(datamodule, user, liked, disliked, target)
        self._predict_for(ExplanationPrinter(question, json), model, datamodule, question.rows, ckpt_path)

    def predict(  # type: ignore[override]
        self,
        model: L.LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: RatingsDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        pairs: str | None = None,
        out: str | None = None,
        explain: str = "all",
        force: bool = False,
    ) -> Any:
        """Write explanations and scores: of the test rows, of data.people, or of the pairs of a file.

        Args:
            model: the run's module.
            dataloaders: not used.
            datamodule: the run's data.
            return_predictions: not used.
            ckpt_path: the checkpoint; null or `last` for the run's newest.
            weights_only: always true.
            pairs: CSV or parquet of pairs: `user` and `item` (ids of the data), or `liked_titles`, `disliked_titles`
                and `target_title`, or both mixed. Other columns are copied to the output.
            out: CSV or parquet to write the pairs with their scores to.
            explain: which pairs get a sentence: `all`, `none`, or `top:3` for the three of each user that the CTR model
                without sentences likes best.
            force: overwrite `out`.
        """
        if pairs is None:
            of_pairs = {"out": out is not None, "explain": explain != "all", "force": force}
            if idle := [name for name, given in of_pairs.items() if given]:
                raise UserError(f"{', '.join(idle)}: only pairs of a file have such options. Fix: give --pairs FILE")
            return super().predict(model, dataloaders, datamodule, return_predictions, ckpt_path, weights_only)
        assert isinstance(model, (StagedModule, ScoringModule))
        assert isinstance(datamodule, RatingsDataModule)
        if self.world_size > 1:
            raise UserError(
                "trainer.devices: --pairs are scored on one device. Fix: leave the overlay out, or set it to 1"
            )
        written = check_options(Path(pairs), Path(out) if out else None, explain, force)
        predictor = Predictor.restore(self, model, datamodule, Path(str(ckpt_path)), self._other_callbacks())
        outcome = predict_pairs(predictor, Path(pairs), written, explain, Path(str(ckpt_path)), force)
        print(printable(f"scores of {pairs} in {written}{'' if outcome.problems else ': all pairs'}"))
        shown = reasons(outcome.problems)
        for reason, count in shown[:5]:
            print(f"  not scored: {count:,} ({printable(reason)})")
        if others := sum(count for _, count in shown[5:]):
            print(f"  not scored: {others:,} for other reasons, which the column {PROBLEM} gives")
        if outcome.copied:
            print(f"  copied, but not read: {printable(listed(outcome.copied))}")
        if outcome.new.example:
            print(f"  {printable(str(outcome.new))}")
        return None

    def _predict_for(
        self,
        callback: Callback,
        model: L.LightningModule,
        datamodule: RatingsDataModule,
        rows: pl.DataFrame,
        ckpt_path: str | None,
    ) -> None:
        """Predict some rows for a callback, in place of the one that writes predictions.parquet."""
        datamodule.query_rows = rows
        vars(self)["callbacks"] = [*self._other_callbacks(), callback]
        self.predict(model, None, datamodule, return_predictions=False, ckpt_path=ckpt_path, weights_only=True)

    def _other_callbacks(self) -> list[Callback]:
        """All but the one that writes predictions.parquet."""
        return [callback for callback in vars(self)["callbacks"] if not isinstance(callback, ResultWriter)]
