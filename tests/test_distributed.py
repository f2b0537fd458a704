"""Sums and gathers over two gloo processes, and a sharded CTR model that learns what an unsharded one does."""

import os
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from running import together
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from expctr import distributed
from expctr.ctr.click_model import CTROptions, MakeBackbone
from expctr.ctr.zoo import DCN, DeepFM
from expctr.data.batches import Batch
from expctr.data.features import Vocabulary
from expctr.modules.ctr import CTRModule


def rows() -> tuple[Batch, Tensor]:
    generator = torch.Generator().manual_seed(0)
    user, target = torch.randint(0, 9, (2, 30), generator=generator)
    label = torch.randint(0, 2, (30,), generator=generator).float()
    return Batch(torch.arange(30), label, {"user": user, "target": target}), torch.randn(30, 4, generator=generator)


def share(batch: Batch, text: Tensor, rank: int, ranks: int) -> tuple[Batch, Tensor]:
    """Unequal parts: a third and two thirds."""
    mine = torch.ones(30, dtype=torch.bool) if ranks == 1 else (batch.sample % 3 == 0) == (rank == 0)
    features = {name: values[mine] for name, values in batch.features.items()}
    return Batch(batch.sample[mine], batch.label[mine], features), text[mine]


def train(rank: int, ranks: int) -> dict[str, Tensor]:
    found = {}
    for model, bottleneck in ((DeepFM, 2), (DCN, None)):
        options = CTROptions(crossfit=2, lr=1e-2, text_bottleneck=bottleneck)
        out = train_one(partial(model, mlp=(8, 4), dropout=0.0, oov_rate=0.0), options, rank, ranks)
        found |= {f"{model.__name__} {name}": values for name, values in out.items()}
    return found


def train_one(backbone: MakeBackbone, options: CTROptions, rank: int, ranks: int) -> dict[str, Tensor]:
    module = CTRModule(backbone, options)
    module.build(Vocabulary({"user": 9, "target": 9}), text_dim=4)
    if ranks > 1:
        module.shard(init_device_mesh("cpu", (ranks,)))
    whole = rows()
    batch, text = share(*whole, rank, ranks)
    adam = module.optimizer()

    def run(steps: int) -> Tensor:
        for _ in range(steps):
            adam.zero_grad()
            module.loss(batch, text).backward()
            adam.step()
        return module.score(*whole)

    out = {"first": run(3)}
    module.best.update(0.5)
    run(3)
    module.best.update(0.6)
    module.best.restore()
    out["restored"] = module.score(*whole)
    out["kept"] = torch.cat([weight.flatten() for weight in module.best.state_dict()["weights"].values()])
    module.reset(adam)
    out["again"] = run(3)
    if ranks > 1:
        assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
    return out


def work(rank: int, ranks: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    assert (distributed.world_size(), distributed.rank()) == (2, rank)

    mine = torch.arange(2.0 + rank).requires_grad_()  # [0, 1] and [0, 1, 2]
    assert distributed.all_sum(mine.sum()).item() == 4
    assert distributed.all_gather_rows(mine).tolist() == [0, 1, 0, 1, 2]
    assert distributed.all_gather_rows(torch.full((rank, 2), 7)).tolist() == [[7, 7]]
    assert distributed.all_gather_objects({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    moved, still = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    moved.grad = torch.tensor([1.0, 3.0]) * (1 + 2 * rank)  # [1, 3] and [3, 9]
    distributed.average_gradients([still, moved])
    assert moved.grad.tolist() == [2, 6]
    assert still.grad is None
    mean, std = distributed.all_mean_std(mine)
    torch.testing.assert_close((mean, std), (torch.tensor(0.8).double(), torch.tensor(0.56).double().sqrt()))
    mean, std = distributed.all_mean_std(mine, torch.tensor([0, 1, 1])[: len(mine)])
    torch.testing.assert_close((mean, std), (torch.tensor(4 / 3).double(), torch.tensor(2 / 9).double().sqrt()))

    torch.save(train(rank, ranks), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together(work, 2, port, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_without_a_process_group_each_function_is_the_identity():
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    total = distributed.all_sum(x)
    assert total.tolist() == [1, 3]
    assert not total.requires_grad
    total += 1
    assert x.tolist() == [1, 3]
    assert torch.equal(distributed.all_gather_rows(x), x)
    assert distributed.all_gather_objects("a") == ["a"]
    assert [float(v) for v in distributed.all_mean_std(x)] == [2, 1]


def test_two_ranks_learn_what_one_does(two_ranks: list[dict[str, Tensor]]):
    alone = train(0, 1)
    for ranks in two_ranks:
        for name, values in alone.items():
            torch.testing.assert_close(ranks[name], values, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_reset_and_best_weights_are_exact_when_sharded(two_ranks: list[dict[str, Tensor]]):
    for ranks in two_ranks:
        for model in ("DeepFM", "DCN"):
            assert torch.equal(ranks[f"{model} again"], ranks[f"{model} first"])
            assert torch.equal(ranks[f"{model} restored"], ranks[f"{model} first"])
