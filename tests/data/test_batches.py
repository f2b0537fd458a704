"""Batches in an order that seed and epoch decide, over any number of ranks, from any batch on."""

from collections.abc import Callable
from itertools import chain

import polars as pl
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from tiny import typed_samples
from torch import Tensor

from expctr.data import batches
from expctr.data.batches import Batch, EpochSampler, ResumableLoader, SampleTable, SampleText
from expctr.data.features import Features

RankSetter = Callable[[int, int], None]


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> RankSetter:
    """Play one rank of several."""

    def play(rank: int, world: int) -> None:
        monkeypatch.setattr(batches, "rank", lambda: rank)
        monkeypatch.setattr(batches, "world_size", lambda: world)

    return play


def order(sampler: EpochSampler) -> list[list[int]]:
    return [sampler.rows(i).tolist() for i in range(len(sampler))]


def make_batch(rows: Tensor) -> Batch:
    return Batch(rows, torch.zeros(len(rows)), {"item": rows + 1})


def seen(batches: ResumableLoader) -> list[list[int]]:
    return [batch.sample.tolist() for batch in batches]


def test_the_order_is_decided_by_seed_and_epoch() -> None:
    first = order(EpochSampler(50, 8, seed=3, epoch=1))
    torch.manual_seed(12345)  # nothing else does
    assert order(EpochSampler(50, 8, seed=3, epoch=1)) == first
    assert order(EpochSampler(50, 8, seed=3, epoch=2)) != first
    assert order(EpochSampler(50, 8, seed=4, epoch=1)) != first


def test_no_draw_is_taken_from_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    EpochSampler(50, 8, seed=3, epoch=1, labels=torch.arange(50) % 2)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 33, 64])
@pytest.mark.parametrize("batch_size", [1, 4, 8, 100])
def test_each_row_comes_once_in_batches_of_nearly_one_size(size: int, batch_size: int) -> None:
    batches = order(EpochSampler(size, batch_size, epoch=0))
    assert sorted(chain.from_iterable(batches)) == list(range(size))
    sizes = {len(batch) for batch in batches}
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == -(-size // batch_size)


def test_without_an_epoch_rows_stand_as_they_are() -> None:
    assert order(EpochSampler(5, 2)) == [[0, 1], [2, 3], [4]]


def test_no_rows_make_no_batches() -> None:
    assert len(EpochSampler(0, 4, epoch=0)) == 0


@pytest.mark.parametrize("batch_size", [2, 4, 6, 8])
@pytest.mark.parametrize("liked", [3, 10, 20, 37])
def test_balanced_batches_are_half_liked_and_half_disliked(liked: int, batch_size: int) -> None:
    labels = torch.tensor([1.0] * liked + [0.0] * (40 - liked))
    batches = order(EpochSampler(40, batch_size, epoch=0, labels=labels))
    for batch in batches:
        assert labels[batch].mean() == 0.5
        assert len(batch) <= batch_size
        rare = [row for row in batch if (row < liked) is (liked <= 20)]
        assert len(set(rare)) == min(len(rare), liked, 40 - liked)  # none twice while there are others
    assert max(map(len, batches)) - min(map(len, batches)) <= 2
    drawn = list(chain.from_iterable(batches))
    assert len(drawn) == 40
    scarce = range(liked) if liked <= 20 else range(liked, 40)
    assert set(scarce) <= set(drawn)  # each row of the scarcer label
    often = [drawn.count(row) for row in set(range(40)) - set(scarce)]
    assert set(often) <= {0, 1}  # and none of the other twice


def test_balanced_epochs_show_every_row_in_time() -> None:
    labels = torch.tensor([1.0] * 5 + [0.0] * 35)
    rows = {row for epoch in range(12) for batch in order(EpochSampler(40, 8, 0, epoch, labels)) for row in batch}
    assert rows == set(range(40))


def test_balance_without_rows_of_one_label_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of both labels"):
        EpochSampler(4, 2, epoch=0, labels=torch.ones(4))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_ranks_share_each_global_batch(world: int, balanced: bool, as_rank: RankSetter) -> None:
    sampler = EpochSampler(40, 8, epoch=0, labels=torch.arange(40) % 2 if balanced else None)
    whole = order(sampler)
    parts = []
    for rank in range(world):
        as_rank(rank, world)
        parts.append(order(sampler))
    for i, batch in enumerate(whole):
        dealt = [part[i] for part in parts]
        assert [dealt[k % world][k // world] for k in range(len(batch))] == batch  # in turn
        assert sum(map(len, dealt)) == len(batch)


@pytest.mark.parametrize("stop", range(6))
def test_a_loader_resumed_from_any_batch_yields_exactly_the_rest(stop: int) -> None:
    whole = seen(ResumableLoader(EpochSampler(21, 4, 0, 7), make_batch))
    assert len(whole) == 6
    killed = ResumableLoader(EpochSampler(21, 4, 0, 7), make_batch)
    iterator = iter(killed)
    for _ in range(stop):
        next(iterator)
    resumed = ResumableLoader(EpochSampler(21, 4, 0, 7), make_batch)
    resumed.load_state_dict(killed.state_dict())
    assert seen(resumed) == whole[stop:]
    assert seen(resumed) == whole  # and from the start in its next epoch


def test_a_batch_under_way_counts_as_seen() -> None:
    batches = ResumableLoader(EpochSampler(8, 4, 0, 0), make_batch)
    for i, _ in enumerate(batches):
        assert batches.state_dict() == {"epoch": 0, "seen": i + 1}


def test_the_place_in_another_epoch_is_ignored() -> None:
    batches = ResumableLoader(EpochSampler(21, 4, 0, 8), make_batch)
    batches.load_state_dict({"epoch": 7, "seen": 3})
    assert len(seen(batches)) == len(batches) == 6


def test_repeated_rows_stand_next_to_each_other() -> None:
    batch = Batch(
        torch.tensor([4, 9]),
        torch.tensor([1.0, 0.0]),
        {"liked": torch.tensor([[1, 0], [2, 3]])},
        [SampleText("A"), SampleText("B")],
    )
    twice = batch.repeat(2)
    assert len(twice) == 4
    assert twice.sample.tolist() == [4, 4, 9, 9]
    assert twice.label.tolist() == [1, 1, 0, 0]
    assert twice.features["liked"].tolist() == [[1, 0], [1, 0], [2, 3], [2, 3]]
    assert [text.target for text in twice.texts] == ["A", "A", "B", "B"]
    assert batch.repeat(1).sample.tolist() == [4, 9]


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


def test_a_title_that_many_samples_have_is_in_memory_once() -> None:
    longer = pl.col("liked_titles", "disliked_titles").list.eval(pl.format("{} again", pl.element()))
    samples = typed_samples().with_columns(longer)
    texts = SampleTable.from_samples(samples, Features.fit(samples)).texts
    assert len({id(text.target) for text in texts}) == 1
    assert len({id(title) for text in texts for title in text.liked + text.disliked}) == 3
