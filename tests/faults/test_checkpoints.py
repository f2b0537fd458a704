"""Checkpoints that are damaged, hostile or another's are refused with the reason; a disk that is full costs no run."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from faults.callbacks import add, kill
from running import World, curves, expctr
from running import sharded as on_ranks
from security.bombs import Bomb
from torch.distributed.checkpoint.metadata import Metadata

from expctr.cli.app import run as run_cli
from expctr.run_folder import checkpoints
from expctr.training.checkpoint import fault

SHARDED = on_ranks(1)
SHORT = ["--stages.rounds=0", "--checkpoint.keep=9"]


@pytest.fixture(scope="module")
def plain(world: World) -> Path:
    return world.once("plain", ["fit", *world.options("plain"), *SHORT])


@pytest.fixture(scope="module")
def sharded(world: World) -> Path:
    return world.once("sharded", ["fit", *world.options("sharded"), *SHORT, *SHARDED])


def copy(run: Path, to: Path) -> Path:
    """A run's newest checkpoint, somewhere else."""
    newest = checkpoints(run / "checkpoints")[-1]
    (shutil.copytree if newest.is_dir() else shutil.copy)(newest, to)
    return to


def test_whole_ones_have_no_fault(plain: Path, sharded: Path) -> None:
    for run in (plain, sharded):
        found = checkpoints(run / "checkpoints")
        assert len(found) == 3
        assert [fault(path) for path in found] == [None] * 3


