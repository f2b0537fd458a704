"""A module that runs stages: alone, with rewards of one's own, and from checkpoints of older versions."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import polars as pl
import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import Callback
from running import World
from torch import Tensor

from expctr.ctr.click_model import CTROptions
from expctr.ctr.encoder import EncoderOptions
from expctr.ctr.zoo import DeepFM
from expctr.data.batches import Batch
from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.errors import BadRunError, UserError
from expctr.llm.loading import LLMOptions
from expctr.llm.prompts import PromptOptions
from expctr.llm.rollout import RolloutOptions
from expctr.llm.yes_no import LCOptions
from expctr.modules.checks import check_device, usable_accelerator
from expctr.modules.ctr import CTRModule, DeepFMTextModule
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.explainer import PPOExplainerModule
from expctr.modules.resume import skip_idle_epochs
from expctr.modules.staged import StagedModule
from expctr.rl.options import PPOOptions
from expctr.rl.rewards import LCAlignment, LengthPenalty, Reward
from expctr.run_folder import checkpoints
from expctr.stages.plan import make_plan
from expctr.training.checkpoint import RunCheckpoint
from expctr.training.scheduler import CTRStageOptions, PolicyStageOptions, StageScheduler

pytestmark = pytest.mark.filterwarnings("ignore")


class Vowels(Reward):
    """The share of vowels."""

    name = "vowels"

    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        shares = [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]
        return torch.tensor(shares, device=batch.label.device)


class Wrong(Reward):
    """Answers with what it is given."""

    name = "wrong"

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        return self.answer  # type: ignore[no-any-return]


class Epochs(Callback):
    """Which stages were trained, batch by batch, and what was logged."""

    def __init__(self) -> None:
        self.trained: list[str] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StagedModule)
        self.trained.append(pl_module.entry.name)


def explainer(world: World, min_mass: float = 0) -> PPOExplainerModule:
    return PPOExplainerModule(
        LLMOptions(path=str(world.folder / "llm"), dtype="float32", lora_r=2),
        prompts=PromptOptions(explanation="They liked {liked}; not {disliked}. Consider {target}:"),
        rollout=RolloutOptions(max_new_tokens=5),
        lc=LCOptions(min_mass=min_mass),
        ppo=PPOOptions(lr=1e-2, minibatch_size=4),
    )


def data(world: World) -> MovieLensDataModule:
    return MovieLensDataModule(
        str(world.folder / "movielens"),
        SampleOptions(fractions=(0.6, 0.2, 0.2)),
        cache_dir=str(world.folder / "cache"),
        rollout_batch_size=12,
        ctr_batch_size=18,
        eval_batch_size=12,
    )


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=any(isinstance(callback, RunCheckpoint) for callback in callbacks),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_the_explainer_trains_the_lc_stage_alone(world: World, tmp_path: Path) -> None:
    """By Lightning's trainer as it is, and as the first stage of ExpCTR with the same options does."""
    module, watch = explainer(world), Epochs()
    alone = trainer(tmp_path / "alone", watch, max_epochs=2)
    alone.fit(module, datamodule=data(world))
    assert watch.trained == ["lc"] * 6
    whole = ExpCTRModule(
        explainer(world),
        CTRModule(partial(DeepFM, mlp=(8,)), CTROptions()),
        EncoderOptions(path=str(world.folder / "llm")),
    )
    both = trainer(tmp_path / "both", StageScheduler(PolicyStageOptions(2), rounds=0), num_sanity_val_steps=0)
    both.fit(whole, datamodule=data(world))
    for name, weight in whole.explainer.named_parameters():
        assert torch.equal(weight, dict(module.named_parameters())[name]), name
    written = [pl.read_parquet(tmp_path / run / "explanations" / "001-lc.parquet") for run in ("alone", "both")]
    assert written[0].equals(written[1])
    alone.test(module, datamodule=data(world), verbose=False)
    assert {"text", "s_u", "s_icl", "text_untrained", "reward_lc"} <= set(module.evaluated)
    assert "s_r" not in module.evaluated


