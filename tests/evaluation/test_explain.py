"""`expctr explain`: the answer is what `test` and `predict` say of the same row."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from running import TESTS, Outcome, World, expctr, tastes

from expctr.evaluation.explain import show
from expctr.predictor import load


@pytest.fixture(scope="module")
def run(world: World) -> Path:
    options = world.options("explained-one")
    return world.once("explained-one", ["fit", *options], ["test", *options], ["predict", *options])


def explain(world: World, *args: str) -> Outcome:
    return expctr("explain", *world.options("explained-one"), *args)


def answered(world: World, *args: str) -> dict[str, Any]:
    output = explain(world, "--json=true", *args).ok().output
    return of_json(output)


def of_json(output: str) -> dict[str, Any]:
    (line,) = (line for line in output.splitlines() if line.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_test_row_has_the_scores_of_the_test(run: Path, world: World) -> None:
    tested = pl.read_parquet(run / "explanations" / "test.parquet").row(0, named=True)
    asked = pl.read_parquet(run / "predictions.parquet").row(0, named=True)
    before = sorted(path.name for path in run.iterdir())
    found = answered(world, f"--user={asked['user']}", f"--target={asked['target']}")
    assert (found["user"], found["target"]["title"]) == (asked["user"], asked["target_title"])
    assert (found["split"], found["label"], found["explanation"]) == ("test", tested["label"], tested["text"])
    for score in ("s_u", "s_r", "s_0", "s_plain"):
        assert found[score] == pytest.approx(tested[score], abs=1e-5)
    changes = [abs(entry["change"]) for entry in found["history"]]
    assert found["moved"] == "s_r"
    assert changes[found["most"]] == max(changes)
    for entry in found["history"]:
        assert entry["change"] == pytest.approx(found["s_r"] - entry["s_r"])
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_typed_person_has_the_scores_of_predict(run: Path, world: World, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text('liked_titles,disliked_titles,target_title\n"Film 3, The|Fargo",Casper,Nikita\n')
    folder = f"--trainer.default_root_dir={tmp_path / 'out'}"
    newest = sorted((run / "checkpoints").iterdir())[-1]
    expctr("predict", *world.options("explained-one"), folder, f"--ckpt_path={newest}", f"--data.people={people}").ok()
    expected = pl.read_parquet(tmp_path / "out" / "predictions.parquet").row(0, named=True)
    found = answered(world, '--liked=["Film 3, The", "Fargo"]', "--disliked=Casper", "--target=Nikita")
    assert found["explanation"] == expected["explanation"]
    for score in ("s_u", "s_r", "s_0", "s_plain"):
        assert found[score] == pytest.approx(expected[score], abs=1e-5)
    assert [entry["id"] for entry in found["history"]] == ["3", None, None]
    assert found["target"] == {"id": None, "title": "Nikita"}
    assert any("no item is called 'Nikita'" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--user=999", "--target=Film 3, The"],
            "no user '999'. Fix: give another id; the 60 ids are numbers from 1 to 60",
        ),
        (["--user=1", "--liked=Heat", "--target=Film 3, The"], "two persons"),
        (["--target=Film 3, The"], "no person to explain"),
        (["--user=1"], "no target to explain"),
        (["--liked=[]", "--target=Film 3, The"], "no history"),
        (["--user=1", "--target=id:999"], "no item with a title has the id '999'"),
    ],
)
def test_what_it_refuses(run: Path, world: World, args: list[str], message: str) -> None:
    outcome = explain(world, *args)
    assert outcome.code == 2, outcome.output
    assert message in outcome.output
    assert "Traceback" not in outcome.output


def test_titles_stay_text(run: Path, world: World) -> None:
    output = explain(world, "--liked=[bold]\x1b[31mHeat", "--target=[red]\x1b[2JX").ok().output
    assert "\x1b" not in output
    assert "[red]" in output


@pytest.mark.parametrize(
    ("name", "model"), [("icl", "ICLModule"), ("tallrec", "TALLRecModule"), ("baseline", "CTRModule")]
)
def test_a_model_that_writes_no_sentence_is_refused_before_a_fit_is_asked_for(
    world: World, name: str, model: str
) -> None:
    paths = [path for path in world.paths(f"no-sentence-{name}") if "model" not in path]
    paths += ["--model.backbone=DIN"] if name == "baseline" else []
    config = TESTS.parent / "configs" / f"{name}.yaml"
    outcome = expctr("explain", f"--config={config}", *paths, "--user=1", "--target=Film 3, The")
    assert outcome.code == 2
    assert "Traceback" not in outcome.output
    assert f"{model} writes no sentence that could be explained" in outcome.output
    assert "expctr predict" in outcome.output
    assert "expctr fit" not in outcome.output


BACKBONE = "--model.init_args.ctr.init_args.backbone"
SHORT = ["--stages.rounds=1", "--stages.ctr.epochs=1", "--trainer.limit_train_batches=2"]


def own_splits(world: World) -> list[str]:
    """The last rating of a user is for the test, the one before for validation."""
    folder = world.folder / "explained-splits"
    folder.mkdir(exist_ok=True)
    rows = [f"{user},{item},{4 if liked else 2},{time}" for user, item, liked, time in tastes(users=20)]
    parts = {"train": [i for i in range(len(rows)) if i % 8 < 6], "val": range(6, len(rows), 8)}
    parts["test"] = range(7, len(rows), 8)
    for name, places in parts.items():
        lines = ["user,item,rating,timestamp", *(rows[i] for i in places), ""]
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return [f"--data.init_args.splits.{name}={folder / name}.csv" for name in parts]


@pytest.mark.parametrize("kind", ["no-ctr", pytest.param("SASRec", marks=pytest.mark.slow), "DIN-splits"])
def test_a_test_row_has_the_scores_of_predict_whatever_the_run(world: World, kind: str) -> None:
    """Without a CTR stage; with CTR models that read the history in its order; with the user's own splits."""
    more = ["--stages.rounds=0"] if kind == "no-ctr" else [f"{BACKBONE}={kind.removesuffix('-splits')}"]
    if kind == "DIN-splits":
        more += own_splits(world)
    options = [*world.options(f"explained-{kind}"), *SHORT, *more]
    run = world.once(f"explained-{kind}", ["fit", *options], ["predict", *options])
    expected = pl.read_parquet(run / "predictions.parquet").row(-1, named=True)
    who = [f"--user={expected['user']}", f"--target=id:{expected['target']}"]
    found = of_json(expctr("explain", *options, *who, "--json=true").ok().output)
    assert (found["split"], found["explanation"]) == ("test", expected["explanation"])
    for score in ("s_u", "s_r", "s_0", "s_plain"):
        assert found[score] == (pytest.approx(expected[score], abs=1e-5) if score in expected else None)
    assert found["moved"] == ("s_u" if kind == "no-ctr" else "s_r")
    assert any("no trained CTR model" in note for note in found["notes"]) == (kind == "no-ctr")
    if kind == "DIN-splits":
        assert [entry["id"] for entry in found["history"]] == [
            str(item) for user, item, *_ in tastes(users=20) if str(user) == expected["user"]
        ][:6]
    console = Console(record=True, file=io.StringIO())
    console.print(show(found))
    panel = console.export_text()
    assert f"{found['s_u']:.3f}" in panel
    assert ("without the sentence" in panel) == (kind != "no-ctr")


