"""What a run leaves for people to read: curves, tables of explanations, the parquet files."""

import errno
import json
import re
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import lightning as L
import polars as pl
import pytest
import torch
from running import World, curves
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from expctr.errors import UserError
from expctr.evaluation.result_writer import ResultWriter
from expctr.metrics import apply_temperature, bootstrap, ctr_metrics, with_intervals
from expctr.systems import GAINS, SIMPLE, SOURCES

POLICY = (
    *("reward_normalised", "reward_normalised_std", "kl", "kl_per_token", "entropy"),
    *("clip_fraction", "approx_kl", "ratio", "ratio_first", "value_loss", "explained_variance", "policy_loss"),
    *("response_length", "truncated", "grad_norm", "lr", "beta", "tokens_per_second", "samples_per_second"),
    *(f"seconds_{part}" for part in ("all", "prefill", "decode", "score", "reference", "train")),
)

SIGNS = ("positive", "saturated")


@pytest.fixture(scope="module")
def run(world: World) -> Path:
    return world.tested("one")


@pytest.fixture(scope="module")
def events(run: Path) -> list[EventAccumulator]:
    found = [EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 0}) for file in run.glob("events.*")]
    for file in found:
        file.Reload()
    return found


def test_every_curve_that_the_issue_lists_is_there(events: list[EventAccumulator]) -> None:
    tags = {tag for file in events for tag in file.Tags()["scalars"]}
    wanted = {f"{stage}/{name}" for stage in ("lc", "ic") for name in POLICY}
    wanted |= {"lc/gap", "lc/order", "lc/s_u_mean", "lc/reward_lc", "lc/reward_lc_std"}
    wanted |= {"lc/reward_lc_normalised", "lc/reward_lc_clipped"}
    wanted |= {"ic/s_r_mean", "ic/s_0_mean", "ic/reward_ic", "ic/reward_ic_std"}
    wanted |= {"ic/reward_ic_normalised", "ic/reward_ic_clipped", "ic/text_gain_mean"}
    wanted |= {"ctr/loss", "ctr/loss_without_text", "ctr/explained"}
    wanted |= {f"val/{metric}_{who}" for metric in ("auc", "logloss") for who in ("llm", "aug", "plain")}
    wanted |= {"val/reward_lc", "val/s_u_above_half"}
    signs = ("unique", "words", "repeated", "empty", "skipped_updates")
    wanted |= {f"{stage}/{name}" for stage in ("lc", "ic") for name in signs}
    wanted |= {f"{stage}/{score}_{sign}" for stage, score in (("lc", "s_u"), ("ic", "s_r")) for sign in SIGNS}
    wanted |= {"val/reward_lc_gap", "val/reward_ic_gap"}
    assert not wanted - tags


def test_nothing_is_written_to_a_folder_that_came_in_the_place_of_the_run_s(tmp_path: Path) -> None:
    writer, run = ResultWriter(), tmp_path / "run"
    trainer = L.Trainer(default_root_dir=run, accelerator="cpu", logger=False, enable_progress_bar=False)
    writer.setup(trainer, L.LightningModule(), "predict")
    writer._check_place(trainer)
    run.rename(tmp_path / "old")
    for _ in range(2):
        with pytest.raises(UserError, match=r"is no longer the folder that this command began with"):
            writer._check_place(trainer)
        run.mkdir(exist_ok=True)


