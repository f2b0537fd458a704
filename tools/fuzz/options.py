"""Configs of which one option has another value."""

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hypothesis import strategies as st

from expctr.cli.app import run
from tools.fuzz.check import FaultError, answered, check_message

_UNTRIED = {"trainer.default_root_dir", "trainer.num_nodes", "ckpt_path"}  # they name other places
VALUES = st.one_of(
    st.sampled_from(["0", "-1", "1", "2", "1000000000", "0.5", "1e-9", "nan", "inf", "true", "false", "null", "''"]),
    st.sampled_from(["[]", "[0]", "{}", "{x: 1}", "x", "auto", "~/x", "/nonexistent", "expctr.DeepFM", "os.system"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
)


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The names of a config's options."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{name}.")
        elif f"{path}{name}" not in _UNTRIED:
            yield f"{path}{name}"


def options(folder: Path) -> st.SearchStrategy[tuple[str, str]]:
    """An option of a run and a value."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return st.tuples(st.sampled_from([*leaves(config)]), VALUES)


def try_option(folder: Path, out: Path, option: tuple[str, str]) -> None:
    """Start `expctr plan` with a run's config and one other value: it works, or says in one line why not.

    Args:
        folder: of the run.
        out: an empty folder, the run folder of the plan.
        option: its name and value.
    """
    name, value = option
    line = ["plan", f"--config={folder / 'config.yaml'}", f"--trainer.default_root_dir={out}", f"--{name}={value}"]
    shown, said, argv = io.StringIO(), io.StringIO(), sys.argv
    with answered(), redirect_stdout(shown), redirect_stderr(said):
        sys.argv = ["expctr", *line]
        try:
            run(line)
        except SystemExit as stop:
            if stop.code not in (0, None):
                check_message(said.getvalue())
            if stop.code not in (0, 2, None):
                raise FaultError(f"exit code {stop.code}") from None
        finally:
            sys.argv = argv
