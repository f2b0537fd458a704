"""The parser of options and configs. Its errors are one line and name the nearest known option."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from expctr.cli.help import CHOICES, class_options, module_class
from expctr.errors import UserError

MOVED = {
    "stages.lc_epochs": "stages.lc.epochs",
    "stages.ctr_epochs": "stages.ctr.epochs",
    "stages.ic_epochs": "stages.ic.epochs",
    "model.explainer.reward.metric": "the metric of LCAlignment in stages.lc.rewards",
    "model.explainer.reward.lc_weight": "the weight of LCAlignment in stages.ic.rewards",
    "model.explainer.reward.baseline": "the baseline of each reward in stages.lc.rewards and stages.ic.rewards",
    "model.ic.delta": "the delta of ICAlignment in stages.ic.rewards",
}
"""Options of earlier versions, and what replaces them."""

_UNKNOWN = re.compile(
    r"(?:unrecognized arguments: --(?P<argument>[\w.+-]+)|Option '(?P<option>[^']+)' is not accepted"
    r"|Subcommand '(?P<command>[^']+)' does not accept option '(?P<key>[^']+)'"
    r"|Group '(?P<group>[^']+)' does not accept option '(?P<member>[^']+)')",
)
_FOUND = re.compile(r"(?P<path>(?:[\w.]+: +)*)unknown option (?P<name>\S+) \[(?P<near>.*?)\]")
_NO_CLASS = re.compile(r"(?P<path>(?:[\w.]+: +)*).*Expected a dot import path string: (?P<name>[\w.]*\w)")


class Parser(LightningArgumentParser):
    """Reports an error without a page of usage, takes null for an option of any depth, and reads configs only."""

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> Any:  # type: ignore[override]
        """Parse. jsonargparse passes null for a nested option to its class's parser as the word None: undo that."""
        if args is not None:
            args = [re.sub(r"^(--.*)=None$", r"\1=null", arg) for arg in args]
        return super().parse_args(args, *others, **more)

    def _add_signature_parameter(self, *args: Any, **more: Any) -> None:
        """Add an option whose value is never the name of a file.

        jsonargparse would read a file called `auto` or `DeepFM` in place of that word, and the folder with somebody's
        data may have one.
        """
        super()._add_signature_parameter(*args, **{**more, "sub_configs": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UserError, for `explain_error`. A nested class's parser is first; each outer one prepends its key."""
        if match := _UNKNOWN.match(message):
            name = match["argument"] or match["option"] or match["key"] or f"{match['group']}.{match['member']}"
            near = nearest_options(name, self._known_options(match["command"]))
            raise UserError(f"unknown option {name} [{', '.join(near)}]") from ex
        raise UserError(_shorten(message)) from ex

    def _known_options(self, command: str | None) -> list[str]:
        """The options of this parser, or of one of its commands, with those of the modules that they take."""
        commands = (action.choices for action in self._actions if isinstance(action.choices, Mapping))
        parser: Any = next((choices[command] for choices in commands if command in choices), self)
        names: list[str] = []
        for action in parser._actions:
            chosen = CHOICES[action.dest][0] if action.dest in ("model", "data") else module_class(action)
            inner = class_options(chosen, action.dest) if chosen else []
            names += inner if action.dest.endswith(".help") else [action.dest, *inner]
        return list(dict.fromkeys(names))


def nearest_options(name: str, known: Sequence[str], count: int = 3) -> list[str]:
    """The known options that an unknown one may stand for: the same in another group, or a similar spelling."""
    if inner := [option for option in known if option.endswith(f".{name}")]:
        return inner[:count]
    if similar := get_close_matches(name, known, count, 0.85):
        return similar
    last = name.rpartition(".")[2]
    namesakes = [option for option in known if option.rpartition(".")[2] == last]
    return namesakes[:count] or get_close_matches(name, known, 1)


def explain_error(message: str) -> str:
    """An error of `Parser` as a sentence, with full option names."""
    if match := _FOUND.match(message):
        path = "".join(f"{key}." for key in re.findall(r"[\w.]+", match["path"]))
        name = path + match["name"]
        if name in MOVED:
            return f"unknown option {name}: it is now {MOVED[name]}"
        near = [path + option for option in match["near"].split(", ") if option]
        return f"unknown option {name}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    if match := _NO_CLASS.match(message):
        option = ".".join(re.findall(r"[\w.]+", match["path"]))
        known = ", ".join(chosen.__name__ for chosen in CHOICES.get(option.rpartition(".")[2], ()))
        return f"{option}: there is no class {match['name']}" + (f"; known classes: {known}" if known else "")
    if match := re.match(r"(\S+): Unable to load config 'null'", message):
        return f"{match[1]} is null. Fix: give its options, or leave it out"
    if "are required: backbone" in message:
        names = ", ".join(kind.__name__ for kind in CHOICES.get("backbone", ()))
        return f"no CTR model is named: give --model.backbone NAME (--model.ctr.backbone in ExpCTR); there are {names}"
    if re.match(r"the following arguments are required: \w+\.(model|data)", message):
        return "there is no model or no data: give --config NAME_OR_FILE; expctr configs lists the packaged configs"
    return message


def _shorten(message: str) -> str:
    """An error of jsonargparse on one line, without the types that it tried and the values that it got."""
    noise = r"Does not validate|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value|Expected a path but"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    text = " ".join(dict.fromkeys(line for line in lines if line and not re.match(noise, line)))
    value = re.search(r"Given value: (?:NestedArg\(key='.*', val=(.*)\)|([\w.-]+))$", message)
    if value and "Got value" not in text and "unknown option" not in text:
        text += f". Got value: {value[1] or value[2]}"
    text = re.sub(r"Problem with given class_path '(?:\w+\.)*(\w+)':", r"\1:", text)
    return re.sub(r'Parser key "([^"]+)":', r"\1:", text)
