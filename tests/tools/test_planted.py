"""The planted world: its known properties hold, and a policy learns it."""

import random
from collections import Counter
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import torch

from expctr.metrics import ctr_metrics
from tools import runs
from tools.bench import learning, planted


def people(rule: str, count: int = 4000) -> list[tuple[list[tuple[object, bool]], object, bool]]:
    return everyone(rule)[:count]


@cache
def everyone(rule: str) -> list[tuple[list[tuple[object, bool]], object, bool]]:
    rng, world = random.Random(0), planted.World(rule, 0)
    return [world._person(rng) for _ in range(40_000)]


@pytest.mark.cli
def test_a_prompt_always_shows_which_kind_is_liked_most() -> None:
    for history, _, _ in people("harder", 1000):
        liked = Counter(film.kind for film, good in history if good)
        (first, most), *others = liked.most_common()
        assert all(count < most for _, count in others)
        assert sum(film.kind == first for film, _ in history) == 3


@pytest.mark.parametrize("rule", ["easy", "harder", "verdict-first"])
def test_the_rule_holds_for_half_the_targets_and_says_alike_much_in_any_town(rule: str) -> None:
    """P(liked | rule, town) is 0.5 +- 0.27: the town does not help who sees only the prompt."""
    world, cells = planted.World(rule, 0), {}
    for history, target, liked in people(rule, 20_000):
        holds = world.holds(target.kind, [film.kind for film, good in history if good])
        cells.setdefault((holds, target.town), []).append(liked)
    for (holds, _), likes in cells.items():
        assert len(likes) == pytest.approx(2500, abs=250)
        assert sum(likes) / len(likes) == pytest.approx(0.77 if holds else 0.23, abs=0.04)


def test_with_the_studio_the_town_says_a_lot() -> None:
    world, cells = planted.World("easy", 0), {}
    for _, target, liked in people("easy", 20_000):
        cells.setdefault((target.studio in world.good, target.town in planted.NORTHERN), []).append(liked)
    rates = {place: sum(likes) / len(likes) for place, likes in cells.items()}
    expected = {(True, True): 0.73, (True, False): 0.39, (False, True): 0.27, (False, False): 0.61}
    assert rates == pytest.approx(expected, abs=0.03)


def test_a_disliked_kind_is_no_match_though_the_prompt_names_it() -> None:
    world, named = planted.World("harder", 0), 0
    for history, target, _ in people("harder", 1000):
        if not world.holds(target.kind, [film.kind for film, good in history if good]):
            named += target.kind in {film.kind for film, _ in history}
    assert named > 200


