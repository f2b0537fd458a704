"""Arguments as they are typed: a run's folder in place of options, and configs by name."""

from collections.abc import Sequence
from pathlib import Path

from expctr.cli.configs import find_config, packaged_configs
from expctr.errors import UserError

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
    run = Path(rest[0]).expanduser()
    if not (run / "config.yaml").is_file():
        hint = "name the folder of a run, which holds its config.yaml"
        if rest[0] in packaged_configs():
            hint = f"a packaged config is named by an option: --config {rest[0]}"
        raise UserError(f"there is no run in {run}: {hint}")
    options = ["--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(run)]
    if command == ["fit"]:
        options += ["--ckpt_path", "last"]
    return [*command, *options, *rest[1:]]


def with_packaged_configs(args: Sequence[str]) -> list[str]:
    """The arguments, with each `--config` as a path.

    Raises:
        UserError: there is neither such a file nor such a packaged config.
    """
    found = list(args)
    for place, arg in enumerate(found):
        flag, equals, name = arg.partition("=")
        if flag in _CONFIG and equals:
            found[place] = f"{flag}={find_config(name)}"
        elif arg in _CONFIG and place + 1 < len(found):
            found[place + 1] = str(find_config(found[place + 1]))
    return found
