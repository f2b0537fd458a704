"""The planted world: what is known of it is so, and a policy learns it."""

import random
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    for folder in (TOOLS, TOOLS / "bench"):
        sys.path.insert(0, str(folder))
    import planted

    return planted


def people(planted: ModuleType, rule: str, count: int = 4000) -> list[tuple[list[tuple[object, bool]], object, bool]]:
    rng, world = random.Random(0), planted.World(rule, 0)
    return [world._person(rng) for _ in range(count)]


def test_a_prompt_always_shows_which_kind_is_liked_most(planted: ModuleType) -> None:
    for history, _, _ in people(planted, "harder", 1000):
        liked = Counter(film.kind for film, good in history if good)
        (first, most), *others = liked.most_common()
        assert all(count < most for _, count in others)
        assert sum(film.kind == first for film, _ in history) == 3


@pytest.mark.parametrize("rule", ["easy", "harder"])
def test_half_the_targets_please_and_the_rule_says_which(planted: ModuleType, rule: str) -> None:
    """P(liked | rule) is s(2) / 2 + (s(4.5) + s(-0.5)) / 4, s the sigmoid: half the towns are northern."""
    world, by_rule = planted.World(rule, 0), {True: [], False: []}
    for history, target, liked in people(planted, rule):
        by_rule[world.holds(target.kind, [film.kind for film, good in history if good])].append(liked)
    assert len(by_rule[True]) / 4000 == pytest.approx(0.5, abs=0.03)
    expected = 0.5 * 0.8808 + 0.25 * (0.9890 + 0.3775)
    assert sum(by_rule[True]) / len(by_rule[True]) == pytest.approx(expected, abs=0.03)
    assert sum(by_rule[False]) / len(by_rule[False]) == pytest.approx(1 - expected, abs=0.03)


def test_the_town_alone_says_nothing_and_with_the_studio_a_lot(planted: ModuleType) -> None:
    world, northern, both = planted.World("easy", 0), {True: [], False: []}, {True: [], False: []}
    for _, target, liked in people(planted, "easy"):
        northern[target.town in planted.NORTHERN].append(liked)
        if target.town in planted.NORTHERN:
            both[target.studio in world.good].append(liked)
    rates = {side: sum(values) / len(values) for side, values in northern.items()}
    assert rates[True] == pytest.approx(rates[False], abs=0.05)
    assert sum(both[True]) / len(both[True]) > sum(both[False]) / len(both[False]) + 0.4


def test_bounds_are_ordered_and_those_of_a_coin_are_a_half(planted: ModuleType) -> None:
    world, rows = planted.World("easy", 0), []
    for history, target, liked in people(planted, "easy"):
        titles = [film.title for film, good in history if good]
        rows.append((target.title, titles, [target.studio], int(liked)))
    frame = pl.DataFrame(rows, schema=["target_title", "liked_titles", "target_genres", "label"], orient="row")
    known = planted.bounds(world, frame)
    assert 0.6 < known.ctr < known.llm < known.aug < 0.95
    coin = planted.bounds(world, frame.with_columns(pl.col("label").shuffle(seed=0)))
    assert [coin.llm, coin.ctr, coin.aug] == pytest.approx([0.5, 0.5, 0.5], abs=0.04)


def test_shuffled_ratings_are_the_same_ratings_of_other_targets(planted: ModuleType, tmp_path: Path) -> None:
    for name in ("plain", "shuffled"):
        planted.World("easy", 0).write(tmp_path / name, 200, shuffled=name == "shuffled")
    plain, shuffled = (pl.read_csv(tmp_path / name / "ratings.csv") for name in ("plain", "shuffled"))
    assert (tmp_path / "plain" / "movies.csv").read_text() == (tmp_path / "shuffled" / "movies.csv").read_text()
    target = pl.col("timestamp") == 1000 + planted.HISTORY
    assert plain.filter(~target).equals(shuffled.filter(~target))
    assert plain.filter(target)["rating"].sum() == shuffled.filter(target)["rating"].sum()
    assert not plain.equals(shuffled)


def test_opinions_are_words_of_the_vocabulary_and_true(planted: ModuleType) -> None:
    tokenizer, rng = planted._tokenizer(), random.Random(0)
    for _ in range(300):
        target, match = planted.film(rng, rng.choice(planted.KINDS)), rng.random() < 0.5
        text, _ = planted.opinion(rng, target, match)
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids
        for trait, said in (("colour", target.colour), ("town", target.town), ("kind", target.kind)):
            assert f"{trait} " not in text or f"{trait} {said}" in text
        if "match" in text:
            assert f"match {target.kind} {'like' if match else 'unlike'} ," in text


@pytest.mark.slow
def test_the_lc_stage_finds_the_rule(planted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tools/bench/learning.py in short: the easy world, fewer rows, a base taught for half as long."""
    import jobs
    import learning

    monkeypatch.setattr(learning, "USERS", 4000)
    planted.make_model(tmp_path / "llm", steps=350)
    learning.prepare(tmp_path, ["easy"], [0])
    run = tmp_path / "run"
    jobs.fit_and_test(run, *learning.options(tmp_path, "easy", 0), "--stages.rounds=0", "--stages.lc_epochs=6")
    known = learning.best(tmp_path, "easy", 0)["llm"]
    before, after = jobs.auc(run, learning.UNTRAINED), jobs.auc(run, learning.LLM)
    assert before == pytest.approx(0.5, abs=0.06)
    assert after > before + 0.8 * (known - before)
