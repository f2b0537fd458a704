"""What the whole loop learns from and leaves alone, seen from inside one process."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import polars as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from running import ITEMS, World, amazon, expctr

from expctr.ctr.click_model import CTROptions
from expctr.ctr.encoder import EncoderOptions
from expctr.ctr.zoo import DeepFM
from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.errors import BadRunError
from expctr.llm.loading import LLMOptions
from expctr.llm.rollout import RolloutOptions
from expctr.llm.yes_no import LCOptions
from expctr.modules.ctr import CTRModule, DeepFMTextModule
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.explainer import PPOExplainerModule
from expctr.modules.resume import prime
from expctr.rl.options import PPOOptions
from expctr.rl.rewards import ICAlignment, LCAlignment, Reward
from expctr.run_folder import checkpoints
from expctr.stages.ctr import CTRStage
from expctr.stages.models import Models
from expctr.training.checkpoint import RunCheckpoint
from expctr.training.scheduler import CTRStageOptions, PolicyStageOptions, StageScheduler

pytestmark = pytest.mark.filterwarnings("ignore")

TITLES = [f"Film {item}, The" for item in ITEMS]


class Watch(Callback):
    """Sums of the base's weights as training goes on, and of the CTR model's.

    Args:
        poison: give the validation and test rows other explanations before the CTR stage.
    """

    def __init__(self, poison: bool = False) -> None:
        self.poison = poison
        self.checksums: list[float] = []
        self.ctr: list[float] = []
        self.held_out: list[dict[int, str]] = []
        """Explanations of the validation rows after each epoch."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ExpCTRModule)
        if self.poison and pl_module.entry.stage == "ctr" and batch_idx == 0:
            for split in ("val", "test"):
                for sample in pl_module.data.table(split).sample.tolist():
                    pl_module.store.latest[sample] = f"poison {sample}"
            pl_module.models.forget_vectors()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ExpCTRModule)
        samples = pl_module.data.table("val").sample.tolist()
        self.held_out.append({sample: pl_module.store.latest[sample] for sample in samples})

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ExpCTRModule)
        self.checksums.append(pl_module.explainer.model.base_checksum())
        if pl_module.entry.stage == "ctr":
            self.ctr.append(float(pl_module.ctr.backbones[0].fields.weight.sum()))


