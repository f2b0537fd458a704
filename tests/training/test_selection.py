"""Which checkpoint a command uses, and what it refuses."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from expctr.errors import UserError
from expctr.run_folder import LOCK, note_owner
from expctr.training.selection import (
    check_logger_options,
    check_same_options,
    check_sharding,
    check_unused,
    hold_results,
    run_of,
    select_checkpoint,
    source_of,
)


def save(run: Path, batch: int) -> Path:
    path = run / "checkpoints" / f"epoch=0000-batch={batch:06d}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"features": {}, "loops": {}}, path)
    return path


@pytest.mark.parametrize("ckpt_path", [None, "last"])
def test_a_fit_starts_from_the_beginning_where_there_is_no_checkpoint(ckpt_path: str | None, tmp_path: Path) -> None:
    assert select_checkpoint("fit", ckpt_path, tmp_path) is None


@pytest.mark.parametrize("command", ["validate", "test", "predict", "export", "explain"])
@pytest.mark.parametrize("ckpt_path", [None, "last"])
def test_other_commands_use_the_newest(command: str, ckpt_path: str | None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Fix: run expctr fit with the same config first"):
        select_checkpoint(command, ckpt_path, tmp_path)
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    assert select_checkpoint(command, ckpt_path, tmp_path) == newest


def test_a_fit_resumes_only_if_asked_to(tmp_path: Path) -> None:
    first, newest = save(tmp_path, 1), save(tmp_path, 2)
    with pytest.raises(UserError, match=r"holds a run, last saved as epoch=0000-batch=000002\. Fix: resume it with"):
        select_checkpoint("fit", None, tmp_path)
    assert select_checkpoint("fit", "last", tmp_path) == newest
    assert select_checkpoint("fit", str(first), tmp_path) == first


def test_a_checkpoint_by_path_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no /nowhere"):
        select_checkpoint("fit", "/nowhere.ckpt", tmp_path)


@pytest.mark.parametrize("intact", [True, False])
def test_a_damaged_checkpoint_is_refused_and_the_newest_intact_one_named(intact: bool, tmp_path: Path) -> None:
    good = save(tmp_path, 1)
    damaged = save(tmp_path, 2)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    if not intact:
        good.unlink()
    hint = f"--ckpt_path {good}" if intact else "train again: no other one is intact"
    with pytest.raises(UserError, match=f"{damaged} cannot be used: .*{hint}"):
        select_checkpoint("test", None, tmp_path)


@pytest.mark.parametrize("command", ["fit", "test", "predict", "export"])
def test_a_run_and_another_ones_checkpoint_are_not_mixed(command: str, tmp_path: Path) -> None:
    save(tmp_path / "one", 1)
    other = save(tmp_path / "other", 2)
    with pytest.raises(UserError, match=r"is of another run, and .*one holds a run of its own"):
        select_checkpoint(command, str(other), tmp_path / "one")
    assert select_checkpoint(command, str(other), tmp_path / "new") == other
    aside = other.rename(tmp_path / "one" / "kept.ckpt")
    if command != "fit":
        assert select_checkpoint(command, str(aside), tmp_path / "one") == aside


def config(**changes: Any) -> dict[str, Any]:
    data = {"class_path": "expctr.data.MovieLensDataModule", "init_args": {"path": "a", "rollout_batch_size": 8}}
    return {"seed_everything": 1, "trainer": {"devices": 1}, "data": data, "model": None} | changes


def test_options_of_the_model_and_the_data_must_be_the_runs() -> None:
    check_same_options(config(), config())
    check_same_options(config(trainer={"devices": 2}), config())
    moved = {"class_path": "expctr.MovieLensDataModule", "init_args": {"path": "b", "rollout_batch_size": 8}}
    check_same_options(config(data=moved), config())  # the module of a class, and where the data are, may change
    newer = {**moved, "init_args": {**moved["init_args"], "new_option": 1}}  # type: ignore[dict-item]
    check_same_options(config(data=newer), config())
    plain, thinking = ({"init_args": {"prompts": {"template_kwargs": kwargs}}} for kwargs in ({}, {"thinking": True}))
    for now, then in ((plain, thinking), (thinking, plain)):
        with pytest.raises(UserError, match=r"^model\.init_args\.prompts\.template_kwargs is .* was made with"):
            check_same_options(config(model=now), config(model=then))
    with pytest.raises(UserError, match=r"^seed_everything is 2 and the run was made with 1\. Fix: give the run"):
        check_same_options(config(seed_everything=2), config())
    other = {"class_path": "expctr.AmazonBooksDataModule", "init_args": {"rollout_batch_size": 4}}
    with pytest.raises(UserError, match=r"^data.class_path is .*; data.init_args.rollout_batch_size is 4 and"):
        check_same_options(config(data=other), config())
    with pytest.raises(UserError, match=r"; \.\.\.\. Fix: give the run's value"):
        check_same_options(config(seed_everything=2, model={"a": 1}, data=other), config(model={"a": 2}))


def test_a_resumed_run_keeps_its_rewards() -> None:
    def stages(lc: object, epochs: int = 1) -> dict[str, Any]:
        return {"stages": {"lc": {"epochs": epochs, "rewards": lc}, "ic": {"rewards": None}}}

    brier = [{"class_path": "expctr.LCAlignment", "init_args": {"metric": "brier"}}]
    check_same_options(config(**stages(None, epochs=2)), config(**stages(None)))  # the scheduler compares epochs
    check_same_options(config(**stages(brier)), config(stages={"lc_epochs": 2}))  # a run of 0.1.0 has none
    with pytest.raises(UserError, match=r"^stages\.lc\.rewards is .*brier.* and the run was made with None\. Fix:"):
        check_same_options(config(**stages(brier)), config(**stages(None)))


@pytest.mark.parametrize(("sharded", "fix"), [(True, "leave --config fsdp out"), (False, "add --config fsdp")])
def test_a_sharded_checkpoint_needs_sharding_and_another_refuses_it(sharded: bool, fix: str, tmp_path: Path) -> None:
    folder, file = tmp_path / "sharded.ckpt", tmp_path / "plain.ckpt"
    folder.mkdir()
    file.touch()
    check_sharding(folder if sharded else file, sharded)
    with pytest.raises(UserError, match=fix):
        check_sharding(file if sharded else folder, sharded)


@pytest.mark.parametrize("command", ["fit", "test", "explain"])
def test_a_folder_of_checkpoints_may_be_a_link_to_another_disk(command: str, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    path = save(run, 3)
    (tmp_path / "scratch").mkdir()
    path.parent.rename(tmp_path / "scratch" / "kept")
    path.parent.symlink_to(tmp_path / "scratch" / "kept")
    assert select_checkpoint(command, "last", run) == path
    assert run_of(path, run) == run
    archived = path.rename(tmp_path / "archived.ckpt")
    path.symlink_to(archived)
    assert select_checkpoint(command, "last", run) == path
    other = save(tmp_path / "runs" / "other", 1)
    assert run_of(other, run) == tmp_path / "runs" / "other"


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_options_of_a_logger_that_are_no_plain_file_are_refused(kind: str, tmp_path: Path) -> None:
    """Lightning would wait for the pipe, or write through the link."""
    path = tmp_path / "hparams.yaml"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"hparams\.yaml is no plain file\. Fix: remove it"):
        check_logger_options(tmp_path)


def test_options_of_a_logger_may_be_a_link_to_a_file(tmp_path: Path) -> None:
    """As of a run in DVC or git-annex. Lightning writes none where there is one."""
    check_logger_options(tmp_path)
    (tmp_path / "kept").write_text("{}")
    (tmp_path / "hparams.yaml").symlink_to(tmp_path / "kept")
    check_logger_options(tmp_path)


def test_results_of_a_lone_checkpoint_are_its_own(tmp_path: Path) -> None:
    """Not those of the folder that it lies below, which may be a project with files of these names."""
    lone = tmp_path / "downloads" / "a.ckpt"
    assert run_of(lone, tmp_path) == tmp_path
    assert source_of(lone, tmp_path) == lone
    (tmp_path / "data.json").touch()
    with pytest.raises(UserError, match=r"data\.json is there, and is not of this run"):
        check_unused(tmp_path, source_of(lone, tmp_path))
    (tmp_path / "out").mkdir()
    note_owner(tmp_path / "out", lone)
    check_unused(tmp_path / "out", lone)
    project = tmp_path / "checkpoints" / "a.ckpt"  # a folder of this name is no run
    with pytest.raises(UserError, match=r"data\.json is there, and is not of this run"):
        check_unused(tmp_path, source_of(project, tmp_path))
    own = tmp_path / "run" / "checkpoints" / "a.ckpt"
    assert source_of(own, tmp_path / "run") == tmp_path / "run"
    assert source_of(own, tmp_path / "out") == tmp_path / "run"  # without a config.yaml, by the folder's name


@pytest.mark.parametrize("name", ["scores.parquet", "predictions.parquet", "data.json", "table.md"])
def test_results_of_a_run_elsewhere_replace_no_files(name: str, tmp_path: Path) -> None:
    """Neither of others nor of another run; those of the same run are written again."""
    run, other = tmp_path / "run", tmp_path / "other run"
    check_unused(tmp_path, run)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"is there, and is not of this run\. Fix: "):
        check_unused(tmp_path, run)
    note_owner(tmp_path, run)
    check_unused(tmp_path, run)
    with pytest.raises(UserError, match=r"is there, and is not of this run\. Fix: "):
        check_unused(tmp_path, other)
    (tmp_path / "config.yaml").write_text("# lightning.pytorch==2.6.0\n")
    check_unused(tmp_path, tmp_path)  # the run's own folder
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")  # saved by another program
    (tmp_path / LOCK).touch()
    with pytest.raises(UserError, match=r"is there, and is not of this run\. Fix: "):
        check_unused(tmp_path, tmp_path)  # any program may leave such a file
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch=0001-batch=000000.ckpt").touch()
    check_unused(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"is there, and is not of this run\. Fix: "):
        check_unused(tmp_path, other)


@pytest.mark.parametrize("name", ["config.yaml", "data.json", "samples.parquet", "table.json", "scores.parquet"])
def test_a_run_does_not_begin_where_its_files_would_replace_others(name: str, tmp_path: Path) -> None:
    """Files of a person, or the results of a run whose checkpoints were deleted."""
    check_unused(tmp_path)
    check_unused(tmp_path / "new")
    (tmp_path / name).write_text("# mine\n")
    with pytest.raises(UserError, match=rf"{name} is there, and is not of this run\. Fix: "):
        check_unused(tmp_path)
    (tmp_path / "config.yaml").write_text("# lightning.pytorch==2.6.0\n")  # of a fit that was killed before its first
    if name == "table.json":
        with pytest.raises(UserError, match=name):
            check_unused(tmp_path)
    else:
        check_unused(tmp_path)


def test_a_folder_of_checkpoints_on_a_disk_that_is_not_mounted_is_no_new_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to("/mnt/gone")
    with pytest.raises(UserError, match=r"is a link to /mnt/gone, which is not there\. Fix: mount its disk"):
        select_checkpoint("fit", "last", tmp_path)


def test_a_checkpoint_that_was_copied_into_its_run_is_of_it(tmp_path: Path) -> None:
    """Its options would be compared with none, and it would be refused as another run's."""
    run = tmp_path / "runs" / "one"
    (run / "kept" / "good").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("of: another program")
    copied = save(run, 3).rename(run / "kept" / "good" / "best.ckpt")
    (run / "config.yaml").write_text("# lightning.pytorch==2.6.0\n")
    assert run_of(copied, run) == run
    assert run_of(copied, tmp_path / "runs" / "two") == run


