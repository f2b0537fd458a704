"""What people read of a run: tables of explanations, the result table, the predictions."""

from typing import Any

import lightning as L
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.text import Text
from torch import Tensor

from expctr.data.batch import SampleText
from expctr.evaluation.table import ResultTable
from expctr.llm.sharding import unsharded
from expctr.modules.expctr import ExpCTRModule
from expctr.rewards import alignment

ROWS = {"ICL": "s_icl", "DeepFM": "s_plain", "ExpCTR-LLM": "s_u", "ExpCTR-Aug": "s_r"}
"""The table's rows and the columns of their scores."""


class ResultWriter(Callback):
    """Shows explanations in TensorBoard after each validation, and writes the results of test and predict.

    Args:
        examples: how many explanations are shown.
    """

    def __init__(self, examples: int = 8) -> None:
        self.examples = examples

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A text table of explanations in TensorBoard."""
        if not isinstance(pl_module, ExpCTRModule) or not isinstance(trainer.logger, TensorBoardLogger):
            return
        columns, texts = pl_module.evaluated, _texts(pl_module, "val")
        if "text" not in columns or not trainer.is_global_zero:
            return
        shown = {name: values[: self.examples] for name, values in columns.items()}
        metric = pl_module.explainer.reward.metric
        numbers = {"s_u": shown["s_u"]}
        numbers["LC reward"] = alignment(torch.tensor(shown["s_u"]), torch.tensor(shown["label"]), metric).tolist()
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

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The table (console, `table.json`, `table.md`), and the explanations."""
        if not isinstance(pl_module, ExpCTRModule):
            return
        columns, texts = pl_module.evaluated, _texts(pl_module, "test")
        examples = self._before_and_after(pl_module, columns, texts)
        if not trainer.is_global_zero:
            return
        folder, console = pl_module.folder, Console()
        (folder / "explanations").mkdir(parents=True, exist_ok=True)
        pl.DataFrame(columns).write_parquet(folder / "explanations" / "test.parquet")
        pl.DataFrame(examples).write_parquet(folder / "explanations" / "examples.parquet")
        for row in examples:
            console.print(Text(f"\n{row['target']} ({'liked' if row['label'] else 'disliked'})", style="bold"))
            console.print(Text(f"  before: {row['before']}\n  after:  {row['after']}"))
        title = pl_module.explainer.prompts.title
        named = sum(title(texts[s].target) in text for s, text in zip(columns["sample"], columns["text"], strict=True))
        share = named / max(1, len(columns["sample"]))
        console.print(f"\n{share:.1%} of {len(columns['sample'])} explanations name the target's title as it is")
        scores = {name: _tensor(columns[column]) for name, column in ROWS.items() if column in columns}
        data = pl_module.data
        table = ResultTable.from_scores(
            scores, _tensor(columns["label"]), float(data.table("train").label.mean()), data.paper_dataset
        )
        table.write(folder)
        console.print(table)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One row a sample in `predictions.parquet`: ids, explanation, s_u, s_r."""
        if not isinstance(pl_module, ExpCTRModule) or not trainer.is_global_zero:
            return
        frame = pl.DataFrame(pl_module.evaluated).drop("label").rename({"text": "explanation"})
        path = pl_module.folder / "predictions.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl_module.data.prediction_ids().join(frame, on="sample", how="inner").write_parquet(path)
        Console().print(f"{frame.height} predictions in {path}")

    def _before_and_after(
        self, module: ExpCTRModule, columns: dict[str, list[Any]], texts: dict[int, SampleText]
    ) -> list[dict[str, Any]]:
        """The first explanations, beside what the untrained model writes on the same prompts."""
        samples = columns["sample"][: self.examples]
        if not samples:
            return []
        with unsharded(module.explainer.model):
            _, before = module.explainer.explain([texts[sample] for sample in samples], adapter=False)
        return [
            {"target": texts[s].target, "label": int(columns["label"][i]), "before": old, "after": columns["text"][i]}
            for i, (s, old) in enumerate(zip(samples, before, strict=True))
        ]


def _texts(module: ExpCTRModule, split: str) -> dict[int, SampleText]:
    table = module.data.table(split)
    return dict(zip(table.sample.tolist(), table.texts, strict=True))


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _plain(text: str) -> str:
    """Text that neither Markdown nor HTML reads anything into: every special character as an entity."""
    return "".join(c if c.isalnum() or c in " ,.'" else f"&#{ord(c)};" for c in text)
