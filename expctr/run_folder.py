"""The folder of a trained run, as a user names it."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

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


def read_config(run: Path) -> dict[str, Any]:
    """The options of a run.

    Raises:
        UserError: its config.yaml is damaged.
    """
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        missing = {"seed_everything", "model", "data", "stages"} - {*config}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Fix: check its permissions") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {reason}. Fix: put the run's own config.yaml back") from error
    if missing:
        raise UserError(f"{path} has no {min(missing)}. Fix: put the run's own config.yaml back")
    return dict(config)