def test_results_of_two_runs_are_not_written_into_one_folder(tmp_path: Path) -> None:
    """Neither at once nor where others came while this one loaded; a run's own folder is not held."""
    one, other, out = tmp_path / "one", tmp_path / "other", tmp_path / "out"
    for run in (one, other):
        run.mkdir()
        (run / "config.yaml").write_text("# lightning.pytorch==2.6.0\n")
    with hold_results(out, one), hold_results(out, one):
        pass
    with hold_results(out, one), pytest.raises(UserError, match="is being written to by"), hold_results(out, other):
        pass
    (out / "table.md").touch()
    with hold_results(out, one):
        pass
    (out / LOCK).unlink()
    os.mkfifo(out / LOCK)
    with pytest.raises(UserError, match=r"is no plain file"), hold_results(out, one):  # which nobody holds
        pass
    (out / LOCK).unlink()
    with pytest.raises(UserError, match=r"table\.md is there, and is not of this run"), hold_results(out, other):
        pass
    (one / "table.md").touch()
    with hold_results(one, one), hold_results(one, one):
        pass
    assert not (one / LOCK).exists()


def test_a_folder_without_a_run_is_of_the_checkpoint_in_it_from_its_first_results_on(tmp_path: Path) -> None:
    with hold_results(tmp_path, tmp_path):
        (tmp_path / "data.json").touch()
    with hold_results(tmp_path, tmp_path):
        pass


def test_explanations_of_another_run_are_not_replaced_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("run", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("# lightning.pytorch==2.6.0\n")
        (tmp_path / name / "explanations").symlink_to(tmp_path / "disk")
    with hold_results(tmp_path / "run", tmp_path / "run"):
        pass
    with (
        pytest.raises(UserError, match=r"where the explanations of .*run are, which would be lost"),
        hold_results(tmp_path / "copy", tmp_path / "copy"),
    ):
        pass
