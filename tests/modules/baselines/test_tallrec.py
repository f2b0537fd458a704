"""TALLRec: what is taught, that it learns, what it leaves alone, and that it repeats itself exactly."""

import json
from pathlib import Path

import lightning as L
import polars as pl
import pytest
import torch
from conftest import stir_adapter
from faults.callbacks import kill
from running import TESTS, World, curves, expctr
from torch import Tensor

from expctr.data.batches import Batch, Nouns, SampleText
from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.errors import UserError
from expctr.llm.loading import LLMOptions
from expctr.llm.yes_no import LCOptions
from expctr.modules.baselines.tallrec import TALLRecModule, TALLRecOptions
from expctr.run_folder import checkpoints
from expctr.systems import SIMPLE

MOVIES = Nouns("movie", "movies", "viewer", "viewing")
CONFIGS = TESTS.parent / "configs"


def module(folder: Path, lc: LCOptions = LCOptions(), **options: object) -> TALLRecModule:
    llm = LLMOptions(path=str(folder), dtype="float32", lora_r=4)
    return TALLRecModule(llm, lc=lc, options=TALLRecOptions(**options))  # type: ignore[arg-type]


def built(folder: Path, lc: LCOptions = LCOptions(), **options: object) -> TALLRecModule:
    made = module(folder, lc, **options)
    made.build(MOVIES)
    return made


def weights(made: TALLRecModule) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in made.adapter()])


def next_token(made: TALLRecModule, sample: SampleText) -> Tensor:
    """Log-probabilities after the prompt, by transformers' own forward pass."""
    (prompt,) = made.question.prompts.icl([sample])
    with torch.no_grad():
        return made.model.causal(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)


@pytest.fixture
def tuned(llm_folder: Path) -> TALLRecModule:
    made = built(llm_folder)
    stir_adapter(made.model)
    return made


def token(made: TALLRecModule, word: str) -> int:
    (number,) = made.model.tokenizer(word).input_ids
    return int(number)


@pytest.mark.parametrize(("label", "word"), [(1.0, "Yes"), (0.0, "No")])
def test_the_loss_is_the_answer_s_token_among_all(
    tuned: TALLRecModule, samples: list[SampleText], label: float, word: str
) -> None:
    (loss,) = tuned.question.losses(samples[:1], torch.tensor([label])).tolist()
    assert loss == pytest.approx(-float(next_token(tuned, samples[0])[token(tuned, word)]), abs=1e-5)
    assert loss > 1  # an untaught model has many other words: not the loss over the two answers


