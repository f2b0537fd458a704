"""The folder of a trained run, as a user names it."""

import os
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from expctr.errors import UserError
from expctr.whole_files import replacing

_HEAD = b"# lightning.pytorch=="  # of a config.yaml that Lightning has written
_OWNER = ".run"
_CHECKPOINT = re.compile(r"epoch=(\d+)-batch=(\d+)\.ckpt")
LOCK = ".lock"
"""A file that a fit leaves in its folder; see `training.lock`."""
_SECTIONS, _STAGES = ("model", "data", "stages"), ("lc", "ctr", "ic")
_MOST_BYTES = 1 << 24
_MOST_VALUES, _LONGEST_NUMBER = 100_000, 1000
"""Of a config with its aliases written out, and digits of a whole number: Python refuses to print longer ones."""


def find_run(path: str | Path) -> Path:
    """The folder of a run.

    Raises:
        UserError: there is no config.yaml in it.
    """
    run = Path(os.path.expanduser(path))
    if not (run / "config.yaml").is_file():
        raise UserError(f"there is no run in {run}. Fix: name the folder of a run, which holds its config.yaml")
    return run


def holds_run(folder: Path) -> bool:
    """Whether a fit has written the `config.yaml` of a folder. One that a person wrote begins otherwise."""
    config = folder / "config.yaml"
    try:
        if not config.is_file():  # a pipe would be waited for
            return False
        with config.open("rb") as file:
            return file.read(len(_HEAD)) == _HEAD
    except OSError:
        return False


def checkpoints(folder: Path) -> list[Path]:
    """A run's finished checkpoints, oldest first."""
    return sorted(filter(position, folder.glob("*.ckpt")), key=lambda path: position(path) or (0, 0))


def position(checkpoint: Path) -> tuple[int, int] | None:
    """Finished epochs, and batches of the next one, by a checkpoint's name."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return (int(match[1]), int(match[2])) if match else None


def owner_of(folder: Path) -> Path | None:
    """The run that wrote the results or checkpoints in a folder, by its note; `None` without a note."""
    note = folder / _OWNER
    try:
        return Path(os.fsdecode(note.read_bytes().partition(b"\0")[0])) if note.is_file() else None
    except OSError:
        return None


def is_owned(folder: Path, run: Path) -> bool:
    """Whether a run wrote the results or checkpoints in a folder: its own, by any name of it, or one with its note."""
    owner = owner_of(folder)
    # a config that a person edited may lack Lightning's first line
    was_fitted = (folder / LOCK).is_file() and len(checkpoints(folder / "checkpoints")) > 0
    is_its_own = are_same(folder, run) and (holds_run(folder) or was_fitted)
    return is_its_own or (owner is not None and are_same(owner, run))


def are_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one place."""
    try:
        return one.samefile(other)
    except OSError:  # one of them is gone
        return one == other


def note_owner(folder: Path, run: Path) -> None:
    """Note whose files a folder holds, for `owner_of`."""
    with replacing(folder / _OWNER) as part:
        part.write_bytes(os.fsencode(run.resolve()))


def read_config(run: Path) -> dict[str, Any]:
    """The options of a run.

    Raises:
        UserError: its config.yaml is damaged.
    """
    path, fix = run / "config.yaml", "Fix: put the run's own config.yaml back"
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is no plain file. {fix}")
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
        config = parse_config(text.decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Fix: check its permissions") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {reason}. {fix}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is no mapping of options. {fix}")
    if missing := {"seed_everything", *_SECTIONS} - {*config}:
        raise UserError(f"{path} has no {min(missing)}. {fix}")
    stages = config["stages"] if isinstance(config["stages"], dict) else {}
    sections = {name: config[name] for name in _SECTIONS} | {f"stages.{name}": stages.get(name, {}) for name in _STAGES}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise UserError(f"{path}: {name} is no mapping of options. {fix}")
    return config


def parse_config(text: str) -> Any:
    """The content of a YAML file that a stranger may have written.

    Raises:
        ValueError: it is huge, or its aliases make it so; a number has more digits than can be printed; or a value is
            not of the type that its tag says.
        yaml.YAMLError: it is no YAML.
    """
    try:
        return _parsed(yaml.SafeLoader(text))
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # !!int of no digits, \U of no character
        raise ValueError("a value is not of the type that is written for it") from error


def _parsed(loader: yaml.SafeLoader) -> Any:
    top = loader.get_single_node()
    if top is None:
        return None
    found, waiting = 1, [top]
    while waiting:
        node = waiting.pop()
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _LONGEST_NUMBER:
            raise ValueError(f"a number has {len(node.value):,} digits")
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        found += len(parts)
        if found > _MOST_VALUES:  # without end, where an alias is part of what it stands for
            raise ValueError(f"it has more than {_MOST_VALUES:,} values, with its aliases written out")
        waiting += parts
    return loader.construct_document(top)
