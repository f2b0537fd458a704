"""The CTR module: what it learns from, what it must not see, and that it repeats itself exactly."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from expctr.ctr.click_model import CTROptions
from expctr.ctr.early_stopping import BestWeights, Monitor
from expctr.ctr.zoo import DCN, FM, AutoInt, CTRBackbone, DeepFM, xDeepFM
from expctr.data.batches import Batch
from expctr.data.features import Vocabulary
from expctr.errors import UserError
from expctr.metrics import ctr_metrics
from expctr.modules.ctr import CTRModule, DeepFMTextModule

VOCABULARY, TEXT = Vocabulary({"user": 12, "target": 12}, {"liked": "target", "disliked": "target"}), 8


def rows(count: int, seed: int = 0) -> Batch:
    """Users of even index like targets of even index, and odd ones odd targets."""
    generator = torch.Generator().manual_seed(seed)
    user, target = torch.randint(2, 12, (2, count), generator=generator)
    history = torch.randint(0, 12, (2, count, 3), generator=generator)
    features = {"user": user, "target": target, "liked": history[0], "disliked": history[1]}
    return Batch(torch.arange(count), ((user + target) % 2 == 0).float(), features)


def take(batch: Batch, chosen: Tensor | slice) -> Batch:
    features = {name: values[chosen] for name, values in batch.features.items()}
    return Batch(batch.sample[chosen], batch.label[chosen], features)


def module(
    text_dim: int = TEXT, seed: int = 0, dropout: float = 0.2, oov_rate: float = 0.02, **options: Any
) -> DeepFMTextModule:
    backbone = partial(DeepFM, mlp=(16, 8), dropout=dropout, oov_rate=oov_rate)
    made = DeepFMTextModule(backbone, CTROptions(**options))
    made.build(VOCABULARY, text_dim, seed)
    return made


def train(made: CTRModule, batch: Batch, text: Tensor | None, steps: int = 20, lr: float = 1e-2) -> CTRModule:
    adam = torch.optim.Adam(made.parameters(), lr=lr)
    for step in range(steps):
        torch.manual_seed(step)
        adam.zero_grad()
        made.loss(batch, text).backward()
        adam.step()
    return made


def weights(made: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in made.parameters()])


def test_loss_is_the_mean_cross_entropy():
    made, batch = module(oov_rate=0.0, dropout=0.0), rows(20)
    text = torch.randn(20, TEXT)
    scores = made.score(batch, text)
    assert made.loss(batch, text).item() == pytest.approx(ctr_metrics(scores, batch.label)["logloss"], rel=1e-5)
    torch.testing.assert_close(made.eval().logits(batch.features, text).sigmoid(), scores)


def test_without_text_it_scores_as_the_model_that_has_none():
    made, batch = train(module(), rows(50), torch.randn(50, TEXT)), rows(20)
    plain = DeepFM(VOCABULARY, mlp=(16, 8)).eval()
    plain.load_state_dict(made.backbones[0].state_dict(), strict=False)
    expected = plain(batch.features).sigmoid()
    assert torch.equal(made.score(batch), expected)
    assert torch.equal(made.score(batch, torch.zeros(20, TEXT)), expected)


def test_scoring_uses_no_dropout_leaves_the_mode_and_draws_nothing():
    made, batch = module(dropout=0.5, oov_rate=0.5), rows(20)
    before = torch.get_rng_state()
    assert torch.equal(made.score(batch), made.score(batch))
    assert made.training
    assert made.backbones[0].training
    assert torch.equal(torch.get_rng_state(), before)
    assert not made.score(batch).requires_grad


def test_building_is_a_function_of_the_seed_alone_and_draws_nothing():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = weights(module())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(weights(module()), first)
    assert not torch.equal(weights(module(seed=1)), first)


def test_reset_starts_over_exactly():
    batch, text = rows(50), torch.randn(50, TEXT)
    made = module(crossfit=2)
    adam = torch.optim.Adam(made.parameters(), lr=1e-2)

    def run() -> Tensor:
        for step in range(5):
            torch.manual_seed(step)
            adam.zero_grad()
            made.loss(batch, text).backward()
            adam.step()
        return weights(made)

    first = run()
    made.best.update(0.5)
    made.reset(adam)
    assert torch.equal(weights(made), weights(module(crossfit=2)))
    assert made.best.state_dict()["weights"] == {}
    assert torch.equal(run(), first)


def test_crossfit_models_never_see_the_labels_of_their_own_share():
    batch, text = rows(60), torch.randn(60, TEXT)
    flipped = dataclasses.replace(batch, label=torch.where(batch.sample % 3 == 1, 1 - batch.label, batch.label))
    as_is, changed = train(module(crossfit=3), batch, text), train(module(crossfit=3), flipped, text)
    same = [torch.equal(weights(a), weights(b)) for a, b in zip(as_is.backbones, changed.backbones, strict=True)]
    assert same == [False, True, False]

    own = batch.sample % 3 == 1
    heldout = as_is.score(batch, text, heldout=True) - changed.score(batch, text, heldout=True)
    assert heldout[own].eq(0).all()
    assert heldout[~own].ne(0).any()


def test_crossfit_scores_other_rows_by_the_mean_logit():
    made, batch = module(crossfit=3), rows(20)
    logits = torch.stack([backbone.eval()(batch.features) for backbone in made.backbones])
    torch.testing.assert_close(made.score(batch), logits.mean(0).sigmoid())
    heldout = made.score(batch, heldout=True)
    torch.testing.assert_close(heldout[7], logits[7 % 3, 7].sigmoid())


def test_a_crossfit_model_trains_as_it_would_alone():
    batch = rows(60)
    options: dict[str, object] = {"dropout": 0.0, "oov_rate": 0.0}
    together = train(module(0, crossfit=2, **options), batch, None)
    alone = train(module(0, **options), take(batch, batch.sample % 2 == 1), None)
    torch.testing.assert_close(weights(together.backbones[0]), weights(alone))


def test_a_batch_may_lie_in_one_share():
    batch = take(rows(10), slice(2, 3))
    made = module(crossfit=2)
    made.loss(batch).backward()
    assert all(parameter.grad is not None for parameter in made.backbones[0].fields.parameters())
    assert weights(made).isfinite().all()


def test_text_dropout_hides_explanations_from_training_at_its_rate():
    batch, text = rows(4000), torch.ones(4000, TEXT)
    seen: list[Tensor] = []
    made = module(text_dropout=0.25)
    made.backbones[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    made.loss(batch, text)
    hidden = seen[0].eq(0).all(1)
    assert 0.22 < hidden.float().mean() < 0.28
    assert seen[0][~hidden].eq(1).all()
    made.eval().loss(batch, text)
    made.score(batch, text)
    assert all(shown.eq(1).all() for shown in seen[1:])


def test_text_dropout_makes_the_score_without_text_useful():
    """With labels readable from text alone, a model that never saw z = 0 knows little about ids."""
    batch, test = rows(800), rows(400, seed=1)
    text = torch.randn(800, TEXT) * 0.3
    text[:, 0] = 2 * batch.label - 1
    auc = {}
    for share in (0.0, 0.5):
        made = train(module(text_dropout=share, dropout=0.0), batch, text, steps=80)
        auc[share] = ctr_metrics(made.score(test), test.label)["auc"]
    assert auc[0.5] > 0.9
    assert auc[0.5] > auc[0.0] + 0.05


def test_the_row_for_unseen_ids_is_trained():
    made = module(0, oov_rate=0.1)
    made.loss(rows(200)).backward()
    user_unseen, target_unseen = 1, 12  # after the common padding row and eleven users
    assert made.backbones[0].fields.weight.grad[[user_unseen, target_unseen]].abs().sum(1).gt(0).all()


def test_no_models_are_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        CTRModule(DeepFM, CTROptions(crossfit=0))


@pytest.mark.parametrize(
    ("monitor", "values"), [("auc", [0.5, 0.7, 0.6, float("nan")]), ("logloss", [0.9, 0.5, 0.6, 0.7])]
)
def test_best_weights(monitor: Monitor, values: list[float]):
    layer = nn.Linear(1, 1)
    best = BestWeights(layer, monitor, patience=2)
    stops = []
    for step, value in enumerate(values):
        nn.init.constant_(layer.weight, step)
        stops.append(best.update(value))
    assert stops == [False, False, False, True]
    assert best.waited == 2

    other = BestWeights(nn.Linear(1, 1), monitor, patience=2)
    other.load_state_dict(best.state_dict())
    assert other.update(values[0])
    best.restore()
    assert layer.weight.item() == 1
    nn.init.constant_(layer.weight, 9)
    best.restore()  # the copy is not the live weight
    assert layer.weight.item() == 1


def unpack(items: list[Batch]) -> Batch:
    return items[0]


class Data(L.LightningDataModule):
    features = SimpleNamespace(
        vocabulary=VOCABULARY,
        state_dict=lambda: {"vocabularies": {}, "lists": []},
        check_same=lambda other: None,
    )
    seed = 0
    request = check_rows = lambda self, *args: None

    def loader(self, count: int, seed: int) -> DataLoader[Batch]:
        table = rows(count, seed)
        batches = [take(table, slice(start, start + 100)) for start in range(0, count, 100)]
        return DataLoader(batches, collate_fn=unpack)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader(1500, 0)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader(300, 1)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.loader(300, 2)

    predict_dataloader = test_dataloader


def trainer(folder: Path, epochs: int) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=1,
    )


@pytest.mark.filterwarnings("ignore")
def test_it_trains_alone_stops_early_and_keeps_the_best(tmp_path: Path):
    made = DeepFMTextModule(options=CTROptions(lr=1e-2, patience=2))
    run = trainer(tmp_path, epochs=30)
    seen: list[float] = []
    observe = made.best.update
    made.best.update = lambda value: seen.append(value) or observe(value)  # type: ignore[method-assign,func-returns-value]
    run.fit(made, datamodule=Data())
    assert 3 <= len(seen) < 30
    assert seen.index(min(seen)) == len(seen) - 3

    (validated,) = run.validate(made, datamodule=Data(), verbose=False)
    assert validated["val/logloss"] == pytest.approx(min(seen))
    (tested,) = run.test(made, datamodule=Data(), verbose=False)
    assert tested["test/auc"] > 0.9
    predicted = run.predict(made, datamodule=Data())
    scores = torch.cat([part["score"] for part in predicted])
    assert ctr_metrics(scores, rows(300, 2).label)["auc"] == pytest.approx(tested["test/auc"])


class Reader(CTRModule):
    """DeepFM over text vectors of a narrow bottleneck, which tell the label."""

    def __init__(self) -> None:
        super().__init__(DeepFM, CTROptions(text_bottleneck=2, text_bottleneck_dropout=0.3, text_dropout=0.1))

    def configure_model(self) -> None:
        if not self.built:
            self.build(VOCABULARY, TEXT)

    def text(self, batch: Batch) -> Tensor:
        return batch.label[:, None] + torch.arange(TEXT) + batch.sample[:, None] % 7


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [DeepFMTextModule, Reader])
def test_a_resumed_run_equals_an_uninterrupted_one(kind: Callable[[], CTRModule], tmp_path: Path):
    whole, resumed = kind(), kind()
    trainer(tmp_path, epochs=4).fit(whole, datamodule=Data())

    first = trainer(tmp_path, epochs=2)
    first.fit(kind(), datamodule=Data())
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, epochs=4).fit(resumed, datamodule=Data(), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.best.state_dict()["best"] == whole.best.state_dict()["best"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [DeepFM, DCN])
def test_a_run_that_had_stopped_is_not_trained_further(kind: type[CTRBackbone], tmp_path: Path):
    """Nor does it forget what batch normalisation saw."""
    make = partial(CTRModule, partial(kind, mlp=(16, 8)), CTROptions(lr=5e-2, patience=1))
    stopped, again = make(), make()
    run, more = trainer(tmp_path, epochs=30), trainer(tmp_path, epochs=30)
    run.fit(stopped, datamodule=Data())
    assert run.current_epoch < 30
    run.save_checkpoint(tmp_path / "end.ckpt")
    (expected,) = run.validate(stopped, datamodule=Data(), verbose=False)
    more.fit(again, datamodule=Data(), ckpt_path=tmp_path / "end.ckpt")
    assert more.current_epoch == run.current_epoch
    assert torch.equal(weights(again), weights(stopped))
    (found,) = more.validate(again, datamodule=Data(), verbose=False)
    assert found == expected


def test_options_out_of_range_are_refused_when_a_config_is_read():
    with pytest.raises(UserError, match=r"DCN\.dropout must be from 0 to 1, not 2"):
        CTRModule(partial(DCN, dropout=2))
    with pytest.raises(UserError, match="heads must divide attention_dim: 2 heads, length 15"):
        CTRModule(partial(AutoInt, attention_dim=15))
    for kind in (DeepFM, FM, xDeepFM, AutoInt, DCN):
        with pytest.raises(UserError, match=f"{kind.__name__}.embedding_dim must be at least 1"):
            CTRModule(partial(kind, embedding_dim=0))
    for sizes in ((), (1, 1)):
        with pytest.raises(UserError, match=r"xDeepFM\.cin must name one layer or more"):
            CTRModule(partial(xDeepFM, cin=sizes))
    state = torch.get_rng_state()
    CTRModule(DeepFM)
    assert torch.equal(torch.get_rng_state(), state)