class Run:
    """A fit in this process."""

    def __init__(
        self,
        world: World,
        folder: Path,
        explanations: int = 1,
        rewards: tuple[list[Reward] | None, list[Reward] | None] = (None, None),
        **watch: bool,
    ) -> None:
        llm = LLMOptions(path=str(world.folder / "llm"), dtype="float32", lora_r=2)
        self.module = ExpCTRModule(
            PPOExplainerModule(
                llm,
                rollout=RolloutOptions(max_new_tokens=5),
                lc=LCOptions(score="logit", min_mass=0),
                ppo=PPOOptions(lr=1e-2, minibatch_size=4),
            ),
            DeepFMTextModule(partial(DeepFM, mlp=(8,)), CTROptions(lr=1e-2)),
            EncoderOptions(path=str(world.folder / "llm")),
        )
        self.data = MovieLensDataModule(
            str(world.folder / "movielens"),
            SampleOptions(fractions=(0.6, 0.2, 0.2)),
            cache_dir=str(world.folder / "cache"),
            rollout_batch_size=12,
            ctr_batch_size=18,
            eval_batch_size=12,
        )
        self.watch = Watch(**watch)
        self.folder = folder
        lc, ic = (PolicyStageOptions(1, listed) for listed in rewards)
        scheduler = StageScheduler(lc, 1, CTRStageOptions(2, explanations), ic)
        self.trainer = L.Trainer(
            accelerator="cpu",
            default_root_dir=folder,
            logger=False,
            callbacks=[scheduler, RunCheckpoint(), self.watch],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        self.trainer.fit(self.module, datamodule=self.data)


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(world, tmp_path_factory.mktemp("run"))


def test_a_fused_optimizers_steps_are_counted_where_its_parameters_are() -> None:
    """On a GPU it cannot step otherwise; the meta device stands for one."""
    parameter = torch.nn.Parameter(torch.zeros(2, device="meta"))
    for fused, device in ((True, "meta"), (False, "cpu")):
        optimizer = torch.optim.Adam([parameter], fused=fused)
        prime(optimizer)
        assert optimizer.state[parameter]["step"].device.type == device
        assert optimizer.state[parameter]["exp_avg"].device.type == "meta"


def test_training_leaves_the_base_as_it_was(run: Run) -> None:
    assert len(run.watch.checksums) == 3 + 2 * 2 + 3
    assert len(set(run.watch.checksums)) == 1
    untrained = PPOExplainerModule(run.module.explainer.llm)
    untrained.build(run.data.nouns)
    assert untrained.model.base_checksum() == run.watch.checksums[0]
    moved = [name for name, p in run.module.explainer.named_parameters() if p.requires_grad]
    fresh = dict(untrained.named_parameters())
    assert any(not torch.equal(dict(run.module.explainer.named_parameters())[n], fresh[n]) for n in moved)


def test_checkpoints_hold_what_was_trained_and_load_as_plain_tensors(run: Run) -> None:
    paths = checkpoints(run.folder / "checkpoints")
    assert len(paths) == 2
    for path in paths:
        assert path.stat().st_size < 500_000
        saved = torch.load(path, weights_only=True)
        trained = {name for name, p in run.module.named_parameters() if p.requires_grad}
        assert set(saved["state_dict"]) == trained
        assert all("lora_" in name for name in trained if name.startswith("explainer.model."))
        assert {"explainer.value_head.layers.1.weight", "ctr.backbones.0.fields.weight"} <= trained
        assert saved["features"] == run.data.features.state_dict()
        written = saved["expctr"]["store"]["latest"]
        assert set(run.data.table("train").sample.tolist()) <= set(written)


def test_references_are_of_the_row_and_kept_in_checkpoints(world: World, tmp_path: Path) -> None:
    again = LCAlignment(0.5, baseline="reference")
    lc, ic = LCAlignment(baseline="reference"), ICAlignment(delta="signed", baseline="reference")
    run = Run(world, tmp_path, rewards=([lc], [again, ic]))
    models, train = run.module.models, run.data.table("train")
    written = [models.store.untrained[sample][0] for sample in train.sample.tolist()]
    scores = models.policy.lc_scorer.scores(train.texts, written)
    expected = dict(zip(train.sample.tolist(), (1 - (train.label - scores).abs()).tolist(), strict=True))
    for name in ("000-lc", "003-ic1"):
        rows = pl.read_parquet(tmp_path / "explanations" / f"{name}.parquet")
        for sample, reference in rows.select("sample", "reference_lc").iter_rows():
            assert reference == pytest.approx(expected[sample], abs=1e-5)
    gain = rows["reward_ic"] - rows["reference_ic"]  # of s_r over s_0, twice: once of Eq. 9 and once of the last term
    assert gain.to_list() == pytest.approx((2 * rows["text_gain"]).to_list(), abs=1e-5)
    saved = torch.load(checkpoints(tmp_path / "checkpoints")[-1], weights_only=True)["expctr"]["rewards"]
    assert saved["lc"]["lc"] == lc.state_dict()
    assert saved["ic"] == {"lc": again.state_dict(), "ic": {}}


def test_the_score_at_z_0_is_the_score_of_a_model_without_text(run: Run) -> None:
    batch = run.data.table("val").batch(range(12))
    plain = CTRModule(run.module.ctr.backbone, run.module.ctr.options)
    plain.build(run.data.features.vocabulary)
    plain.load_state_dict(run.module.ctr.state_dict(), strict=False)
    without = run.module.ctr.score(batch)
    assert torch.equal(without, plain.score(batch))
    assert torch.equal(without, run.module.ctr.score(batch, torch.zeros(12, run.module.encoder.dim)))
    texts = run.module.store.texts(batch.sample.tolist())
    assert all(texts)
    assert not torch.equal(without, run.module.ctr.score(batch, run.module.encoder.encode(texts)))


def test_explanations_of_held_out_rows_never_reach_ctr_training(run: Run, world: World, tmp_path: Path) -> None:
    poisoned = Run(world, tmp_path, poison=True)
    assert poisoned.watch.ctr == run.watch.ctr
    held_out = {s for split in ("val", "test") for s in run.data.table(split).sample.tolist()}
    assert any("poison" in poisoned.module.store.latest[sample] for sample in held_out)


def test_the_ctr_stage_validates_on_explanations_sampled_once_as_those_were_that_it_trains_on(run: Run) -> None:
    greedy, first, second, after = run.watch.held_out  # of the epochs LC, CTR, CTR, IC
    assert first != greedy
    assert second == first
    assert after != first


@pytest.mark.cli
def test_the_ctr_stage_samples_several_explanations_of_each_row_and_scores_by_all_of_them(
    world: World, tmp_path: Path
) -> None:
    run = Run(world, tmp_path, explanations=3)
    store, models = run.module.store, run.module.models
    explained = [s for split in ("train", "val") for s in run.data.table(split).sample.tolist()]
    assert {len(store.draws[sample]) for sample in explained} == {3}
    assert any(len(set(store.draws[sample])) > 1 for sample in explained)
    table = run.data.table("val")
    stage = CTRStage(run.module, models, explanations=3)
    columns = stage.validate(table, run.module.plan[2])  # the stage's second epoch reads what the first one wrote
    texts = [store.draws[sample] for sample in table.sample.tolist()]
    each = [run.module.ctr.score(table, models.encoder.vectors([t[i] for t in texts])) for i in range(3)]
    assert torch.allclose(columns["s_r"], torch.stack(each).mean(0))


def test_the_untrained_model_explains_each_row_once_whatever_the_policy_learnt(run: Run) -> None:
    models, batch = run.module.models, run.data.table("train").batch(range(6))
    first = models.untrained_texts(batch)
    assert run.module.store.untrained == {s: [t] for s, t in zip(batch.sample.tolist(), first, strict=True)}
    more = models.untrained_explanations(batch.repeat(1), count=2)
    assert [texts[0] for texts in more] == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "sample_explanations", None)
        assert models.untrained_explanations(batch, count=2) == more
    untrained = PPOExplainerModule(
        run.module.explainer.llm, rollout=RolloutOptions(max_new_tokens=5), lc=LCOptions(score="logit", min_mass=0)
    )
    untrained.build(run.data.nouns)
    fresh = Models(untrained)
    fresh.data = run.data
    assert fresh.untrained_texts(batch) == first