def test_rows_do_not_depend_on_their_neighbours(tuned: TALLRecModule, samples: list[SampleText]) -> None:
    labels = torch.tensor([1.0, 0, 1, 0, 1])
    together = tuned.question.losses(samples, labels)
    alone = [tuned.question.losses([sample], label[None]) for sample, label in zip(samples, labels, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("lc", [LCOptions(), LCOptions(score="prob", temperature=3.0)])
def test_the_score_is_the_softmax_over_yes_and_no(llm_folder: Path, samples: list[SampleText], lc: LCOptions) -> None:
    made = built(llm_folder, lc)
    stir_adapter(made.model)
    scores = made.row_scores(Batch(torch.arange(5), torch.zeros(5), {}, samples))
    assert not scores.requires_grad
    for score, sample in zip(scores, samples, strict=True):
        logprobs = next_token(made, sample)
        yes, no = (float(logprobs[token(made, word)].exp()) for word in ("Yes", "No"))
        assert float(score) == pytest.approx(yes / (yes + no), abs=1e-5)


def test_every_layer_of_the_adapter_gets_a_gradient(tuned: TALLRecModule, samples: list[SampleText]) -> None:
    tuned.question.losses(samples, torch.ones(5)).mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in tuned.adapter())
    assert all(p.grad is None for p in tuned.model.parameters() if not p.requires_grad)


# --- few shots


def test_shots_are_so_many_rows_the_same_for_a_seed(llm_folder: Path) -> None:
    labels = (torch.arange(200) % 10 == 0).float()
    drawn = {shots: module(llm_folder, shots=shots).training_rows(labels, 3) for shots in (16, 64)}
    for shots, rows in drawn.items():
        assert len(rows) == len(set(rows.tolist())) == shots
        assert torch.equal(module(llm_folder, shots=shots).training_rows(labels, 3), rows)
    assert set(drawn[16].tolist()) < set(drawn[64].tolist())
    assert set(module(llm_folder, shots=16).training_rows(labels, 4).tolist()) != set(drawn[16].tolist())
    assert torch.equal(module(llm_folder).training_rows(labels, 3), torch.arange(200))


def test_balanced_shots_are_half_liked(llm_folder: Path) -> None:
    labels = (torch.arange(200) % 10 == 0).float()
    for shots, liked in ((16, 8), (7, 4)):
        rows = module(llm_folder, shots=shots, balanced=True).training_rows(labels, 0)
        assert len(set(rows.tolist())) == shots
        assert labels[rows].sum() == liked
    with pytest.raises(UserError, match=r"options.shots is 64.*20 of them liked.*no more than 52"):
        module(llm_folder, shots=64, balanced=True).training_rows(labels, 0)
    with pytest.raises(UserError, match=r"options\.shots is 300"):
        module(llm_folder, shots=300).training_rows(labels, 0)


# --- training


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users like the films called Yes, and dislike those called No."""
    folder = tmp_path_factory.mktemp("ratings")
    titles = [f"{'Yes' if item % 2 else 'No'} {item}" for item in range(1, 13)]
    lines = [f"{item},{title},Drama" for item, title in enumerate(titles, start=1)]
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "\n".join(lines) + "\n")
    seen = [(user, 1 + (user * 5 + step * 7) % 12, step) for user in range(60) for step in range(8)]
    lines = [f"{user},{item},{4 if item % 2 else 2},{step}" for user, item, step in seen]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(lines) + "\n")
    return folder


def data(folder: Path) -> MovieLensDataModule:
    options = SampleOptions(threshold=4, threshold_op="ge", targets_per_user=4, fractions=(0.6, 0.2, 0.2))
    return MovieLensDataModule(str(folder), options, cache_dir=str(folder / "cache"), eval_batch_size=50)


def trainer(folder: Path, epochs: int) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        inference_mode=False,
    )


@pytest.mark.cli
@pytest.mark.filterwarnings("ignore")
def test_it_learns_a_rule_keeps_the_best_and_leaves_the_base_alone(
    llm_folder: Path, ratings: Path, tmp_path: Path
) -> None:
    made = module(llm_folder, lr=1e-2, warmup=0, minibatch_size=16, patience=2)
    run = trainer(tmp_path, 8)
    (before,) = run.test(made, datamodule=data(ratings), verbose=False)
    base = {name: p.clone() for name, p in made.model.named_parameters() if not p.requires_grad}
    checksum = made.model.base_checksum()
    seen: list[float] = []
    observe = made.best.update
    made.best.update = lambda value: seen.append(value) or observe(value)  # type: ignore[method-assign,func-returns-value]
    run.fit(made, datamodule=data(ratings))
    (after,) = run.test(made, datamodule=data(ratings), verbose=False)
    assert before["test/auc"] < 0.8
    assert after["test/auc"] > 0.95
    assert after["test/logloss"] < before["test/logloss"]

    (validated,) = run.validate(made, datamodule=data(ratings), verbose=False)
    assert validated["val/auc"] == pytest.approx(max(seen))
    assert len(seen) == 8 or seen.index(max(seen)) == len(seen) - 3

    assert made.model.base_checksum() == checksum
    assert all(torch.equal(p, base[name]) for name, p in made.model.named_parameters() if name in base)
    path = tmp_path / "end.ckpt"
    run.save_checkpoint(path)
    kept = torch.load(path, weights_only=True)["state_dict"]
    assert kept
    assert all("lora_" in name for name in kept)
    assert sum(values.numel() for values in kept.values()) == len(weights(made))


@pytest.mark.filterwarnings("ignore")
def test_results_do_not_depend_on_micro_batches(llm_folder: Path, ratings: Path, tmp_path: Path) -> None:
    found = []
    for size in (None, 1, 5):
        made = module(llm_folder, lr=1e-3, minibatch_size=12, micro_batch_size=size, shots=30)
        trainer(tmp_path, 2).fit(made, datamodule=data(ratings))
        found.append(weights(made))
    start = weights(built(llm_folder))
    moved = (found[0] - start).abs().max()
    assert moved > 1e-4
    for other in found[1:]:
        assert (other - found[0]).abs().max() < 0.02 * moved


@pytest.mark.filterwarnings("ignore")
def test_an_epoch_reads_each_shot_once_with_its_titles(llm_folder: Path, ratings: Path, tmp_path: Path) -> None:
    made = module(llm_folder, shots=16, minibatch_size=6)
    read: list[list[Batch]] = []
    step = made.training_step

    def watch(batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            read.append([])
        read[-1].append(batch)
        step(batch, batch_idx)

    made.training_step = watch  # type: ignore[method-assign]
    samples = data(ratings)
    trainer(tmp_path, 2).fit(made, datamodule=samples)
    titles = dict(zip(samples.table("train").sample.tolist(), samples.table("train").texts, strict=True))
    orders = [[row for batch in epoch for row in batch.sample.tolist()] for epoch in read]
    assert [len(batch) for batch in read[0]] == [6, 5, 5]
    assert len(set(orders[0])) == 16
    assert set(orders[0]) == set(orders[1])
    assert orders[0] != orders[1]
    for batch in read[0]:
        assert batch.texts == [titles[sample] for sample in batch.sample.tolist()]


@pytest.mark.filterwarnings("ignore")
def test_a_number_that_is_none_ends_the_run_and_names_the_rows(llm_folder: Path, ratings: Path, tmp_path: Path) -> None:
    made = module(llm_folder, minibatch_size=12)
    run = trainer(tmp_path, 1)
    run.test(made, datamodule=data(ratings), verbose=False)
    next(made.adapter()).data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"epoch 1, batch 1: the loss is NaN or infinite in 12 of 12 rows.*options\.lr"):
        run.fit(made, datamodule=data(ratings))


# --- the command line


def test_it_trains_resumes_in_mid_epoch_tests_and_predicts(world: World) -> None:
    options = [
        f"--config={CONFIGS / 'tallrec.yaml'}",
        f"--model.llm.path={world.folder / 'llm'}",
        "--model.llm.dtype=float32",
        "--model.options.minibatch_size=8",
        "--model.options.lr=0.01",
        "--model.options.shots=30",
        f"--data.path={world.folder / 'movielens'}",
        f"--data.cache_dir={world.folder / 'cache'}",
        "--checkpoint.every_n_batches=2",
        "--trainer.max_epochs=3",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    folders = [world.folder / name for name in ("tallrec", "tallrec-again")]
    whole, again = ([*options, f"--trainer.default_root_dir={folder}"] for folder in folders)
    said = expctr("fit", *whole).ok().output
    assert "Warning" not in said
    assert expctr("fit", *again, *kill(1, 3)).code == -9
    expctr("fit", *again, "--ckpt_path=last").ok()
    found, resumed = (curves(folder) for folder in folders)
    assert len(found["tallrec/loss"]) == 12
    for tag in ("tallrec/loss", "tallrec/lr", "val/auc", "val/logloss"):
        assert {k: v[-1] for k, v in resumed[tag].items()} == {k: v[-1] for k, v in found[tag].items()}, tag
    ends = [torch.load(checkpoints(folder / "checkpoints")[-1], weights_only=True) for folder in folders]
    assert ends[0]["state_dict"].keys() == ends[1]["state_dict"].keys()
    assert all(torch.equal(values, ends[1]["state_dict"][name]) for name, values in ends[0]["state_dict"].items())

    expctr("test", *whole).ok()
    table = json.loads((folders[0] / "table.json").read_text())
    simple = [system.name for system in SIMPLE]
    assert list(table["systems"]) == [*simple, "TALLRec"]
    assert "| TALLRec |" in (folders[0] / "table.md").read_text()
    assert pl.read_parquet(folders[0] / "scores.parquet").columns == ["sample", "user", "label", *simple, "TALLRec"]
    validated = expctr("validate", *whole).ok().output
    assert f"{max(values[-1] for values in found['val/auc'].values())}"[:8] in validated
    expctr("predict", *whole).ok()
    assert (folders[0] / "predictions.parquet").exists()

    refused = expctr("fit", *options, "--model.options.shots=3000", f"--trainer.default_root_dir={world.folder / 'no'}")
    assert refused.code == 2
    assert "error: options.shots is 3000, and the" in refused.output
