"""What a report makes of folders that are not as they should be."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from fake_run import make_run
from markupsafe import escape

from expctr.errors import UserError
from expctr.report.render import read_runs, render
from expctr.report.run import bins, estimate, number, points, read_run, section
from expctr.run_folder import read_config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_a_whole_run_leaves_nothing_to_say(run: Path) -> None:
    read = read_run(run)
    assert read.notes == ()
    assert list(read.stages) == ["LC, pass 1"]
    assert read.test["target"].to_list() == [f"Film {i}" for i in range(60)]
    assert read.events.alarms == ["LC, after 9 batches: unique is 0.05, below 0.1"]


def test_no_folder_and_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="is not a run's folder"):
        read_run(tmp_path)


MISSING = {
    "table.json": "expctr test",
    "explanations/test.parquet": "no explanations of test rows",
    "config.yaml": "options are unknown",
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    (run / name).unlink()
    read = read_run(run)
    assert any(MISSING[name] in note for note in read.notes), read.notes
    page = render([read])
    assert "LC reward" in page
    assert MISSING[name] in page


def test_without_curves_it_says_whether_a_logger_of_the_users_has_them(run: Path) -> None:
    for events in run.glob("events.*"):
        events.unlink()
    assert any("training is not shown." in note for note in read_run(run).notes)
    config = {"trainer": {"logger": [{"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs"}}]}}
    (run / "config.yaml").write_text(json.dumps(config))
    assert any("the loggers in trainer.logger keep them elsewhere" in note for note in read_run(run).notes)


BROKEN = {
    "table.json": (b"[1, 2", "table.json is not a JSON object"),
    "samples.parquet": (b"no parquet", "samples.parquet is not a readable Parquet file"),
    "explanations/test.parquet": (b"PAR1", "test.parquet is not a readable Parquet file"),
    "config.yaml": (b"a: [1\n\xff", "config.yaml is not a YAML mapping"),
    "data.json": (b"3", "data.json is not a JSON object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    content, message = BROKEN[name]
    (run / name).write_bytes(content)
    read = read_run(run)
    assert any(message in note for note in read.notes), read.notes
    assert "LC reward" in render([read])


def edit_table(run: Path, **changes: Any) -> dict[str, Any]:
    """Change table.json's keys; `None` removes one."""
    table = {**json.loads((run / "table.json").read_text()), **changes}
    table = {key: value for key, value in table.items() if value is not None}
    (run / "table.json").write_text(json.dumps(table))
    return table


NEW = {"gains": "paired differences", "calibration": "calibration", "roc": "ROC curves"}


def test_an_older_table_is_shown_and_what_it_lacks_is_named(run: Path) -> None:
    """Older versions of the test wrote no gains, calibration and ROC, and the report computes none of them."""
    edit_table(run, **dict.fromkeys(NEW))
    read = read_run(run)
    (note,) = read.notes
    assert all(name in note for name in NEW.values())
    assert "Fix: run expctr test again." in note
    page = render([read])
    assert note in page
    assert "Unknown" in page
    assert "no ROC curves and no calibration" in page
    assert "0.6700" in page


@pytest.mark.parametrize("key", NEW)
def test_only_what_is_missing_is_named(run: Path, key: str) -> None:
    edit_table(run, **{key: None})
    (note,) = read_run(run).notes
    assert [name for name in NEW.values() if f"no {name}" in note] == [NEW[key]]


def test_the_page_has_the_tables_numbers_to_the_digit(run: Path) -> None:
    """Changed in table.json alone, they are what the page shows: nothing is computed a second time."""
    table = json.loads((run / "table.json").read_text())
    numbers = {"value": 0.12345678, "low": 0.0987654, "high": 0.2345678}
    gains = {key: {**gain, "auc": numbers} for key, gain in table["gains"].items()}
    calibration = {name: {**found, "ece": 0.0456789} for name, found in table["calibration"].items()}
    audit = {**table["audit"], "agreement": {"share": numbers, "chance": 0.3456789}}
    edit_table(run, gains=gains, calibration=calibration, audit=audit)
    page = render([read_run(run)])
    assert page.count("difference +0.1235 (+0.099 to +0.235)") == len(gains)
    assert page.count("</a> 0.0457") == len(calibration)  # ECE is a link to its explanation
    assert "12.3% (9.9% to 23.5%); by chance 34.6%." in page
    edit_table(run, systems={name: {**row, "ece": numbers} for name, row in table["systems"].items()})
    page = render([read_run(run)])
    assert page.count("</a> 0.1235 (0.099–0.235)") == len(calibration)  # where newer versions have it


def test_intervals_over_users_are_named_so(run: Path) -> None:
    page = render([read_run(run)])
    assert "</a> intervals over the test users." in page
    assert "60 test rows of 30 users" in page


def test_an_older_runs_intervals_are_over_rows(run: Path) -> None:
    """Its table.json does not say how many users there are."""
    edit_table(run, users=None)
    read = read_run(run)
    assert [note for note in read.notes if "each row as its own user" in note and "expctr test again" in note]
    page = render([read])
    assert "Whiskers are 95% intervals over the test rows." in page
    assert "over the test users" not in page
    assert "LC reward" in page


