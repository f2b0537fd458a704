"""Scripts that people run from the root of a clone: `python -m tools.NAME`."""
