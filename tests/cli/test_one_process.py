"""The commands one after the other in this process, which has done other work before: nothing of that may show."""

import json
import random
import signal
from pathlib import Path

import polars as pl
import pytest
import torch
from running import World, curves, expctr, last

from expctr.cli.app import run as run_cli

pytestmark = pytest.mark.filterwarnings("ignore")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ASKED = ["explain", "--json=true", '--liked=["Film 3, The", "Fargo"]', "--disliked=Casper", "--target=Nikita"]


@pytest.fixture(scope="module")
def run(world: World) -> Path:
    """Made by a new process for each command."""
    options = world.options("explained-one")
    return world.once("explained-one", ["fit", *options], ["test", *options], ["predict", *options])


@pytest.fixture(scope="module")
def here(world: World) -> Path:
    """The same, made in this process."""
    torch.rand(1)
    random.random()
    for command in ("fit", "validate", "test", "predict"):
        run_cli([command, *world.options("in-one-process")])
    return world.folder / "in-one-process"


def test_curves_and_weights_are_the_same(run: Path, here: Path) -> None:
    found, expected = last(curves(here)), last(curves(run))
    assert {tag: found[tag] for tag in expected} == expected
    one, other = (torch.load(max((made / "checkpoints").iterdir()), weights_only=True) for made in (run, here))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, weight in one["state_dict"].items():
        assert torch.equal(other["state_dict"][name], weight), name


def test_tables_and_explanations_are_the_same(run: Path, here: Path) -> None:
    one, other = (json.loads((made / "table.json").read_text())["systems"] for made in (run, here))
    assert one == other
    for path in [*run.glob("*.parquet"), *run.glob("explanations/*.parquet")]:
        assert pl.read_parquet(here / path.relative_to(run)).equals(pl.read_parquet(path)), path.name


def test_an_answer_is_the_same(run: Path, here: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    run_cli([*ASKED, *world.options(here)])
    answers = [capsys.readouterr().out, expctr(*ASKED, *world.options(run)).ok().output]
    one, other = (json.loads(next(line for line in text.splitlines() if line.startswith("{"))) for text in answers)
    assert one | {"seconds": 0} == other | {"seconds": 0}


def test_exported_files_are_the_same(run: Path, here: Path, world: World) -> None:
    run_cli(["export", *world.options(here), f"--out={here / 'export'}"])
    expctr("export", *world.options(run), f"--out={run / 'export'}").ok()
    weights = [path.relative_to(run) for path in (run / "export").rglob("*.safetensors")]
    assert weights
    for path in weights:
        assert (here / path).read_bytes() == (run / path).read_bytes(), path


@pytest.mark.cli
def test_signals_are_handled_as_before(here: Path, world: World) -> None:
    """Training replaces the handlers while it lasts."""
    before = [signal.getsignal(number) for number in SIGNALS]
    run_cli(["validate", *world.options(here)])
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert before[1:] == [signal.SIG_DFL, signal.SIG_DFL]  # SIGINT may be ignored: a shell does that in the background
