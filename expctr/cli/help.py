"""Help on classes that a config chooses: `--model.help`, `--model.ctr.backbone.help DCNv2`."""

import re
from argparse import Action
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

import lightning as L
from jsonargparse import ArgumentParser

from expctr.ctr.zoo import ZOO
from expctr.data.datamodules import AmazonBooksDataModule, BookCrossingDataModule, MovieLensDataModule
from expctr.data.table import TableDataModule
from expctr.errors import UserError
from expctr.modules.baselines.explained import ExplainedCTRModule
from expctr.modules.baselines.icl import ICLModule
from expctr.modules.baselines.tallrec import TALLRecModule
from expctr.modules.ctr import CTRModule, DeepFMTextModule
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.explainer import PPOExplainerModule

BASELINES = (ExplainedCTRModule, ICLModule, TALLRecModule)
CHOICES: dict[str, Sequence[type]] = {
    "model": (ExpCTRModule, PPOExplainerModule, CTRModule, DeepFMTextModule, *BASELINES),
    "data": (MovieLensDataModule, BookCrossingDataModule, AmazonBooksDataModule, TableDataModule),
    "explainer": (PPOExplainerModule,),
    "ctr": (CTRModule,),
    "backbone": tuple(ZOO.values()),
}
"""The classes that an option can name, by the last part of the option's name. The first is the usual one."""

_HELP = re.compile(rf"--((?:\w+\.)*(?:{'|'.join(CHOICES)}))\.help(?:=(.*))?")


def print_class_help(args: Sequence[str]) -> bool:
    """Print the help that the first `.help` option asks for; return whether there was one."""
    for place, arg in enumerate(args):
        if match := _HELP.fullmatch(arg):
            option = match[1].replace("init_args.", "")
            follows = args[place + 1] if place + 1 < len(args) and not args[place + 1].startswith("-") else None
            print(class_help(option, match[2] or follows))
            return True
    return False


def class_help(option: str, name: str | None = None) -> str:
    """The options of a class, named as they must be typed; without a name the classes to choose from, if several.

    Raises:
        UserError: there is no such class.
    """
    classes = CHOICES[option.rpartition(".")[2]]
    if name is None and len(classes) > 1:
        width = max(len(chosen.__name__) for chosen in classes)
        lines = [f"  {chosen.__name__:{width}}  {str(chosen.__doc__).splitlines()[0]}" for chosen in classes]
        lines.insert(0, f"--{option} names one of these classes, or your own by its full path:")
        return "\n".join([*lines, "", f"--{option}.help CLASS lists the options of a class."])
    found = {chosen.__name__: chosen for chosen in classes}.get(name or classes[0].__name__) or _imported(option, name)
    return "\n".join(parser.format_help().partition("\n\n")[2] for parser in _parsers(found, option))


def class_options(chosen: type, option: str) -> list[str]:
    """The names of a class's options, and of those of the modules that it takes, as they must be typed."""
    actions = [action for parser in _parsers(chosen, option) for action in parser._actions]
    return [action.dest for action in actions if action.dest.startswith(option) and not action.dest.endswith(".help")]


def _parsers(chosen: type, option: str) -> list[ArgumentParser]:
    """A parser of a class's options, and one of each module class that it takes."""
    parser = ArgumentParser(usage="", add_help=False)
    # the data and the encoder decide a backbone's
    built = {"vocabulary", "text_dim"} if option.endswith("backbone") else set()
    parser.add_class_arguments(chosen, option, fail_untyped=False, skip=built)
    inner = (
        part for action in parser._actions if (hint := module_class(action)) for part in _parsers(hint, action.dest)
    )
    return [parser, *inner]


def module_class(action: Action) -> type | None:
    """The module class that an option takes, if it takes one."""
    hint: Any = getattr(action, "_typehint", None)
    takes = isinstance(hint, type) and issubclass(hint, L.LightningModule) and not action.dest.endswith(".help")
    return hint if takes else None


def _imported(option: str, name: str | None) -> type:
    try:
        found = resolve_name(str(name))
    except (ImportError, AttributeError, ValueError):
        found = None
    if not isinstance(found, type):
        known = ", ".join(chosen.__name__ for chosen in CHOICES[option.rpartition(".")[2]])
        raise UserError(f"{option}: there is no class {name}; known classes: {known}")
    return found
