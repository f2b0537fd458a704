"""One fit at a time in a run's folder, also where the file system has no locks."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from expctr.errors import UserError
from expctr.run_folder import LOCK
from expctr.training.lock import claim, hold


def test_a_folder_is_held_by_one_and_free_again_after(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    with hold(run), pytest.raises(UserError, match=rf"is being trained in by process {os.getpid()} on "):
        hold(run)
    with hold(run):
        assert (run / ".lock").read_text().count("\n") == 1


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_fit_starts_with_a_warning_and_leaves_nothing_that_stops_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):  # the first ends as by a kill
        with pytest.warns(UserWarning, match="is on a file system without locks"):
            hold(tmp_path)


def test_other_errors_of_locking_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"):
        hold(tmp_path)


def test_a_link_to_a_file_of_one_s_own_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"\.lock is a link\. Fix: remove it"):
        hold(tmp_path / "run")
    assert (tmp_path / "mine").read_text() == "kept"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"\.lock is no plain file\. Fix: remove it"):
        hold(tmp_path)


def test_checkpoints_in_another_run_s_folder_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "one" / "checkpoints").mkdir(parents=True)
    (tmp_path / "one" / "config.yaml").write_text("# lightning.pytorch==2.6.0\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "checkpoints").symlink_to(tmp_path / "one" / "checkpoints")
    with pytest.raises(UserError, match=rf"where the checkpoints of {tmp_path}/one are, which would be lost"):
        claim(tmp_path / "two" / "checkpoints")


def test_checkpoints_elsewhere_are_of_the_run_that_trained_there(tmp_path: Path) -> None:
    """A copy of the run has the same link, and would go on with the same checkpoints."""
    (tmp_path / "scratch").mkdir()
    for name in ("one", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoints").symlink_to(tmp_path / "scratch")
    claim(tmp_path / "one" / "checkpoints")
    claim(tmp_path / "one" / "checkpoints")
    with pytest.raises(UserError, match=rf"leads to {tmp_path}/scratch, where the checkpoints of {tmp_path}/one are"):
        claim(tmp_path / "copy" / "checkpoints")
    (tmp_path / "one").rename(tmp_path / "moved")
    claim(tmp_path / "moved" / "checkpoints")  # it is the same run
    with pytest.raises(UserError, match=rf"the checkpoints of {tmp_path}/moved are"):
        claim(tmp_path / "copy" / "checkpoints")


def test_a_folder_that_was_moved_is_no_longer_held(tmp_path: Path) -> None:
    """Nor is one to which a link leads that was changed."""
    one, other, link = tmp_path / "one", tmp_path / "other", tmp_path / "latest"
    link.symlink_to(one)
    with hold(one) as lock, hold(other):
        assert lock.holds(link)
        assert not lock.holds(other)
        link.unlink()
        link.symlink_to(other)
        assert not lock.holds(link)
        one.rename(tmp_path / "old")
        assert not lock.holds(one)
        assert lock.holds(tmp_path / "old")


def test_a_lock_that_somebody_removed_still_holds_until_another_is_made(tmp_path: Path) -> None:
    """As of a stale one, or by a purge of old files. With a second process, its checkpoints could be replaced."""
    with hold(tmp_path) as lock:
        (tmp_path / LOCK).unlink()
        assert lock.holds(tmp_path)
        with hold(tmp_path) as other:
            assert not lock.holds(tmp_path)
            assert other.holds(tmp_path)
