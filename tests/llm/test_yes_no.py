"""Yes/no scores (Eq. 8): worked by hand, and of a model, whatever else is in the batch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import CHAT, make_llm, stir_adapter
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from expctr.data.batches import Nouns, SampleText
from expctr.llm import prefill
from expctr.llm import yes_no as module
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.prompts import PromptOptions, Prompts
from expctr.llm.yes_no import (
    Answers,
    LCOptions,
    LCScorer,
    answer_tokens,
    eq_8,
    prompt_answers,
    score_prompts,
    state_answers,
)

ENDING = "Whether the user will like the target book target:"
PAIR = torch.tensor([[0.5, 0.25]]).log()
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
    options = LCOptions(score=score, temperature=temperature)  # type: ignore[arg-type]
    assert float(eq_8(PAIR, options)) == pytest.approx(expected, abs=1e-5)
    if score == "logit":
        assert float(eq_8(PAIR + 7, options)) == pytest.approx(expected, abs=1e-5)  # the normaliser cancels


def test_eq_8_as_printed_stays_between_0_269_and_0_731() -> None:
    """At T = 1 it exponentiates probabilities: even a certain answer gives e / (e + 1)."""
    certain = torch.tensor([[0.0, -50], [-50, 0], [-50, -50]])
    assert eq_8(certain, LCOptions()).tolist() == pytest.approx([0.731059, 0.268941, 0.5], abs=1e-5)
    assert eq_8(certain[:2], LCOptions(score="logit")).tolist() == pytest.approx([1, 0], abs=1e-5)


def test_the_probabilities_of_an_answers_tokens_are_summed() -> None:
    """p(yes) = 0.5 + 0.125 over tokens 0 and 2, p(no) = 0.25 of token 1; logits are log-probabilities + 7."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log() + 7
    output: Any = SimpleNamespace(vocab_size=4, logits=lambda states, tokens=slice(None): states[:, tokens].clone())
    pairs = state_answers(output, logits, Answers([0, 2], [1]), normalised=True)
    assert pairs.exp().tolist() == [pytest.approx([0.625, 0.25], abs=1e-6)]
    assert float(eq_8(pairs, LCOptions(score="logit"))) == pytest.approx(0.714286, abs=1e-5)
    assert float(eq_8(pairs, LCOptions())) == pytest.approx(0.592667, abs=1e-5)
    bare = state_answers(output, logits, Answers([0, 2], [1]), normalised=False)
    torch.testing.assert_close(bare, pairs + 7)


