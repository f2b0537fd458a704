"""What stands on the page: answers that the intervals bear out, text that stays text, and the command."""

import json
import os
import stat
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_run import explanations, make_run, measured

from expctr.__main__ import main
from expctr.report.browser import browser, script_json
from expctr.report.curves import smooth
from expctr.report.headline import headline
from expctr.report.render import render
from expctr.report.run import Run, read_run
from expctr.report.sections import data, metric_tables, slice_figures
from expctr.report.training import stage_axis, stage_curve
from expctr.systems import GAINS, Estimate

NASTY = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>{{ 7*7 }}"


class Elements(HTMLParser):
    """The tags of a page, and what stands in its JSON."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.json = ""
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = ("type", "application/json") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.json += data if self._inside else ""


def test_whatever_a_run_says_stays_text(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", rows=20)
    run = make_run(tmp_path / "nasty", rows=20, titles=[NASTY] * 20)
    (run / "config.yaml").write_text(f"x: |\n  {NASTY}\nseed_everything: '{NASTY.replace(chr(39), '')}'\n")
    table = json.loads((run / "table.json").read_text())
    table["dataset"] = table["systems"][NASTY] = NASTY
    for part in ("sources", "slices", "paper", "quality", "audit", "gains", "calibration", "roc"):
        table[part][NASTY] = table["systems"]["ICL"]
    (run / "table.json").write_text(json.dumps(table))
    read = Elements(render([read_run(run, NASTY)]))
    usual = Elements(render([read_run(plain)]))
    assert "img" not in read.tags
    assert read.tags.count("script") == usual.tags.count("script") == 2
    assert json.loads(read.json)["columns"]["target"] == [NASTY] * 40


def test_json_in_a_script_cannot_end_it() -> None:
    content = {"x": "</script><!-- <script> & \u2028"}
    made = script_json(content)
    assert not set("<>&\u2028") & set(made)
    assert json.loads(made) == content


def test_the_policy_lets_nothing_in_but_the_pages_own(tmp_path: Path) -> None:
    page = render([read_run(make_run(tmp_path / "run"))])
    policy = page.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    assert "unsafe" not in policy
    assert "http://" not in page
    assert "https://" not in page


def compared(**gains: float) -> dict[str, Any]:
    """A table.json with these gains in AUC, each with an interval of 0.04 on either side."""
    return {
        "systems": {"ExpCTR-LLM": {"auc": measured(0.52)}, "ExpCTR-Aug": {"auc": measured(0.6)}},
        "sources": {system.name: {"auc": measured(0.5)} for _, system, *_ in GAINS.values()},
        "gains": {
            key: {"first": GAINS[key].first.name, "second": GAINS[key].second.name, "auc": measured(gain, 0.04)}
            for key, gain in gains.items()
        },
    }


def first_word(llm: float, aug: float) -> str:
    """The word on training, of gains in AUC by it."""
    return headline(Run("run", Path(), table=compared(llm_training=llm, aug_training=aug)))[1].word


def test_the_answer_is_what_the_intervals_bear_out() -> None:
    better, same, worse = 0.1, 0.03, -0.1
    assert first_word(better, better) == "Yes"
    assert first_word(better, same) == first_word(same, better) == "Partly"
    assert first_word(same, same) == "Not shown"
    assert first_word(better, worse) == "Mixed"
    assert first_word(worse, same) == "No"
    assert headline(Run("run", Path(), table=compared()))[1].word == "Unknown"


def with_sentences(auc: float, logloss: float) -> Any:
    """The first answer, of differences between the CTR model with sentences and the one without."""
    rows = {"ExpCTR-Aug": {"auc": 0.6 + auc, "logloss": 0.66 + logloss}, "DIN": {"auc": 0.6, "logloss": 0.66}}
    systems = {name: {key: measured(value) for key, value in row.items()} for name, row in rows.items()}
    gain = {"first": "DIN", "second": "ExpCTR-Aug", "auc": measured(auc, 0.03), "logloss": measured(logloss, 0.01)}
    return headline(Run("run", Path(), table={"systems": systems, "gains": {"aug_plain": gain}}))[0]


def test_the_first_answer_says_what_sentences_are_worth() -> None:
    assert with_sentences(0.05, -0.02).word == "Better"  # a lower LogLoss is better
    assert with_sentences(0.05, 0.005).word == "Better AUC"
    assert with_sentences(0.01, -0.005).word == "No difference shown"
    assert with_sentences(-0.05, 0.02).word == "Worse"
    assert with_sentences(0.01, 0.02).word == "Worse LogLoss"
    answer = with_sentences(0.05, 0.02)
    assert answer.word == "Better AUC, worse LogLoss"
    assert answer.why == "ExpCTR-Aug reads a sentence beside each row's fields; DIN sees the same fields alone."
    auc, logloss = answer.comparisons
    assert auc.sentence == (
        "AUC is better with sentences: 0.6000 without sentences, 0.6500 with sentences; "
        "difference +0.0500 (+0.020 to +0.080)."
    )
    assert logloss.title == "LogLoss, lower is better"
    assert logloss.sentence.startswith("LogLoss is worse with sentences: 0.6600 without sentences, 0.6800 with")
    older = headline(Run("run", Path(), table=compared(aug_text=0.1)))[0]
    assert (older.word, older.comparisons) == ("Unknown", [])


def test_a_test_before_the_end_of_the_ctr_stage_is_said_to_be_one() -> None:
    systems: dict[str, Any] = {"ExpCTR-LLM": {"auc": measured(0.6)}, "ExpCTR-Aug": {}}
    for answer in headline(Run("run", Path(), table={"systems": systems, "gains": {}}))[::2]:
        assert answer.word == "Unknown"
        assert answer.why == (
            "The checkpoint that was tested has no ExpCTR-Aug yet: its CTR stage had not ended. Resume the fit."
        )
    config = {"model": {"class_path": "expctr.PPOExplainerModule"}}
    alone = Run("run", Path(), table={"systems": systems}, config=config)
    assert headline(alone)[0].why == "This run trains no ExpCTR-Aug."


def test_a_page_of_somebody_else_is_replaced_only_where_the_user_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [str(make_run(tmp_path / name, rows=3)) for name in "ab"]
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "report.html"
    page.write_text("<html>mine")
    with pytest.raises(SystemExit):
        main(["report", *runs])
    assert page.read_text() == "<html>mine"
    with pytest.raises(SystemExit):
        main(["report", *runs, "--out", "report.html"])
    assert page.read_text() == "<html>mine"
    page.write_text("")  # as mktemp makes it
    main(["report", *runs, "--out", "report.html"])
    main(["report", *runs])  # its own is replaced
    with pytest.raises(SystemExit):
        main(["report", *runs, "--out", ""])


def test_a_pipe_is_written_to_only_where_the_user_names_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=3)
    os.mkfifo(run / "report.html")
    main(["report", str(run)])
    assert (run / "report.html").is_file()
    main(["report", str(run), "--out", os.devnull])
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_difference_of_nothing_that_is_named_is_none() -> None:
    table = {"systems": {"None": {"auc": 0.5}}, "gains": {"aug_plain": {"auc": 0.1}, "llm_training": {"auc": 0.1}}}
    assert not any(answer.comparisons for answer in headline(Run("run", Path(), table=table)))


def test_running_means_are_worked_out_by_hand() -> None:
    assert smooth([1.0, 2.0, 6.0, 3.0], 1) == [1.5, 3.0, 11 / 3, 4.5]
    assert smooth([1.0, 2.0, 6.0], 9) == [3.0, 3.0, 3.0]
    assert smooth([], 2) == []


def test_a_difference_whose_interval_is_unknown_is_not_shown() -> None:
    gain = {"first": "DIN", "second": "ExpCTR-Aug", "auc": {"value": 0.2, "low": None, "high": None}}
    systems = {"DIN": {"auc": measured(0.5)}, "ExpCTR-Aug": {"auc": measured(0.7)}}
    table = {"systems": systems, "gains": {"aug_plain": gain}}
    assert headline(Run("run", Path(), table=table))[0].word == "No difference shown"


def test_a_temperature_is_named_beside_scores_that_are_no_probabilities(tmp_path: Path) -> None:
    table = {
        "systems": {"ExpCTR-LLM": {"auc": measured(0.6), "logloss": measured(1.2)}},
        "constant_logloss": 0.69,
        "temperature": {"ExpCTR-LLM": {"t": 3.217, "logloss": measured(0.68), "ece": measured(0.03)}},
    }
    run = Run("run", tmp_path, table=table)
    ((_, numbers),) = headline(run)[1].cautions
    assert numbers.endswith("has 0.6900. With temperature 3.22, it is 0.6800 (0.660 to 0.700).")
    made = metric_tables([run])
    assert [part["headings"] for part in made] == [["AUC ↑", "LogLoss ↓"], ["T", "LogLoss ↓ at T", "ECE ↓ at T"]]
    values = [[cell["value"] for cell in part["rows"][0]["cells"]] for part in made]
    assert values == [["0.6000", "1.2000"], ["3.2170", "0.6800", "0.0300"]]
    assert "above 1, scores are too extreme" in render([run])


def test_rows_that_the_report_does_not_know_are_shown_as_others_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    table = json.loads((run / "table.json").read_text())
    for name in ("Share + item rate", "DeepFM + untrained sentences"):
        table["systems"][name] = {"auc": measured(0.7123), "logloss": measured(0.6), "gauc": measured(0.6543)}
        table["calibration"][name] = table["calibration"]["ICL"]
        table["slices"]["warm items"] = {"rows": 53, "systems": {name: {"auc": measured(0.7)}}}
    (run / "table.json").write_text(json.dumps(table))
    page = render([read_run(run)])
    main, further = metric_tables([read_run(run)])
    for part in (main, further):
        assert [row["name"] for row in part["rows"]][-2:] == ["Share + item rate", "DeepFM + untrained sentences"]
    assert main["headings"] == ["AUC ↑", "LogLoss ↓", "RMSE ↓", "MSE ↓"]  # nothing has an MAE
    assert "0.6543" in [cell["value"] for cell in further["rows"][-1]["cells"]]
    assert page.count("0.7123 (0.692 to 0.732)") >= 2
    assert page.count("DeepFM + untrained sentences") >= 4  # both figures, the table, calibration, the slice


def test_a_slice_that_is_too_small_has_its_count_and_no_auc(tmp_path: Path) -> None:
    """Also in tables of older versions, which have an AUC of any slice."""
    run = make_run(tmp_path / "run")
    table = json.loads((run / "table.json").read_text())
    auc = {"ExpCTR-Aug": {"auc": measured(0.5432)}}
    table["slices"] = {
        "cold items": {"rows": 49, "systems": auc},
        "warm items": {"rows": 50, "systems": auc},
        "cold users": {"rows": 80, "positives": 3, "systems": {}},
    }
    (run / "table.json").write_text(json.dumps(table))
    cold, warm, users = slice_figures([read_run(run)])
    assert (cold.about, cold.svg) == ("49 rows, too few for an AUC", "")
    assert warm.about == "50 rows"
    assert "0.5432" in warm.svg
    assert (users.about, users.svg) == ("80 rows, too few for an AUC", "")


def test_a_ctr_model_that_has_learnt_from_untrained_sentences_is_the_opponent_where_there_is_one() -> None:
    assert first_word(0.1, 0.1) == "Yes"
    run = Run("run", Path(), table=compared(llm_training=0.1, aug_training=0.1, aug_untrained_text=0.0))
    answer = headline(run)[1]
    assert answer.word == "Partly"
    assert answer.comparisons[1].sentence.startswith(
        "No difference in AUC shown: 0.5000 on untrained sentences, 0.6000 on"
    )


def test_titles_in_place_of_sentences_stand_beside_the_first_answer() -> None:
    answer = headline(Run("run", Path(), table=compared(aug_plain=0.1, aug_title=0.0)))[0]
    assert answer.word == "Better"
    assert [c.finding for c in answer.comparisons] == ["better", "unclear"]


def faithful(own_row: float, agreement: float = 0.9, reason: float | None = None) -> Any:
    """The answer on faithfulness, of a gain over another row's sentence, an agreement, and a gain of the reasons."""
    audit: dict[str, Any] = {"agreement": {"share": measured(agreement, 0.05), "chance": 0.5}}
    if reason is not None:
        audit["ablations"] = {"real": {"auc": measured(0.7)}, "shuffled within verdict": {"auc": measured(0.6)}}
        audit["gain"] = {"reason": measured(reason, 0.04)}
    return headline(Run("run", Path(), table={**compared(aug_own_row=own_row), "audit": audit}))[2]


