"""The public names, and `import expctr` from places where it might find something else."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import expctr

ROOT = Path(__file__).parents[1]


def run_python(code: str, *, python: Path | str = sys.executable, cwd: Path = ROOT, **environ: str) -> str:
    """Run code in a new interpreter, without this process's PYTHONPATH, and return what it printed."""
    variables = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environ}
    done = subprocess.run([python, "-c", code], cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", expctr.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(expctr, name) is not None
    assert name in dir(expctr)


def test_type_checkers_see_the_same_names_as_the_interpreter() -> None:
    tree = ast.parse(Path(expctr.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    places = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {*places, "__version__"} == set(expctr.__all__)
    for name, module in places.items():
        assert getattr(importlib.import_module(str(module)), str(name)) is getattr(expctr, str(name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'expctr' has no attribute 'CTRModul'"):
        expctr.CTRModul  # noqa: B018


def test_importing_the_package_does_not_wait_for_torch() -> None:
    code = "import expctr, sys; expctr.__version__, dir(expctr); print({'torch', 'lightning'} & set(sys.modules))"
    assert run_python(code, PYTHONPATH=str(ROOT)) == "set()"