def test_rewards_of_ones_own_have_columns_and_a_weight_of_0_changes_nothing(world: World, tmp_path: Path) -> None:
    weights, frames = [], []
    lists: list[list[Reward]] = [
        [LCAlignment()],
        [LCAlignment(), Vowels(0), LengthPenalty(0, limit=1)],
        [LCAlignment(), Vowels(2.0)],
    ]
    for number, rewards in enumerate(lists):
        module, folder = explainer(world), tmp_path / str(number)
        schedule = StageScheduler(PolicyStageOptions(1, rewards))
        trainer(folder, schedule).fit(module, datamodule=data(world))
        weights.append({name: p.detach() for name, p in module.named_parameters() if p.requires_grad})
        frames.append(pl.read_parquet(folder / "explanations" / "000-lc.parquet"))
    plain, logged, used = weights
    assert all(torch.equal(plain[name], logged[name]) for name in plain)
    assert any(not torch.equal(plain[name], used[name]) for name in plain)
    assert {"reward_lc", "reward_vowels", "reward_length"} <= set(frames[1].columns)
    row = frames[1].row(0, named=True)
    assert row["reward_vowels"] == pytest.approx(
        sum(letter in "aeiou" for letter in row["text"]) / max(1, len(row["text"]))
    )
    assert row["reward_length"] == -max(0, len(row["text"].split()) - 1)
    assert frames[0]["text"].equals(frames[1]["text"])


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (torch.ones(3), UserError, r"reward wrong is of shape \[3\] on cpu, for 12 explanations: Reward\.score must"),
        (torch.ones(12, device="meta"), UserError, r"reward wrong is of shape \[12\] on meta, for 12 explanations"),
        ([1.0] * 12, UserError, r"reward wrong is of list, for 12 explanations"),
        (torch.full((12,), float("nan")), BadRunError, r"reward wrong is NaN or infinite in 12 of 12 rows.*Check the"),
    ],
)
def test_a_reward_that_returns_something_else_is_refused(
    world: World, tmp_path: Path, answer: Any, error: type[Exception], message: str
) -> None:
    schedule = StageScheduler(PolicyStageOptions(1, [Wrong(answer)]))
    with pytest.raises(error, match=message):
        trainer(tmp_path, schedule, num_sanity_val_steps=0).fit(explainer(world), datamodule=data(world))


class Words(Reward):
    """Whole numbers, as one might write them."""

    name = "words"

    def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
        return torch.tensor([len(text.split()) for text in texts])


def test_each_run_of_one_module_has_its_own_plan_and_rewards(world: World, tmp_path: Path) -> None:
    module, watch = explainer(world), Epochs()
    trainer(tmp_path / "a").validate(module, data(world), verbose=False)
    trainer(tmp_path / "b", watch, max_epochs=2).fit(module, data(world))
    assert len(watch.trained) == 6
    trainer(tmp_path / "c", watch, max_epochs=0).fit(module, data(world))
    assert len(watch.trained) == 6
    trainer(tmp_path / "d", watch, max_epochs=-1, max_steps=2).fit(module, data(world))
    assert len(watch.trained) > 6
    schedule = StageScheduler(PolicyStageOptions(1, [LCAlignment(), Words(0.5)]))
    trainer(tmp_path / "e", schedule, watch).fit(module, data(world))
    frame = pl.read_parquet(tmp_path / "e" / "explanations" / "000-lc.parquet")
    assert frame["reward_words"].to_list() == [float(len(text.split())) for text in frame["text"]]


def test_a_plan_without_a_stage_of_the_module_is_refused(world: World, tmp_path: Path) -> None:
    schedule = StageScheduler(PolicyStageOptions(0))
    with pytest.raises(UserError, match="the plan has no stage of PPOExplainerModule, which has lc"):
        trainer(tmp_path, schedule).fit(explainer(world), data(world))


