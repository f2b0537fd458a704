"""Where a model is."""

from importlib.resources import files
from pathlib import Path

from expctr.errors import UserError


def locate(path: str, option: str) -> str:
    """What transformers should load: the shipped model, a folder, or a hub id.

    Args:
        path: `nano`, a folder, or a hub id.
        option: the option that holds it, for the error.

    Raises:
        UserError: it is written like a folder, and there is none.
    """
    if path == "nano":
        return str(files("expctr") / "nano")
    folder = Path(path).expanduser()
    if not folder.is_dir() and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        raise UserError(f"{option}: there is no folder {folder}; give a folder, a hub id, or nano")
    return str(folder) if folder.is_dir() else path
