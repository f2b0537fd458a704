"""What a log and a terminal say of a plan: the time left, and what its stages came to."""

import sys
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest

from expctr.modules.staged import StagedModule
from expctr.stages.plan import make_plan
from expctr.training import progress
from expctr.training.progress import Pace, ProgressLog, StageProgressBar, duration, stage_lengths, tracked


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_is_that_of_the_epochs_to_come() -> None:
    """LC epochs of 100 s and CTR epochs of 10 s, after 30 s of this one: an IC epoch does what an LC epoch does."""
    pace, plan = Pace(), make_plan(2, 1, 3, 1).full
    assert pace.forecast([], 30) == "0:30 left"
    pace.add_epoch("lc", 100)
    assert pace.forecast(plan[1:3], 30) == "2:10 left, without the ctr epochs to come, whose time is not known yet"
    assert pace.forecast([plan[1], plan[-1]], 0) == "3:20 left"
    pace.add_epoch("ic", 60)
    assert pace.forecast(plan[-1:], 0) == "1:00 left"


def test_the_time_left_is_a_range_where_a_stage_may_stop_early() -> None:
    """CTR stages of 50 epochs of 10 s, which may stop after 4; the IC epoch of 60 s comes in any case."""
    pace, plan = Pace(), make_plan(1, 2, 50, 1).full
    pace.add_epoch("ctr", 10)
    pace.add_epoch("ic", 60)
    coming = plan[1 + 45 :]  # 5 epochs of CTR 1, and all of IC 1, CTR 2 and IC 2
    least, most = 60 + 4 * 10 + 60, 5 * 10 + 60 + 50 * 10 + 60
    assert pace.forecast(coming, 0, stage="ctr1", fewest=4) == f"{duration(least)} to {duration(most)} left"


def test_an_epoch_that_prepares_the_others_says_nothing_of_their_time() -> None:
    """The first CTR epoch of 366 s writes the sentences of all rows; the second takes 1 s."""
    pace, plan = Pace(), make_plan(0, 1, 3, 0).full
    pace.add_batch(8, 6)  # the rest of an LC epoch that was resumed after six of eight batches
    pace.add_batch(8, 7)
    pace.add_epoch("lc", 28)
    assert pace.forecast(make_plan(1, 1, 1, 0).full[:1], 0) == "1:52 left"
    pace.start()
    pace.add_epoch("ctr", 366, prepares=True)
    assert pace.forecast(plan[1:], 0, "ctr1").startswith("0:00 left, without the ctr epochs to come, whose time")
    pace.add_epoch("ctr", 1)
    assert pace.forecast(plan[2:], 0, "ctr1") == "0:00 to 0:01 left"


def test_long_work_is_told_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Four pieces of 20 s each, a line every 30 s at most."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    for _ in tracked(range(4), "sentences"):
        clock[0] += 20
    assert capsys.readouterr().out == "sentences: 2/4; 0:40 left\n"


def test_a_test_is_told_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    trainer: Any = SimpleNamespace(is_global_zero=True, progress_bar_callback=None, num_test_batches=[4])
    log = ProgressLog()
    log.on_test_start(trainer, None)  # type: ignore[arg-type]
    for batch in range(4):
        clock[0] += 20
        log.on_test_batch_end(trainer, None, None, None, batch)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "test, batch 2/4; 0:40 left\ntest, batch 4/4; 0:00 left\n"


class Fit:
    """A fit, as callbacks see it, whose epochs have two batches."""

    def __init__(self, bar: StageProgressBar, epoch: int = 0) -> None:
        self.progress_bar_callback, self.state = bar, SimpleNamespace(fn="fit")
        self.is_global_zero, self.world_size, self.sanity_checking, self.training = True, 1, False, True
        self.num_training_batches, self.max_epochs, self.current_epoch = 2, 6, epoch
        self.progress_bar_metrics: dict[str, float] = {}
        self.lightning_module: Any = None


class Planned(StagedModule):
    """Has nothing but a plan."""

    kinds = ("lc", "ctr", "ic")

    def __init__(self, trainer: Fit) -> None:
        super().__init__()
        self.models: Any = SimpleNamespace(click_models=[])
        self.plan = make_plan(1, 1, 3, 1)
        self.trainer: Any = trainer
        trainer.lightning_module = self


def test_a_terminal_shows_the_whole_plan_and_what_finished_stages_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """LC, and a CTR stage that stops after two of its three epochs; IC is still to come."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    bar, screen = StageProgressBar(), StringIO()
    trainer: Any = Fit(bar)
    module = Planned(trainer)
    bar._console_kwargs = {"file": screen, "force_terminal": True, "width": 100}
    bar.setup(trainer, module, "fit")
    bar.on_train_start(trainer, module)
    batch = [0] * 8
    for epoch, metrics in enumerate(({"val/auc_llm": 0.61}, {"ctr/loss": 0.7}, {"ctr/loss": 0.6})):
        trainer.current_epoch, trainer.progress_bar_metrics = epoch, metrics
        bar.on_train_epoch_start(trainer, module)
        for batch_idx in range(2):
            bar.on_train_batch_end(trainer, module, None, batch, batch_idx)
        if epoch == 2:
            module.plan.stop(module.entry)
        bar.on_train_epoch_end(trainer, module)
    assert bar.progress is not None
    rows = {task.description: (task.completed, task.total, task.fields["note"]) for task in bar.progress.tasks}
    bar.teardown(trainer, module, "fit")
    assert list(rows) == ["lc", "ctr1", "ic1", "batches"]
    assert rows["lc"] == (1, 1, "0:00, val/auc_llm 0.61")
    assert rows["ctr1"] == (2, 2, "0:00, stopped early, loss 0.6")
    assert rows["ic1"] == (0, 1, "")
    assert "samples/s" in rows["batches"][2]
    assert "stopped early, loss 0.6" in screen.getvalue()


def test_a_resumed_fit_has_its_finished_stages_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    bar = StageProgressBar()
    trainer: Any = Fit(bar, epoch=3)
    module = Planned(trainer)
    bar._console_kwargs = {"file": StringIO(), "force_terminal": True}
    bar.setup(trainer, module, "fit")
    bar.on_train_start(trainer, module)
    assert bar.progress is not None
    assert [(task.description, task.completed) for task in bar.progress.tasks] == [("lc", 1), ("ctr1", 2), ("ic1", 0)]
    bar.teardown(trainer, module, "fit")


def test_nothing_is_drawn_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    bar = StageProgressBar()
    trainer: Any = Fit(bar)
    module = Planned(trainer)
    bar.setup(trainer, module, "fit")
    bar.on_train_start(trainer, module)
    bar.on_train_epoch_start(trainer, module)
    bar.on_train_epoch_end(trainer, module)
    assert bar.progress is None


def test_lengths_of_stages() -> None:
    plan = make_plan(2, 2, 3, 1)
    plan.stop(plan[3])
    assert stage_lengths(plan) == {"lc": 2, "ctr1": 2, "ic1": 1, "ctr2": 3, "ic2": 1}
