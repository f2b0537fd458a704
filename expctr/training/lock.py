"""A lock on the run's folder: one fit at a time."""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from expctr.errors import UserError


def hold(folder: Path) -> FileLock:
    """Hold a run's folder until this process ends, however it ends.

    The lock is the operating system's, so that a killed run leaves none; the file `.lock` in the folder, which stays,
    says who holds it.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip()
        raise UserError(
            f"{folder} is being trained in by {holder or 'another process'}: wait for it, stop it, or give another "
            "folder by --trainer.default_root_dir"
        ) from None
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return lock
