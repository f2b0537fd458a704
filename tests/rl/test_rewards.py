"""Eq. 9 and 13 against numbers worked out by hand, and the classes that make rewards of them."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from expctr.data.batches import Batch, SampleText
from expctr.errors import UserError
from expctr.rl.rewards import (
    ICAlignment,
    LCAlignment,
    LengthPenalty,
    Reward,
    Scorers,
    alignment,
    reference_rows,
    text_gain,
)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def close(actual: Tensor, *expected: float, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float32), atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("mae", (0.8, 0.2, 0.5)),  # errors 0.2, 0.8, 0.5
        ("brier", (0.96, 0.36, 0.75)),  # 1 - 0.04, 1 - 0.64, 1 - 0.25
        ("log", (0.776856, -0.609438, 0.306853)),  # 1 + ln 0.8, 1 + ln 0.2, 1 + ln 0.5
    ],
)
def test_alignment_by_hand(metric: str, expected: tuple[float, ...]) -> None:
    close(alignment(column(0.8, 0.8, 0.5), column(1, 0, 1), metric), *expected)


@pytest.mark.parametrize("metric", ["mae", "brier", "log"])
def test_alignment_is_one_for_a_perfect_score_and_finite_for_the_worst(metric: str) -> None:
    reward = alignment(column(1, 0, 0, 1), column(1, 0, 1, 0), metric)
    close(reward[:2], 1, 1)
    assert reward[2:].isfinite().all()
    assert (reward[2:] <= 0).all()


def test_the_proper_rewards_prefer_the_true_probability_and_the_papers_an_extreme_one() -> None:
    """A liking has probability 0.7: the expected reward of each constant score."""
    scores = torch.arange(1, 100) / 100
    best = {}
    for metric in ("mae", "brier", "log"):
        liked, disliked = (alignment(scores, torch.full_like(scores, label), metric) for label in (1, 0))
        best[metric] = float(scores[(0.7 * liked + 0.3 * disliked).argmax()])
    assert best == {"mae": pytest.approx(0.99), "brier": pytest.approx(0.7), "log": pytest.approx(0.7)}


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ("abs", (0.2, 0.2, 0.5, 0.3)),
        ("signed", (0.2, -0.2, 0.5, -0.3)),
        ("relu", (0.2, 0.0, 0.5, 0.0)),
    ],
)
def test_text_gain_by_hand(delta: str, expected: tuple[float, ...]) -> None:
    scores, without, labels = column(0.8, 0.8, 0.1, 0.4), column(0.6, 0.6, 0.6, 0.7), column(1, 0, 0, 1)
    close(text_gain(scores, without, labels, delta), *expected)


@pytest.mark.parametrize(("delta", "expected"), [("abs", (1.0, 0.4)), ("signed", (1.0, 0.0)), ("relu", (1.0, 0.2))])
def test_the_whole_of_eq_13_by_hand(delta: str, expected: tuple[float, ...]) -> None:
    """0.6 became 0.8: a help to the user who liked the item, a harm for the one who did not."""
    scores, without, labels = column(0.8, 0.8), column(0.6, 0.6), column(1, 0)
    close(alignment(scores, labels) + text_gain(scores, without, labels, delta), *expected)


def test_eq_13_pays_twice_for_help_and_nothing_for_harm() -> None:
    """The identity behind `ic.delta`: the score alone decides no more than how much better it is than s0."""
    grid = [i / 20 for i in range(21)]
    for label, score, without in itertools.product((0.0, 1.0), grid, grid):
        y, s, s0 = column(label), column(score), column(without)
        paper = float(alignment(s, y) + text_gain(s, s0, y, "abs"))
        helped = max(0.0, abs(label - without) - abs(label - score))
        assert paper == pytest.approx(1 - abs(label - without) + 2 * helped, abs=1e-6)


BATCH = Batch(torch.arange(2), torch.tensor([1.0, 0.0]), {}, [SampleText("Heat"), SampleText("Up")])


class Judge:
    """Finds a liking where the sentence says so."""

    model = nn.Module()

    def scores(self, samples: Sequence[SampleText], texts: Sequence[str]) -> Tensor:
        return torch.tensor([0.9 if "enjoy" in text else 0.2 for text in texts])


class Clicks:
    """Scores 0.5 without a text, and by the text's first number with one."""

    def __init__(self) -> None:
        self.heldout: list[bool] = []

    def score(self, batch: Batch, text: Tensor | None = None, *, heldout: bool = False) -> Tensor:
        self.heldout.append(heldout)
        return torch.full((len(batch),), 0.5) if text is None else text[:, 0]


class Lengths:
    """A sentence's vector is its number of words, over ten."""

    def vectors(self, texts: Sequence[str], device: object) -> Tensor:
        return torch.tensor([[len(text.split()) / 10] for text in texts])


SCORERS = Scorers(Judge(), Clicks(), Lengths())  # type: ignore[arg-type]


def test_the_lc_reward_reads_the_frozen_models_scores() -> None:
    reward = LCAlignment(metric="brier")
    reward.attach(SCORERS)
    close(reward.score(BATCH, ["will enjoy", "will enjoy"]), 1 - 0.01, 1 - 0.81)
    close(reward.columns["s_u"], 0.9, 0.9)
    found = reward.evaluate(BATCH, ["a", "b"], {"s_u": column(0.5, 0.0)})
    assert found is not None
    close(found, 0.75, 1.0)
    assert reward.evaluate(BATCH, ["a", "b"], {}) is None