@pytest.mark.parametrize("closed", ["run", "run/explanations"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_computed(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of another user's test, in a folder to which the group may write."""

    def refuse(**options: Any) -> Any:
        if options["dir"] == tmp_path / closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        return TemporaryFile(**options)

    monkeypatch.setattr("expctr.evaluation.result_writer.TemporaryFile", refuse)
    (tmp_path / "run" / "explanations").mkdir(parents=True)
    trainer = L.Trainer(default_root_dir=tmp_path / "run", accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(UserError, match=rf"{closed}: Permission denied, so the results cannot be written there\. Fix"):
        ResultWriter().setup(trainer, L.LightningModule(), "predict")


def test_the_first_ratio_is_one(run: Path) -> None:
    found = curves(run)
    for stage in ("lc", "ic"):
        for (value,) in found[f"{stage}/ratio_first"].values():
            assert value == pytest.approx(1, abs=1e-5)
    assert found["lc/kl"][1] == [pytest.approx(0, abs=1e-5)]
    assert max(value for values in found["ic/kl"].values() for value in values) > 1e-3


def test_explanations_are_shown_with_their_prompt_and_scores(events: list[EventAccumulator]) -> None:
    tag = "explanations/text_summary"
    shown = [event for file in events if tag in file.Tags()["tensors"] for event in file.Tensors(tag)]
    assert len(shown) >= 2
    rows = shown[-1].tensor_proto.string_val[0].decode().split("---")
    assert rows.pop() == ""
    assert len(rows) == 2
    for row in rows:
        title, sentence, scores, prompt = row.strip().split("\n\n")
        assert re.fullmatch(r"#### Film .* \((dis)?liked\)", title)
        assert sentence.startswith("> ")
        assert re.fullmatch(r"s_u 0\.\d+, s_r 0\.\d+, s_0 0\.\d+, LC reward .*, IC reward .*", scores)
        assert "Film" in prompt


def test_the_first_page_of_tensorboard_has_six_charts_of_curves_that_there_are(events: list[EventAccumulator]) -> None:
    tag = "custom_scalars__config__"
    (layout,) = [event for file in events if tag in file.Tags()["tensors"] for event in file.Tensors(tag)]
    (page,) = layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0]).category
    tags = {tag for file in events for tag in file.Tags()["scalars"]}
    assert len(page.chart) == 6
    for chart in page.chart:
        found = [[tag for tag in tags if re.match(pattern, tag)] for pattern in chart.multiline.tag]
        assert max(map(len, found)) == 1, chart.title  # no pattern has two curves, and one at least has its own


def test_every_rollout_is_in_a_parquet_file(run: Path) -> None:
    for name, stage, iteration in (("000-lc", "lc", 0), ("004-ic1", "ic", 1), ("008-ic2", "ic", 2)):
        rows = pl.read_parquet(run / "explanations" / f"{name}.parquet")
        assert rows["sample"].is_unique().all()
        assert rows.height == 36
        assert rows["stage"].unique().to_list() == [stage]
        assert rows["iteration"].unique().to_list() == [iteration]
        rewards = {"lc": {"s_u", "reward_lc"}, "ic": {"s_r", "s_0", "reward_ic"}}[stage]
        assert rewards | {"text", "label", "epoch", "batch", "reward_normalised"} <= set(rows.columns)


def test_the_tested_explanations_are_kept_with_all_scores(run: Path) -> None:
    rows = pl.read_parquet(run / "explanations" / "test.parquet")
    assert rows.height == 12
    assert {"sample", "label", "text", "s_u", "s_r", "s_0", "s_icl", "s_plain"} <= set(rows.columns)
    assert {"text_untrained", "s_u_untrained", "s_r_untrained", "s_r_exchanged"} <= set(rows.columns)
    examples = pl.read_parquet(run / "explanations" / "examples.parquet")
    assert examples.columns == ["target", "label", "before", "after"]
    assert examples["after"].to_list() == rows["text"].to_list()[:2]
    assert examples["before"].to_list() == rows["text_untrained"].to_list()[:2]


def test_scores_say_whose_rows_they_are_in_the_other_files_words(run: Path) -> None:
    scores, samples = pl.read_parquet(run / "scores.parquet"), pl.read_parquet(run / "samples.parquet")
    assert scores.columns[:3] == ["sample", "user", "label"]
    assert scores.schema["user"] == samples.schema["user"] == pl.String
    joined = scores.join(samples, on="sample", suffix="_told", how="left", maintain_order="left")
    assert joined["user"].equals(joined["user_told"], null_equal=False)
    assert joined["label"].cast(pl.Float64).equals(joined["label_told"].cast(pl.Float64))
    tested = pl.read_parquet(run / "explanations" / "test.parquet")
    assert scores["sample"].equals(tested["sample"])
    assert scores["ExpCTR-Aug"].equals(tested["s_r"])
    table = json.loads((run / "table.json").read_text())
    assert table["users"] == scores["user"].n_unique()
    numbers = scores["user"].rank("dense").to_torch()
    given = scores["ExpCTR-Aug"].to_torch(), scores["label"].to_torch()
    drawn = with_intervals(ctr_metrics(*given, numbers), bootstrap(*given, numbers))
    found = table["systems"]["ExpCTR-Aug"]["logloss"]
    assert [found[part] for part in ("value", "low", "high")] == pytest.approx(drawn["logloss"])


def test_the_simple_baselines_are_scored_on_the_tested_rows(run: Path) -> None:
    table, rows = json.loads((run / "table.json").read_text()), pl.read_parquet(run / "scores.parquet")
    assert list(table["systems"])[:2] == [system.name for system in SIMPLE]
    for system in SIMPLE:
        found = ctr_metrics(rows[system.name].to_torch(), rows["label"].to_torch())
        assert table["systems"][system.name]["logloss"]["value"] == pytest.approx(found["logloss"])
        assert f"| {system.name} |" in (run / "table.md").read_text()
    tested = pl.read_parquet(run / "explanations" / "test.parquet")
    counts = tested.select(liked=pl.col("liked").list.len(), disliked=pl.col("disliked").list.len())
    alike = counts.with_columns(score=rows[SIMPLE[0].name]).group_by("liked", "disliked").agg(pl.n_unique("score"))
    assert alike.height > 3
    assert alike["score"].unique().to_list() == [1]  # the row's own histories: rows that show the same score alike


def test_the_table_says_where_the_gain_comes_from(run: Path) -> None:
    """Each row is scored with another's explanation: its own would give its own score."""
    rows = pl.read_parquet(run / "explanations" / "test.parquet")
    alone = rows.filter(pl.col("text").is_unique())
    assert alone.height > 5
    assert all(own != other for own, other in alone.select("s_r", "s_r_exchanged").iter_rows())
    table = json.loads((run / "table.json").read_text())
    assert list(table["sources"]) == [source.name for source in SOURCES]
    values = {}
    for source in SOURCES:
        found = ctr_metrics(torch.tensor(rows[source.column]), torch.tensor(rows["label"]))
        values[source.name] = table["sources"][source.name]["auc"]["value"]
        assert values[source.name] == pytest.approx(found["auc"])
        assert f"- {source.name}: {found['auc']:.4f} (" in (run / "table.md").read_text()
    values |= {name: row["auc"]["value"] for name, row in table["systems"].items()}
    assert list(table["gains"]) == [key for key in GAINS if key != "aug_untrained_text"]  # whose model is an option
    for gain in table["gains"].values():
        assert gain["auc"]["value"] == values[gain["second"]] - values[gain["first"]]
    assert (table["gains"]["aug_plain"]["first"], table["gains"]["aug_plain"]["second"]) == ("DeepFM", "ExpCTR-Aug")
    assert table["gains"]["aug_text"]["auc"] == table["audit"]["gain"]["total"]  # one quantity, one number


def test_every_system_has_a_temperature_of_the_validation_rows(run: Path) -> None:
    """Which leaves the order of its scores, and so their AUC, as they are."""
    scores, table = pl.read_parquet(run / "scores.parquet"), json.loads((run / "table.json").read_text())
    assert set(table["temperature"]) == set(table["systems"])
    labels = scores["label"].to_torch()
    for name, row in table["temperature"].items():
        after = ctr_metrics(apply_temperature(scores[name].to_torch(), row["t"]), labels)
        for metric in ("logloss", "ece"):
            assert row[metric]["value"] == pytest.approx(after[metric])
    assert len({row["t"] for row in table["temperature"].values()}) > 1


def test_the_table_holds_what_the_sentences_are_worth(run: Path) -> None:
    table = json.loads((run / "table.json").read_text())
    assert set(table["quality"]) == {"trained", "untrained"}
    assert table["quality"]["trained"]["words"]["low"] <= table["quality"]["trained"]["words"]["value"]
    audit, systems = table["audit"], table["systems"]
    assert list(audit["ablations"]) == [
        *("real", "no verdict words", "verdict only", "shuffled within verdict", "shuffled", "untrained", "none"),
    ]
    assert audit["ablations"]["real"]["auc"]["value"] == pytest.approx(systems["ExpCTR-Aug"]["auc"]["value"])
    gain = {name: estimate["value"] for name, estimate in audit["gain"].items()}
    assert gain["total"] == pytest.approx(gain["verdict"] + gain["reason"])
    none = audit["ablations"]["none"]["auc"]["value"]
    assert gain["total"] == pytest.approx(audit["ablations"]["real"]["auc"]["value"] - none)
    assert set(audit["counterfactuals"]) == {"swapped history", "one title dropped", "another target"}


def test_each_tested_sentence_stands_beside_what_it_was_given(run: Path) -> None:
    rows = pl.read_parquet(run / "explanations" / "test.parquet")
    assert {"target", "liked", "disliked", "invented", "misstated_untrained", "names_history", "verdict"} <= set(
        rows.columns
    )
    for row in rows.iter_rows(named=True):
        assert all(title in row["text"] for title in row["invented"])
        assert not set(row["invented"]) & {row["target"], *row["liked"], *row["disliked"]}


def test_the_config_of_the_run_is_kept(run: Path) -> None:
    assert "rollout_batch_size: 8" in (run / "config.yaml").read_text()
