"""The store loses no explanation and doubles none."""

from pathlib import Path

import polars as pl
import pytest
import torch

from expctr.data.explanations import ExplanationStore


def filled() -> ExplanationStore:
    store = ExplanationStore()
    store.add([3, 5], ["old", "fünf 五"], stage="lc", epoch=0, s_u=[0.25, 0.75])
    store.add([3], ["new"], stage="lc", epoch=0, s_u=[0.5])
    return store


def test_the_latest_text_of_a_sample_counts_and_all_are_kept_as_rows() -> None:
    store = filled()
    assert store.texts([5, 3, 8]) == ["fünf 五", "new", ""]
    assert store.rows == [
        {"sample": 3, "text": "old", "stage": "lc", "epoch": 0, "s_u": 0.25},
        {"sample": 5, "text": "fünf 五", "stage": "lc", "epoch": 0, "s_u": 0.75},
        {"sample": 3, "text": "new", "stage": "lc", "epoch": 0, "s_u": 0.5},
    ]


def test_flush_writes_the_epochs_rows_and_begins_anew(tmp_path: Path) -> None:
    store = filled()
    rows = store.rows
    path = store.flush(tmp_path / "explanations", "000-lc")
    assert path == tmp_path / "explanations" / "000-lc.parquet"
    assert pl.read_parquet(path).to_dicts() == rows
    assert [file.name for file in path.parent.iterdir()] == ["000-lc.parquet"]  # nothing half written is left
    assert store.rows == []
    assert store.texts([3, 5]) == ["new", "fünf 五"]
    assert store.flush(tmp_path / "explanations", "001-lc") is None
    assert not (tmp_path / "explanations" / "001-lc.parquet").exists()


def test_rows_of_two_stages_may_have_different_columns(tmp_path: Path) -> None:
    store = filled()
    store.add([7], ["later"], stage="ic", epoch=2, s_r=[0.5], s_0=[1])
    path = store.flush(tmp_path, "mixed")
    assert path is not None
    table = pl.read_parquet(path)
    assert table["s_r"].to_list() == [None, None, None, 0.5]
    assert table["s_u"].to_list() == [0.25, 0.75, 0.5, None]


def test_a_store_comes_back_from_a_checkpoint_that_loads_weights_only(tmp_path: Path) -> None:
    torch.save(filled().state_dict(), tmp_path / "state.pt")
    store = ExplanationStore()
    store.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (store.latest, store.rows) == (filled().latest, filled().rows)


def test_a_resumed_epoch_has_the_rows_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = filled()
    state = whole.state_dict()
    whole.add([9], ["after the checkpoint"], stage="lc", epoch=0, s_u=[1.0])
    resumed = ExplanationStore()
    resumed.add([1], ["of another run"])
    resumed.load_state_dict(state)
    resumed.add([9], ["after the checkpoint"], stage="lc", epoch=0, s_u=[1.0])
    paths = [store.flush(tmp_path, name) for store, name in ((whole, "whole"), (resumed, "resumed"))]
    first, second = (pl.read_parquet(path) for path in paths if path)
    assert first.equals(second)
    assert resumed.latest == whole.latest


def test_a_state_does_not_change_with_the_store() -> None:
    store = filled()
    state = store.state_dict()
    store.add([3], ["newest"], stage="lc", epoch=1, s_u=[0.1])
    store.rows[0]["text"] = "changed"
    assert state["latest"][3] == "new"
    assert [row["text"] for row in state["rows"]] == ["old", "fünf 五", "new"]


def test_texts_and_samples_of_different_number_are_refused() -> None:
    store = ExplanationStore()
    with pytest.raises(ValueError, match="zip"):
        store.add([1, 2], ["one"])


def test_several_explanations_take_turns_and_a_single_one_becomes_the_latest() -> None:
    store = filled()
    store.keep([3, 8], [["a", "b", "c"], ["d", "e", "f"]])
    store.keep([5], [["alone"]])
    assert [store.texts([3, 5, 8], draw) for draw in (0, 1, 4)] == [
        ["a", "alone", "d"],
        ["b", "alone", "e"],
        ["b", "alone", "e"],
    ]
    assert store.latest == {3: "new", 5: "alone"}  # what the policy wrote last stays
    assert [sample in store for sample in (3, 8, 9)] == [True, True, False]
    again = ExplanationStore()
    assert not again
    again.load_state_dict(store.state_dict())
    assert again.state_dict() == store.state_dict()


def test_a_store_of_an_older_checkpoint_has_one_explanation_per_sample() -> None:
    store = ExplanationStore()
    store.load_state_dict({"latest": {3: "text"}, "rows": []})
    assert store.texts([3], draw=5) == ["text"]
