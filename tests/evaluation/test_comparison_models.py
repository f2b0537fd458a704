"""Comparison models learn from the text that they are given, and from nothing else."""

import json
from functools import partial
from pathlib import Path
from shutil import copytree

import polars as pl
import pytest
import torch
from running import World, expctr
from torch import Tensor

from expctr.ctr.click_model import ClickModel, CTROptions
from expctr.ctr.zoo import DeepFM
from expctr.data.batches import SampleTable
from expctr.data.features import Vocabulary
from expctr.evaluation.comparison_models import mean_score, train_click_model
from expctr.metrics import ctr_metrics


def table(rows: int, seed: int) -> SampleTable:
    generator = torch.Generator().manual_seed(seed)
    label = (torch.rand(rows, generator=generator) < 0.5).float()
    features = {name: torch.ones(rows, dtype=torch.long) for name in ("user", "target")}
    return SampleTable(torch.arange(rows), label, features)


def verdicts(rows: SampleTable, draw: int, right: float) -> Tensor:
    """Vectors `[rows, 4]` whose sign agrees with that share of the labels; each draw errs on other rows."""
    agrees = torch.rand(len(rows), generator=torch.Generator().manual_seed(draw)) < right
    sign = torch.where(agrees, 2 * rows.label - 1, 1 - 2 * rows.label)
    return sign[:, None] * torch.tensor([1.0, -1.0, 1.0, 1.0])


def fitted(right: float) -> tuple[float, float]:
    """AUC on other rows, of one text per row and of the mean over eight."""
    train, val, test = table(600, 1), table(200, 2), table(400, 3)
    model = ClickModel(partial(DeepFM, mlp=(8,)), CTROptions(lr=1e-2))
    model.build(Vocabulary({"user": 3, "target": 3}, history=1), 4)
    drawn = torch.stack([verdicts(val, 50 + draw, right) for draw in range(3)])
    train_click_model(model, (train, lambda epoch: verdicts(train, epoch % 3, right)), (val, drawn), 64, 1, 9, seed=0)
    texts = torch.stack([verdicts(test, 90 + draw, right) for draw in range(8)])
    one, eight = mean_score(model, test, texts[:1]), mean_score(model, test, texts)
    return ctr_metrics(one, test.label)["auc"], ctr_metrics(eight, test.label)["auc"]


def test_a_text_that_tells_the_label_is_read_and_several_tell_more() -> None:
    one, eight = fitted(right=0.75)
    assert 0.68 < one < 0.82  # a sign that is right for 75% of the rows of either label
    assert eight > one + 0.1


def test_a_text_that_tells_nothing_is_worth_nothing() -> None:
    one, eight = fitted(right=0.5)
    assert abs(one - 0.5) < 0.08
    assert abs(eight - 0.5) < 0.08


@pytest.mark.parametrize("untrained", [False, True])
def test_a_test_compares_with_the_title_and_on_request_with_untrained_sentences(
    world: World, tmp_path: Path, untrained: bool
) -> None:
    run = copytree(world.tested("one"), tmp_path / "run")
    folder = f"--trainer.default_root_dir={run}"
    expctr("test", *world.options("one"), folder, f"--results.untrained_model={untrained}").ok()
    systems = json.loads((run / "table.json").read_text())["systems"]
    assert "DeepFM + title" in systems
    assert ("DeepFM + untrained sentences" in systems) is untrained
    scores = pl.read_parquet(run / "scores.parquet")
    assert scores["DeepFM + title"].is_between(0, 1).all()
    if untrained:
        assert scores["DeepFM + untrained sentences"].to_list() != scores["ExpCTR-Aug"].to_list()
