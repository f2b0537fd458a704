"""Yes/no scores (Eq. 8): worked by hand, and of a model, whatever else is in the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_llm, stir_adapter
from torch import Tensor
from transformers import AutoModelForCausalLM

from expctr.data.batches import Nouns, SampleText
from expctr.llm import prefill
from expctr.llm import yes_no as module
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.yes_no import Answers, LCOptions, LCScorer, answer_tokens, score_logits, score_prompts, score_states

ENDING = "Whether the user will like the target book target:"
PROBABILITIES = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
YES_NO = Answers([0], [1])
REASONS = ["They like it.", "They would hate every minute of it, and say so to anyone who asks.", "", "Why not", "No."]


def load(folder: Path) -> LanguageModel:
    return LanguageModel.load(LLMOptions(path=str(folder), dtype="float32", lora_r=4))


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("plain"), chat=False)


def lc_prompts(model: LanguageModel) -> list[list[int]]:
    prompts = Prompts(model.tokenizer, PromptOptions(), Nouns("book", "books", "reader", "reading"))
    return prompts.lc([SampleText("Emma")] * len(REASONS), REASONS, include_title=False)


@pytest.mark.parametrize(
    ("score", "temperature", "expected"),
    [
        ("prob", 1.0, 0.562177),  # e^0.5 / (e^0.5 + e^0.25) = 1 / (1 + e^-0.25)
        ("prob", 0.25, 0.731059),  # 1 / (1 + e^-1)
        ("logit", 1.0, 0.666667),  # 0.5 / 0.75
        ("logit", 0.5, 0.8),  # squares: 0.25 / (0.25 + 0.0625)
    ],
)
def test_eq_8_by_hand(score: str, temperature: float, expected: float) -> None:
    result = score_logits(PROBABILITIES.log() + 7, YES_NO, LCOptions(score=score, temperature=temperature))
    assert float(result) == pytest.approx(expected, abs=1e-5)


def test_eq_8_as_printed_stays_between_0_269_and_0_731() -> None:
    """At T = 1 it exponentiates probabilities: even a certain answer gives e / (e + 1)."""
    certain = torch.tensor([[50.0, 0, 0], [0, 50.0, 0], [0, 0, 50.0]])
    assert score_logits(certain, YES_NO, LCOptions()).tolist() == pytest.approx([0.731059, 0.268941, 0.5], abs=1e-5)
    scores = score_logits(10 * torch.randn(1000, 5, generator=torch.Generator().manual_seed(0)), YES_NO, LCOptions())
    assert 0.2689 < float(scores.min()) < 0.28
    assert 0.72 < float(scores.max()) < 0.7311
    assert score_logits(certain[:2], YES_NO, LCOptions(score="logit")).tolist() == pytest.approx([1, 0], abs=1e-5)


def test_the_probabilities_of_variants_are_summed() -> None:
    """p(yes) = 0.5 + 0.125 over tokens 0 and 2, p(no) = 0.25."""
    answers = Answers([0, 2], [1])
    assert float(score_logits(PROBABILITIES.log(), answers, LCOptions(score="logit"))) == pytest.approx(
        0.714286, abs=1e-5
    )
    assert float(score_logits(PROBABILITIES.log(), answers, LCOptions())) == pytest.approx(0.592667, abs=1e-5)


@pytest.mark.parametrize("options", [LCOptions(score="logit", temperature=0.5), LCOptions(), LCOptions(temperature=2)])
def test_scores_of_a_few_logits_at_a_time_are_those_of_all(
    llm_folder: Path, options: LCOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(llm_folder)
    states = torch.randn(7, model.hidden_size, generator=torch.Generator().manual_seed(0))
    answers, made = Answers([5, 9], [7]), []
    expected = score_logits(model.logits(states), answers, options)
    real = model.logits

    def logits(*args: Any) -> Tensor:
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(model, "logits", logits)
    monkeypatch.setattr(module, "MAX_LOGITS", 3 * model.vocab_size)
    torch.testing.assert_close(score_states(model, states, answers, options), expected, atol=1e-5, rtol=0)
    shapes = [tuple(part.shape) for part in made]
    assert shapes == ([(7, 3)] if options.score == "logit" else [(rows, model.vocab_size) for rows in (3, 3, 1)])


def test_without_a_chat_template_the_answer_has_its_leading_space(plain_folder: Path) -> None:
    model = load(plain_folder)
    answers = answer_tokens(model, ENDING, LCOptions())
    assert [model.tokenizer.decode(ids) for ids in answers] == [" Yes", " No"]
    whole = model.tokenizer(f"{ENDING} Yes").input_ids
    assert whole == [*model.tokenizer(ENDING).input_ids, *answers.positive]
    spaced = answer_tokens(model, ENDING + " ", LCOptions())
    assert [model.tokenizer.decode(ids) for ids in spaced] == ["Yes", "No"]


def test_with_a_chat_template_the_answer_opens_its_turn(llm_folder: Path) -> None:
    model = load(llm_folder)
    answers = answer_tokens(model, ENDING, LCOptions())
    assert [model.tokenizer.decode(ids) for ids in answers] == ["Yes", "No"]


@pytest.mark.parametrize("chat", [True, False])
def test_a_word_that_is_not_one_token_is_named(llm_folder: Path, plain_folder: Path, chat: bool) -> None:
    model = load(llm_folder if chat else plain_folder)
    with pytest.raises(ValueError, match=r"lc\.positive.*'Absolutely' is \d+ tokens"):
        answer_tokens(model, ENDING, LCOptions(positive=["Yes", "Absolutely"]))
    with pytest.raises(ValueError, match="'' is 0 tokens"):
        answer_tokens(model, ENDING + " ", LCOptions(negative=[""]))


def test_a_word_that_the_vocabulary_does_not_know_is_named(llm_folder: Path) -> None:
    model = load(llm_folder)
    model.tokenizer.unk_token = "Yes"  # what an unknown word would become
    with pytest.raises(ValueError, match="'Yes' is not in the vocabulary"):
        answer_tokens(model, ENDING, LCOptions())


def test_an_answer_cannot_mean_both_and_counts_once(llm_folder: Path) -> None:
    model = load(llm_folder)
    with pytest.raises(ValueError, match="share the token"):
        answer_tokens(model, ENDING, LCOptions(positive=["Yes"], negative=["Yes"]))
    assert len(answer_tokens(model, ENDING, LCOptions(positive=["Yes", "Yes"])).positive) == 1


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lc\.temperature is 0"):
        LCOptions(temperature=0)
    with pytest.raises(ValueError, match="at least one answer"):
        LCOptions(negative=[])


def test_scores_are_those_of_a_plain_forward_of_the_model_on_disk(any_llm_folder: Path) -> None:
    model = load(any_llm_folder)
    stir_adapter(model)
    prompts = lc_prompts(model)
    answers = answer_tokens(model, ENDING, LCOptions())
    base = AutoModelForCausalLM.from_pretrained(any_llm_folder)
    expected = []
    for ids in prompts:
        with torch.no_grad():
            p = base(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
        expected.append(float(p[answers.positive[0]] / (p[answers.positive[0]] + p[answers.negative[0]])))
    scores = score_prompts(model, prompts, answers, LCOptions(score="logit"))
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.dtype == torch.float32
    assert len({round(score, 4) for score in expected}) == len(expected)  # the test can tell rows apart


@pytest.mark.parametrize("tokens", [1, 40, 100, 4096])
def test_company_and_padding_change_no_score(
    any_llm_folder: Path, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill, "BATCH_TOKENS", (tokens, tokens))
    model = load(any_llm_folder)
    prompts, options = lc_prompts(model), LCOptions(score="logit")
    answers = answer_tokens(model, ENDING, options)

    def score(rows: list[list[int]]) -> Tensor:
        return score_prompts(model, rows, answers, options)

    alone = torch.cat([score([ids]) for ids in prompts])
    torch.testing.assert_close(score(prompts), alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(score(prompts[::-1]), alone.flip(0), atol=1e-6, rtol=0)


def test_the_adapter_has_no_part_in_the_score(llm_folder: Path) -> None:
    model = load(llm_folder)
    prompts = lc_prompts(model)
    answers = answer_tokens(model, ENDING, LCOptions())
    before = score_prompts(model, prompts, answers, LCOptions())
    stir_adapter(model)
    assert torch.equal(score_prompts(model, prompts, answers, LCOptions()), before)
    ids = torch.tensor(prompts[:1])
    states = [model.hidden(ids, torch.ones_like(ids), adapter=on) for on in (True, False)]
    assert not torch.allclose(*states)  # though the adapter, when on, has one in what is said


@pytest.mark.parametrize("include_title", [False, True])
def test_the_lc_scorer_asks_by_its_template_and_reads_the_answers(
    model: LanguageModel, prompts: Prompts, samples: list[SampleText], include_title: bool
) -> None:
    options = LCOptions(score="logit", include_title=include_title)
    scorer = LCScorer(model, prompts, options)
    assert [model.tokenizer.decode(ids) for ids in scorer.answers] == ["Yes", "No"]
    scores = scorer.scores(samples, REASONS)
    asked = prompts.lc(samples, REASONS, include_title)
    assert torch.equal(scores, score_prompts(model, asked, scorer.answers, options))
    assert torch.equal(scores, scorer.scores(samples, REASONS))
    titles = [sample.target in model.tokenizer.decode(ids) for sample, ids in zip(samples, asked, strict=True)]
    assert all(titles[:-1]) == include_title  # the last title, M, may be anywhere


def test_the_gap_compares_a_sentence_of_liking_with_one_of_dislike(
    model: LanguageModel, prompts: Prompts, samples: list[SampleText], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = LCScorer(model, prompts, LCOptions())
    liked, disliked = torch.tensor([0.75, 0.5, 0.25]), torch.tensor([0.5, 0.5, 0.5])  # won, tied, lost
    texts: list[str] = []

    def scores(samples: list[SampleText], sentences: list[str]) -> Tensor:
        texts.extend(sentences)
        return liked if len(texts) == 3 else disliked

    monkeypatch.setattr(scorer, "scores", scores)
    assert scorer.gap(samples[:3]) == (0.0, 0.5)
    assert texts[0] == 'The user will likely enjoy "Heat".'
    assert texts[3:] == [f'The user will likely dislike "{sample.target}".' for sample in samples[:3]]
    liked += 0.3
    texts.clear()
    assert scorer.gap(samples[:3]) == pytest.approx((0.3, 1.0))
