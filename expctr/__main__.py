"""`python -m expctr`."""

from expctr.cli import main

main()
