"""The ICL row: the frozen base's answer to the direct question, and a fit that trains nothing."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from conftest import make_llm, stir_adapter
from running import TESTS, World, expctr

from expctr.data.batches import Batch, Nouns, SampleText
from expctr.llm.loading import LLMOptions
from expctr.llm.prompts import PromptOptions
from expctr.llm.yes_no import LCOptions
from expctr.modules.baselines.icl import ICLModule
from expctr.modules.explainer import PPOExplainerModule
from expctr.systems import SIMPLE

MOVIES = Nouns("movie", "movies", "viewer", "viewing")
CONFIGS = TESTS.parent / "configs"


def rows(texts: list[SampleText]) -> Batch:
    return Batch(torch.arange(len(texts)), torch.zeros(len(texts)), {}, texts)


def module(folder: Path, prompts: PromptOptions = PromptOptions(), **lc: object) -> ICLModule:
    made = ICLModule(LLMOptions(path=str(folder), dtype="float32"), prompts, LCOptions(**lc))  # type: ignore[arg-type]
    made.build(MOVIES)
    return made


def test_it_is_the_score_that_expctr_reports_and_the_base_s(llm_folder: Path, samples: list[SampleText]) -> None:
    made = module(llm_folder)
    explainer = PPOExplainerModule(LLMOptions(path=str(llm_folder), dtype="float32"))
    explainer.build(MOVIES)
    scores = made.row_scores(rows(samples))
    assert torch.equal(scores, explainer.direct.scores(samples))
    assert len(set(scores.tolist())) == len(samples)
    stir_adapter(made.model)
    assert torch.equal(made.row_scores(rows(samples)), scores)


def test_it_is_equation_8_on_the_next_token(llm_folder: Path, samples: list[SampleText]) -> None:
    made = module(llm_folder, score="logit", temperature=0.5)
    (prompt,) = made.question.prompts.icl(samples[:1])
    with torch.no_grad():
        logits = made.model.causal(input_ids=torch.tensor([prompt])).logits[0, -1]
    yes, no = (float(logits[made.model.tokenizer(word).input_ids[0]]) for word in ("Yes", "No"))
    expected = 1 / (1 + torch.tensor((no - yes) / 0.5).exp())
    assert float(made.row_scores(rows(samples[:1]))) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(("end", "answer"), [("", " Yes"), (" ", "Yes")])
def test_the_answer_s_form_follows_its_own_template(tmp_path: Path, end: str, answer: str) -> None:
    """Without a chat template the answer continues the prompt, whatever the other templates end with."""
    folder, prompts = make_llm(tmp_path, chat=False), PromptOptions(icl=PromptOptions().icl + end)
    explainer = PPOExplainerModule(LLMOptions(path=str(folder), dtype="float32"), prompts)
    explainer.build(MOVIES)
    for question in (module(folder, prompts).question, explainer.direct):
        assert question.model.tokenizer.decode(question.answers.positive[0]) == answer
    assert explainer.model.tokenizer.decode(explainer.lc_scorer.answers.positive[0]) == " Yes"


def test_fit_trains_nothing_and_leaves_what_test_and_predict_ask_for(world: World) -> None:
    run = world.folder / "icl"
    options = [
        f"--config={CONFIGS / 'icl.yaml'}",
        f"--model.llm.path={world.folder / 'llm'}",
        f"--data.path={world.folder / 'movielens'}",
        f"--data.cache_dir={world.folder / 'cache'}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={run}",
    ]
    said = expctr("fit", *options).ok().output
    assert said.count("nothing to train") == 1
    assert "Warning" not in said
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert torch.load(checkpoint, weights_only=True)["state_dict"] == {}

    tested = expctr("test", *options).ok().output
    assert "Test results" in tested
    table = json.loads((run / "table.json").read_text())
    simple = [system.name for system in SIMPLE]
    assert list(table["systems"]) == [*simple, "ICL"]
    assert "| ICL |" in (run / "table.md").read_text()
    assert pl.read_parquet(run / "scores.parquet").columns == ["sample", "user", "label", *simple, "ICL"]
    expctr("predict", *options).ok()
    predicted = pl.read_parquet(run / "predictions.parquet")
    assert predicted.height == table["rows"]
    assert predicted["score"].is_between(0.268, 0.732).all()  # Eq. 8 as printed

    again = expctr("fit", *options, "--ckpt_path=last").ok().output
    assert "nothing to train" in again
