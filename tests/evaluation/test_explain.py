"""`expctr explain`: the answer is what `test` and `predict` say of the same row."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from running import Outcome, World, expctr


@pytest.fixture(scope="module")
def run(world: World) -> Path:
    options = world.options("explained-one")
    return world.once("explained-one", ["fit", *options], ["test", *options], ["predict", *options])


def explain(world: World, *args: str) -> Outcome:
    return expctr("explain", *world.options("explained-one"), *args)


def answered(world: World, *args: str) -> dict[str, Any]:
    output = explain(world, "--json=true", *args).ok().output
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
    ("args", "said"),
    [
        (["--user=999", "--target=Film 3, The"], "no user '999'; ids are 60 numbers from 1 to 60"),
        (["--user=1", "--liked=Heat", "--target=Film 3, The"], "two persons"),
        (["--target=Film 3, The"], "nobody to explain"),
        (["--user=1"], "nothing to explain"),
        (["--liked=[]", "--target=Film 3, The"], "no history"),
        (["--user=1", "--target=id:999"], "no item with a title has the id '999'"),
    ],
)
def test_what_it_refuses(run: Path, world: World, args: list[str], said: str) -> None:
    outcome = explain(world, *args)
    assert outcome.code == 2, outcome.output
    assert said in outcome.output
    assert "Traceback" not in outcome.output


def test_titles_stay_text(run: Path, world: World) -> None:
    output = explain(world, "--liked=[bold]\x1b[31mHeat", "--target=[red]\x1b[2JX").ok().output
    assert "\x1b" not in output
    assert "[red]" in output
