"""A lock on a folder: one fit, or one command that writes there, at a time."""

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from lightning.pytorch.utilities import rank_zero_warn

from expctr.errors import UserError
from expctr.run_folder import LOCK, holds_run, is_owned, note_owner, owner_of
from expctr.untrusted import printable

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What network file systems without locks answer (NFS without lockd, Lustre without flock)."""


class FolderHeldError(UserError):
    """Another process holds the folder."""


class Lock:
    """A folder that is held until this is closed, or this process ends, however it ends."""

    def __init__(self, folder: Path, file: TextIO) -> None:
        self._file, self._folder = file, os.stat(folder)

    def holds(self, folder: Path) -> bool:
        """Whether a path still leads to the folder. It may have been moved, or a link be changed.

        Somebody may have removed the `.lock` as a stale one; but if there is another, another process holds the folder.
        """
        try:
            is_here = os.path.samestat(self._folder, os.stat(folder))
            removed = not os.path.lexists(folder / LOCK)
            return is_here and (removed or os.path.samestat(os.fstat(self._file.fileno()), os.stat(folder / LOCK)))
        except OSError:
            return False

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def claim(folder: Path) -> None:
    """Note which run's checkpoints or explanations are in the folder that a link of the run's leads to, if it is one.

    A copied run has the same link.

    Raises:
        UserError: they are another run's, whose folder still leads there.
    """
    if not folder.is_symlink():
        return
    place, run = folder.resolve(), folder.parent.resolve()
    owner = owner_of(place) or (place.parent if holds_run(place.parent) else run)
    if not (is_owned(place, run) or owner == run) and (owner / folder.name).resolve() == place:
        raise UserError(
            f"{folder} leads to {place}, where the {folder.name} of {owner} are, which would be lost. Fix: put a "
            "copy of that folder in the place of the link"
        )
    note_owner(place, run)


def hold(folder: Path, use: str = "trained in", fix: str = "another folder by --trainer.default_root_dir") -> Lock:
    """Hold a folder.

    The lock is the operating system's, so that a killed run leaves none; the file `.lock` in the folder, which stays,
    says who holds it. Where the file system has no locks, a warning says so.

    Args:
        folder: a run's, or another one.
        use: what is being done there, for the message.
        fix: what a second process may use instead.

    Raises:
        FolderHeldError: another process holds it.
        UserError: `.lock` is something else than a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / LOCK).is_symlink():  # which a stranger's run may have, to a file of this user's
        raise UserError(f"{folder / LOCK} is a link. Fix: remove it")
    place = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    if not stat.S_ISREG(os.fstat(place).st_mode):
        os.close(place)
        raise UserError(f"{folder / LOCK} is no plain file. Fix: remove it")
    file = os.fdopen(place, "r+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        if error.errno in _HELD:
            file.close()
            raise FolderHeldError(
                f"{folder} is being {use} by {holder or 'another process'}. Fix: wait for it, stop it, or give {fix}"
            ) from None
        if error.errno not in _NO_LOCKS:
            file.close()
            raise
        rank_zero_warn(
            f"{printable(str(folder))} is on a file system without locks ({error.strerror}): a second command in this "
            "folder would not be noticed, and would damage its files. Start one at a time"
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return Lock(folder, file)
