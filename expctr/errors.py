"""Errors for people."""


class UserError(ValueError):
    """What a user can mend: the message says what was wrong, where, and the mend. The command line shows it alone."""
