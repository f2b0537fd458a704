"""The scripts that people run."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from email.message import Message
from functools import cache
from http.client import BadStatusLine
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml
from faults.callbacks import kill
from PIL import Image
from running import CONF, LIMIT, Outcome, World, expctr, start
from torch.utils.tensorboard import SummaryWriter

TOOLS = Path(__file__).parents[1] / "tools"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    if str(TOOLS) not in sys.path:  # as it is for a script
        sys.path.append(str(TOOLS))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "answer",
    [
        BytesIO(b"<html>Your proxy would rather not.</html>"),
        BadStatusLine("no HTTP"),
        HTTPError("url", 403, "Forbidden", Message(), None),
    ],
    ids=["a page", "no HTTP", "refused"],
)
def test_where_the_archive_cannot_be_had_the_wheel_is_taken(
    answer: BytesIO | Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load("get_movielens")

    def urlopen(*args: object, **options: object) -> BytesIO:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def download(command: list[str], **options: object) -> None:
        assert command[-1] == tool.WHEEL
        (Path(command[command.index("--dest") + 1]) / "recbole.whl").write_bytes(b"another wheel")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(tool.subprocess, "run", download)
    monkeypatch.setattr("sys.argv", ["get_movielens.py", str(tmp_path / "data")])
    with pytest.raises(SystemExit, match=r"recbole==1\.2\.1 has SHA-256 .* nothing was kept"):
        tool.main()
    assert not (tmp_path / "data").exists()


# --- figures

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def colours(image: Path) -> set[tuple[int, ...]]:
    """Of a picture that is no thumbnail."""
    with Image.open(image) as picture:
        assert picture.format == "PNG"
        assert picture.width > 500
        assert picture.height > 300
        found = picture.convert("RGB").getcolors(picture.width * picture.height)
    return {colour for _, colour in found}


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Twenty LC rollouts, CTR, four IC rollouts, CTR, four more; the last two of LC were done twice."""
    with SummaryWriter(str(tmp_path)) as first:
        for step in range(1, 21):
            first.add_scalar("lc/reward_lc", 0.9 if step > 18 else 0.4, step)
    with SummaryWriter(str(tmp_path), filename_suffix=".resumed") as second:
        for step in range(19, 21):
            second.add_scalar("lc/reward_lc", 0.6, step)
        second.add_scalar("val/reward_lc", 0.5, 20)
        for step in (*range(21, 31), *range(35, 45)):
            second.add_scalar("ctr/loss", 0.7, step)
        for step in (*range(31, 35), *range(45, 49)):
            second.add_scalar("ic/reward_ic", step / 100, step)
    return tmp_path


