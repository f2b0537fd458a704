"""Numbers of a few sentences, worked out by hand."""

import math
from collections.abc import Sequence

import pytest
import torch

from expctr.data.batches import SampleText
from expctr.evaluation.quality import bertscore, bleu, distinct, likeness, lines, measure
from expctr.sentences.claims import Claims
from expctr.sentences.titles import TitleFinder
from expctr.sentences.verdicts import polarity
from expctr.systems import Estimate

TEXTS = ['They liked "Heat" and will love it.', 'They liked "Heet" and will hate it.', "", "They liked much."]
GIVEN = [SampleText("Casino", ("Heat",))] * 4


def measured(users: Sequence[int] = range(4), **more: object) -> dict[str, Estimate]:
    find = TitleFinder(["Heat", "Casino"]).find
    return measure(
        TEXTS,
        [find(text, given) for text, given in zip(TEXTS, GIVEN, strict=True)],
        [polarity(text) for text in TEXTS],
        [1.0, 1.0, 0.0, 0.0],
        torch.tensor(users),
        {"s_u": [0.9, 0.2, 0.5, 0.5]},
        [Claims(1, []), Claims(2, ["Heat"]), Claims(0, []), Claims(0, [])],
        titled=[True] * 4,
        **more,  # type: ignore[arg-type]
    )


def test_each_share_is_of_the_rows_that_have_it() -> None:
    values = {name: found.value for name, found in measured().items()}
    assert values["words"] == pytest.approx((7 + 7 + 3) / 3)
    assert values["empty"] == 1 / 4
    assert values["names_history"] == pytest.approx(1 / 3)
    assert values["invented"] == values["invented_garbled"] == pytest.approx(1 / 3)
    assert values["claims"] == pytest.approx(2 / 3)
    assert values["claims_wrong"] == 1 / 2
    assert values["verdict"] == pytest.approx(2 / 3)
    assert values["verdict_positive"] == 1 / 2
    assert values["verdict_agrees_s_u"] == 1
    assert values["verdict_agrees_label"] == 1 / 2
    assert "bleu" not in values
    assert any("7.0" in line or "5.7" in line for line in lines({"trained": measured()}))


def test_intervals_hold_their_values() -> None:
    for name, (value, low, high) in measured().items():
        assert low <= value <= high, name


def test_a_users_sentences_go_together() -> None:
    """Of two users, one with no sentence: no other sentences show how much they differ."""
    found = measured([0, 0, 1, 0])
    alone = measured()
    assert {name: value.value for name, value in found.items()} == {name: value.value for name, value in alone.items()}
    assert found["words"] == pytest.approx((17 / 3, 17 / 3, 17 / 3))
    assert alone["words"].low < 5 < alone["words"].high
    assert found["unique"] == (1, 0, 1)  # the jackknife has nothing without the one user


def test_pairs_of_words_are_within_a_sentence() -> None:
    """6 of each of the first two, 2 of the last; three have "they liked" and two "and will": 11 kinds of 14."""
    assert measured([0, 0, 1, 1])["distinct_2"].value == measured()["distinct_2"].value == 11 / 14
    # without the first user 2 kinds of 2, without the second 10 of 12: deviations of 1/12; half of 2/144 is 1/144
    assert measured([0, 0, 1, 1])["distinct_2"].low == pytest.approx(11 / 14 - 1.96 / 12)


def test_distinct_counts_kinds_and_its_jackknife_is_worked_by_hand() -> None:
    """Of a b | a c: 3 kinds of 4. Without either row: 2 of 2, so the jackknife's error is 0."""
    assert distinct([["a", "b"], ["a", "c"]]) == (0.75, 0.75, 0.75)
    # a | a | b: 2/3; without a row: 2/2, 2/2, 1/2: deviations 1/6, 1/6, -1/3; 2/3 * (1/36 + 1/36 + 1/9) = 1/9
    value, low, high = distinct([["a"], ["a"], ["b"]])
    assert (value, low, high) == pytest.approx((2 / 3, 2 / 3 - 1.96 / 3, 1.0))
    assert math.isnan(distinct([[], []]).value)


def test_bleu_is_worked_by_hand() -> None:
    # words 4 of 5; pairs (2 + 1) of (4 + 1); threes (1 + 1) of (3 + 1); fours (0 + 1) of (2 + 1)
    assert bleu(list("abcxd"), list("abcd")) == pytest.approx((4 / 5 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert bleu(["a"], list("abc")) == pytest.approx(math.exp(1 - 3))  # the brevity penalty alone
    assert bleu(list("aaa"), ["a"]) == pytest.approx((1 / 3 * 1 / 3 * 1 / 2 * 1) ** 0.25)  # counted once
    assert bleu(["x"], ["a"]) == bleu([], ["a"]) == bleu(["a"], []) == 0
    assert bleu(list("abcde"), list("abcde")) == pytest.approx(1)


def test_likeness_is_of_rows_with_reviews_and_highest_for_the_same_words() -> None:
    found = likeness(["a b c d e", "a b x", "", "z", "z"], ["A b, c d <br />e!", "a b c", "a", None, " <br> "])
    assert found["reviewed"].tolist() == [1, 1, 1, 0, 0]
    assert found["bleu"][0] == pytest.approx(1)
    assert 0 < found["bleu"][1] < 1
    assert found["rouge_l"].tolist()[:3] == pytest.approx([1, 2 / 3, 0])
    assert found["bleu"][2] == 0
    assert found["bleu"].isnan().tolist() == [False, False, False, True, True]
    assert likeness(["été à Köln"], ["&Eacute;t&eacute; &agrave; K&ouml;ln"])["rouge_l"][0] == 1
    measures = measured(reviews=[None, "They liked it.", None, None])
    assert measures["reviewed"].value == 1 / 4
    assert measures["bleu"].low == measures["bleu"].value > 0


def test_bertscore_is_of_the_same_rows_and_sees_no_html() -> None:
    read: list[str] = []

    def vectors(texts: Sequence[str]) -> list[torch.Tensor]:
        read.extend(texts)
        return [torch.eye(2)[: len(text.split())] for text in texts]

    found = likeness(["a", "b c", ""], [None, "b&#34; <p>c", "x"], vectors)
    assert read == ["b c", "", 'b" c', "x"]
    assert math.isnan(found["bertscore"][0])
    assert found["bertscore"].tolist()[1:] == pytest.approx([1, 0])


def test_bertscore_matches_tokens_greedily() -> None:
    """Precision: 1 and 0, recall: 1; F1 of 1/2 and 1."""
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert bertscore(other, one) == pytest.approx(2 / 3)
    assert bertscore(other, other) == pytest.approx(1)
    assert bertscore(one[:0], other) == 0