def test_a_run_is_not_replaced_by_a_checkpoint_of_another(
    world: World, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoints(plain / "checkpoints")
    with pytest.raises(SystemExit):
        run_cli(["fit", *world.options("plain"), *SHORT, f"--ckpt_path={copy(plain, tmp_path / 'other.ckpt')}"])
    assert "is of another run" in capsys.readouterr().err
    assert checkpoints(plain / "checkpoints") == before


def test_a_checkpoint_is_scored_with_the_options_of_its_run(
    world: World, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also from another folder: weights of one prompt or scorer have no meaning with another."""
    newest = checkpoints(plain / "checkpoints")[-1]
    other = ["--model.init_args.explainer.lc.temperature=9", f"--ckpt_path={newest}"]
    with pytest.raises(SystemExit):
        run_cli(["test", *world.options(tmp_path / "new"), *SHORT, *other])
    assert "lc.temperature is 9.0 and the run was made with 1.0" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_home_folder_is_one_place_for_all(
    world: World, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no shell has replaced the tilde."""
    monkeypatch.setenv("HOME", str(world.folder))
    with pytest.raises(SystemExit):
        run_cli(["fit", *world.options("plain"), *SHORT, "--trainer.default_root_dir=~/plain"])
    assert f"{plain} holds a run" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_told(share: float, plain: Path, tmp_path: Path) -> None:
    path = copy(plain, tmp_path / "cut.ckpt")
    os.truncate(path, int(share * path.stat().st_size))
    assert fault(path) == "it is cut short, or no checkpoint at all"


def test_a_bit_that_flipped_is_told(plain: Path, tmp_path: Path) -> None:
    path = copy(plain, tmp_path / "flipped.ckpt")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        data = archive.read(max(archive.infolist(), key=lambda member: member.file_size))
    content[content.index(data) + len(data) // 2] ^= 1
    path.write_bytes(content)
    assert fault(path) == "it is damaged"


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "meta.pt"])
def test_a_folder_with_a_file_cut_short_or_missing_is_told(name: str, sharded: Path, tmp_path: Path) -> None:
    path = copy(sharded, tmp_path / "cut.ckpt")
    os.truncate(path / name, (path / name).stat().st_size // 2)
    assert fault(path) is not None
    (path / name).unlink()
    found = fault(path)
    assert found is not None
    assert f"{name} is" in found
    assert "missing" in found


def test_nobody_waits_for_a_pipe(plain: Path, sharded: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "epoch=0099-batch=000000.ckpt", copy(sharded, tmp_path / "part.ckpt") / ".metadata"
    part.unlink()
    for pipe in (whole, part):
        os.mkfifo(pipe)
    assert fault(whole) == "epoch=0099-batch=000000.ckpt is not a file"
    assert fault(part.parent) == ".metadata is not a file"


def test_nothing_in_a_checkpoint_is_run(sharded: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"features": Bomb(mark)}, tmp_path / "bomb.ckpt")
    folder = copy(sharded, tmp_path / "folder.ckpt")
    (folder / ".metadata").write_bytes(pickle.dumps(Bomb(mark)))
    for path in (tmp_path / "bomb.ckpt", folder):
        assert fault(path) == "it asks to run posix.mkdir"
    hidden = copy(sharded, tmp_path / "hidden.ckpt")  # by the way of a class that is allowed
    (hidden / ".metadata").write_bytes(pickle.dumps(Metadata({}, planner_data=Bomb(mark))))
    assert fault(hidden) == "it asks to run posix.mkdir"
    assert not mark.exists()


def test_a_table_of_contents_changes_no_class(sharded: Path, tmp_path: Path) -> None:
    """Pickle sets attributes of whatever is on its stack, and a class on the list of plain ones is that, too."""
    folder = tmp_path / "epoch=0000-batch=000002.ckpt"
    shutil.copytree(checkpoints(sharded / "checkpoints")[-1], folder)
    change = pickle.GLOBAL + b"pathlib\nPosixPath\n" + pickle.MARK + pickle.NONE
    change += pickle.EMPTY_DICT + pickle.UNICODE + b"_str\n" + pickle.UNICODE + b"/elsewhere\n" + pickle.SETITEM
    change += pickle.TUPLE + pickle.BUILD + pickle.POP
    (folder / ".metadata").write_bytes(change + (folder / ".metadata").read_bytes()[2:])
    assert "changes what is no part of it" in str(fault(folder))
    assert str(tmp_path) in str(folder)
    assert str(Path("/a")) == "/a"


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {"features": {}}])
def test_what_another_program_saved_is_told(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    assert fault(tmp_path / "other.ckpt") == "it is not of expctr"


@pytest.mark.parametrize("command", ["fit", "test"])
def test_the_command_line_names_the_newest_good_one(command: str, plain: Path, world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    *_, good, newest = checkpoints(run / "checkpoints")
    os.truncate(newest, 1000)
    outcome = expctr(command, *world.options(run), *SHORT, "--ckpt_path=last")
    assert outcome.code == 2
    assert f"{newest} cannot be used: it is cut short" in outcome.output
    assert f"--ckpt_path {good}" in outcome.output
    expctr(command, *world.options(run), *SHORT, f"--ckpt_path={good}").ok()


MODELS = {
    "another adapter": (["--model.init_args.explainer.llm.lora_r=3"], "lora_A"),
    "other layers": (["--model.init_args.explainer.llm.lora_targets=[q_proj]"], "which is not of this model"),
    "another CTR model": (["--model.init_args.ctr.init_args.backbone=FM"], "ctr."),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_checkpoint_of_another_model_is_refused(name: str, plain: Path, sharded: Path, world: World) -> None:
    options, said = MODELS[name]
    for run, way in ((plain, []), (sharded, SHARDED)):
        newest = checkpoints(run / "checkpoints")[-1]
        outcome = expctr("fit", *world.options(f"{run.name} {name}"), *SHORT, *way, *options, f"--ckpt_path={newest}")
        assert outcome.code == 2, outcome.output
        assert "the checkpoint is of another model: it " in outcome.output
        assert said in outcome.output
        assert "Traceback" not in outcome.output


def test_what_one_rank_alone_cannot_write_ends_the_run_on_all(world: World) -> None:
    options = [*world.options("full meta"), *SHORT, *on_ranks(2)]
    outcome = expctr("fit", *options, *add("FullDisk", epoch=0, batch=3, room="null"), ranks=2)
    assert outcome.code == 2, outcome.output
    assert "epoch=0000-batch=000004.ckpt cannot be saved: " in outcome.output
    assert "epoch=0000-batch=000002 is intact. Fix the error above, then resume with expctr fit " in outcome.output
    folder = world.folder / "full meta" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["epoch=0000-batch=000002.ckpt"]


@pytest.mark.slow
def test_a_sharded_run_that_is_gone_on_with_keeps_its_data_and_its_first_measurement(
    world: World, tmp_path: Path
) -> None:
    options = [*world.options("gone on with"), *SHORT, *SHARDED]
    run = world.folder / "gone on with"
    assert expctr("fit", *options, *kill(0, 3)).code == -9
    told = (run / "data.json").read_text()
    other = shutil.copytree(world.folder / "movielens", tmp_path / "other")
    lines = (other / "u.data").read_text().splitlines(keepends=True)
    (other / "u.data").write_text("".join(lines[: len(lines) // 2]))
    refused = expctr("fit", *options, "--ckpt_path=last", f"--data.init_args.path={other}")
    assert refused.code == 2, refused.output
    assert (run / "data.json").read_text() == told
    assert "LC scorer:" not in expctr("fit", *options, "--ckpt_path=last").ok().output
    assert {step: len(values) for step, values in curves(run)["lc/gap"].items()} == {0: 1}


@pytest.mark.parametrize("way", ["plain", pytest.param("sharded", marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_and_leaves_the_last_good_one(way: str, world: World) -> None:
    options = [*world.options(f"full {way}"), *SHORT, *(SHARDED if way == "sharded" else [])]
    outcome = expctr("fit", *options, *add("FullDisk", epoch=0, batch=3))
    assert outcome.code == 2, outcome.output
    assert "epoch=0000-batch=000004.ckpt cannot be saved: " in outcome.output
    assert "epoch=0000-batch=000002 is intact. Fix the error above, then resume with expctr fit " in outcome.output
    folder = world.folder / f"full {way}" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["epoch=0000-batch=000002.ckpt"]
    expctr("fit", *options, "--ckpt_path=last").ok()


@pytest.mark.parametrize(
    "command", ["predict", *(pytest.param(name, marks=pytest.mark.slow) for name in ("validate", "test", "export"))]
)
def test_a_full_disk_is_one_line_in_each_command(command: str, plain: Path, world: World, tmp_path: Path) -> None:
    """And leaves no half of a file. Only `validate` may go on: there is room for a few events, and for the messages."""
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    before = {path for path in run.rglob("*") if "events" not in path.name}
    outcome = expctr(command, *world.options(run), *SHORT, *add("NoRoom", room=2000))
    assert "Traceback" not in outcome.output
    if (command, outcome.code) != ("validate", 0):
        assert outcome.code == 2, outcome.output
        assert outcome.output.count("Fix: choose a place that is writable and has room") == 1
    if command == "predict":
        assert f"{run / 'predictions.parquet'}: cannot be written" in outcome.output
        assert {path for path in run.rglob("*") if "events" not in path.name} == before