def test_duplicate_titles_and_new_ones(run: Path, world: World, tmp_path: Path) -> None:
    """Of two items of one name a target must be one; a history takes neither."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for file in (world.folder / "movielens").iterdir():
        (raw / file.name).write_bytes(file.read_bytes().replace(b"Film 4, The (1954)", b"Film 3, The (1953)"))
    paths = [f"--data.init_args.path={raw}", f"--data.init_args.cache_dir={tmp_path / 'cache'}"]
    outcome = explain(world, *paths, "--user=1", "--target=Film 3, The (1953)")
    assert outcome.code == 2
    assert "one of several items: 3 ('Film 3, The (1953)'), 4 ('Film 3, The (1953)')" in outcome.output
    assert "name one, such as id:3" in outcome.output
    found = answered(world, *paths, "--liked=Film 3, The|Film 5, The", "--target=id:4")
    assert found["target"] == {"id": "4", "title": "Film 3, The"}
    assert [entry["id"] for entry in found["history"]] == [None, "5"]
    assert any("used without an id" in note for note in found["notes"])
    newest = f"--ckpt_path={sorted((run / 'checkpoints').iterdir())[-1]}"
    elsewhere = f"--trainer.default_root_dir={tmp_path / 'other'}"
    tested = expctr("test", *world.options("explained-one"), *paths, elsewhere, newest)
    assert tested.code == 2
    assert "titles or histories have changed" in tested.output
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(world.folder / "movielens"), str(raw)))
    with pytest.warns(UserWarning, match="titles or histories have changed. Scores and sentences are of the new ones"):
        load(copy)


@pytest.mark.slow
def test_several_explanations_are_the_same_in_test_predict_and_explain(run: Path, world: World, tmp_path: Path) -> None:
    """Whatever the batches, and each with the spread of its scores."""
    samples = "--model.init_args.explainer.init_args.evaluation.samples=3"
    newest = f"--ckpt_path={sorted((run / 'checkpoints').iterdir())[-1]}"
    more = [f"--trainer.default_root_dir={tmp_path}", samples, newest]
    for command, size in (("test", 5), ("predict", 64)):
        expctr(command, *world.options("explained-one"), *more, f"--data.eval_batch_size={size}").ok()
    tested = pl.read_parquet(tmp_path / "explanations" / "test.parquet")
    predicted = pl.read_parquet(tmp_path / "predictions.parquet")
    assert predicted["explanation"].to_list() == tested["text"].to_list()
    assert tested["texts"].list.n_unique().max() > 1
    assert {"s_u_std_untrained", "s_r_std_untrained"} <= set(tested.columns)
    scores = ("s_u", "s_r", "s_u_std", "s_r_std")
    for name in scores:
        assert predicted[name].to_list() == pytest.approx(tested[name].to_list(), abs=1e-5)
    last, sentence = predicted.row(-1, named=True), tested.row(-1, named=True)
    found = answered(world, samples, f"--user={last['user']}", f"--target={last['target']}")
    assert found["explanation"] == sentence["text"]
    for name in scores:
        assert {**found, **found["samples"]}[name] == pytest.approx(sentence[name], abs=1e-5)
    assert found["samples"]["count"] == 3
    assert sum(found["samples"][name] for name in ("positive", "negative", "no_verdict")) == 3
