"""The error that data files of a user can cause."""

from expctr.errors import UserError


class DataError(UserError):
    """Data that cannot be used. The message names the problem, the file, row and column, and how to fix it."""
