"""Which rollouts raise an alarm, and which do not; and what becomes of the run."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import polars as pl
import pytest
import torch
from running import World, curves, expctr, last
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from expctr.ctr.encoder import EncoderOptions
from expctr.evaluation.alarms import AlarmError, Alarms
from expctr.modules.ctr import DeepFMTextModule
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.explainer import PPOExplainerModule
from expctr.run_folder import checkpoints
from expctr.stages.plan import make_plan
from expctr.training.checkpoint import RunCheckpoint

PLAN = make_plan(lc_epochs=2, rounds=1, ctr_epochs=1, ic_epochs=1)
GOOD = [f"they liked film {i}" for i in range(20)]


class Stage:
    """An alarm that is shown rollouts of its own making, of 20 rows each."""

    def __init__(self, llm: Path, alarms: Alarms) -> None:
        self.module = ExpCTRModule(PPOExplainerModule(), DeepFMTextModule(), EncoderOptions(path=str(llm)))
        self.module.plan, self.alarms, self.epoch = PLAN, alarms, 0
        self.saved: list[tuple[int, int]] = []
        checkpoint = RunCheckpoint()
        checkpoint.save = lambda trainer, epoch, batch: self.saved.append((epoch, batch))  # type: ignore[method-assign]
        state, common = SimpleNamespace(fn="fit"), {"loggers": [], "is_global_zero": True, "num_training_batches": 9}
        self.fake = SimpleNamespace(state=state, checkpoint_callbacks=[checkpoint], current_epoch=0, **common)
        self.module._trainer = cast(Any, self.fake)

    def batches(
        self, count: int, texts: list[str] = GOOD, score: tuple[float, float] = (0.2, 0.8), idx: int = 0, **more: Any
    ) -> list[str]:
        """What the alarm says of so many rollouts, whose scores are in turn these two and whose label is 1."""
        column = "s_u" if self.module.entry.stage == "lc" else "s_r"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(count):
                columns = {column: [*score] * 10, "reward_lc": [*score] * 10, **more}
                self.module.store.add(range(20), texts, batch=self.module.batches, label=1, **columns)
                self.module.models.batches += 1
                self.alarms.on_train_batch_end(cast(L.Trainer, self.fake), self.module, None, None, idx)
        return [str(warning.message) for warning in caught]

    def validated(self, *scores: float) -> list[str]:
        """What it says after a validation with these scores of liked rows."""
        rewards = list(scores)  # 1 - |y - s| of a liked row is its score
        self.module.evaluated = {"s_u": [*scores], "reward_lc": rewards, "label": [1.0] * len(scores)}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.alarms.on_validation_end(cast(L.Trainer, self.fake), self.module)
        return [str(warning.message) for warning in caught]


OFF: dict[str, Any] = dict.fromkeys(("positive", "saturated", "unique", "length", "repeated", "gap"))
BAD: dict[str, dict[str, Any]] = {
    "positive": {"score": (0.8, 0.9)},
    "unique": {"texts": ["they liked film 1"] * 20},
    "repeated": {"texts": [f"{i} good good good good" for i in range(20)]},
    "saturated": {"score": (0.001, 0.999)},
}


def test_a_healthy_stage_raises_no_alarm(llm_folder: Path) -> None:
    stage = Stage(llm_folder, Alarms(window=2))
    assert stage.batches(8) == []
    assert stage.batches(8, score=(0.001, 0.999)) == []  # sure of itself, as the mae reward asks


@pytest.mark.parametrize("name", BAD)
def test_what_has_run_away_is_told_once_a_stage_and_again_only_after_it_recovered(llm_folder: Path, name: str) -> None:
    limit = getattr(Alarms(saturated=0.9), name)
    stage = Stage(llm_folder, Alarms(**OFF | {"window": 2, name: limit}))
    assert stage.batches(1, **BAD[name]) == []  # the window is not full
    (message,) = stage.batches(5, **BAD[name])
    assert message.startswith("possible reward hacking in lc, after 2 batches: ")
    assert name in message
    assert stage.batches(3) == []
    assert len(stage.batches(3, **BAD[name])) == 1
    stage.fake.current_epoch = 1  # the same stage's next epoch
    assert stage.batches(3, **BAD[name]) == []
    stage.fake.current_epoch = 3
    (message,) = stage.batches(3, **BAD[name])
    assert "in ic1, after 17 batches" in message
    off = Stage(llm_folder, Alarms(**OFF, window=2))
    assert off.batches(6, **BAD[name]) == []


def test_one_odd_batch_is_no_alarm(llm_folder: Path) -> None:
    stage = Stage(llm_folder, Alarms(window=10))
    stage.batches(10)
    assert stage.batches(1, score=(0.8, 0.9)) == []
    assert stage.batches(5) == []
    assert len(stage.batches(12, score=(0.8, 0.9))) == 1


@pytest.mark.parametrize(("factor", "alarms"), [(1.75, 0), (2.25, 1), (0.75, 0), (0.25, 1)])
def test_the_length_is_compared_with_the_runs_start(llm_folder: Path, factor: float, alarms: int) -> None:
    """Four words at the start, and in another stage so many times as many."""
    stage = Stage(llm_folder, Alarms(**OFF | {"window": 2, "length": 2.0}))
    assert stage.batches(4) == []
    stage.fake.current_epoch = 3
    other = [" ".join(f"{i}-{j}" for j in range(int(4 * factor))) for i in range(20)]
    assert len(stage.batches(4, texts=other)) == alarms


def test_the_gap_is_training_s_last_rewards_over_validation_s(llm_folder: Path) -> None:
    """Rewards of 0.8 and 0.9 in the last two batches, after some of 0.2 that no longer count."""
    stage = Stage(llm_folder, Alarms(**OFF | {"window": 2, "gap": 0.1}))
    stage.batches(3, score=(0.2, 0.2))
    stage.batches(2, score=(0.8, 0.9))
    assert stage.validated(0.74, 0.78) == []
    (message,) = stage.validated(0.70, 0.74)
    assert "reward_lc_gap is 0.13, above 0.1" in message
    assert stage.validated(0.95) == []  # greedy explanations may well earn more
    assert len(stage.validated(0.70)) == 1


def test_an_alarm_survives_a_checkpoint(llm_folder: Path, tmp_path: Path) -> None:
    """Killed after each batch, the same messages come at the same batch."""
    runs, long = [], {"texts": [f"{text} a b c d e f g h i j k l" for text in GOOD]}
    for killed in (False, True):
        stage = Stage(llm_folder, Alarms(window=3))
        messages: list[str] = []
        for i in range(12):
            messages += stage.batches(1, **BAD["unique"] if i % 7 > 1 else long)
            if killed:
                torch.save(stage.alarms.state_dict(), tmp_path / "state.pt")
                stage.alarms = Alarms(window=3)
                stage.alarms.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        runs.append(messages)
    assert runs[0] == runs[1]
    assert all(any(f": {name} is" in line for line in runs[0]) for name in ("unique", "words"))


def test_stop_ends_the_run_with_a_checkpoint_and_the_alarm_known(llm_folder: Path) -> None:
    stage = Stage(llm_folder, Alarms(window=2, stop=True))
    with pytest.raises(AlarmError, match=r"stopped at an alarm.*unique is 0\.05, below 0\.1.*--ckpt_path last"):
        stage.batches(3, idx=4, **BAD["unique"])
    assert stage.saved == [(0, 5)]
    on = Alarms(window=2, stop=True)
    on.load_state_dict(stage.alarms.state_dict())
    stage.alarms = on
    assert stage.batches(3, **BAD["unique"]) == []


def test_stop_at_an_epochs_end_waits_for_its_checkpoint(llm_folder: Path) -> None:
    for last_batch in (True, False):
        stage = Stage(llm_folder, Alarms(window=1, stop=True))
        if last_batch:
            stage.batches(1, idx=8, **BAD["unique"])
        else:
            stage.batches(1, score=(0.1, 0.9), idx=8)
            stage.validated(0.1)
        assert stage.saved == []
        with pytest.raises(AlarmError, match="stopped at an alarm"):
            stage.alarms.on_train_epoch_start(cast(L.Trainer, stage.fake), stage.module)


# --- by the command line

STOP = ["--alarms.window=2", "--alarms.length=1.05", "--alarms.gap=null", "--alarms.stop=true"]


def test_a_run_stops_at_an_alarm_and_goes_on_to_the_same_end(world: World) -> None:
    options = world.options("alarmed")
    whole = world.tested("one")
    run, stops = world.folder / "alarmed", 0
    while (outcome := expctr("fit", *options, "--ckpt_path=last", *STOP)).code == 2:
        stops += 1
        assert "Traceback" not in outcome.output
        line = next(line for line in outcome.output.splitlines() if line.startswith("error: stopped at an alarm"))
        assert "words is " in line
        assert "--ckpt_path last" in line
        assert len(checkpoints(run / "checkpoints")) >= 1
        assert stops < 9
    outcome.ok()
    assert stops
    both = (last(curves(folder)) for folder in (run, whole))
    found, expected = ({tag: c for tag, c in made.items() if not tag.endswith("_gap")} for made in both)
    assert found == expected  # a gap is taken over alarms.window
    names = [path.name for path in sorted((run / "explanations").iterdir())]
    assert names == [path.name for path in sorted((whole / "explanations").iterdir()) if path.name[0] == "0"]
    for name in names:
        one, other = (pl.read_parquet(folder / "explanations" / name) for folder in (run, whole))
        assert one.equals(other)
    texts = []
    for file in run.glob("events.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        if "alarms/text_summary" in events.Tags()["tensors"]:
            texts += [event.tensor_proto.string_val[0].decode() for event in events.Tensors("alarms/text_summary")]
    assert len(texts) >= stops
    assert all("words is " in text for text in texts)
