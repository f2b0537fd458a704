"""The figure of the rewards."""

import time
from pathlib import Path

import pytest
from pictures import BLUE, ORANGE, colours
from running import World
from torch.utils.tensorboard import SummaryWriter

from expctr.report.curves import read_events
from tools import reward_curves


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Twenty LC rollouts, CTR, four IC rollouts, CTR, four IC rollouts; the last two LC rollouts were repeated."""
    with SummaryWriter(str(tmp_path)) as first:
        for step in range(1, 21):
            first.add_scalar("lc/reward_lc", 0.9 if step > 18 else 0.4, step)
    time.sleep(1)  # TensorBoard reads files in the order of their names, which have the second
    with SummaryWriter(str(tmp_path), filename_suffix=".resumed") as second:
        for step in range(19, 21):
            second.add_scalar("lc/reward_lc", 0.6, step)
        second.add_scalar("val/reward_lc", 0.5, 20)
        for step in (*range(21, 31), *range(35, 45)):
            second.add_scalar("ctr/loss", 0.7, step)
        for step in (*range(31, 35), *range(45, 49)):
            second.add_scalar("ic/reward_ic", step / 100, step)
    return tmp_path


def draw(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reward_curves", str(run)])
    reward_curves.main()


def test_rewards_are_summarised_and_drawn(
    events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(events, monkeypatch)
    assert capsys.readouterr().out.splitlines() == [
        "lc/reward_lc   0.400 -> 0.600   (first and last tenth of 20 rollout batches)",
        "ic/reward_ic   0.310 -> 0.480   (first and last tenth of 8 rollout batches)",
    ]
    assert {BLUE, ORANGE} < colours(events / "rewards.png")


def test_stages_are_found_by_what_they_logged(events: Path) -> None:
    assert [(name, steps[0], steps[-1]) for name, steps in reward_curves.stages(read_events(events).curves)] == [
        ("LC", 1, 20),
        ("CTR 1", 21, 30),
        ("IC 1", 31, 34),
        ("CTR 2", 35, 44),
        ("IC 2", 45, 48),
    ]


def test_smoothing_keeps_a_level_and_removes_noise() -> None:
    assert reward_curves.smooth([0.5] * 7, 2) == [0.5] * 7
    assert reward_curves.smooth([0.0, 3.0, 0.0, 3.0], 1) == [1.5, 1.0, 2.0, 1.5]


def test_a_run_of_the_command_line_has_all_its_stages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.tested("one")
    draw(run, monkeypatch)
    assert [name for name, _ in reward_curves.stages(read_events(run).curves)] == [
        "LC",
        "CTR 1",
        "IC 1",
        "CTR 2",
        "IC 2",
    ]
    assert {BLUE, ORANGE} < colours(run / "rewards.png")
