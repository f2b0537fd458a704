"""The configs that tools read: every option in them is one that `expctr fit` still has, and so is every class."""

import subprocess
import sys
from pathlib import Path

import pytest
from running import expctr

from tools.bench import learning, real_model
from tools.runs import ROOT

TOOLS = ROOT / "tools"
LAYERS = {
    "learning": [learning.FILE],
    "real_model": [ROOT / "configs/movielens.yaml", *real_model.OVERLAYS],
}
READERS = [path for path in sorted(TOOLS.rglob("*.py")) if "parse_object(" in path.read_text(encoding="utf-8")]


def test_every_config_of_the_tools_is_tried_here() -> None:
    assert {path for paths in LAYERS.values() for path in paths} >= set(TOOLS.rglob("*.yaml"))


@pytest.mark.parametrize("name", LAYERS)
def test_its_options_are_known(name: str) -> None:
    outcome = expctr("fit", *(f"--config={path}" for path in LAYERS[name]), "--print_config")
    assert outcome.code == 0, outcome.output


@pytest.mark.slow  # fresh interpreters: here all classes are known already
@pytest.mark.parametrize("path", READERS, ids=lambda path: path.stem)
def test_a_tool_that_reads_configs_knows_the_short_names_of_data_modules(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    code = f"import sys, {module}; sys.exit('expctr.data.datamodules' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_there_are_such_tools() -> None:
    assert {path.stem for path in READERS} >= {"ppo", "table1"}