def test_runs_with_and_without_users_are_told_apart(run: Path, tmp_path: Path) -> None:
    old = make_run(tmp_path / "old")
    edit_table(old, users=None)
    assert "over the test users (of old: the rows)." in render([read_run(run), read_run(old)])


def test_a_test_of_an_older_checkpoint_is_named(run: Path) -> None:
    (run / "checkpoints").mkdir()
    edit_table(run, checkpoint="epoch=0010-batch=000000.ckpt")
    for name in (
        "epoch=0009-batch=000004.ckpt",
        "epoch=0010-batch=000000.ckpt",
        "epoch=0011-batch=000000-v1.ckpt",
        "notes.txt",
    ):
        (run / "checkpoints" / name).touch()
    assert not read_run(run).notes
    (run / "checkpoints" / "epoch=0010-batch=000002.ckpt").touch()
    (run / "stored").touch()
    (run / "checkpoints" / "epoch=0011-batch=000000.ckpt").symlink_to(run / "stored")
    edit_table(run, checkpoint="stored")  # as in a store of large files
    assert not read_run(run).notes
    (run / "checkpoints" / "epoch=0011-batch=000000.ckpt").unlink()
    edit_table(run, checkpoint="epoch=0010-batch=000000.ckpt")
    (note,) = read_run(run).notes
    assert note.startswith("The test was of the checkpoint epoch=0010-batch=000000.ckpt, and the run's newest is epoch")


def test_explanations_of_another_test_are_named(run: Path) -> None:
    edit_table(run, rows=61)
    assert any("60 rows and table.json counts 61" in note for note in read_run(run).notes)


def test_a_table_of_another_dataset_is_told(run: Path) -> None:
    path = run / "explanations" / "test.parquet"
    pl.read_parquet(path).with_columns(pl.col("sample") + 30).write_parquet(path)
    read = read_run(run)
    assert [note for note in read.notes if "test.parquet does not fit samples.parquet" in note]
    assert "Film 59" in render([read])


def test_another_versions_tables_are_shown_as_far_as_they_are_known(run: Path) -> None:
    (run / "table.json").write_text(
        json.dumps(
            {
                "rows": "many",
                "systems": {"X": {"auc": {"value": 0.6}}, "Y": 3, "Z": None},
                "slices": [],
                "audit": 1,
                "gains": {"aug_text": 3, "llm_training": {"first": "X", "second": "Y", "auc": {"value": 0.1}}},
                "calibration": {"X": {"bins": [1, {"rows": 2}], "ece": "x"}, "Y": None},
                "roc": {"X": {"false_positive_rate": [0, 1], "true_positive_rate": [0]}, "Y": []},
            }
        )
    )
    pl.DataFrame(
        {"sample": [1, 2], "text": ["", None], "label": [1.0, None], "s_u": [float("nan"), 7.0]}
    ).write_parquet(run / "explanations" / "test.parquet")
    page = render([read_run(run)])
    assert "0.6000" in page
    assert "Unknown" in page


def test_stages_that_are_shorter_than_the_window_of_the_alarms_are_not_said_to_be_without(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for window, said in ((10, "There were no alarms"), (11, "no stage had so many: no alarm could be raised.")):
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["alarms"] = {"window": window}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        read = read_run(run)
        page = render([replace(read, events=read.events._replace(alarms=[]))])
        assert said in page


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    page = render([read_run(tmp_path)])
    assert page.count("Unknown") == 3
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
        ({"label": 1 - pl.col("label")}, "one of them comes from another dataset"),
        ({"sample": pl.col("sample") + 1}, "one of them comes from another dataset"),
        ({"sample": pl.format("s{}", "sample")}, None),
        ({"target_title": pl.concat_list("target_title")}, None),
    ],
)
def test_titles_of_other_samples_are_not_taken(run: Path, change: dict[str, pl.Expr], note: str | None) -> None:
    path = run / "samples.parquet"
    pl.read_parquet(path).with_columns(**change).write_parquet(path)
    read = read_run(run)
    assert "target" not in read.stages["LC, pass 1"].columns
    assert [note for part in read.notes if note and note in part] == [note] * 2 * (note is not None)
    assert "LC reward" in render([read])


def test_what_the_test_left_out_is_said(run: Path) -> None:
    edit_table(run, notes=["60 of 60 explanations of the trained model are empty", 3, None])
    path = run / "explanations" / "test.parquet"
    pl.read_parquet(path).with_columns(text=pl.lit("")).write_parquet(path)
    read = read_run(run)
    assert read.notes == ("The test left something out: 60 of 60 explanations of the trained model are empty.",)
    page = render([read])
    assert read.notes[0] in page
    assert "LC reward" in page


def test_a_model_without_explanations_has_its_table(run: Path) -> None:
    """As `test` leaves a run of ICL or of a CTR model alone."""
    shutil.rmtree(run / "explanations")
    edit_table(run, quality=None, audit=None)
    read = read_run(run)
    assert any("no explanations of test rows" in note for note in read.notes)
    page = render([read])
    assert "0.6700" in page
    assert "There is no audit" in page