def test_a_verdict_that_the_ctr_model_does_not_read_is_not_called_faithful() -> None:
    assert faithful(0.0).word == "Not shown"
    untested = faithful(0.1)
    assert untested.word == "Partly"
    assert "was not tested" in untested.why
    assert faithful(0.1, reason=0.1).word == "Yes"
    assert faithful(0.1, reason=0.01).word == "Partly"
    assert headline(Run("run", Path()))[2].word == "Unknown"


def test_two_that_are_always_positive_agree_by_chance() -> None:
    truth = faithful(0.1, agreement=0.52)
    assert truth.facts[0].sentence == "52.0% (47.0% to 57.0%); by chance 50.0%."
    assert "may be chance" in truth.why


def test_a_better_ranking_does_not_hide_bad_probabilities() -> None:
    systems = {"ExpCTR-LLM": {"logloss": measured(1.2)}, "ExpCTR-Aug": {"logloss": measured(0.68)}}
    cautions = headline(Run("run", Path(), table={"systems": systems, "constant_logloss": 0.69}))[1].cautions
    assert cautions == [
        (
            "The scores of ExpCTR-LLM are not usable as probabilities",
            "LogLoss 1.2000 (1.180 to 1.220); a constant score has 0.6900.",
        )
    ]


def test_a_comparison_says_what_is_not_clear() -> None:
    (unclear,) = headline(Run("run", Path(), table=compared(llm_training=0.02)))[1].comparisons
    assert unclear.sentence == (
        "No difference in AUC shown: 0.5000 before training, 0.5200 after training; "
        "difference +0.0200 (−0.020 to +0.060)."
    )
    assert unclear.gain == pytest.approx(Estimate(0.02, -0.02, 0.06))
    (higher,) = headline(Run("run", Path(), table=compared(aug_training=0.1)))[1].comparisons
    assert higher.sentence.startswith("AUC is better after training: 0.5000 before training, 0.6000 after training;")


