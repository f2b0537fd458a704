"""Errors whose messages are for users."""

from math import inf


class UserError(ValueError):
    """An error that a user can fix. The message says what is wrong, where, and how to fix it.

    The command line shows it without a traceback.
    """


class BadRunError(UserError):
    """Training failed: a number is NaN or infinite, or no text was generated.

    No step was made with it, but an earlier step may have damaged the weights.
    """


def check_range(group: str, options: object, **bounds: tuple[float, float]) -> None:
    """Refuse options out of range when a config is read.

    Args:
        group: the options' name in the config, for the message.
        options: the object whose attributes are checked; `None` always passes.
        bounds: lowest and highest allowed value by attribute.

    Raises:
        UserError: a value is out of range.
    """
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:  # also refuses NaN
            allowed = f"at least {low}" if high == inf else f"from {low} to {high}"
            raise UserError(f"{group}.{name} must be {allowed}, not {value}")
