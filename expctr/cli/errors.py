"""How the command line reports an error: one line on stderr, and exit code 2."""

from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from expctr.errors import UserError
from expctr.untrusted import printable


def exit_with_error(error: UserError) -> NoReturn:
    """Print an error with its notes, and end the process."""
    message = "; ".join([str(error), *getattr(error, "__notes__", [])])
    Console(stderr=True).print(f"[bold red]error:[/] {escape(printable(message))}", highlight=False, soft_wrap=True)
    raise SystemExit(2) from error
