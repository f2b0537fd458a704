"""Every dataset of the paper trains through all stages, from its raw files."""

import json
from pathlib import Path

import pytest
from running import ITEMS, World, amazon, curves, expctr, tastes

from expctr.report.render import render
from expctr.report.run import read_run


def bookcrossing(folder: Path) -> None:
    rows = [f'"{user}";"{item:09d}X";"{8 if liked else 0}"' for user, item, liked, _ in tastes()]
    books = [
        f'"{item:09d}X";"Book \\"{item}\\"; Or Else";"Author {item % 4}";"{1990 + item % 9}";"House"' for item in ITEMS
    ]
    people = [f'"{user}";"town, region, {("spain", "peru")[user % 2]}";"{20 + user % 40}"' for user in range(1, 61)]
    head = '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"'
    for name, lines in {
        "BX-Book-Ratings.csv": ['"User-ID";"ISBN";"Book-Rating"', *rows],
        "BX-Books.csv": [head, *books],
        "BX-Users.csv": ['"User-ID";"Location";"Age"', *people],
    }.items():
        (folder / name).write_bytes("\r\n".join([*lines, ""]).encode("latin-1"))


def latest(folder: Path) -> None:
    rows = [f"{user},{item},{4.5 if liked else 2.0},{time}" for user, item, liked, time in tastes()]
    films = [f'{item},"Film {item}, A ({1950 + item})",Drama|War' for item in ITEMS]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows, ""]))
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *films, ""]))


DATASETS = {"MovieLensDataModule": latest, "BookCrossingDataModule": bookcrossing, "AmazonBooksDataModule": amazon}
LIKENESS = {"bleu": "BLEU", "rouge_l": "ROUGE-L", "bertscore": "BERTScore"}
"""What is measured against the users' own reviews, and what a test and a report call it."""


@pytest.mark.parametrize("name", DATASETS)
def test_it_trains_and_tests(name: str, world: World) -> None:
    raw = world.folder / f"raw-{name}"
    raw.mkdir()
    DATASETS[name](raw)
    options = [*world.options(name), f"--data={name}", f"--data.init_args.path={raw}"]
    short = ["--stages.rounds=1", "--stages.ctr.epochs=1", "--trainer.limit_train_batches=2"]
    read = expctr("fit", *options, *short).ok().output
    assert "480" in read
    assert "kept" in read
    assert {"lc/reward_lc", "ctr/loss", "ic/reward_ic"} <= set(curves(world.folder / name))
    table = expctr("test", *options, *short).ok().output
    assert "unmistakable words" not in table
    of_reviews = name == "AmazonBooksDataModule"
    measured = json.loads((world.folder / name / "table.json").read_text())["quality"]["trained"]
    page = render([read_run(world.folder / name)])
    for metric, heading in LIKENESS.items():
        assert (metric in measured and measured[metric]["value"] is not None) == of_reviews
        assert (heading in table) == of_reviews
        assert (heading in page) == of_reviews
    if of_reviews:
        assert measured["reviewed"]["value"] == 1
        assert -1 <= measured["bertscore"]["value"] <= 1