def test_a_base_that_hardly_answers_is_refused_for_lc_rewards_alone(world: World, tmp_path: Path) -> None:
    """The base is random, and Yes and No are 2 of some 500 tokens."""
    with pytest.raises(UserError, match=r"Yes/No have 0\.\d+% of the probability .* likelier, .* lower lc\.min_mass"):
        trainer(tmp_path / "a", max_epochs=1).fit(explainer(world, min_mass=0.01), data(world))
    schedule = StageScheduler(PolicyStageOptions(1, [LengthPenalty()]), rounds=0)
    with pytest.warns(UserWarning, match="the LC scorer hardly answers"):
        trainer(tmp_path / "b", schedule, max_steps=1).fit(explainer(world, min_mass=0.01), data(world))


def test_an_apple_gpu_is_refused(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path)
    monkeypatch.setattr(type(made.strategy), "root_device", torch.device("mps"))
    with pytest.raises(UserError, match=r"trainer\.accelerator: Apple's GPUs .* Fix: set trainer\.accelerator to cpu"):
        check_device(made)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    assert [usable_accelerator(name) for name in ("auto", "cpu", "gpu")] == ["cpu", "cpu", "gpu"]


def test_another_data_module_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PPOExplainerModule needs a data module of expctr"):
        trainer(tmp_path).fit(explainer(world), train_dataloaders=[1, 2])


def test_expctr_without_a_plan_is_refused(world: World, tmp_path: Path) -> None:
    module = ExpCTRModule(explainer(world), DeepFMTextModule(), EncoderOptions(path=str(world.folder / "llm")))
    with pytest.raises(UserError, match=r"add StageScheduler\(\) to the trainer's callbacks"):
        trainer(tmp_path).fit(module, datamodule=data(world))


def test_a_ctr_stage_that_stops_early_leaves_no_epochs_behind(world: World, tmp_path: Path) -> None:
    """With a learning rate of 0 nothing improves after the first validation."""
    watch, save = Epochs(), RunCheckpoint(every_n_batches=0, keep=99)
    module = ExpCTRModule(
        explainer(world),
        CTRModule(partial(DeepFM, mlp=(8,), dropout=0.0), CTROptions(lr=0.0, patience=2)),
        EncoderOptions(path=str(world.folder / "llm")),
    )
    schedule = StageScheduler(PolicyStageOptions(1), 1, CTRStageOptions(20), PolicyStageOptions(1))
    fit = trainer(tmp_path, schedule, save, watch, num_sanity_val_steps=0)
    fit.fit(module, datamodule=data(world))
    assert watch.trained == ["lc"] * 3 + ["ctr1"] * 6 + ["ic1"] * 3
    assert fit.current_epoch == 5
    assert [path.stem[:10] for path in checkpoints(tmp_path / "checkpoints")] == [f"epoch={i:04d}" for i in range(1, 6)]
    assert sorted(path.name for path in (tmp_path / "explanations").iterdir()) == ["000-lc.parquet", "021-ic1.parquet"]


def test_idle_epochs_of_older_checkpoints_are_left_out() -> None:
    """0.1 counted the epochs that were left of a CTR stage after it had stopped: here from the third of five on."""
    for processed, stopped_in, left in ((4, 1, ["ic1"]), (5, 1, ["ic1"]), (3, 0, ["ctr1", "ctr1", "ctr1", "ic1"])):
        plan = make_plan(1, 1, 5, 1)
        loops = {"fit_loop": {"epoch_progress": {"current": {"processed": processed}}}}
        skip_idle_epochs({"loops": loops, "expctr": {"stopped_in": stopped_in}}, plan)
        assert [entry.name for entry in plan[processed:]] == left
    finished = make_plan(1, 1, 5, 1)
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 6}}}}
    skip_idle_epochs({"loops": loops, "expctr": {"stopped_in": 1}}, finished)
    assert len(finished) == 7