@pytest.mark.cli
@pytest.mark.parametrize("rule", ["easy", "harder"])
def test_no_predictor_beats_the_bound_of_what_it_knows(rule: str) -> None:
    """The predictors know the rates of half the people by cell, and score the other half."""
    world, rows = planted.World(rule, 0), []
    for history, target, liked in people(rule, 40_000):
        titles = [film.title for film, good in history if good]
        holds = world.holds(target.kind, [title.split()[1] for title in titles])
        rows.append((target.title, titles, [target.studio], int(liked), holds, target.town, target.studio))
    names = ["target_title", "liked_titles", "target_genres", "label", "holds", "town", "studio"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    seen, asked = frame[:20_000], frame[20_000:]
    known = planted.bounds(world, asked)
    for cells, bound in (
        (["holds", "town"], known.llm),
        (["studio"], known.ctr),
        (["holds", "studio", "town"], known.aug),
    ):
        rates = seen.group_by(cells).agg(pl.col("label").mean().alias("rate"))
        scores = asked.join(rates, on=cells, how="left", maintain_order="left")["rate"]
        found = ctr_metrics(torch.tensor(scores.to_list()), torch.tensor(asked["label"].to_list()))["auc"]
        assert found == pytest.approx(bound, abs=0.012)
    assert known.ctr + 0.1 < known.llm < known.aug - 0.05


def test_bounds_are_ordered_and_those_of_a_coin_are_a_half() -> None:
    world, rows = planted.World("easy", 0), []
    for history, target, liked in people("easy"):
        titles = [film.title for film, good in history if good]
        rows.append((target.title, titles, [target.studio], int(liked)))
    frame = pl.DataFrame(rows, schema=["target_title", "liked_titles", "target_genres", "label"], orient="row")
    known = planted.bounds(world, frame)
    assert 0.52 < known.ctr < known.llm < known.aug < 0.95
    coin = planted.bounds(world, frame.with_columns(pl.col("label").shuffle(seed=0)))
    assert [coin.llm, coin.ctr, coin.aug] == pytest.approx([0.5, 0.5, 0.5], abs=0.04)


def test_shuffled_ratings_are_the_same_ratings_of_other_targets(tmp_path: Path) -> None:
    for name in ("plain", "shuffled"):
        planted.World("easy", 0).write(tmp_path / name, 200, shuffled=name == "shuffled")
    plain, shuffled = (pl.read_csv(tmp_path / name / "ratings.csv") for name in ("plain", "shuffled"))
    assert (tmp_path / "plain" / "movies.csv").read_text() == (tmp_path / "shuffled" / "movies.csv").read_text()
    target = pl.col("timestamp") == 1000 + planted.HISTORY
    assert plain.filter(~target).equals(shuffled.filter(~target))
    assert plain.filter(target)["rating"].sum() == shuffled.filter(target)["rating"].sum()
    assert not plain.equals(shuffled)


def test_opinions_are_words_of_the_vocabulary_and_true() -> None:
    tokenizer, rng = planted._tokenizer(), random.Random(0)
    for _ in range(300):
        target, match = planted.film(rng, rng.choice(planted.KINDS)), rng.random() < 0.5
        text, _ = planted.opinion(rng, target, match)
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids
        for trait, said in (("colour", target.colour), ("town", target.town), ("kind", target.kind)):
            assert f"{trait} " not in text or f"{trait} {said}" in text
        if "match" in text:
            assert f"match {target.kind} {'like' if match else 'unlike'} ," in text


def test_opinions_that_begin_with_the_verdict_go_on_for_72_tokens_and_are_true() -> None:
    tokenizer, rng = planted._tokenizer(planted.REASONS), random.Random(0)
    for _ in range(100):
        target = planted.film(rng, rng.choice(planted.KINDS))
        text, enjoys = planted.opinion(rng, target, False, verdict_first=True)
        ids = tokenizer(text).input_ids
        assert len(ids) == 6 + 4 * planted.REASONS  # "they will surely enjoy it :", then four tokens per reason
        assert tokenizer.unk_token_id not in ids
        assert (text.split()[3] in ("enjoy", "love")) is enjoys
        for reason in text.split(" : ")[1].removesuffix(" .").split(" , "):
            _, trait, said = reason.split()
            assert said == getattr(target, trait)


def test_each_control_can_fail_and_seeds_do_not_cancel() -> None:
    good = {
        **{"auc_llm_shuffled": 0.51, "auc_aug_shuffled": 0.49, "same_text_still": 1.0, "auc_ctr": 0.57},
        **{"auc_aug": 0.85, "auc_aug_before_ic": 0.81, "auc_aug_noise": 0.79, "auc_aug_exchanged": 0.52},
    }
    assert all(learning.controls([good, good]).values())
    bad = {
        "shuffled": [{"auc_llm_shuffled": 0.56}, {"auc_llm_shuffled": 0.44}],
        "beta 1000": [{"same_text_still": 0.5}, {}],
        "other rows": [{"auc_aug_exchanged": 0.80}, {"auc_aug_exchanged": 0.80}],
        "noise": [{"auc_aug_noise": 0.86}, {}],
    }
    for name, seeds in bad.items():
        held = learning.controls([good | other for other in seeds])
        assert [control for control, holds in held.items() if not holds] == [c for c in held if name in c]
    unmoved = {"auc_aug": 0.81}  # where the IC stage does nothing, its control says nothing
    assert not all(learning.controls([good | unmoved]).values())


@pytest.mark.slow
def test_the_lc_stage_finds_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short form of tools/bench/learning.py: the easy world, fewer rows, a base trained for half as long."""
    monkeypatch.setitem(learning.USERS, "easy", 4000)
    planted.make_model(tmp_path / "llm", steps=350)
    learning.prepare(tmp_path, ["easy"], [0])
    run = tmp_path / "run"
    runs.fit_and_test(run, *learning.options(tmp_path, "easy", 0), "--stages.rounds=0", "--stages.lc.epochs=6")
    known = learning.best(tmp_path, "easy", 0)["llm"]
    before, after = runs.auc(run, learning.UNTRAINED), runs.auc(run, learning.LLM)
    assert before == pytest.approx(0.5, abs=0.06)
    assert after > before + 0.8 * (known - before)
