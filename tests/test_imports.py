"""Imports run one way (architecture): a folder imports only what stands before it, and no two files each other."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import expctr

ORDER: list[set[str]] = [
    {"untrusted", "seeding", "stopwatch", "distributed", "whole_files"},
    {"errors"},
    {"run_folder"},
    {"nan_guard"},
    {"data"},
    {"sentences"},
    {"llm"},
    {"ctr"},
    {"systems"},
    {"metrics"},
    {"rl"},
    {"stages"},
    {"modules"},
    {"training"},
    {"export"},
    {"evaluation"},
    {"predictor"},
    {"serving"},
    {"planning"},
    {"report"},
    {"cli"},
    {"__main__"},
]
RANK = {part: i for i, parts in enumerate(ORDER) for part in parts}
ROOT = Path(expctr.__file__).parent
FILES = {
    ".".join(("expctr", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(name: str, source: str, is_package: bool) -> set[str]:
    """Modules of the package that a source imports, anywhere in it, functions and type checking included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                base = package[: len(package) - node.level + 1]
                parent = ".".join([*base, parent] if parent else base)
            # `from package import module` imports the module, `from module import thing` the module that has it
            found |= {f"{parent}.{a.name}" if f"{parent}.{a.name}" in FILES else parent for a in node.names}
    return {module for module in found if module == "expctr" or module.startswith("expctr.")}


def part(module: str) -> str:
    """The folder, or the file beside the folders, that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


GRAPH = {name: imports(name, path.read_text(), path.name == "__init__.py") - {name} for name, path in FILES.items()}


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_run_one_way(name: str) -> None:
    if name == "expctr":  # its imports are for type checkers; tests/test_init.py checks that it imports nothing
        return
    assert part(name) in RANK, f"{name} has no place in the architecture's order"
    wrong = {m for m in GRAPH[name] if part(m) and RANK[part(m)] > RANK[part(name)]}
    assert not wrong, f"{name} imports {sorted(wrong)}, which stand after it"
    same = {m for m in GRAPH[name] if part(m) != part(name) and part(m) and RANK[part(m)] == RANK[part(name)]}
    assert not same or part(name) == "__main__", f"{name} imports {sorted(same)}, which stand beside it"


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_every_import_leads_to_a_file() -> None:
    assert {m for found in GRAPH.values() for m in found} <= set(FILES)


def test_data_knows_nothing_of_language_models() -> None:
    heavy = ("transformers", "peft", "bitsandbytes", "sentence_transformers")
    for name, path in FILES.items():
        if part(name) in ("data", "metrics"):
            assert not any(f"import {m}" in path.read_text() or f"from {m}" in path.read_text() for m in heavy), name


def test_the_check_sees_imports_in_functions_and_relative_ones() -> None:
    source = (
        "def f():\n    from expctr.modules import ctr\n    from . import model\n    from ..data.batches import Nouns\n"
    )
    assert imports("expctr.llm.x", source, False) == {"expctr.modules.ctr", "expctr.llm.model", "expctr.data.batches"}
    assert imports("expctr.llm", "from .model import A\nimport torch, expctr.metrics", True) == {
        "expctr.llm.model",
        "expctr.metrics",
    }
    assert part("expctr.modules.ctr") == "modules"
