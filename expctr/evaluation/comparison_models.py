"""Comparison models: CTR models of the run's kind, trained at test on other texts than the trained explanations.

They answer what the explanations add to a text that costs nothing: the target's title, or the sentence of the untrained
language model.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from expctr.ctr.click_model import ClickModel
from expctr.data.batches import EpochSampler, SampleTable
from expctr.distributed import rank, world_size
from expctr.metrics import ctr_metrics, fit_temperature
from expctr.modules.staged import StagedModule
from expctr.seeding import reseed
from expctr.stages.models import texts_by_row
from expctr.stages.plan import PlanEntry
from expctr.systems import TITLE, UNTRAINED_TEXT
from expctr.training.progress import tracked

Vectors = Callable[[int], Tensor]
"""Epoch -> the vectors of a split's texts, `[rows, dim]`."""


class Scores(NamedTuple):
    """A comparison model's scores, and their temperature."""

    test: list[float]
    """Click probabilities of the tested rows."""
    temperature: float
    """With the lowest LogLoss on the validation rows."""


def comparison_scores(module: StagedModule, untrained: bool) -> dict[str, Scores]:
    """Train the comparison models of a finished run, and score the tested rows; all ranks call it alike.

    Args:
        module: the run's module, whose CTR model is trained.
        untrained: also train on sentences of the untrained language model, which are sampled for all rows first.

    Returns:
        By the systems' columns.
    """
    tables = {split: module.data.table(split) for split in ("train", "val", "test")}
    places = torch.tensor(module.evaluated["sample"]) - tables["test"].sample[0]
    tables["test"] = SampleTable(**vars(tables["test"].batch(places)))  # trainer.limit_test_batches may leave rows out
    titles = {split: [[row.target] for row in table.texts] for split, table in tables.items()}
    scores = {TITLE.column: _scores(module, tables, titles)}
    if untrained:
        sentences = {split: _untrained_texts(module, split, tables[split]) for split in ("train", "val")}
        sentences["test"] = texts_by_row(module.evaluated, "_untrained")  # those that the table's other rows read
        scores[UNTRAINED_TEXT.column] = _scores(module, tables, sentences)
    return scores


def train_click_model(
    model: ClickModel,
    train: tuple[SampleTable, Vectors],
    val: tuple[SampleTable, Tensor],
    batch_size: int,
    min_epochs: int,
    max_epochs: int,
    seed: int,
) -> None:
    """Train until the validation split no longer improves, as the CTR stage does; the best weights are restored.

    All ranks train alike on all rows.

    Args:
        model: built.
        train: the training rows and their vectors in each epoch.
        val: the validation rows and their vectors of all draws, `[draws, rows, dim]`.
        batch_size: training rows per step.
        min_epochs: those of the CTR stage, which goes on until the model without text has stopped improving, too.
        max_epochs: also if it still improves.
        seed: of the rows' order and of dropout.
    """
    optimizer = model.optimizer()
    for epoch in range(max_epochs):
        vectors = train[1](epoch)
        model.train()
        for step, rows in enumerate(EpochSampler(len(train[0]), batch_size, seed, epoch).batches):
            reseed(seed, epoch, step, 0)
            batch = train[0].batch(rows, with_text=False).to(vectors.device)
            loss = model.loss(batch, vectors[rows.to(vectors.device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        metrics = ctr_metrics(mean_score(model, *val), val[0].label)
        if model.best.update(metrics[model.options.monitor]) and epoch + 1 >= min_epochs:
            break
    model.best.restore()


def mean_score(model: ClickModel, table: SampleTable, vectors: Tensor) -> Tensor:
    """The mean click probability of each row over its texts, `[rows]`, on the CPU.

    Args:
        model: trained.
        table: the rows.
        vectors: of the texts, `[draws, rows, dim]`.
    """
    batch = table.batch(range(len(table)), with_text=False).to(vectors.device)
    return model.mean_score(batch, vectors).cpu()


def _scores(module: StagedModule, tables: dict[str, SampleTable], texts: dict[str, list[list[str]]]) -> Scores:
    """Scores by a model that reads these texts, one or several per row."""
    ctr, device = module.models.ctr, module.device
    assert ctr is not None
    assert module.models.encoder is not None
    with torch.inference_mode(False), torch.enable_grad():
        encoder = copy(module.models.encoder)  # the same model, centred on these texts
        if encoder.options.centre:
            encoder.centre([row[0] for row in texts["train"]], device)
        draws = {split: [*zip(*rows, strict=True)] for split, rows in texts.items()}
        vectors = {split: torch.stack([encoder.vectors(draw, device) for draw in draws[split]]) for split in draws}
        model = ClickModel(ctr.backbone, ctr.options)
        model.build(module.data.features.vocabulary, encoder.dim, module.models.seed)
        model.to(device)
        train_click_model(
            model,
            (tables["train"], lambda epoch: vectors["train"][epoch % len(vectors["train"])]),
            (tables["val"], vectors["val"]),
            module.data.ctr_batch_size,
            _ctr_epochs(module.plan),
            _ctr_epochs(module.plan.full),
            module.models.seed,
        )
        val, test = (mean_score(model, tables[split], vectors[split]) for split in ("val", "test"))
    return Scores(test.tolist(), fit_temperature(val, tables["val"].label))


def _ctr_epochs(plan: Iterable[PlanEntry]) -> int:
    """Epochs of the longest CTR stage."""
    return max(Counter(entry.iteration for entry in plan if entry.stage == "ctr").values())


def _untrained_texts(module: StagedModule, split: str, table: SampleTable) -> list[list[str]]:
    """Sentences of the untrained language model, as many per row as the CTR stage has; the ranks share the work."""
    size, count = module.data.eval_batch_size, module.explanations
    starts = range(0, len(table), size)
    for start in tracked(starts, f"untrained sentences, {split}") if rank() == 0 else starts:
        places = range(start, min(start + size, len(table)))[rank() :: world_size()]
        module.models.untrained_explanations(table.batch(places).to(module.device), count)
    return [module.store.untrained[sample] for sample in table.sample.tolist()]