@pytest.mark.parametrize("normalised", [True, False])
def test_answers_from_a_few_logits_at_a_time_are_those_of_all(
    llm_folder: Path, normalised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(llm_folder)
    states = torch.randn(7, model.hidden_size, generator=torch.Generator().manual_seed(0))
    answers, made = Answers([5, 9], [7]), []
    expected = model.logits(states)
    expected = (expected.log_softmax(1) if normalised else expected)[:, [5, 9, 7]]
    real = model.logits

    def logits(*args: Any) -> Tensor:
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(model, "logits", logits)
    monkeypatch.setattr(module, "MAX_LOGITS", 3 * model.vocab_size)
    pairs = state_answers(model, states, answers, normalised)
    torch.testing.assert_close(pairs[:, 0], expected[:, :2].logsumexp(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(pairs[:, 1], expected[:, 2], atol=1e-5, rtol=0)
    shapes = [tuple(part.shape) for part in made]
    assert shapes == [(7, 3), *([(rows, model.vocab_size) for rows in (3, 3, 1)] if normalised else [])]


@pytest.mark.parametrize("normalised", [True, False])
def test_scores_over_a_bfloat16_base_differ_where_its_logits_tie(llm_folder: Path, normalised: bool) -> None:
    """Logits near 10 are rounded to steps of 1/16 in bfloat16."""
    model = LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="bfloat16", lora_r=4))
    tokens = model.tokenizer.convert_tokens_to_ids(["Yes", "No"])
    answers = Answers(*([token] for token in tokens))
    states = torch.randn(1, model.hidden_size, generator=torch.Generator().manual_seed(0)).bfloat16() * 4
    step = model.causal.get_output_embeddings().weight[tokens].sum(0)  # raises both logits
    rows = states + torch.linspace(0, 0.05, 128)[:, None] * step
    assert len(rows.unique(dim=0)) > 60
    exact = (rows.float() @ model.causal.get_output_embeddings().weight[tokens].float().T).log_softmax(1)
    pairs = state_answers(model, rows, answers, normalised)
    torch.testing.assert_close(pairs.log_softmax(1), exact, atol=1e-5, rtol=0)
    assert len((pairs[:, 0] - pairs[:, 1]).unique()) > 60
    rounded = model.logits(rows)[:, tokens]
    assert len(rounded.unique(dim=0)) < 40  # the test can tell


def test_without_a_chat_template_the_answer_has_its_leading_space(plain_folder: Path) -> None:
    model = load(plain_folder)
    answers = answer_tokens(model, ENDING, LCOptions())
    spelled = [[model.tokenizer.decode(token) for token in tokens] for tokens in answers]
    assert spelled == [[" Yes", "Yes"], [" No", "No"]]  # as it goes on, and the word alone
    whole = model.tokenizer(f"{ENDING} Yes").input_ids
    assert whole == [*model.tokenizer(ENDING).input_ids, answers.positive[0]]
    spaced = answer_tokens(model, ENDING + " ", LCOptions())
    assert [model.tokenizer.decode(ids) for ids in spaced] == ["Yes", "No"]


def test_with_a_chat_template_the_answer_opens_its_turn(llm_folder: Path) -> None:
    model = load(llm_folder)
    answers = answer_tokens(model, ENDING, LCOptions())
    assert [model.tokenizer.decode(ids) for ids in answers] == ["Yes", "No"]


def test_an_answer_counts_with_and_without_the_space_of_sentencepiece() -> None:
    """Such a vocabulary puts a space before a text, but not after a control token, where a chat's answer begins."""
    words = ["<unk>", "<|user|>", "<|assistant|>", "\u2581", "\u2581Yes", "Yes", "\u2581No", "No"]
    made = Tokenizer(models.Unigram([(word, -1.0 - i) for i, word in enumerate(words)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", chat_template=CHAT)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    model: Any = SimpleNamespace(tokenizer=tokenizer, options=LLMOptions())
    answers = answer_tokens(model, "<|user|>Well<|assistant|>", LCOptions())
    spelled = [tokenizer.convert_ids_to_tokens(tokens) for tokens in answers]
    assert spelled == [["Yes", "\u2581Yes"], ["No", "\u2581No"]]


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
    with pytest.raises(ValueError, match="'Yes' is no word of"):
        answer_tokens(model, ENDING, LCOptions())


def test_an_answer_cannot_mean_both_and_counts_once(llm_folder: Path) -> None:
    model = load(llm_folder)
    with pytest.raises(ValueError, match="share tokens"):
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
        yes, no = (float(p[tokens].sum()) for tokens in answers)
        expected.append(yes / (yes + no))
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
    scorer = LCScorer(model, prompts, LCOptions(score="logit"))
    yes = torch.tensor([0.3, 0.2, 0.1, 0.2, 0.2, 0.2])  # liked: won, tied, lost; then disliked
    asked: list[list[int]] = []

    def answer(_: LanguageModel, prompts: list[list[int]], *args: Any, **options: Any) -> Tensor:
        asked[:] = prompts
        return torch.stack([yes, 0.4 - yes], 1).log()

    monkeypatch.setattr(module, "prompt_answers", answer)
    found = scorer.check(samples[:3])
    assert found[:3] == pytest.approx((0.0, 0.5, 0.4), abs=1e-6)  # p(yes) = 0.75, 0.5, 0.25 of 0.4, against 0.5
    sentences = [f'The user will likely {v} "{s.target}".' for v in ("enjoy", "dislike") for s in samples[:3]]
    assert asked == prompts.lc([*samples[:3]] * 2, sentences, include_title=False)
    yes[:3] += 0.05
    assert scorer.check(samples[:3])[:3] == pytest.approx((0.125, 2 / 3, 0.4), abs=1e-6)
    ids = torch.tensor(asked[:1])
    assert found.likeliest == model.tokenizer.decode(model.causal(input_ids=ids).logits[0, -1].argmax())


def test_the_mass_is_the_probability_of_all_answers(
    model: LanguageModel, prompts: Prompts, samples: list[SampleText]
) -> None:
    few, many = (LCScorer(model, prompts, LCOptions(positive=words)) for words in (["Yes"], ["Yes", *"abcdef"]))
    masses = [scorer.check(samples).mass for scorer in (few, many)]
    assert 0 < masses[0] < masses[1] < 1
    pairs = prompt_answers(model, prompts.lc(samples, REASONS, False), few.answers, normalised=True)
    assert bool((pairs.exp().sum(1) < 1).all())
