"""Arguments as they are typed: a run's folder in place of options, and configs by name."""

from collections.abc import Sequence
from pathlib import Path

from expctr.cli.configs import check_config, find_config, packaged_configs
from expctr.errors import UserError
from expctr.run_folder import find_run

_CONFIG = ("--config", "-c")


def names_run(args: Sequence[str]) -> bool:
    """Whether the arguments of a command begin with a run's folder."""
    return bool(args) and not args[0].startswith("-")


def with_run_options(args: Sequence[str]) -> list[str]:
    """A command's arguments, with options in place of a run's folder: its config, its place, and where `fit` goes on.

    Raises:
        UserError: the folder holds no run.
    """
    command, rest = list(args[:1]), list(args[1:])
    if not names_run(rest):
        return [*command, *rest]
    if rest[0] in packaged_configs() and not Path(rest[0]).is_dir():
        raise UserError(f"{rest[0]} is a packaged config, not a run. Fix: name it by --config {rest[0]}")
    run = find_run(rest[0])
    options = ["--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(run)]
    if command == ["fit"]:
        options += ["--ckpt_path", "last"]
    return [*command, *options, *rest[1:]]


def with_packaged_configs(args: Sequence[str]) -> list[str]:
    """The arguments, with each `--config` as a path.

    Raises:
        UserError: there is neither such a file nor such a packaged config, or it is damaged.
    """
    found = list(args)
    for place, arg in enumerate(found):
        flag, equals, name = arg.partition("=")
        if flag in _CONFIG and equals:
            path = find_config(name)
            found[place] = f"{flag}={path}"
        elif arg in _CONFIG and place + 1 < len(found):
            path = find_config(found[place + 1])
            found[place + 1] = str(path)
        else:
            continue
        check_config(path)
    return found
