"""Errors for people."""

from math import inf


class UserError(ValueError):
    """What a user can mend: the message says what was wrong, where, and the mend. The command line shows it alone."""


class BadRunError(UserError):
    """Training itself went wrong: a number is none, or nothing was written. No step was made on it, but one before may
    have spoilt the weights already.
    """


def printable(text: str) -> str:
    """Text that a terminal takes nothing but letters from: control, format and unassigned characters become spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


def check_range(group: str, options: object, **bounds: tuple[float, float]) -> None:
    """Refuse numbers out of range, where a config is read and not an hour later.

    Args:
        group: what the config calls the options, for the message.
        options: whose attributes are checked; `None` is none of this check's business.
        bounds: the lowest and the highest value of each, both allowed.

    Raises:
        UserError: naming the option, its value and the range.
    """
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:  # and so not-a-number, too
            allowed = f"at least {low}" if high == inf else f"from {low} to {high}"
            raise UserError(f"{group}.{name} must be {allowed}, not {value}")
