"""A CTR model on a finished run's explanations: which text goes with which row, and what is refused."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest
import torch

from expctr.ctr.encoder import EncoderOptions
from expctr.ctr.zoo import DeepFM
from expctr.data.batches import Batch
from expctr.data.features import Vocabulary
from expctr.errors import UserError
from expctr.modules.baselines.explained import ExplainedCTRModule
from expctr.modules.ctr import CTRModule
from expctr.predictor import Predictor

VOCABULARY = Vocabulary({"user": 4, "target": 5})
SAMPLES = pl.DataFrame(
    {"sample": [0, 1, 2, 3], "split": ["train", "train", "val", "test"], "target": ["a", "b", "c", "d"]}
)


def run(folder: Path, samples: list[int], targets: list[str], texts: list[str]) -> str:
    (folder / "explanations").mkdir()
    frame = pl.DataFrame({"sample": samples, "target": targets, "text": texts})
    frame.write_parquet(folder / "explanations" / "latest.parquet")
    return str(folder)


def configured(path: str, llm: Path, people: str | None = None, **options: Any) -> ExplainedCTRModule:
    module = ExplainedCTRModule(path, DeepFM, encoder=EncoderOptions(path=str(llm), **options))
    features = SimpleNamespace(vocabulary=VOCABULARY)
    data = SimpleNamespace(features=features, seed=0, samples=SAMPLES, people=people)
    module._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    module.configure_model()
    return module


def test_each_row_gets_its_own_text(tmp_path: Path, llm_folder: Path) -> None:
    path = run(tmp_path, [3, 0, 2], ["d", "a", "c"], ["three", "zero", "two"])
    module = configured(path, llm_folder)
    batch = Batch(torch.tensor([2, 0, 1]), torch.ones(3), {})
    expected = module.encoder.encode(["two", "zero"])
    assert torch.equal(module.text(batch)[:2], expected)
    assert module.text(batch)[2].eq(0).all()  # a training row that never got one
    centred = configured(path, llm_folder, centre=True).text(batch)
    torch.testing.assert_close(centred, torch.stack([expected[0] - expected[1], *torch.zeros(2, expected.shape[1])]))


def test_what_is_of_other_data_or_unfinished_is_refused(tmp_path: Path, llm_folder: Path) -> None:
    with pytest.raises(UserError, match="run expctr fit and expctr test of ExpCTR first"):
        ExplainedCTRModule(str(tmp_path / "nowhere"), DeepFM)
    path = run(tmp_path, [0, 1, 2, 3], ["a", "b", "c", "another"], ["x"] * 4)
    with pytest.raises(UserError, match="lacks explanations of 1 validation and test samples"):
        configured(path, llm_folder)
    with pytest.raises(UserError, match=r"data\.people: .* the run's own rows alone"):
        configured(path, llm_folder, people="new.csv")
    module = ExplainedCTRModule(path, DeepFM, encoder=EncoderOptions(path=str(llm_folder)))
    with pytest.raises(UserError, match=r"the run's own rows alone"):  # pairs, and requests to serve
        Predictor.restore(cast(Any, None), module, cast(Any, None), Path("last"), ())


@pytest.mark.parametrize("fault", ["pipe", "damaged", "no text", "other types", "twice"])
def test_explanations_that_cannot_be_read_are_one_line(fault: str, tmp_path: Path, llm_folder: Path) -> None:
    """Rows that are there twice would move the vectors of all later ones."""
    path = Path(run(tmp_path, [0, 1, 2, 3, 3], [*"abcd", "d" if fault == "twice" else "e"], ["x"] * 5))
    file = path / "explanations" / "latest.parquet"
    if fault == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif fault == "damaged":
        file.write_bytes(file.read_bytes()[:50])
    elif fault != "twice":
        frame = pl.read_parquet(file)
        (frame.drop("text") if fault == "no text" else frame.with_columns(text=pl.lit(5))).write_parquet(file)
    with pytest.raises(UserError, match=r"latest\.parquet .*\. Fix: run expctr test of that run again"):
        configured(str(path), llm_folder)


def test_other_explanations_than_the_checkpoint_s_are_refused(
    tmp_path: Path, llm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("on_save_checkpoint", "on_load_checkpoint"):
        monkeypatch.setattr(CTRModule, name, lambda self, checkpoint: None)
    checkpoint: dict[str, Any] = {}
    path = run(tmp_path, [0, 1, 2, 3], [*"abcd"], [*"wxyz"])
    configured(path, llm_folder).on_save_checkpoint(checkpoint)
    configured(path, llm_folder).on_load_checkpoint(checkpoint)
    pl.DataFrame({"sample": [0, 1, 2, 3], "target": [*"abcd"], "text": [*"wxyv"]}).write_parquet(
        tmp_path / "explanations" / "latest.parquet"
    )
    with pytest.raises(UserError, match=r"holds other explanations than this run was made with\. Fix: put"):
        configured(path, llm_folder).on_load_checkpoint(checkpoint)
