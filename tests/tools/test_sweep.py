"""The sweep over beta and delta."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults.callbacks import kill
from pictures import BLUE, ORANGE, colours
from running import CONF, ENVIRON, LIMIT, Outcome, World, expctr, start

from expctr.systems import SIMPLE
from tools import sweep


class Forked:
    """Replaces `subprocess.Popen`: the same command line in a process that need not import torch again."""

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        assert command[:3] == [sys.executable, "-m", "expctr"]
        self.work = start(command[3:], env, Path(stdout.name))

    def wait(self) -> int:
        self.work.join()
        assert self.work.exitcode is not None
        return self.work.exitcode


@cache
def expctr_once(*line: str) -> Outcome:
    return expctr(*line)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of the tool start without importing torch."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "expctr"]
        outcome = expctr_once(*command[3:])
        return subprocess.CompletedProcess(command, outcome.code, outcome.output, outcome.output)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(subprocess, "Popen", Forked)


def arguments(world: World, out: str, *own: str, further: tuple[str, ...] = ()) -> list[str]:
    """Arguments of a sweep of tiny.yaml with fewer epochs."""
    options = [*world.paths("overridden"), "--stages.rounds=1", "--stages.ctr.epochs=1", *further]
    return [f"--config={CONF / 'tiny.yaml'}", f"--out={world.folder / out}", *own, "--", *options]


TWO = ("--beta", "0.05", "0.5", "--delta", "--jobs", "2")
NAMES = ["beta=0.05,delta=1,seed=1", "beta=0.5,delta=1,seed=1"]


@pytest.fixture
def swept(world: World, fast: None) -> Path:
    """A finished sweep of two points."""
    with world.first("sweep") as first:
        if first:
            sweep.main(arguments(world, "sweep", *TWO))
    return world.folder / "sweep"


def test_one_parameter_is_varied_at_a_time_and_a_shared_point_is_run_once() -> None:
    points = sweep.grid(sweep.Point(0.05, 1.0, 0), [0.01, 0.05, 0.1, 0.5], [0.5, 1.0, 2.0, 5.0], [0, 1])
    assert len(points) == len(set(points)) == 2 * (4 + 4 - 1)
    assert all(point.beta == 0.05 or point.delta == 1.0 for point in points)
    assert points.count(sweep.Point(0.05, 1.0, 1)) == 1


def test_undefined_metrics_are_left_out(tmp_path: Path) -> None:
    base = sweep.Point(0.05, 1.0, 0)

    def table(auc: float | None) -> dict[str, Any]:
        return {"systems": {"ExpCTR-LLM": {"auc": {"value": auc, "low": auc, "high": auc}}, "ExpCTR-Aug": {}}}

    results = [(base._replace(beta=beta), table(auc)) for beta, auc in ((0.0, 0.5), (0.01, 0.7), (0.5, None))]
    line = sweep.on_line(results, base, "beta")
    assert "| 0.01 | 1 | - | - | 0.7000 (0.700–0.700) | - |" in sweep.markdown(line, "beta", base)
    assert "| 0.5 | 1 | - | - | - | - |" in sweep.markdown(line, "beta", base)
    sweep.draw({"beta": line, "delta": line}, tmp_path, 1)
    assert ORANGE in colours(tmp_path / "sweep.png")
    assert BLUE not in colours(tmp_path / "sweep.png")


def test_the_model_without_text_is_no_simple_baseline() -> None:
    systems = [*(system.name for system in SIMPLE), "ICL", "DIN", "ExpCTR-LLM", "ExpCTR-Aug"]
    assert sweep.plain([{"systems": {name: {} for name in systems}}]) == "DIN"


def test_a_sweep_collects_the_results_of_its_runs(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.slow
def test_finished_points_stay_and_missing_points_run(swept: Path, world: World, fast: None) -> None:
    before = (swept / "sweep.json").read_text()
    tables = [swept / name / "table.json" for name in NAMES]
    kept = tables[0].stat().st_mtime_ns
    tables[1].write_text(tables[1].read_text()[:100])  # a test that was killed while it wrote
    sweep.main(arguments(world, "sweep", *TWO))
    assert tables[0].stat().st_mtime_ns == kept
    assert (swept / "sweep.json").read_text() == before


@pytest.mark.slow
def test_a_killed_point_resumes_and_has_the_same_result(
    swept: Path, world: World, fast: None, capsys: pytest.CaptureFixture[str]
) -> None:
    own, run = ("--beta", "0.5", "--delta"), world.folder / "killed" / NAMES[1]
    with pytest.raises(SystemExit) as stop:
        sweep.main(arguments(world, "killed", *own, further=tuple(kill(0, 3))))
    assert stop.value.code == 1
    assert (
        f"failed: {NAMES[1]}: killed by SIGKILL (the whole output is in {run / 'fit.log'})" in capsys.readouterr().err
    )
    sweep.main(arguments(world, "killed", *own))
    assert "starting from the beginning" not in (run / "fit.log").read_text()
    assert (run / "table.json").read_text() == (swept / NAMES[1] / "table.json").read_text()


def test_a_failed_point_is_named_and_the_others_run(
    swept: Path, world: World, fast: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        sweep.main(arguments(world, "sweep", "--beta", "--delta", "0", "1"))
    assert stop.value.code == 1
    failed = "beta=0.05,delta=0,seed=1"
    why = "error: reward.delta is 0.0: it must be above 0"
    assert f"failed: {failed}: {why} (the whole output is in {swept / failed / 'fit.log'})" in capsys.readouterr().err
    content = json.loads((swept / "sweep.json").read_text())
    assert [point["run"] for point in content["points"]] == NAMES[:1]
    assert [point["run"] for point in content["failed"]] == [failed]


@pytest.mark.slow
def test_a_sweep_of_another_config_is_refused(swept: Path, world: World, fast: None) -> None:
    with pytest.raises(SystemExit, match=r"^stages\.rounds is 2, but the runs in .* with 1\. Fix: .* another --out$"):
        sweep.main(arguments(world, "sweep", *TWO, further=("--stages.rounds=2",)))
    with pytest.raises(SystemExit, match=r"^error: .*acelerator"):
        sweep.main(arguments(world, "sweep", *TWO, further=("--trainer.acelerator=cpu",)))


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C as in a terminal: tests that a shell started in the background, and their children, would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_too(world: World, heard: None) -> None:
    run = world.folder / "stopped" / NAMES[0]
    line = [sys.executable, "-m", "tools.sweep", *arguments(world, "stopped", *TWO[:-2])]
    with subprocess.Popen(line, env=os.environ | ENVIRON, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + LIMIT
        while not list(run.glob("checkpoints/*.ckpt")) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "stopped. Run the same command again to resume"
    assert f"; resume with expctr fit {run}" in (run / "fit.log").read_text()
    assert not (run / "table.json").exists()
