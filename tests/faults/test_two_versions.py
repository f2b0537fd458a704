"""A run that an older version began goes on to the end that the older version would have reached, or is refused."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from running import LIMIT, World, assert_agree, curves, expctr

from tools.runs import ROOT

VERSIONS = ["65efe2e", "7475e48", "cb67c0d"]
"""Commits: before bases were probed, before exports had a folder of their own, and before data modules moved."""
STEPS = 28
"""Optimizer steps after which the older version stops, in a CTR stage."""


def unpacked(commit: str, folder: Path) -> Path:
    """The files of a commit; skips where the history is not there, as in a source archive."""
    found = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"no history with {commit}")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def old_fit(tree: Path, world: World, run: str, *options: str) -> None:
    """`expctr fit` by the code in this folder, with its own tiny config."""
    line = ["fit", f"--config={tree / 'tests/conf/tiny.yaml'}", *world.paths(run), *options]
    environ = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "expctr", *line],
        cwd=tree,
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("commit", VERSIONS)
def test_a_run_of_an_older_version_goes_on_or_is_refused_on_one_line(commit: str, world: World, tmp_path: Path) -> None:
    tree = unpacked(commit, tmp_path)
    old_fit(tree, world, f"{commit}-whole")
    old_fit(tree, world, f"{commit}-begun", f"--trainer.max_steps={STEPS}")
    begun = world.folder / f"{commit}-begun"
    outcome = expctr("fit", begun, "--trainer.max_steps=-1")
    assert "Traceback" not in outcome.output
    if outcome.code == 0:
        assert_agree(curves(begun), curves(world.folder / f"{commit}-whole"))
        expctr("test", begun).ok()
    else:
        assert outcome.code == 2, outcome.output
        assert outcome.output.count("Fix: ") == 1
