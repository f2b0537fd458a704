"""The folder of a trained run, as a user names it."""

from pathlib import Path

from expctr.errors import UserError


def find_run(path: str | Path) -> Path:
    """The folder of a run.

    Raises:
        UserError: there is no config.yaml in it.
    """
    run = Path(path).expanduser()
    if not (run / "config.yaml").is_file():
        raise UserError(f"there is no run in {run}. Fix: name the folder of a run, which holds its config.yaml")
    return run
