"""What the models are fed."""

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from expctr.data.batch import Batch, SampleText


def test_lightning_moves_a_batch_and_copies_no_titles() -> None:
    texts = [SampleText("Heat", ("Alien",)), SampleText("Up")]
    batch = Batch(torch.arange(2), torch.ones(2), {"user": torch.arange(2), "liked": torch.zeros(2, 3).long()}, texts)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert {t.device.type for t in (moved.sample, moved.label, *moved.features.values())} == {"meta"}
    assert {name: values.shape for name, values in moved.features.items()} == {"user": (2,), "liked": (2, 3)}
    assert moved.texts is texts
    stays = move_data_to_device(batch, torch.device("cpu"))
    assert stays.sample is batch.sample
    assert stays.texts is texts