def test_a_held_out_row_whose_score_is_no_number_is_named(run: Run) -> None:
    """Before any metric, which could only say that there is one; a person without a label is no such row."""
    columns = {"sample": [3, 5], "text": ["three", "five"], "s_u": [0.1, 0.2], "label": [0.0, float("nan")]}
    run.module._check_finite(columns)
    with pytest.raises(BadRunError, match=r's_r is NaN or infinite in 1 of 2 rows \(sample 5 "five"\)\. Lower the'):
        run.module._check_finite(columns | {"s_r": [0.5, float("nan")]})


def test_a_prompt_names_its_target_and_earlier_choices_alone(run: Run) -> None:
    for split in ("train", "val", "test"):
        rows = run.data.rows(split)
        for row, texts in zip(rows.iter_rows(named=True), run.data.table(split).texts, strict=True):
            (ids,) = run.module.explainer.prompts.explanation([texts])
            prompt = run.module.explainer.model.tokenizer.decode(ids)
            assert row["target"] not in row["liked"] + row["disliked"]
            named = {title for title in TITLES if f'"{title}"' in prompt}
            assert named == {row["target_title"], *row["liked_titles"], *row["disliked_titles"]}


def test_the_users_own_words_reach_no_prompt_and_no_feature(world: World, tmp_path: Path) -> None:
    """Amazon's reviews: other words under the same ratings make the same run."""
    features = []
    for words in ("unmistakable", "other"):
        raw = tmp_path / words
        raw.mkdir()
        amazon(raw)
        for file in raw.glob("reviews*"):
            file.write_text(file.read_text().replace("unmistakable", words))
        options = [*world.options(f"words-{words}"), "--data=AmazonBooksDataModule", f"--data.init_args.path={raw}"]
        expctr("fit", *options, "--stages.rounds=0", "--trainer.limit_train_batches=2").ok()
        (path, *_) = checkpoints(world.folder / f"words-{words}" / "checkpoints")
        features.append(torch.load(path, weights_only=True))
    assert features[0]["features"] == features[1]["features"]
    assert features[0]["expctr"]["store"] == features[1]["expctr"]["store"]
    assert "unmistakable" not in str(features[0]["features"])