def rewards(run: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    tool = load("rewards")
    monkeypatch.setattr("sys.argv", ["rewards.py", str(run)])
    tool.main()
    return tool


def test_rewards_are_summed_up_and_drawn(
    events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards(events, monkeypatch)
    assert capsys.readouterr().out.splitlines() == [
        "lc/reward_lc   0.400 -> 0.600   (first and last tenth of 20 rollout batches)",
        "ic/reward_ic   0.310 -> 0.480   (first and last tenth of 8 rollout batches)",
    ]
    assert {BLUE, ORANGE} < colours(events / "rewards.png")


def test_stages_are_told_apart_by_what_they_logged(events: Path) -> None:
    tool = load("rewards")
    assert [(name, steps[0], steps[-1]) for name, steps in tool.stages(tool.read(str(events)))] == [
        ("LC", 1, 20),
        ("CTR 1", 21, 30),
        ("IC 1", 31, 34),
        ("CTR 2", 35, 44),
        ("IC 2", 45, 48),
    ]


def test_smoothing_keeps_a_level_and_takes_off_noise() -> None:
    smooth = load("rewards").smooth
    assert smooth([0.5] * 7, 2) == [0.5] * 7
    assert smooth([0.0, 3.0, 0.0, 3.0], 1) == [1.5, 1.0, 2.0, 1.5]


def test_a_run_of_the_command_line_has_all_its_stages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    options = world.options("one")
    run = world.once("one", ["fit", *options], ["test", *options])
    tool = rewards(run, monkeypatch)
    assert [name for name, _ in tool.stages(tool.read(str(run)))] == ["LC", "CTR 1", "IC 1", "CTR 2", "IC 2"]
    assert {BLUE, ORANGE} < colours(run / "rewards.png")


# --- the sweep


class Forked:
    """Stands in for `subprocess.Popen`: the same command line in a process that need not import torch again."""

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        assert command[:3] == [sys.executable, "-m", "expctr"]
        self.work = start(command[3:], env, Path(stdout.name))

    def poll(self) -> int | None:
        return self.work.exitcode


@cache
def ask(*line: str) -> Outcome:
    """What the command line says; asked once."""
    return expctr(*line)


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, whose commands start in no time."""
    tool = load("sweep")

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "expctr"]
        outcome = ask(*command[3:])
        return subprocess.CompletedProcess(command, outcome.code, outcome.output, outcome.output)

    monkeypatch.setattr(tool.subprocess, "run", run)
    monkeypatch.setattr(tool.subprocess, "Popen", Forked)
    return tool


def arguments(world: World, out: str, *own: str, further: tuple[str, ...] = ()) -> list[str]:
    """A sweep of tiny.yaml, with fewer epochs."""
    options = [*world.paths("overridden"), "--stages.rounds=1", "--stages.ctr_epochs=1", *further]
    return [f"--config={CONF / 'tiny.yaml'}", f"--out={world.folder / out}", *own, "--", *options]


TWO = ("--beta", "0.05", "0.5", "--delta", "--jobs", "2")
NAMES = ["beta=0.05,delta=1,seed=1", "beta=0.5,delta=1,seed=1"]


@pytest.fixture
def swept(world: World, sweep: ModuleType) -> Path:
    """A sweep of two points, finished."""
    with world.first("sweep") as first:
        if first:
            sweep.main(arguments(world, "sweep", *TWO))
    return world.folder / "sweep"


def test_one_parameter_is_varied_at_a_time_and_a_shared_point_is_run_once() -> None:
    tool = load("sweep")
    points = tool.grid(tool.Point(0.05, 1.0, 0), [0.01, 0.05, 0.1, 0.5], [0.5, 1.0, 2.0, 5.0], [0, 1])
    assert len(points) == len(set(points)) == 2 * (4 + 4 - 1)
    assert all(point.beta == 0.05 or point.delta == 1.0 for point in points)
    assert points.count(tool.Point(0.05, 1.0, 1)) == 1


def test_what_is_undefined_is_left_out(tmp_path: Path) -> None:
    tool = load("sweep")
    base = tool.Point(0.05, 1.0, 0)

    def table(auc: float | None) -> dict[str, Any]:
        return {"systems": {"ExpCTR-LLM": {"auc": {"value": auc, "low": auc, "high": auc}}, "ExpCTR-Aug": {}}}

    results = [(base._replace(beta=beta), table(auc)) for beta, auc in ((0.0, 0.5), (0.01, 0.7), (0.5, None))]
    line = tool.on_line(results, base, "beta")
    assert "| 0.01 | 1 | - | - | 0.7000 (0.700–0.700) | - |" in tool.markdown(line, "beta", base)
    assert "| 0.5 | 1 | - | - | - | - |" in tool.markdown(line, "beta", base)
    tool.draw({"beta": line, "delta": line}, tmp_path, 1)
    assert ORANGE in colours(tmp_path / "sweep.png")
    assert BLUE not in colours(tmp_path / "sweep.png")


def test_a_sweep_gathers_what_its_runs_found(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((swept / "sweep.json").read_text())
    assert [point["run"] for point in content["points"]] == NAMES
    assert content["base"] == {"beta": 0.05, "delta": 1.0}
    assert content["failed"] == []
    text = (swept / "sweep.md").read_text()
    for point in content["points"]:
        config = yaml.safe_load((swept / point["run"] / "config.yaml").read_text())
        explainer = config["model"]["init_args"]["explainer"]["init_args"]
        assert explainer["kl"]["beta"] == point["beta"]
        assert explainer["reward"]["delta"] == point["delta"] == 1.0
        assert point["systems"] == json.loads((swept / point["run"] / "table.json").read_text())["systems"]
        (row,) = (row for row in text.splitlines() if row.startswith(f"| {point['beta']} |"))
        auc = point["systems"]["ExpCTR-Aug"]["auc"]
        assert f"{auc['value']:.4f} ({auc['low']:.3f}–{auc['high']:.3f})" in row
    assert {BLUE, ORANGE} < colours(swept / "sweep.png")


def test_finished_points_stay_and_missing_ones_are_run(swept: Path, world: World, sweep: ModuleType) -> None:
    before = (swept / "sweep.json").read_text()
    tables = [swept / name / "table.json" for name in NAMES]
    kept = tables[0].stat().st_mtime_ns
    tables[1].write_text(tables[1].read_text()[:100])  # a test that was killed while it wrote
    sweep.main(arguments(world, "sweep", *TWO))
    assert tables[0].stat().st_mtime_ns == kept
    assert (swept / "sweep.json").read_text() == before


def test_a_killed_point_goes_on_and_finds_the_same(
    swept: Path, world: World, sweep: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    own, run = ("--beta", "0.5", "--delta"), world.folder / "killed" / NAMES[1]
    with pytest.raises(SystemExit) as stop:
        sweep.main(arguments(world, "killed", *own, further=tuple(kill(0, 3))))
    assert stop.value.code == 1
    assert f"failed: {NAMES[1]}: killed by SIGKILL (all of it in {run / 'fit.log'})" in capsys.readouterr().err
    sweep.main(arguments(world, "killed", *own))
    assert "starting at the beginning" not in (run / "fit.log").read_text()
    assert (run / "table.json").read_text() == (swept / NAMES[1] / "table.json").read_text()


def test_a_point_that_fails_is_named_and_the_others_are_run(
    swept: Path, world: World, sweep: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        sweep.main(arguments(world, "sweep", "--beta", "--delta", "0", "1"))
    assert stop.value.code == 1
    failed = "beta=0.05,delta=0,seed=1"
    why = "error: reward.delta is 0.0: it must be above 0"
    assert f"failed: {failed}: {why} (all of it in {swept / failed / 'fit.log'})" in capsys.readouterr().err
    content = json.loads((swept / "sweep.json").read_text())
    assert [point["run"] for point in content["points"]] == NAMES[:1]
    assert [point["run"] for point in content["failed"]] == [failed]


def test_a_sweep_of_another_config_is_refused(swept: Path, world: World, sweep: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"^stages\.rounds is 2 and the sweep in .* with 1: give .* another --out$"):
        sweep.main(arguments(world, "sweep", *TWO, further=("--stages.rounds=2",)))
    with pytest.raises(SystemExit, match=r"^error: .*acelerator"):
        sweep.main(arguments(world, "sweep", *TWO, further=("--trainer.acelerator=cpu",)))


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C as in a terminal: a suite that a shell started in the background has it ignored, and so its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stops_the_runs_too(world: World, heard: None) -> None:
    run = world.folder / "stopped" / NAMES[0]
    line = [sys.executable, str(TOOLS / "sweep.py"), *arguments(world, "stopped", *TWO[:-2])]
    environ = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    with subprocess.Popen(line, env=environ, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + LIMIT
        while not list(run.glob("checkpoints/*.ckpt")) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "stopped; the same command goes on with the sweep"
    assert "; go on with --ckpt_path last" in (run / "fit.log").read_text()
    assert not (run / "table.json").exists()