def test_test_rows_come_first_and_the_rest_is_shared(tmp_path: Path) -> None:
    test, small, large = explanations(10), explanations(4), explanations(100)
    made = browser([Run("run", tmp_path, test=test, stages={"LC": small, "IC": large})], limit=30)
    assert made is not None
    columns = json.loads(made.json)["columns"]
    assert [columns["stage"].count(i) for i in range(3)] == [10, 4, 16]
    assert (made.shown, made.total) == (30, 114)
    assert len({len(values) for values in columns.values()}) == 1


def test_the_data_are_told_as_prepare_has_them(tmp_path: Path) -> None:
    made = data(read_run(make_run(tmp_path / "run")))
    assert made["counts"] == [
        ("read", "1,000"),
        ("dropped: no rating", "12"),
        ("kept", "988"),
        ("users", "40"),
        ("items", "90"),
    ]
    assert made["splits"] == [("train", ["300", "55.1%", "38", "100.0%"])]
    assert "min 1, median 7, max 10" in made["about"]


def test_stages_of_several_runs_share_an_axis(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name)) for name in "ab"]
    axis = stage_axis(runs)
    assert axis == [("LC", 1, 10), ("IC 1", 11, 15)]
    lc, ic = stage_curve(runs[0], ["lc/reward_lc", "ic/reward_ic"], axis)
    assert lc[0] == pytest.approx((1, 0.41))
    assert ic[0] == pytest.approx((11, 0.6))


def test_several_runs_are_side_by_side(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name) for name in "ab")
    (second / "config.yaml").write_text((second / "config.yaml").read_text().replace("0.05", "0.2"))
    page = render([read_run(first), read_run(second)])
    assert "alarms.positive" in page
    assert "alarms.unique" not in page
    assert page.count('class="word"') == 6


def test_runs_on_other_test_rows_are_not_to_be_compared(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name) for name in "ab")
    warning = "The runs were tested on different rows"
    assert warning not in render([read_run(first), read_run(second)])
    table = second / "table.json"
    table.write_text(json.dumps(json.loads(table.read_text()) | {"test_rate": 0.25}))
    assert warning in render([read_run(first), read_run(second)])


def test_the_command_writes_beside_the_run_without_torch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    code = "import sys; from expctr.__main__ import main; main(['report', sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_the_command_refuses_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, message in (
        ([str(tmp_path)], "is not a run's folder"),
        ([str(make_run(tmp_path / "run")), "--rows=0"], "--rows must be at least 1"),
        ([str(tmp_path / "run"), f"--out={tmp_path}"], "cannot be written"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["report", *args])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