def test_runs_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    runs = read_runs([make_run(tmp_path / place / "run") for place in ("a", "b")])
    assert [run.name for run in runs] == ["a/run", "b/run"]
    with pytest.raises(UserError, match="at most 6"):
        read_runs([tmp_path] * 7)


def test_numbers_are_read_where_there_are_any() -> None:
    assert estimate({"value": 0.5, "low": None, "high": "x"}) is not None
    assert estimate({"value": None}) is None
    assert estimate(None) is None
    assert estimate({"value": 10**400}) is estimate({"value": float("nan")}) is estimate({"value": 1e308}) is None
    assert number(5e-324) == number(-1e-310) == 0
    assert section({"a": {"b": 1}}, "a", "b") == {}


def test_bins_and_curves_are_read_where_they_are_whole() -> None:
    whole = {"rows": 3, "score": 0.4, "rate": {"value": 0.5, "low": 0.1, "high": 0.9}}
    wrong = ({**whole, "score": None}, {**whole, "rate": {}}, {**whole, "rows": 0.5}, 7)
    assert bins([whole, *wrong]) == [(3, 0.4, (0.5, 0.1, 0.9))]
    assert bins(None) == bins({"rows": 1}) == []
    assert points({"false_positive_rate": [0, 1], "true_positive_rate": [0.5, 1]}) == [(0, 0.5), (1, 1)]
    for odd in ([0], [0, None], [0, 2], "01"):
        assert points({"false_positive_rate": [0, 1], "true_positive_rate": odd}) == []


def test_numbers_too_small_to_draw_are_drawn(run: Path) -> None:
    table = json.loads((run / "table.json").read_text())
    tiny = {"value": 5e-324, "low": -1e-310, "high": 1.5e-323}
    systems = {name: dict.fromkeys(metrics, tiny) for name, metrics in table["systems"].items()}
    bins = [{"rows": rows, "score": 5e-324, "rate": tiny} for rows in (1e-310, 0.5, 1, 1e99)]
    edit_table(run, systems=systems, calibration={name: {"bins": bins} for name in table["calibration"]})
    assert "LC reward" in render([read_run(run)])


@pytest.mark.parametrize("name", ["events.out.tfevents.9", "tfevents", "table.json", "samples.parquet"])
def test_nobody_waits_for_a_pipe(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    read = read_run(run)
    assert name == "samples.parquet" or any(f"{name} is not a file" in note for note in read.notes)
    assert "Explanations" in render([read])


CONFIGS = {
    "a circle": "model: &x {a: *x}",
    "a circle of merges": "model: &x {<<: *x, a: 1}",
    "laughs": "a0: &a0 [1]\n" + "\n".join(f"a{i + 1}: &a{i + 1} [{f'*a{i}, ' * 10}]" for i in range(12)),
    "laughs of merges": "a0: &a0 {k: 1}\n"
    + "\n".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}" for i in range(40)),
    "a long number": f"seed_everything: 0x{'f' * 5000}",
    "a long number in decimals": f"seed_everything: {'9' * 5000}",
    "a whole number without digits": 'model: !!int ""',
    "another word for a truth": "model: {a: !!bool perhaps}",
    "no such character": r'a: "\UFFFFFFFF"',
    "a map in a map's place": "a: !!timestamp {? !!null x : !!map {<<: 1}, =: 1__0}",
    "a time that is none": "- !!timestamp soon",
    "an endless number": "a: " + "1:" * 400 + "1.5",
    "deeper": "seed_everything: " + "[" * 5000 + "]" * 5000,
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_was_made_to_be_slow_is_shown_as_text(run: Path, config: str) -> None:
    (run / "config.yaml").write_text(config)
    read = read_run(run)
    assert "config.yaml is not a YAML mapping" in read.notes[0]
    assert escape(config[:20]) in render([read, read_run(run)])
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        read_config(run)


def test_nested_json_is_left_out(run: Path) -> None:
    for depth in (150, 900, 980, 990, 5000):
        (run / "data.json").write_text(f'{{"rule": {"[" * depth}{"]" * depth}}}')
        read = read_run(run)
        assert read.data == {}
        assert "LC reward" in render([read])


@pytest.mark.parametrize("column", ["text", "text_untrained", "target"])
@pytest.mark.parametrize(
    "values",
    [
        pl.lit([["a"]]),
        pl.lit(b"\xff"),
        pl.lit(3).cast(pl.Duration),
        pl.struct(a=1),
        pl.lit(None),
        pl.lit("a").cast(pl.Categorical),
        pl.lit(3).cast(pl.Decimal(20, 2)),
        pl.lit(3).cast(pl.Time),
    ],
)
def test_explanations_of_any_type_are_shown_or_left_out(run: Path, column: str, values: pl.Expr) -> None:
    path = run / "explanations" / "test.parquet"
    frame = pl.read_parquet(path).with_columns(values.alias(column), target_title=pl.lit(1), label_right=pl.lit(1))
    frame.write_parquet(path)
    assert "LC reward" in render([read_run(run)])
