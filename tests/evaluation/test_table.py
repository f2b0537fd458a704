"""The result table, and the paper's numbers against the paper's text."""

import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from expctr.evaluation.table import PAPER, ResultTable
from expctr.metrics import apply_temperature, bootstrap, ctr_metrics, with_intervals
from expctr.systems import AUG, AUG_NO_TEXT, FURTHER, GAINS, LLM, METRICS, PLAIN, SYSTEMS

NAMES = tuple(system.name for system in SYSTEMS)


def scored(rows: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(rows, generator=generator)
    return scores, (torch.rand(rows, generator=generator) < scores).float()


def table(dataset: str = "ML-20M", **more: Tensor) -> ResultTable:
    scores, labels = scored()
    return ResultTable.from_scores(
        {"ExpCTR-LLM": scores, "ICL": scores / 2, **more}, labels, 0.6, dataset, resamples=50
    )


def printed(result: ResultTable) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(result)
    return captured.get()


def test_systems_come_in_the_papers_order_and_further_ones_after():
    result = table(**{"Another": scored()[0]})
    assert tuple(result.systems) == (*NAMES, "Another")
    assert result.systems["DeepFM"] == {}


def test_numbers_and_intervals():
    result, (scores, labels) = table(), scored()
    row = result.systems["ExpCTR-LLM"]
    assert {name: estimate.value for name, estimate in row.items()} == pytest.approx(
        ctr_metrics(scores, labels), nan_ok=True
    )
    assert all(row[name].low < row[name].value < row[name].high for name in METRICS if name not in ("gauc", "ece"))
    assert row["ece"].low <= row["ece"].high
    assert row["gauc"].format() == "-"  # without users
    assert result.rows == 400
    assert result.test_rate == pytest.approx(labels.mean().item())
    assert result.test_entropy <= result.constant_logloss
    assert f"{row['auc'].value:.4f} ({row['auc'].low:.3f}–{row['auc'].high:.3f})" in result.to_markdown()


def test_without_training_rows_there_is_no_rate_to_compare_with():
    scores, labels = scored()
    result = ResultTable.from_scores({"ICL": scores}, labels, float("nan"), "ML-20M", resamples=50)
    assert result.systems["ICL"]["auc"].value == ctr_metrics(scores, labels)["auc"]
    found = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert found["train_rate"] is found["constant_logloss"] is None


def test_what_is_absent_shows_a_dash_everywhere():
    result = table("elsewhere")
    line = next(line for line in result.to_markdown().splitlines() if line.startswith("| DeepFM"))
    assert line == "| DeepFM | - | - | - | - | - |"
    assert re.search(r"DeepFM(\s+-){5}\s", printed(result))
    assert result.to_dict()["systems"]["DeepFM"] == {}


@pytest.mark.filterwarnings("ignore:AUC is undefined")
def test_an_undefined_auc_is_a_dash_and_null():
    result = ResultTable.from_scores({"ICL": torch.tensor([0.5, 0.6])}, torch.ones(2), 0.5, resamples=10)
    line = next(line for line in result.to_markdown().splitlines() if line.startswith("| ICL"))
    assert line.startswith("| ICL | - | 0.")
    assert result.to_dict()["systems"]["ICL"]["auc"] == {"value": None, "low": None, "high": None}


def test_the_papers_rows_are_marked_and_only_for_its_datasets():
    with_paper = table("BookCrossing").to_markdown()
    assert "| ExpCTR-Aug (paper) | 0.6173 | 0.6715 | 0.4800 | 0.4891 | - |" in with_paper
    assert with_paper.count("(paper)") == printed(table("BookCrossing")).count("(paper)") == 4
    assert "paper" not in table("ML-100K").to_markdown()
    assert table("ML-100K").to_dict()["paper"] == {}


def test_a_model_trained_otherwise_than_published_stands_beside_the_published_one():
    result = table(**{"SASRec-style": scored()[0]})
    assert result.to_dict()["paper"]["SASRec-style"]["auc"] == PAPER["ML-20M"]["SASRec"][0]
    assert f"| SASRec (paper) | {PAPER['ML-20M']['SASRec'][0]:.4f} |" in result.to_markdown()


def test_the_papers_numbers_are_consistent_with_its_text():
    """5.2: ExpCTR-Aug gains 18.2%, 11.9% and 17.8% in AUC over DeepFM."""
    gains = [rows["ExpCTR-Aug"][0] / rows["DeepFM"][0] - 1 for rows in PAPER.values()]
    assert [round(100 * gain, 1) for gain in gains] == [18.2, 11.9, 17.8]
    ours = ("ExpCTR-LLM", "ExpCTR-Aug")
    for rows, best in zip(PAPER.values(), ("ICL", "TALLRec", "ICL"), strict=True):  # as underlined in Table 1
        assert len(rows) == 18
        assert set(NAMES) < set(rows)
        assert max(rows.keys() - set(ours), key=lambda name: rows[name][0]) == best
        assert max(rows, key=lambda name: rows[name][0]) == "ExpCTR-Aug"


def test_slices_hold_the_metrics_of_their_rows_and_no_others():
    scores, labels = scored()
    first = torch.arange(400) < 150
    slices = {"warm users": first, "cold users": ~first, "cold items": torch.zeros(400, dtype=torch.bool)}
    result = ResultTable.from_scores({"FM": scores}, labels, 0.6, slices=slices, resamples=50)
    assert set(result.slices) == {"warm users", "cold users"}
    rows, positives, systems = result.slices["warm users"]
    assert (rows, positives) == (150, int(labels[:150].sum()))
    values = {name: estimate.value for name, estimate in systems["FM"].items()}
    assert values == pytest.approx(ctr_metrics(scores[:150], labels[:150]), nan_ok=True)
    shown = f"- warm users (150 rows, {positives} of them positive): FM {values['auc']:.4f} ("
    assert shown in result.to_markdown()
    assert result.to_dict()["slices"]["cold users"]["rows"] == 250


def test_a_slice_of_few_rows_or_of_few_of_a_label_has_its_count_and_no_auc():
    scores, labels = scored()
    order = labels.argsort(stable=True)  # disliked rows first
    liked, rows = int(labels.sum()), torch.zeros(400, dtype=torch.bool)
    slices = {}
    for name, picked in {
        "49 rows": [*range(25), *range(376, 400)],
        "50 rows": [*range(25), *range(375, 400)],
        "9 disliked": [*range(9), *range(300, 400)],
        "10 disliked": [*range(10), *range(300, 400)],
    }.items():
        slices[name] = rows.clone()
        slices[name][order[picked]] = True
    assert liked > 100
    result = ResultTable.from_scores({"FM": scores}, labels, 0.6, slices=slices, resamples=20)
    assert {name: part.systems != {} for name, part in result.slices.items()} == {
        **{"49 rows": False, "50 rows": True, "9 disliked": False, "10 disliked": True}
    }
    assert "- 49 rows (49 rows, 24 of them positive): too few for an AUC" in result.to_markdown()
    assert result.to_dict()["slices"]["9 disliked"] == {"rows": 109, "positives": 100, "systems": {}}


def test_further_metrics_have_a_table_of_their_own_beside_the_constants_logloss():
    scores, labels = scored()
    users = torch.arange(400) // 4
    result = ResultTable.from_scores({"FM": scores}, labels, 0.6, users=users, systems=["FM"], resamples=50)
    found = ctr_metrics(scores, labels, users)
    assert {name: value.value for name, value in result.systems["FM"].items()} == found
    cells = [result.systems["FM"][name].format() for name in FURTHER]
    assert f"| FM | {' | '.join(cells)} |" in result.to_markdown()
    assert "|  | GAUC ↑ | NE ↓ | ECE ↓ |" in result.to_markdown()
    assert "at T" not in result.to_markdown() + printed(result)
    assert result.to_dict()["temperature"] == {}
    constant = f"LogLoss of a constant score: {result.constant_logloss:.4f} for the training rows' rate"
    assert constant in " ".join(printed(result).split())


def test_a_temperature_stands_beside_the_raw_scores(tmp_path: Path):
    scores, labels = scored()
    users = torch.arange(400) // 4
    extreme = apply_temperature(scores, 0.5)
    result = ResultTable.from_scores(
        {LLM.name: extreme, AUG.name: scores}, labels, 0.6, users=users, temperatures={LLM.name: 2.0}, resamples=50
    )
    assert list(result.temperature) == [LLM.name]
    t, after = result.temperature[LLM.name]
    assert t == 2
    assert [*after["logloss"]] == pytest.approx([*result.systems[AUG.name]["logloss"]], abs=1e-5)  # the way back
    assert after["ece"].value < result.systems[LLM.name]["ece"].value
    shown = [after[name].format() for name in ("logloss", "ece")]
    line = next(line for line in result.to_markdown().splitlines() if "2.0000" in line)
    assert line.split(" | ")[-3:] == ["2.0000", shown[0], f"{shown[1]} |"]
    assert not any("…" in line for line in printed(result).splitlines())
    result.write(tmp_path)
    found = json.loads((tmp_path / "table.json").read_text())["temperature"]
    assert found[LLM.name]["t"] == 2
    assert found[LLM.name]["logloss"]["value"] == after["logloss"].value


def test_the_model_without_text_is_compared_by_whatever_name_it_has():
    scores, labels = scored()
    given = {"DIN": scores / 2, AUG.name: scores}
    gain = ResultTable.from_scores(given, labels, 0.6, backbone="DIN", resamples=50).gains["aug_plain"]
    assert (gain.first, gain.second) == ("DIN", AUG.name)
    assert (
        gain.metrics["logloss"].value
        == ctr_metrics(scores, labels)["logloss"] - ctr_metrics(scores / 2, labels)["logloss"]
    )
    assert "aug_plain" not in ResultTable.from_scores(given, labels, 0.6, resamples=50).gains
    given = {PLAIN.name: scores / 2, AUG.name: scores}
    assert "aug_plain" in ResultTable.from_scores(given, labels, 0.6, resamples=50).gains


def test_intervals_are_over_users_where_these_are_known():
    scores, labels = scored()
    users = torch.arange(400) // 8
    first = torch.arange(400) < 160
    given = {"scores": {"FM": scores}, "sources": {"FM, other": scores / 2}, "slices": {"warm users": first}}
    result = ResultTable.from_scores(labels=labels, train_rate=0.6, users=users, resamples=50, **given)
    for row, values, rows in (
        (result.systems["FM"], scores, 400),
        (result.sources["FM, other"], scores / 2, 400),
        (result.slices["warm users"].systems["FM"], scores, 160),
    ):
        part = values[:rows], labels[:rows]
        assert row == with_intervals(ctr_metrics(*part, users[:rows]), bootstrap(*part, users[:rows], n=50))
    assert result.to_dict()["users"] == 50
    assert "over the test users." in result.to_markdown()
    assert "400 test rows of 50 users, " in result.to_markdown()
    without = ResultTable.from_scores(labels=labels, train_rate=0.6, resamples=50, **given)
    assert without.systems["FM"]["auc"][1:] != result.systems["FM"]["auc"][1:]
    assert "over the test rows." in without.to_markdown()
    assert without.to_dict()["users"] is None


def test_names_are_shown_as_they_are():
    result = table(**{"[bold]a|b": scored()[0]})
    assert "[bold]a|b" in printed(result)
    assert "| [bold]a\\|b |" in result.to_markdown()


def test_no_line_is_wrapped_on_a_narrow_console():
    lines = printed(table("Amazon Books")).splitlines()
    assert any(line.split() == ["ExpCTR-Aug", "(paper)", "0.6641", "0.6493", "0.4557", "0.4783", "-"] for line in lines)
    assert not any("…" in line for line in lines)


def test_files(tmp_path: Path):
    result = table()
    result.write(tmp_path / "run")
    read = json.loads((tmp_path / "run" / "table.json").read_text())
    assert read == json.loads(json.dumps(result.to_dict()))
    assert set(read["systems"]["ICL"]) == set(METRICS)
    assert read["paper"]["ICL"]["auc"] == 0.6320
    assert (tmp_path / "run" / "table.md").read_text() == result.to_markdown()


def test_gains_are_paired_over_the_same_users(tmp_path: Path):
    scores, labels = scored()
    users, weak = torch.arange(400) // 4, (scores + 0.5) / 2 * torch.linspace(0.5, 1, 400)
    result = ResultTable.from_scores(
        {AUG.name: scores}, labels, 0.6, users=users, sources={AUG_NO_TEXT.name: weak}, resamples=50
    )
    assert list(result.gains) == ["aug_text"]  # the only comparison whose systems both have scores
    draws = bootstrap(scores, labels, users, n=50) - bootstrap(weak, labels, users, n=50)
    for i, metric in enumerate(METRICS):
        value, low, high = result.gains["aug_text"].metrics[metric]
        assert value == ctr_metrics(scores, labels, users)[metric] - ctr_metrics(weak, labels, users)[metric]
        assert [low, high] == pytest.approx(draws[:, i].nanquantile(torch.tensor([0.025, 0.975]).double()).tolist())
    result.write(tmp_path)
    found = json.loads((tmp_path / "table.json").read_text())["gains"]["aug_text"]
    assert (found["first"], found["second"]) == (AUG_NO_TEXT.name, AUG.name)
    value, low, high = result.gains["aug_text"].metrics["auc"]
    assert found["auc"] == {"value": value, "low": low, "high": high}
    shown = f"{GAINS['aug_text'].title}: "
    assert shown in result.to_markdown()
    assert f"difference {value:+.4f} ({low:+.3f}–{high:+.3f})" in result.to_markdown()


def test_calibration_and_roc_are_in_the_json_and_lists_of_numbers_on_one_line(tmp_path: Path):
    table(note=scored()[0]).write(tmp_path)
    text = (tmp_path / "table.json").read_text()
    read = json.loads(text)
    for name in ("ICL", "ExpCTR-LLM", "note"):
        bins = read["calibration"][name]["bins"]
        assert sum(part["rows"] for part in bins) == 400
        error = sum(part["rows"] * abs(part["score"] - part["rate"]["value"]) for part in bins) / 400
        assert read["systems"][name]["ece"]["value"] == pytest.approx(error)
        curve = read["roc"][name]
        assert (curve["false_positive_rate"][0], curve["true_positive_rate"][-1]) == (0, 1)
    assert "DeepFM" not in read["calibration"]
    curves = [line for line in text.splitlines() if "positive_rate" in line]
    assert len(curves) == 6
    assert all(line.rstrip(",").endswith("]") for line in curves)
