"""A trained run in Python, and the pairs of a file."""

import copy
import os
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from running import World

import expctr
from expctr.cli import predict_pairs as pair_files
from expctr.cli.app import run as run_cli
from expctr.cli.predict_pairs import predict_pairs, reasons
from expctr.data.batches import SampleText
from expctr.data.pairs import read_columns
from expctr.errors import DataError, UserError
from expctr.modules.expctr import ExpCTRModule
from expctr.predictor import Predictor, shared_batches
from expctr.run_folder import checkpoints
from expctr.training.lock import hold

SCORES = ["s_u", "s_r", "s_0", "s_plain"]


@pytest.fixture(scope="module")
def run(world: World) -> Path:
    return world.tested("one")


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    state = torch.get_rng_state()
    predictor = expctr.load(run)
    assert torch.equal(state, torch.get_rng_state())
    return predictor


@pytest.fixture
def pairs() -> pl.DataFrame:
    """Users 1 to 6 with items 1 to 5, unordered, and two that cannot be scored."""
    rows = [(str(user), str(item)) for item in range(1, 6) for user in range(1, 7)]
    return pl.DataFrame([*rows, ("nobody", "1"), ("1", "99")], schema=["user", "item"], orient="row")


def test_a_loaded_run_gives_the_scores_of_its_test(predictor: Predictor, run: Path) -> None:
    test = pl.read_parquet(run / "explanations" / "test.parquet").sort("sample")
    samples = predictor.data.rows("test").sort("sample")
    scored = predictor.score(samples.select("user", item="target"))
    assert scored["problem"].null_count() == len(test) == 12
    for name in SCORES:
        assert scored[name].to_list() == pytest.approx(test[name].to_list(), abs=1e-6)


@pytest.mark.parametrize(
    "settings", [lambda: torch.autocast("cpu", torch.bfloat16), lambda: torch.device("meta")], ids=["autocast", "meta"]
)
def test_the_settings_of_a_notebook_change_no_score(
    predictor: Predictor, pairs: pl.DataFrame, run: Path, settings: Callable[[], AbstractContextManager[None]]
) -> None:
    expected = predictor.score(pairs.head(6))
    with settings():
        assert_frame_equal(predictor.score(pairs.head(6)), expected)
        assert_frame_equal(expctr.load(run).score(pairs.head(6)), expected)