@pytest.mark.parametrize(("delta", "gains"), [("abs", (0.2, 0.3)), ("signed", (0.2, -0.3)), ("relu", (0.2, 0.0))])
def test_the_ic_reward_adds_what_the_text_changed(delta: str, gains: tuple[float, float]) -> None:
    """Scores 0.7 and 0.8 for labels 1 and 0, 0.5 without text."""
    clicks = Clicks()
    reward = ICAlignment(delta=delta)
    reward.attach(Scorers(Judge(), clicks, Lengths()))  # type: ignore[arg-type]
    texts = ["a b c d e f g", "a b c d e f g h"]
    close(reward.score(BATCH, texts), 0.7 + gains[0], 0.2 + gains[1])
    assert clicks.heldout == [True, True]  # training rows are scored by the model that never saw them
    assert set(reward.columns) == {"s_r", "s_0", "text_gain"}
    columns = {"s_r": column(0.7, 0.8), "s_0": column(0.5, 0.5)}
    found = reward.evaluate(BATCH, texts, columns)
    assert found is not None
    close(found, 0.7 + gains[0], 0.2 + gains[1])
    assert reward.evaluate(BATCH, texts, {"s_u": column(1, 1)}) is None  # no CTR model is trained yet


def test_the_ic_reward_without_a_ctr_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"ICAlignment needs a CTR model: list ICAlignment under stages\.ic\.rewards"):
        ICAlignment().attach(Scorers(Judge()))


@pytest.mark.parametrize(("metric", "expected"), [("mae", (0.9, 0.8)), ("brier", (0.99, 0.96))])
def test_the_lc_reference_is_the_untrained_explanations_reward_written_and_scored_once(
    metric: str, expected: tuple[float, float]
) -> None:
    """The untrained model finds that sample 0 will enjoy it (score 0.9, liked), and not 1 (score 0.2, not liked)."""
    asked: list[list[int]] = []

    def untrained(batch: Batch) -> list[str]:
        asked.append(batch.sample.tolist())
        return ["will enjoy" if sample == 0 else "will hate" for sample in batch.sample.tolist()]

    reward = LCAlignment(metric=metric, baseline="reference")
    reward.attach(Scorers(Judge(), untrained_texts=untrained))  # type: ignore[arg-type]
    pairs = BATCH.repeat(2)  # two responses to each prompt
    close(reference_rows(reward, pairs), expected[0], expected[0], expected[1], expected[1])
    close(reference_rows(reward, BATCH), *expected)
    resumed = LCAlignment(metric=metric, baseline="reference")
    resumed.attach(Scorers(Judge(), untrained_texts=untrained))  # type: ignore[arg-type]
    resumed.load_state_dict(reward.state_dict())
    assert torch.equal(reference_rows(resumed, BATCH), reference_rows(reward, BATCH))
    assert [samples for samples in asked if samples] == [[0, 1]]


@pytest.mark.parametrize("delta", ["abs", "signed", "relu"])
def test_the_ic_reference_is_what_no_explanation_earns(delta: str) -> None:
    """s_0 is 0.5 for both; what is left of the reward is 1 - |y - s| - (1 - |y - s_0|) and the last term of Eq. 13."""
    reward = ICAlignment(delta=delta, baseline="reference")
    reward.attach(SCORERS)
    texts = ["a b c d e f g", "a b c d e f g h"]
    scored = reward.score(BATCH, texts)
    close(reference_rows(reward, BATCH), 0.5, 0.5)
    close(scored - reference_rows(reward, BATCH) - reward.columns["text_gain"], 0.2, -0.3)


def test_a_reward_of_ones_own_can_have_a_reference() -> None:
    class Shorter(Reward):
        name = "shorter"

        def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
            return -torch.tensor([float(len(text)) for text in texts])

    with pytest.raises(UserError, match=r"rewards\.Shorter\.baseline: this reward has no reference\. Fix: "):
        Shorter(baseline="reference")
    assert Shorter(0.5).baseline == "batch"

    class ShorterThanTitle(Shorter):
        def reference(self, batch: Batch) -> Tensor:
            return -torch.tensor([float(len(row.target)) for row in batch.texts])

    close(reference_rows(ShorterThanTitle(baseline="reference"), BATCH), -4, -2)

    class Wrong(Shorter):
        def reference(self, batch: Batch) -> Tensor:
            return torch.zeros(3)

    with pytest.raises(UserError, match=r"the reference of reward shorter .* Reward\.reference must return one number"):
        reference_rows(Wrong(baseline="reference"), BATCH)


def test_words_beyond_the_limit_cost_one_each() -> None:
    close(LengthPenalty(limit=2).score(BATCH, ["one two three four", "one two"]), -2, 0)
    close(LengthPenalty(limit=0).score(BATCH, ["", "  one\ntwo "]), 0, -2)


def test_a_reward_of_ones_own_is_evaluated_as_it_is_scored() -> None:
    class Questions(Reward):
        name = "questions"

        def score(self, batch: Batch, texts: Sequence[str]) -> Tensor:
            return torch.tensor([float(text.count("?")) for text in texts])

    reward = Questions(weight=0.5)
    assert reward.weight == 0.5
    found = reward.evaluate(BATCH, ["Why?", "So."], {"s_u": column(0, 0)})
    assert found is not None
    close(found, 1, 0)
