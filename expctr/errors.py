"""Errors whose messages are for users, and how the command line prints them."""

from collections.abc import Sequence
from inspect import signature
from math import inf
from types import NoneType
from typing import NoReturn, get_args

from rich.console import Console
from rich.markup import escape

from expctr.untrusted import printable


class UserError(ValueError):
    """An error that a user can fix. The message says what is wrong, where, and how to fix it.

    The command line shows it without a traceback.
    """


class DataError(UserError):
    """Data that cannot be used. The message names the problem, the file, row and column, and how to fix it."""


class BadRunError(UserError):
    """Training failed: a number is NaN or infinite, or no text was generated.

    No step was made with it, but an earlier step may have damaged the weights.
    """


def check_range(group: str, options: object, **bounds: tuple[float, float]) -> None:
    """Raise `UserError` for an option out of range, when a config is read.

    `bounds` are the lowest and highest value by attribute of the options; `None` passes if the option's type has it.
    `group` is the options' name in the config.
    """
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        allowed = f"at least {low}" if high == inf else f"from {low} to {high}"
        if value is None and not _may_be_null(type(options), name):
            raise UserError(f"{group}.{name} must be {allowed}, not null")
        if value is not None and not low <= value <= high:  # also refuses NaN
            raise UserError(f"{group}.{name} must be {allowed}, not {value}")


def _may_be_null(kind: type, name: str) -> bool:
    """Whether the type of an option, as the class or one of its bases declares it, has None; true if none declares it.

    jsonargparse takes null for any type.
    """
    for base in kind.__mro__:
        declared = signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        if name in declared:
            return NoneType in get_args(declared[name].annotation)
    return True


def first_line(error: BaseException) -> str:
    """What is wrong, in one line without a full stop: the beginning of the message, or else the error's type.

    The further lines of an error of polars are the plan of a query, and those of transformers a list of hints.
    """
    return str(error).strip().partition("\n")[0][:500].rstrip(".:! ") or type(error).__name__


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: of very many the first ones, and of very long ones the beginning."""
    more = f" and {len(names) - most:,} more" if names[most:] else ""
    return ", ".join(name[:120] for name in names[:most]) + more


def root_cause(error: BaseException) -> UserError:
    """A UserError with the message of the first error; jsonargparse wraps it once per class that it makes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return UserError(" ".join(str(error).split()))


def exit_with_error(error: UserError) -> NoReturn:
    """Print an error as `print_error` does, and end the process with exit code 2."""
    print_error(error)
    raise SystemExit(2) from error


def print_error(error: Exception) -> None:
    """Print an error with its notes as one line on stderr."""
    message = "; ".join([str(error), *getattr(error, "__notes__", [])])
    Console(stderr=True).print(f"[bold red]error:[/] {escape(printable(message))}", highlight=False, soft_wrap=True)
