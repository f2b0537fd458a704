"""Modules whose signal is in a known part of the sentence, and what the audit says of them."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from expctr.data.batches import Nouns, SampleText
from expctr.evaluation.audit import (
    Changed,
    ablations,
    agreement,
    alternatives,
    as_expected,
    auc,
    changes,
    counterfactuals,
    leakage,
    lines,
    permuted,
    words_changed,
)
from expctr.sentences.verdicts import polarity
from expctr.systems import Estimate

DRAW = random.Random(0)
ROWS = 400
LABELS = [float(i % 2) for i in range(ROWS)]
USERS = torch.arange(ROWS)


def world(by_verdict: bool) -> list[str]:
    """Sentences whose verdict, or whose reason, is the label in four rows of five; the other is chance."""
    texts = []
    for label in LABELS:
        signal, chance = (label > 0.5) == (DRAW.random() < 0.8), DRAW.random() < 0.5
        verdict, reason = (signal, chance) if by_verdict else (chance, signal)
        texts.append(f"It is {'bright' if reason else 'gloomy'}, so they will {'love' if verdict else 'hate'} it.")
    return texts


def by_verdict(text: str) -> float:
    return 0.5 + 0.3 * polarity(text)


def by_reason(text: str) -> float:
    return 0.5 + 0.3 * (("bright" in text) - ("gloomy" in text))


@pytest.mark.parametrize(
    ("read", "part", "other"), [(by_verdict, "verdict", "reason"), (by_reason, "reason", "verdict")]
)
def test_the_gain_is_the_part_s_that_carries_the_signal(read: Callable[[str], float], part: str, other: str) -> None:
    texts = world(part == "verdict")
    replaced = alternatives(texts, [SampleText("x")] * ROWS, Nouns(), seed=0)
    scores = {name: [[read(text) for text in table] for table in tables] for name, tables in replaced.items()}
    scores |= {"real": [[read(text) for text in texts]], "none": [[0.5] * ROWS]}
    metrics, gain = ablations(scores, LABELS, USERS)
    assert gain["total"].low > 0.2
    assert metrics["none"]["auc"].value == 0.5
    assert gain["verdict"].value + gain["reason"].value == pytest.approx(gain["total"].value)
    real, only, bare = (metrics[name]["auc"].value for name in ("real", "verdict only", "no verdict words"))
    if part == "verdict":
        assert gain[part] == pytest.approx(gain["total"])
        assert gain[other] == pytest.approx((0, 0, 0))
        assert (only, bare) == (real, 0.5)
    else:
        assert gain[part].value == pytest.approx(gain["total"].value, abs=0.05)
        assert gain[other].low < 0 < gain[other].high
        assert (only, bare) == (0.5, real)
    assert metrics["shuffled"]["auc"].value == pytest.approx(0.5, abs=0.05)


def test_what_is_said_of_every_row_twice_is_no_surer_of_users() -> None:
    texts = world(by_verdict=True)
    read, label = [by_verdict(text) for text in texts], torch.tensor(LABELS)
    scores = {"real": [read], "shuffled within verdict": [read[2:] + read[:2]], "none": [[0.5] * ROWS]}
    twice = {name: [table * 2 for table in tables] for name, tables in scores.items()}
    _, once = ablations(scores, LABELS, USERS)
    _, of_users = ablations(twice, LABELS * 2, USERS.repeat(2))
    assert of_users["total"] == pytest.approx(once["total"])
    assert of_users["reason"] == pytest.approx(once["reason"])
    plain, double = auc(torch.tensor(read), label, USERS), auc(torch.tensor(read * 2), label.repeat(2), USERS.repeat(2))
    assert double == pytest.approx(plain)


def test_an_exchange_stays_in_its_group_and_leaves_nobody_his_own() -> None:
    texts, groups = list("abcdefg"), [0, 0, 0, 1, 1, 1, 2]
    found = permuted(texts, groups, seed=1)
    assert sorted(found[:3]) == ["a", "b", "c"]
    assert sorted(found[3:6]) == ["d", "e", "f"]
    assert all(own != other for own, other in zip(texts[:6], found[:6], strict=True))
    assert found[6] == "g"


def test_the_changes_of_a_prompt() -> None:
    prompts = [SampleText("T", ("a", "b"), ("c",)), SampleText("a"), SampleText("U")]
    assert changes(prompts, [0]) == [
        Changed("swapped history", 0, SampleText("T", ("c",), ("a", "b"))),
        Changed("one title dropped", 0, SampleText("T", ("b",), ("c",)), 1),
        Changed("one title dropped", 0, SampleText("T", ("a",), ("c",)), 1),
        Changed("one title dropped", 0, SampleText("T", ("a", "b"), ()), -1),
        Changed("another target", 0, SampleText("U", ("a", "b"), ("c",))),  # a is in the history
    ]
    assert changes([SampleText("T")], [0]) == []


@pytest.mark.parametrize(
    ("change", "before", "after", "text", "expected"),
    [
        (Changed("swapped history", 0, SampleText("T")), 0.9, 0.1, "", True),
        (Changed("swapped history", 0, SampleText("T")), 0.9, 0.6, "", False),
        (Changed("one title dropped", 0, SampleText("T"), 1), 0.5, 0.4, "", True),
        (Changed("one title dropped", 0, SampleText("T"), 1), 0.5, 0.5, "", True),
        (Changed("one title dropped", 0, SampleText("T"), 1), 0.5, 0.6, "", False),
        (Changed("one title dropped", 0, SampleText("T"), -1), 0.5, 0.6, "", True),
        (Changed("another target", 0, SampleText("Fargo")), 0.5, 0.5, 'They like "Fargo".', True),
        (Changed("another target", 0, SampleText("Fargo")), 0.5, 0.5, 'They like "Heat" and "Fargo".', False),
    ],
)
def test_what_is_expected(change: Changed, before: float, after: float, text: str, expected: bool) -> None:
    assert as_expected(change, SampleText("Heat"), before, after, text) == expected


class Sensible:
    """Likes what resembles nothing but the share of liked titles."""

    def explain_prompts(self, samples: Sequence[int], prompts: Sequence[SampleText]) -> list[dict[str, Any]]:
        shares = [(len(p.liked) + 1) / (len(p.liked) + len(p.disliked) + 2) for p in prompts]
        return [
            {"text": f'"{p.target}" is {share > 0.5}', "s_u": share, "s_r": 0.9 if share > 0.5 else 0.1}
            for p, share in zip(prompts, shares, strict=True)
        ]


def test_a_sensible_model_moves_as_expected() -> None:
    prompts = [SampleText(f"Film {i}", ("a", "b", "c"), ("d",)) for i in range(20)]
    reader = Sensible()
    explained = reader.explain_prompts(range(20), prompts)
    columns = {"sample": list(range(20)), **{name: [row[name] for row in explained] for name in explained[0]}}
    users = torch.arange(20)
    found = counterfactuals(reader, columns, prompts, users, count=8, seed=0)
    assert list(found) == ["swapped history", "one title dropped", "another target"]
    for kind in found.values():
        assert kind["rows"] == 8
        assert kind["expected"] == (1, 1, 1)
    assert found["swapped history"]["s_u"].value == pytest.approx(4 / 6 - 2 / 6)
    assert found["swapped history"]["s_r"].value == pytest.approx(0.8)
    assert found["another target"]["s_u"].value == 0
    assert counterfactuals(reader, columns, prompts, users, count=0, seed=0) == {}
    assert any("100.0% of the changes are as expected" in line for line in lines({"counterfactuals": found}))


def test_changes_of_a_users_rows_go_together() -> None:
    """Rows 0 to 9 are one user's and move, 10 to 19 another's and do not: with two users, the mean may be 0 or 1."""
    prompts = [SampleText(f"Film {i}", ("a",), ()) for i in range(20)]

    class Half:
        def explain_prompts(self, samples: Sequence[int], asked: Sequence[SampleText]) -> list[dict[str, Any]]:
            return [{"text": "", "s_u": 1.0 if sample < 10 else 0.0} for sample in samples]

    columns = {"sample": list(range(20)), "text": [""] * 20, "s_u": [0.0] * 20}
    moved = {
        name: counterfactuals(Half(), columns, prompts, users, count=20, seed=0)["swapped history"]["s_u"]
        for name, users in (("users", torch.arange(20) // 10), ("rows", torch.arange(20)))
    }
    assert moved["users"] == (0.5, 0, 1)
    assert 0.2 < moved["rows"].low < moved["rows"].high < 0.8


def test_agreement_is_compared_with_chance() -> None:
    """Both are above 0.5 in row 0, both below in row 3; rates of 3/4 and 1/2 agree by chance in 1/2 of the rows."""
    found = agreement([0.9, 0.8, 0.7, 0.1], [0.6, 0.3, 0.5, 0.2], torch.arange(4))
    assert found["share"].value == 0.5
    assert found["chance"] == pytest.approx(1 / 4 * 3 / 4 + 3 / 4 * 1 / 4)
    one = agreement([0.9] * 4, [0.8] * 4, torch.arange(4))
    assert one["share"] == (1, 1, 1)
    assert one["chance"] == 1


def test_words_changed() -> None:
    assert words_changed("a b c d", "a b c x") == pytest.approx(1 / 4)
    assert words_changed("", "") == 0


def test_the_probe_reads_what_words_say_and_nothing_else() -> None:
    found = leakage(world(by_verdict=False), LABELS, USERS)
    assert found.low > 0.7
    chance = leakage([DRAW.choice(["one", "two"]) for _ in LABELS], LABELS, USERS)
    assert chance.low < 0.55
    names = [f"user{i // 4}" for i in range(ROWS)]  # each user's label by his name, which other users do not have
    by_name = leakage(names, [float(i // 4 % 2) for i in range(ROWS)], USERS // 4)
    assert by_name.value == pytest.approx(0.5, abs=0.1)


def test_words_in_one_fold_alone_are_none_to_learn_from() -> None:
    """A policy that writes nothing, but for one user."""
    assert math.isnan(leakage(["a b", *[""] * 19], [0.0, 1.0] * 10, torch.arange(20)).value)


@pytest.mark.parametrize("texts", [["a", "b"] * 4, [""] * 8])
def test_a_probe_without_two_labels_or_words_is_undefined(texts: list[str]) -> None:
    labels = [1.0] * 8 if texts[0] else [0.0, 1.0] * 4
    assert str(leakage(texts, labels, torch.arange(8))) == str(Estimate(*[float("nan")] * 3))