def test_another_default_dtype_is_refused(predictor: Predictor, pairs: pl.DataFrame, run: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        for use in (lambda: predictor.score(pairs), lambda: expctr.load(run)):
            with pytest.raises(UserError, match=r"default dtype is torch.float64. Fix: torch.set_default_dtype\("):
                use()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_loaded_run_is_not_copied(predictor: Predictor, copied: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=r"a loaded run cannot be copied or pickled\. Fix: load it in each process"):
        copied(predictor)


def test_a_link_is_followed_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `latest`, which may lead to another run when the weights are read, whose options are others."""
    used: list[Path] = []

    def restore(trainer: L.Trainer, module: object, data: object, checkpoint: Path, callbacks: object) -> Predictor:
        used.extend((checkpoint, Path(trainer.default_root_dir)))
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "restore", restore)
    (tmp_path / "latest").symlink_to(run)
    for checkpoint in (None, tmp_path / "latest" / "checkpoints" / checkpoints(run / "checkpoints")[-1].name):
        with pytest.raises(KeyboardInterrupt):
            expctr.load(tmp_path / "latest", checkpoint and str(checkpoint))
    assert used == [checkpoints(run.resolve() / "checkpoints")[-1], run.resolve()] * 2


def test_a_pair_has_the_scores_of_its_explanation(predictor: Predictor, pairs: pl.DataFrame) -> None:
    scored = predictor.score(pairs)
    for row in scored.filter(pl.col("problem").is_null())[::7].iter_rows(named=True):
        explained = predictor.explain_user(row["user"], f"id:{row['item']}")
        assert row["explanation"] == explained["explanation"]
        assert [row[name] for name in SCORES] == pytest.approx([explained[name] for name in SCORES], abs=1e-6)
    assert scored["problem"].to_list()[-2:] == [
        "the ratings have no user nobody",
        "no item with a title has the id 99",
    ]
    assert scored.select(pairs.columns).equals(pairs)


def test_titles_are_scored_and_explained_alike(predictor: Predictor) -> None:
    table = pl.DataFrame({"liked_titles": ["Film 1, The|New"], "target_title": ["Film 2, The"]})
    explained = predictor.explain(liked=["Film 1, The", "New"], target="Film 2, The")
    assert predictor.score(table)["s_r"].item() == pytest.approx(explained["s_r"], abs=1e-6)


def test_without_a_sentence_only_the_ctr_models_score(predictor: Predictor, pairs: pl.DataFrame) -> None:
    some = pl.int_range(pairs.height, eager=True) % 3 == 0
    full, part = predictor.score(pairs), predictor.score(pairs, explain=some)
    assert part.schema == full.schema
    for column in ("explanation", "s_u", "s_r"):
        assert part.filter(~some)[column].null_count() == part.filter(~some).height
        assert_frame_equal(part.filter(some).select(column), full.filter(some).select(column), abs_tol=1e-6)
    assert_frame_equal(part.select("s_0", "s_plain"), full.select("s_0", "s_plain"), abs_tol=1e-6)


@pytest.mark.parametrize("explain", [[True], [True, None], pl.Series([1, 0]), "top:1"])
def test_what_says_no_true_or_false_per_pair_is_refused(predictor: Predictor, explain: Any) -> None:
    pairs = pl.DataFrame({"user": ["1", "2"], "item": ["3", "4"]})
    with pytest.raises(UserError, match=r"explain has no bool for each pair\. Fix: "):
        predictor.score(pairs, explain)


def test_titles_are_any_sequence(predictor: Predictor) -> None:
    expected = predictor.explain(["Film 1, The", "Film 2, The"], target="Film 3, The")
    for given in (pl.Series(["Film 1, The", "Film 2, The"]), np.array(["Film 1, The", "Film 2, The"])):
        assert predictor.explain(given, target="Film 3, The") == expected  # type: ignore[arg-type]


def test_nothing_to_score_is_no_error(predictor: Predictor, pairs: pl.DataFrame) -> None:
    scored = predictor.score(pairs[-2:])
    assert scored["s_r"].null_count() == 2
    assert scored.schema == predictor.score(pairs[:1]).schema


def test_a_column_is_never_overwritten(predictor: Predictor, pairs: pl.DataFrame) -> None:
    with pytest.raises(UserError, match="pairs have a column s_r, which is needed for the scores"):
        predictor.score(pairs.with_columns(s_r=0.5))


def test_what_is_no_data_frame_is_refused(predictor: Predictor, pairs: pl.DataFrame) -> None:
    with pytest.raises(UserError, match=r"pairs are a LazyFrame\. Fix: give a polars DataFrame"):
        predictor.score(pairs.lazy())  # type: ignore[arg-type]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        expctr.load(tmp_path)


def test_rows_of_one_history_share_a_batch_as_far_as_they_fill_it() -> None:
    histories = "abcabaabca"
    texts = [SampleText(str(i), liked=(history,)) for i, history in enumerate(histories)]
    batches = [*shared_batches(texts, 3)]
    assert sorted(place for batch in batches for place in batch) == list(range(10))
    assert batches[0] == [0, 3, 5]  # three of the five of a
    assert batches[1] == [1, 4, 7]  # the three of b
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]


# --- files


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_files, "CHUNK", 9)


def test_a_file_in_chunks_has_the_scores_of_one_table(
    predictor: Predictor, pairs: pl.DataFrame, run: Path, tmp_path: Path, small_chunks: None
) -> None:
    pairs.with_columns(note=pl.lit('a "quoted", note')).write_csv(tmp_path / "pairs.csv")
    (checkpoint,) = checkpoints(run / "checkpoints")[-1:]
    for suffix in ("csv", "parquet"):
        out = tmp_path / f"out.{suffix}"
        problems, new, copied = predict_pairs(predictor, tmp_path / "pairs.csv", out, "all", checkpoint)
        assert not str(new)
        assert copied == ["note"]
        assert problems == dict.fromkeys(["the ratings have no user nobody", "no item with a title has the id 99"], 1)
        written = pl.read_csv(out, infer_schema=False) if suffix == "csv" else pl.read_parquet(out)
        assert set(written["note"]) == {'a "quoted", note'}
        once = predictor.score(pairs)
        types = dict(once.schema)
        assert_frame_equal(written.drop("note").cast(types), once, abs_tol=1e-6, check_column_order=False)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.csv", "out.csv", "out.parquet"}


def stop_at(call: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C in one of the calls of `score`; returns the number of pairs of each, which grows with them."""
    score, scored = Predictor.score, list[int]()

    def stops(self: Predictor, table: pl.DataFrame, *args: object, **kwargs: object) -> pl.DataFrame:
        scored.append(table.height)
        if len(scored) == call:
            raise KeyboardInterrupt
        return score(self, table, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "score", stops)
    return scored


def test_an_interrupted_file_goes_on_where_it_stopped(
    predictor: Predictor,
    pairs: pl.DataFrame,
    run: Path,
    tmp_path: Path,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also if the pairs and the checkpoint are copies by then, as where a job takes its files to its own disk."""
    pairs.write_parquet(tmp_path / "pairs.parquet")
    checkpoint = checkpoints(run / "checkpoints")[-1]
    job = (tmp_path / "pairs.parquet", tmp_path / "out.csv", "top:2", checkpoint)
    scored = stop_at(6, monkeypatch)  # four chunks are ranked, and the first is explained
    with pytest.raises(KeyboardInterrupt):
        predict_pairs(predictor, *job)
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "scratch").mkdir()
    copies = [Path(copyfile(path, tmp_path / "scratch" / path.name)) for path in (job[0], checkpoint)]
    job[0].unlink()
    predict_pairs(predictor, copies[0], job[1], "top:2", copies[1])
    assert scored == [9, 9, 9, 5, 9, 9, 9, 9, 5]  # none of the finished chunks again
    written = pl.read_csv(tmp_path / "out.csv").filter(pl.col("problem").is_null())
    assert not capsys.readouterr().out
    best = written.sort("s_plain", descending=True).group_by("user").head(2)
    assert sorted(best["explanation"].is_not_null()) == [True] * 12
    assert written["explanation"].is_not_null().sum() == 12


def test_parts_of_other_data_are_not_gone_on_with(
    predictor: Predictor,
    pairs: pl.DataFrame,
    run: Path,
    tmp_path: Path,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Such as data whose titles were corrected meanwhile."""
    pairs.write_parquet(tmp_path / "pairs.parquet")
    job = (tmp_path / "pairs.parquet", tmp_path / "out.csv", "none", checkpoints(run / "checkpoints")[-1])
    scored = stop_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predict_pairs(predictor, *job)
    monkeypatch.setattr(predictor.data, "source_digest", lambda: "of other data")
    predict_pairs(predictor, *job)
    assert scored[3:] == [9, 9, 9, 5]  # all of them again
    said = f"not gone on with: 2 finished chunks in {tmp_path}/out.csv.parts, because the run's data changed since\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("damage", ["cut", "empty", "no job"])
def test_parts_that_a_crash_of_the_machine_left_damaged_are_scored_again(
    predictor: Predictor,
    pairs: pl.DataFrame,
    run: Path,
    tmp_path: Path,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    pairs.write_csv(tmp_path / "pairs.csv")
    job = (tmp_path / "pairs.csv", tmp_path / "out.parquet", "none", checkpoints(run / "checkpoints")[-1])
    scored = stop_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predict_pairs(predictor, *job)
    parts = tmp_path / "out.parquet.parts"
    first, copy, about = parts / "scored-000000000000.parquet", parts / "pairs.parquet", parts / "job.json"
    for path in {"cut": [first, copy], "empty": [first, copy], "no job": [about]}[damage]:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else bytes(5 * (damage == "no job")))
    predict_pairs(predictor, *job)
    assert scored[3:] == ([9, 9, 9, 5] if damage == "no job" else [9, 9, 5])
    assert_frame_equal(pl.read_parquet(job[1]).select(pairs.columns), pairs)


@pytest.mark.parametrize("change", ["replaced", "removed", "grown", "emptied"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pairs_that_change_while_they_are_read_are_refused(
    predictor: Predictor, pairs: pl.DataFrame, run: Path, tmp_path: Path, change: str, suffix: str
) -> None:
    """By a nightly job that writes the same name, or one that is still writing."""
    path = tmp_path / f"pairs.{suffix}"

    def write(frame: pl.DataFrame) -> None:
        frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path, compression="uncompressed")

    def act(scan: Callable[[Path], pl.LazyFrame]) -> Callable[[Path], pl.LazyFrame]:
        def scanned(of: Path) -> pl.LazyFrame:
            table = scan(of)
            if len(seen) == 1:  # the columns were looked at, and now the rows are copied
                other = {"replaced": pairs[::-1], "grown": pl.concat([pairs, pairs]), "emptied": pairs.clear()}
                path.unlink() if change == "removed" else write(other[change])
            seen.append(1)
            return table

        return scanned

    write(pairs)
    seen: list[int] = []
    job = (path, tmp_path / "out.csv", "none", checkpoints(run / "checkpoints")[-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_files, "_scan", act(pair_files._scan))
        with pytest.raises(DataError, match=rf"pairs: {path} changed while it was read\. Fix: wait until"):
            predict_pairs(predictor, *job)
    write(pairs)
    predict_pairs(predictor, *job)


def test_a_run_that_took_the_place_of_another_keeps_its_own_parts(
    predictor: Predictor,
    pairs: pl.DataFrame,
    run: Path,
    tmp_path: Path,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scores of the first command would be mixed with those of the second."""
    pairs.write_parquet(tmp_path / "pairs.parquet")
    (tmp_path / "q").mkdir()
    job = (tmp_path / "pairs.parquet", tmp_path / "q" / "out.csv", "none", checkpoints(run / "checkpoints")[-1])
    score = Predictor.score

    def moves(self: Predictor, *args: Any, **kwargs: Any) -> pl.DataFrame:
        if not (tmp_path / "old").exists():
            (tmp_path / "q").rename(tmp_path / "old")
            (tmp_path / "q" / "out.csv.parts").mkdir(parents=True)
        return score(self, *args, **kwargs)

    monkeypatch.setattr(Predictor, "score", moves)
    with pytest.raises(UserError, match=r"parts is no longer the folder that this command began in"):
        predict_pairs(predictor, *job)
    assert not [*(tmp_path / "q" / "out.csv.parts").iterdir()]


def test_parts_of_another_number_of_explanations_are_not_gone_on_with(
    predictor: Predictor, pairs: pl.DataFrame, run: Path, tmp_path: Path, small_chunks: None
) -> None:
    """`evaluation.samples` may change between two calls: the scores of 1 and of 2 sentences are not alike."""
    pairs.write_parquet(tmp_path / "pairs.parquet")
    job = (tmp_path / "pairs.parquet", tmp_path / "out.csv", "all", checkpoints(run / "checkpoints")[-1])
    score, scored = Predictor.score, []

    def stops(*args: Any) -> pl.DataFrame:
        if scored:
            raise KeyboardInterrupt
        scored.append(1)
        return score(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "score", stops)
        with pytest.raises(KeyboardInterrupt):
            predict_pairs(predictor, *job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cast(ExpCTRModule, predictor.module).models.policy.evaluation, "samples", 2)
        predict_pairs(predictor, *job)
    written = pl.read_csv(tmp_path / "out.csv")
    assert written["s_u_std"].null_count() == written["problem"].len() - written["problem"].null_count() == 2


GOOD = b"user,item\n1,2\n"
BROKEN = {
    "not UTF-8": (GOOD + b"caf\xe9,2\n", r"undecodable bytes, .*pairs\.csv, row 3, column user. Fix: save .* UTF-8"),
    "a row too long": (GOOD + b"\n1,2,3,4\n", r"too many columns, .*pairs\.csv, row 4, column 4 of 2. Fix: put quotes"),
    "a row too short": (GOOD + b"1\n", r"too few columns, .*pairs\.csv, row 3, column item. Fix: give the row all"),
    "two columns of one name": (
        b"user,item,user\n1,2,3\n",
        r"two columns of one name, .*pairs\.csv, row 1, column user",
    ),
    "a quote in quotes": (GOOD + b'"a"b,2\n', r"not a row of CSV, .*pairs\.csv, row 3: .*Fix: close each quote"),
    "no content": (b"", "cannot be read"),
    "no rows": (b"user,item\n", "has no rows"),
    "an open quote": (b'user,item\n"1,2\n3,4\n', "close each quote"),
    "names of rows": (b'"user","item"\n"1",1,2\n"2",1,3\n', r"names of rows without .*Fix: .*R: row\.names = FALSE"),
    "a NUL byte": (b"user,title,item\n1,,2\n1,a\0,2\n", r"NUL byte, .*pairs\.csv, row 3, column title. Fix: "),
    "Latin-1 in a name": (b"user,item,pre\xe7o\n1,2,3\n", r"undecodable bytes, .*row 1, column 3. Fix: save"),
    "semicolons": (b"user;item\n1;2\n", "separate columns by commas"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "is UTF-16 or damaged, .*Fix: save it as UTF-8"),
    "no people": (b"item,price\n1,2\n", "pairs have no column user"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_of_pairs_is_refused_before_a_model_is_loaded(name: str, tmp_path: Path) -> None:
    content, message = BROKEN[name]
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pair_files.check_options(tmp_path / "pairs.csv", tmp_path / "out.csv", "all", force=False)


def test_a_csv_of_pairs_has_the_rows_that_were_checked(tmp_path: Path, small_chunks: None) -> None:
    """Blank lines are none, and a quote inside a value is a part of it."""
    path, rows = tmp_path / "pairs.csv", [f'u{i},5" disk {i},"a ""b"", c"\n\r\n' for i in range(20)]
    path.write_text("user,target_title,\n\n" + "".join(rows) + "v,,\n\n")
    pair_files.check_options(path, tmp_path / "out.csv", "all", force=False)
    pair_files._copy(path, tmp_path / "copy")
    found = pl.scan_parquet(tmp_path / "copy")
    titles = [f'5" disk {i}' for i in range(20)]
    assert found.collect()["target_title"].to_list() == [*titles, None]
    assert found.slice(17, 9).collect().rows() == [
        *((f"u{i}", f'5" disk {i}', 'a "b", c') for i in range(17, 20)),
        ("v", None, None),
    ]
    assert pair_files._scan(path).head(0).collect().columns == ["user", "target_title", ""]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.Series("user", [b"\xff"]), "pairs: the column user is of type Binary. Fix: give texts or numbers"),
        (pl.Series("item", [["1"]]), "pairs: the column item is of type List"),
        (
            pl.Series("liked_titles", [[["a"]]]),
            "the column liked_titles is of type List.* Fix: give lists of texts",
        ),
        (pl.Series("note", [b"\xff"]), "out: a CSV cannot hold the column note"),
        (pl.Series("note", [timedelta(1)]), "out: a CSV cannot hold the column note"),
    ],
)
def test_a_column_of_an_odd_type_is_refused_before_a_model_is_loaded(
    column: pl.Series, message: str, tmp_path: Path
) -> None:
    pl.DataFrame({"user": ["1"], "item": ["2"]}).with_columns(column).write_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match=message):
        pair_files.check_options(tmp_path / "pairs.parquet", tmp_path / "out.csv", "all", force=False)


def test_ids_that_a_missing_value_made_floats_and_lists_without_a_value_are_read(
    predictor: Predictor, run: Path, tmp_path: Path
) -> None:
    """As pandas writes them."""
    frame = pl.DataFrame({"user": [1.0, None, 2.0], "item": [3, 4, 5], "liked_titles": [None, None, None]})
    frame.write_parquet(tmp_path / "pairs.parquet")
    (checkpoint,) = checkpoints(run / "checkpoints")[-1:]
    problems, *_ = predict_pairs(predictor, tmp_path / "pairs.parquet", tmp_path / "out.csv", "none", checkpoint)
    assert problems == {"no user and no titles of a history": 1}


def test_columns_are_found_by_names_with_blanks_or_in_capitals(predictor: Predictor, pairs: pl.DataFrame) -> None:
    """As in headers written by hand: `user, item`. Left out, a list of titles would only make other scores."""
    pairs = pairs.with_columns(liked_titles=pl.lit("Heat"), disliked_titles=pl.lit("Film 3"))
    odd = {"user": "User", "item": " item", "liked_titles": "liked-titles", "disliked_titles": "DISLIKED_TITLES"}
    scored = predictor.score(pairs.rename(odd))
    assert scored.columns[: pairs.width] == pairs.rename(odd).columns
    names = {odd[name]: name for name in odd}
    assert_frame_equal(scored.rename(names), predictor.score(pairs), abs_tol=1e-6)


def test_a_file_may_have_headers_in_capitals(predictor: Predictor, run: Path, tmp_path: Path) -> None:
    user, item = predictor.data.samples.select("user", "target").row(0)
    (tmp_path / "pairs.csv").write_text(f"User, Item\n{user},{item}\nnobody,{item}\n")
    job = (tmp_path / "pairs.csv", tmp_path / "out.parquet", "top:1", checkpoints(run / "checkpoints")[-1])
    assert predict_pairs(predictor, *job).problems == {"the ratings have no user nobody": 1}
    assert pl.read_parquet(tmp_path / "out.parquet").columns[:2] == ["User", " Item"]


def test_titles_of_no_item_are_counted(
    predictor: Predictor, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be lists with another separator, or of another catalogue; also if the command was interrupted."""
    monkeypatch.setattr(pair_files, "CHUNK", 2)
    known = predictor.data.catalogue.items["title"].drop_nulls()[:3].to_list()
    liked = [f"{known[0]}|{known[1]}", f"{known[0]}, {known[1]}", "Nobody's film"]
    frame = pl.DataFrame({"liked_titles": liked, "target_title": [known[2], known[2], "Another"]})
    frame.write_csv(tmp_path / "pairs.csv")
    (checkpoint,) = checkpoints(run / "checkpoints")[-1:]
    job = (tmp_path / "pairs.csv", tmp_path / "out.csv", "none", checkpoint)
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            predict_pairs(predictor, *job)
    outcome = predict_pairs(predictor, *job)
    assert not outcome.problems
    shown = "of no item, or of several: 2 titles of histories and 1 target"
    assert str(outcome.new) == f"{shown}, such as {liked[1]!r}"


def test_titles_with_a_separator_in_them_are_written_as_they_are_read(
    predictor: Predictor, run: Path, tmp_path: Path
) -> None:
    liked = [["Heat|Fargo", "Film 1"], ["[REC]"], ["Up", "Her"], []]
    frame = pl.DataFrame({"liked_titles": liked, "disliked_titles": [["Seven"]] * 4, "target_title": "Film 2"})
    frame.write_parquet(tmp_path / "pairs.parquet")
    (checkpoint,) = checkpoints(run / "checkpoints")[-1:]
    predict_pairs(predictor, tmp_path / "pairs.parquet", tmp_path / "out.csv", "none", checkpoint)
    written = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert written["liked_titles"][2] == "Up|Her"
    assert read_columns(written)["liked_titles"].to_list() == liked


def test_the_folder_of_parts_is_one_s_own(predictor: Predictor, pairs: pl.DataFrame, run: Path, tmp_path: Path) -> None:
    """Neither another command's nor anybody's files in it are lost."""
    pairs.write_parquet(tmp_path / "pairs.parquet")
    job = (tmp_path / "pairs.parquet", tmp_path / "out.csv", "none", checkpoints(run / "checkpoints")[-1])
    parts = tmp_path / "out.csv.parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out\.csv\.parts, .* holds other files\. Fix: choose another --out"):
        predict_pairs(predictor, *job)
    assert (parts / "thesis.txt").read_text() == "mine"
    (parts / "job.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds other files"):
        predict_pairs(predictor, *job)
    (parts / "thesis.txt").rename(tmp_path / "thesis.txt")
    with pytest.raises(UserError, match=r"holds other files"):  # job.json is somebody's
        predict_pairs(predictor, *job)
    for odd in ("[" * 100_000, None):
        (parts / "job.json").unlink()
        (parts / "job.json").write_text(odd) if odd else os.mkfifo(parts / "job.json")
        with pytest.raises(UserError, match=r"holds other files"):
            predict_pairs(predictor, *job)
    (parts / "job.json").unlink()
    parts.rmdir()
    (tmp_path / "elsewhere").mkdir()
    parts.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"out\.csv\.parts, .* holds other files\. Fix: choose another --out"):
        predict_pairs(predictor, *job)
    parts.unlink()
    with hold(parts), pytest.raises(UserError, match=r"is being written by process \d+ .*or give another --out"):
        predict_pairs(predictor, *job)
    predict_pairs(predictor, *job)
    assert not parts.exists()
    scores = job[1].read_bytes()
    job[1].write_text("of another command, which ended while this one loaded its model")
    with pytest.raises(UserError, match=r"out\.csv exists\. Fix: "):
        predict_pairs(predictor, *job)
    predict_pairs(predictor, *job, force=True)
    assert job[1].read_bytes() == scores
    assert not parts.exists()


def test_a_scored_file_is_refused_as_pairs_without_a_trace(
    predictor: Predictor, pairs: pl.DataFrame, run: Path, tmp_path: Path
) -> None:
    predictor.score(pairs, explain=False).write_parquet(tmp_path / "pairs.parquet")
    job = (tmp_path / "pairs.parquet", tmp_path / "out.csv", "none", checkpoints(run / "checkpoints")[-1])
    with pytest.raises(UserError, match=r"pairs have a column .*Fix: rename it"):
        predict_pairs(predictor, *job)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.parquet"]


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "in[1].csv").write_bytes(GOOD)
    (tmp_path / "in1.csv").write_bytes(b"no pairs")
    assert pair_files.check_options(tmp_path / "in[1].csv", tmp_path / "out[1].csv", "all", force=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": None}, "out: no file is named .* Fix: give --out FILE"),
        ({"out": "scores.json"}, "out: .*scores.json is neither .csv nor .parquet"),
        ({"out": "there.csv"}, "there.csv exists.*--force"),
        ({"out": "no/such.csv"}, "no folder"),
        ({"explain": "top:0"}, "explain is 'top:0'. Fix: give all, none, or top:N"),
        ({"pairs": "missing.csv"}, "no such file"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(
    options: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    (tmp_path / "pairs.csv").write_bytes(GOOD)
    (tmp_path / "there.csv").touch()
    given = {"pairs": "pairs.csv", "out": "scores.csv", "explain": "all", **options}
    out = tmp_path / given["out"] if given["out"] else None
    with pytest.raises(ValueError, match=message):
        pair_files.check_options(tmp_path / str(given["pairs"]), out, str(given["explain"]), force=False)


def test_the_command_scores_a_file(
    run: Path, predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("user,item,price\n1,2,007\nnobody,2,1\n")
    line = ["predict", str(run), "--pairs", str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out.csv")]
    run_cli(line)
    assert "not scored: 1 (the ratings have no user nobody)" in capsys.readouterr().out
    written = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert written["price"].to_list() == ["007", "1"]
    assert float(written["s_r"][0]) == pytest.approx(predictor.score(written.select("user", "item"))["s_r"][0])


@pytest.mark.parametrize("option", ["--out=scores.csv", "--explain=none", "--force=true"])
def test_an_option_of_pairs_without_pairs_is_refused(
    run: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_cli(["predict", str(run), option])
    assert "Fix: give --pairs FILE" in capsys.readouterr().err


def test_a_ranking_needs_a_ctr_model_without_sentences(tmp_path: Path) -> None:
    scorer = SimpleNamespace(columns={"score": pl.Float64()})
    with pytest.raises(UserError, match=r"explain: top:3 needs a run of ExpCTRModule"):
        predict_pairs(cast(Any, scorer), tmp_path / "pairs.csv", tmp_path / "out.csv", "top:3", tmp_path)


def test_reasons_that_differ_in_an_id_are_one() -> None:
    problems = {f"the ratings have no user u{i}": 2 for i in range(300)} | {"no user and no titles of a history": 7}
    problems |= {"user 5 has rated no other item": 1, "user is a number that lost its last digits; write ids": 3}
    assert reasons(problems) == [
        ("the ratings have no user u0, and 299 like it", 600),
        ("no user and no titles of a history", 7),
        ("user is a number that lost its last digits; write ids", 3),
        ("user 5 has rated no other item", 1),
    ]


def test_a_link_leads_to_the_scores(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("user,item\n1,2\n")
    (tmp_path / "latest.csv").symlink_to(tmp_path / "monday.csv")
    job = (tmp_path / "pairs.csv", tmp_path / "latest.csv", "all")
    assert pair_files.check_options(*job, force=False) == tmp_path / "monday.csv"
    (tmp_path / "monday.csv").touch()
    with pytest.raises(UserError, match=r"monday\.csv exists"):
        pair_files.check_options(*job, force=False)
    assert pair_files.check_options(*job, force=True) == tmp_path / "monday.csv"
    (tmp_path / "other.csv").symlink_to(tmp_path / "monday.parquet")
    with pytest.raises(UserError, match=r"other\.csv leads to .*monday\.parquet, a file of another kind\. Fix: "):
        pair_files.check_options(job[0], tmp_path / "other.csv", "all", force=True)
    (tmp_path / "latest").symlink_to(tmp_path / "monday.csv")
    with pytest.raises(UserError, match=r"latest is neither \.csv nor \.parquet"):
        pair_files.check_options(job[0], tmp_path / "latest", "all", force=True)
    (tmp_path / "turn.csv").symlink_to(tmp_path / "turn.csv")
    assert pair_files.check_options(job[0], tmp_path / "turn.csv", "all", force=True)  # is replaced
