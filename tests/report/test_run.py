"""What a report makes of folders that are not as they should be."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from fake_run import make_run

from expctr.errors import UserError
from expctr.report.render import read_runs, render
from expctr.report.run import aligned, estimate, read_run, section


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_a_whole_run_leaves_nothing_to_say(run: Path) -> None:
    read = read_run(run)
    assert read.notes == ()
    assert list(read.stages) == ["LC, pass 1"]
    assert read.events.alarms == ["LC, after 9 batches: unique is 0.05, below 0.1"]


def test_no_folder_and_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="is no run's folder"):
        read_run(tmp_path)


MISSING = {
    "table.json": "expctr test",
    "explanations/test.parquet": "no explanations of test rows",
    "config.yaml": "options are not known",
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    (run / name).unlink()
    read = read_run(run)
    assert any(MISSING[name] in note for note in read.notes), read.notes
    page = render([read])
    assert "LC reward" in page
    assert MISSING[name] in page


BROKEN = {
    "table.json": (b"[1, 2", "table.json is not a JSON object"),
    "scores.parquet": (b"no parquet", "scores.parquet is no Parquet file"),
    "explanations/test.parquet": (b"PAR1", "test.parquet is no Parquet file"),
    "config.yaml": (b"a: [1\n\xff", "config.yaml is not a mapping"),
    "data.json": (b"3", "data.json is not a JSON object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    content, said = BROKEN[name]
    (run / name).write_bytes(content)
    read = read_run(run)
    assert any(said in note for note in read.notes), read.notes
    assert "LC reward" in render([read])


def test_scores_say_whose_rows_the_explanations_are(run: Path) -> None:
    path = run / "explanations" / "test.parquet"
    pl.read_parquet(path).reverse().with_columns(
        s_u=pl.when(pl.col("sample") == 3).then(None).otherwise("s_u")
    ).write_parquet(path)  # another order, and a row less
    found = aligned(read_run(run), "s_u")
    assert found is not None
    assert found.users is not None
    samples = [i for i in reversed(range(60)) if i != 3]
    pairs = {(i // 2, user) for i, user in zip(samples, found.users.tolist(), strict=True)}
    assert len(pairs) == len(set(found.users.tolist())) == 30
    page = render([read_run(run)])
    assert "bootstrap intervals over the test users." in page
    assert "60 test rows of 30 users" in page
    assert "ROC of user" not in page


def test_an_older_run_counts_each_row_as_its_own_users(run: Path) -> None:
    """Its scores.parquet has no column user, and its table.json intervals over rows."""
    path = run / "scores.parquet"
    known = aligned(read_run(run), "s_u", "s_r")
    pl.read_parquet(path).drop("user").write_parquet(path)
    read = read_run(run)
    assert [note for note in read.notes if "column user" in note and "expctr test again" in note]
    rows = aligned(read, "s_u", "s_r")
    assert rows is not None
    assert known is not None
    assert rows.users is None
    assert rows.labels.tolist() == known.labels.tolist()
    page = render([read])
    assert "Whiskers are 95% intervals over the test rows." in page
    assert "over the test users" not in page
    assert "LC reward" in page


def test_runs_with_and_without_users_are_told_apart(run: Path, tmp_path: Path) -> None:
    old = make_run(tmp_path / "old")
    pl.read_parquet(old / "scores.parquet").drop("user").write_parquet(old / "scores.parquet")
    assert "over the test users (of old: the rows)." in render([read_run(run), read_run(old)])


def test_scores_of_another_test_do_not_say_whose_rows_these_are(run: Path) -> None:
    path = run / "scores.parquet"
    pl.read_parquet(path).with_columns(pl.col("sample") + 30).write_parquet(path)
    found = aligned(read_run(run), "s_u")
    assert found is not None
    assert found.users is None


def test_a_table_of_another_dataset_is_told(run: Path) -> None:
    path = run / "explanations" / "test.parquet"
    pl.read_parquet(path).with_columns(pl.col("sample") + 30).write_parquet(path)
    read = read_run(run)
    assert any("another dataset" in note for note in read.notes)
    assert "Film 59" in render([read])


def test_another_versions_tables_are_shown_as_far_as_they_are_known(run: Path) -> None:
    (run / "table.json").write_text(
        json.dumps(
            {"rows": "many", "systems": {"X": {"auc": {"value": 0.6}}, "Y": 3, "Z": None}, "slices": [], "audit": 1}
        )
    )
    pl.DataFrame(
        {"sample": [1, 2], "text": ["", None], "label": [1.0, None], "s_u": [float("nan"), 7.0]}
    ).write_parquet(run / "explanations" / "test.parquet")
    page = render([read_run(run)])
    assert "0.6000" in page
    assert "Unknown" in page


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    page = render([read_run(tmp_path)])
    assert page.count("Unknown") == 2
    assert "The run has no explanations yet" in page


def test_training_rows_have_the_titles_of_their_samples(run: Path) -> None:
    frame = read_run(run).stages["LC, pass 1"]
    assert frame["target"].to_list() == [f"Film {i}" for i in range(60)]
    assert render([read_run(run)]).count("Film 59") == 3 + 2  # in three sentences, and as the title of two rows
    (run / "samples.parquet").unlink()
    assert "target" not in read_run(run).stages["LC, pass 1"].columns


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"label": 1 - pl.col("label")}, "one is of another dataset"),
        ({"sample": pl.col("sample") + 1}, "one is of another dataset"),
        ({"sample": pl.format("s{}", "sample")}, None),
        ({"target_title": pl.concat_list("target_title")}, None),
    ],
)
def test_titles_of_other_samples_are_not_taken(run: Path, change: dict[str, pl.Expr], note: str | None) -> None:
    path = run / "samples.parquet"
    pl.read_parquet(path).with_columns(**change).write_parquet(path)
    read = read_run(run)
    assert "target" not in read.stages["LC, pass 1"].columns
    assert [note for part in read.notes if note and note in part] == [note] * (note is not None)
    assert "LC reward" in render([read])


def test_what_the_test_left_out_is_said(run: Path) -> None:
    table = json.loads((run / "table.json").read_text())
    table["notes"] = ["60 of 60 explanations of the trained model are empty", 3, None]
    (run / "table.json").write_text(json.dumps(table))
    path = run / "explanations" / "test.parquet"
    pl.read_parquet(path).with_columns(text=pl.lit("")).write_parquet(path)
    read = read_run(run)
    assert read.notes == ("What the test left out: 60 of 60 explanations of the trained model are empty.",)
    page = render([read])
    assert read.notes[0] in page
    assert "LC reward" in page


def test_a_model_without_explanations_has_its_table(run: Path) -> None:
    """As `test` leaves a run of ICL or of a CTR model alone."""
    shutil.rmtree(run / "explanations")
    table = json.loads((run / "table.json").read_text())
    (run / "table.json").write_text(json.dumps({k: v for k, v in table.items() if k not in ("quality", "audit")}))
    read = read_run(run)
    assert any("there are no explanations of test rows" in note for note in read.notes)
    page = render([read])
    assert "0.6700" in page
    assert "There is no audit" in page


def test_runs_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    runs = read_runs([make_run(tmp_path / place / "run") for place in ("a", "b")])
    assert [run.name for run in runs] == ["a/run", "b/run"]
    with pytest.raises(UserError, match="more than 6"):
        read_runs([tmp_path] * 7)


def test_numbers_are_read_where_there_are_any() -> None:
    assert estimate({"value": 0.5, "low": None, "high": "x"}) is not None
    assert estimate({"value": None}) is None
    assert estimate(None) is None
    assert estimate({"value": 10**400}) is estimate({"value": float("nan")}) is estimate({"value": 1e308}) is None
    assert section({"a": {"b": 1}}, "a", "b") == {}
