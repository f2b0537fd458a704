"""A run's checkpoints: when they are made, which are kept, and that a half-written one is never taken."""

import errno
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from expctr.errors import UserError
from expctr.run_folder import LOCK, checkpoints
from expctr.training.checkpoint import RunCheckpoint, checkpoint_folder, remove
from expctr.training.lock import hold


class Tiny(L.LightningModule):
    """One weight, two optimizer steps a batch."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = nn.Parameter(torch.zeros(1))
        self.dies_at, self.batches = dies_at, 0

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.batches == self.dies_at:
            raise KeyboardInterrupt
        self.batches += 1
        for _ in range(2):
            self.optimizers().zero_grad()
            self.manual_backward((self.weight * batch).sum())
            self.optimizers().step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make(folder: Path, name: str) -> Path:
    path = folder / name
    path.touch()
    return path


def fit(folder: Path, callback: RunCheckpoint, module: Tiny | None = None, **options: Any) -> L.Trainer:
    settings: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 5} | options
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        barebones=False,
        **settings,
    )
    loader = torch.utils.data.DataLoader(torch.ones(20, 1), batch_size=2)
    trainer.fit(module or Tiny(), loader)
    return trainer


def test_nothing_is_saved_in_a_folder_that_came_in_the_place_of_the_run_s(tmp_path: Path) -> None:
    run = tmp_path / "run"
    callback = RunCheckpoint(every_n_batches=2)
    with hold(run) as callback.lock:
        fit(run, callback, max_epochs=1)
        saved = checkpoints(run / "checkpoints")
        run.rename(tmp_path / "old")
        run.mkdir()
        make(run, LOCK)
        with pytest.raises(UserError, match=r"is no longer the folder that this fit began in"):
            fit(run, callback, max_epochs=1)
    assert saved
    assert [path.name for path in run.iterdir()] == [LOCK]


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


def test_checkpoints_are_ordered_by_epoch_and_batch_as_numbers(tmp_path: Path) -> None:
    shuffled = ["epoch=0010-batch=000000.ckpt", "epoch=0002-batch=000100.ckpt", "epoch=0002-batch=000025.ckpt"]
    shuffled += ["epoch=10000-batch=000000.ckpt", "epoch=0002-batch=1000000.ckpt"]
    shuffled += ["epoch=9999-batch=000000.ckpt", "epoch=0002-batch=999999.ckpt"]
    for name in shuffled:
        make(tmp_path, name)
    (tmp_path / "epoch=0003-batch=000000.ckpt").mkdir()  # sharded ones are folders
    assert names(tmp_path) == [
        "epoch=0002-batch=000025.ckpt",
        "epoch=0002-batch=000100.ckpt",
        "epoch=0002-batch=999999.ckpt",
        "epoch=0002-batch=1000000.ckpt",
        "epoch=0003-batch=000000.ckpt",
        "epoch=0010-batch=000000.ckpt",
        "epoch=9999-batch=000000.ckpt",
        "epoch=10000-batch=000000.ckpt",
    ]


def test_what_is_not_a_finished_checkpoint_is_ignored(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "none yet") == []
    good = make(tmp_path, "epoch=0001-batch=000000.ckpt")
    for name in (
        ".epoch=0009-batch=000000.ckpt.tmp",
        "epoch=0009-batch=000000.ckpt.tmp",
        "epoch=0009.ckpt",
        "last.ckpt",
        "my epoch=0009-batch=000000.ckpt",
    ):
        make(tmp_path, name)
    (tmp_path / ".epoch=0008-batch=000000.ckpt.tmp").mkdir()
    assert checkpoints(tmp_path) == [good]


def test_checkpoints_come_every_n_batches_and_after_each_epoch(tmp_path: Path) -> None:
    trainer = fit(tmp_path, RunCheckpoint(every_n_batches=2, keep=100))
    assert names(checkpoint_folder(trainer)) == [
        "epoch=0000-batch=000002.ckpt",
        "epoch=0000-batch=000004.ckpt",
        "epoch=0001-batch=000000.ckpt",
        "epoch=0001-batch=000002.ckpt",
        "epoch=0001-batch=000004.ckpt",
        "epoch=0002-batch=000000.ckpt",
    ]


def test_the_last_batch_of_an_epoch_is_saved_with_the_epoch_only(tmp_path: Path) -> None:
    trainer = fit(tmp_path, RunCheckpoint(every_n_batches=5, keep=100))
    assert names(checkpoint_folder(trainer)) == ["epoch=0001-batch=000000.ckpt", "epoch=0002-batch=000000.ckpt"]


def test_with_0_only_epochs_are_saved_and_the_newest_are_kept(tmp_path: Path) -> None:
    trainer = fit(tmp_path, RunCheckpoint(every_n_batches=0, keep=1), max_epochs=3)
    folder = checkpoint_folder(trainer)
    assert [path.name for path in folder.iterdir()] == ["epoch=0003-batch=000000.ckpt"]
    state = torch.load(checkpoints(folder)[0], weights_only=True)
    # 3 epochs of 5 batches of 2 steps of 0.1, each with a gradient of 2
    assert float(state["state_dict"]["weight"]) == pytest.approx(-6.0)


def test_a_killed_run_leaves_its_last_checkpoint_and_a_leftover_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    make(folder, ".epoch=0000-batch=000002.ckpt.tmp")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, RunCheckpoint(every_n_batches=2), Tiny(dies_at=3))
    assert [path.name for path in folder.iterdir()] == ["epoch=0000-batch=000002.ckpt"]
    state = torch.load(checkpoints(folder)[0], weights_only=True)
    assert float(state["state_dict"]["weight"]) == pytest.approx(-0.8)


def test_a_run_that_goes_on_from_an_older_checkpoint_leaves_no_later_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("epoch=0000-batch=000002.ckpt", "epoch=0007-batch=000000.ckpt", "epoch=0007-batch=000002.ckpt"):
        make(folder, name)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, RunCheckpoint(every_n_batches=2, keep=2), Tiny(dies_at=3))
    assert names(folder) == ["epoch=0000-batch=000002.ckpt"]
    assert float(torch.load(folder / names(folder)[0], weights_only=True)["state_dict"]["weight"]) != 0
    (said,) = (line for line in capsys.readouterr().out.splitlines() if "removed" in line)
    assert "epoch=0007-batch=000000, epoch=0007-batch=000002 removed" in said


def test_an_older_checkpoint_that_cannot_be_removed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a folder on NFS in which another process reads a file."""

    def busy(path: Path) -> None:
        if "epoch=0001" in path.name and not path.name.startswith("."):
            raise OSError(errno.EBUSY, "busy", str(path))

    monkeypatch.setattr("expctr.training.checkpoint.remove", busy)
    with pytest.warns(UserWarning, match=r"an older checkpoint stays, as it cannot be removed: .*epoch=0001"):
        trainer = fit(tmp_path, RunCheckpoint(every_n_batches=0, keep=1))
    assert len(names(checkpoint_folder(trainer))) == 2


def test_a_checkpoint_that_is_a_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (folder / "epoch=0001-batch=000000.ckpt" / "inner").mkdir(parents=True)
    fit(tmp_path, RunCheckpoint(every_n_batches=0), max_epochs=1)
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["epoch=0001-batch=000000.ckpt"]
    assert len(list(folder.iterdir())) == 1


def test_files_and_folders_are_removed_and_what_is_not_there_is_no_matter(tmp_path: Path) -> None:
    make(tmp_path, "file")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for name in ("file", "folder", "neither"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"every_n_batches": -1}, {"keep": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.every_n_batches cannot be negative"):
        RunCheckpoint(**options)


def test_a_stop_that_a_module_itself_asks_for_does_not_count_as_an_epoch(tmp_path: Path) -> None:
    """Its hook comes after those of all callbacks."""

    class Stopping(Tiny):
        def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
            self.trainer.should_stop |= batch_idx == 2

    fit(tmp_path, RunCheckpoint(every_n_batches=0), Stopping())
    assert names(tmp_path / "checkpoints") == ["epoch=0000-batch=000003.ckpt"]
