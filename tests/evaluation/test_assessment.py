"""The assessment of a test whose rows leave something out: a note says so, and the rest is there."""

import json
import math
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch

from expctr.data.batches import Nouns, SampleText
from expctr.evaluation import audit, quality
from expctr.evaluation.assessment import Assessment, assess, query_models
from expctr.evaluation.table import ResultTable

ROWS = 12
GIVEN = [SampleText(f"Film {i}", ("Heat",), ("Casper",)) for i in range(ROWS)]
LIKING = [f'They liked "Heat", so they will love "Film {i}".' for i in range(ROWS)]
NO_CTR = ("s_r", "s_0", "s_r_untrained")


class Fake:
    """What a tested module shows and answers; its CTR model reads nothing but verdicts."""

    models = SimpleNamespace(seed=0, encoder=None)

    def __init__(
        self, labels: list[float], texts: list[str], ctr: bool, given: list[SampleText], rows_each: int = 1
    ) -> None:
        self.evaluated: dict[str, list[Any]] = {"sample": list(range(ROWS)), "label": labels, "text": texts}
        self.evaluated |= {"text_untrained": LIKING, "s_u": [0.5 + y / 4 for y in labels]}
        self.evaluated |= {"s_u_untrained": [0.6] * ROWS}
        if ctr:
            self.evaluated |= dict(
                zip(NO_CTR, ([0.4 + y / 4 for y in labels], [0.5] * ROWS, [0.5] * ROWS), strict=True)
            )
        rows = {
            "sample": range(ROWS),
            "user": [f"u{i // rows_each}" for i in range(ROWS)],
            "target_title": [row.target for row in given],
            "liked_titles": [list(row.liked) for row in given],
            "disliked_titles": [list(row.disliked) for row in given],
        }
        lists = dict.fromkeys(("liked_titles", "disliked_titles"), pl.List(pl.String))
        self.data = SimpleNamespace(nouns=Nouns(), samples=pl.DataFrame(rows, schema_overrides=lists))

    def score_texts(self, samples: list[int], texts: list[str]) -> list[float]:
        scores = torch.tensor([0.9 if "love" in text else 0.2 for text in texts])
        means: list[float] = scores.view(len(samples), -1).mean(1).tolist()
        return means

    def explain_prompts(self, samples: list[int], prompts: list[SampleText]) -> list[dict[str, Any]]:
        return [{"text": "They will hate it.", "s_u": 0.3, "s_r": 0.2}] * len(prompts)


def assessed(
    labels: list[float] | None = None,
    texts: list[str] | None = None,
    ctr: bool = True,
    given: list[SampleText] | None = None,
    rows_each: int = 1,
) -> Assessment:
    given = given or GIVEN
    fake: Any = Fake(labels or [float(i % 2) for i in range(ROWS)], texts or LIKING, ctr, given, rows_each)
    return assess(fake, given, query_models(fake, given, counterfactual_rows=4))


def shown(found: Assessment) -> str:
    """As the console, table.json and test.parquet have it, all of which must be made."""
    json.dumps(
        ResultTable("", 1, 0.5, 0.5, 0.7, 0.7, {}, quality=found.quality, audit=found.audit).to_dict(), allow_nan=False
    )
    pl.DataFrame(found.columns, schema_overrides=found.schema)
    return "\n".join([*quality.lines(found.quality), *audit.lines(found.audit), *found.notes])


def test_with_everything_there_nothing_is_left_out() -> None:
    found = assessed()
    assert found.notes == []
    assert set(found.audit) == {"ablations", "gain", "agreement", "counterfactuals", "leakage"}
    message = shown(found)
    assert "Explanations change the AUC of ExpCTR-Aug by" in message
    assert "Name the target's title: 100.0% (untrained 100.0%)" in message


def test_intervals_of_all_that_is_told_are_over_users() -> None:
    """All rows one user's: the values stay, and there are no intervals."""
    rows, one = assessed(), assessed(rows_each=ROWS)
    for name in ("total", "verdict", "reason"):
        assert one.audit["gain"][name].value == rows.audit["gain"][name].value
        assert math.isnan(one.audit["gain"][name].low)
    moved = one.audit["counterfactuals"]["swapped history"]
    assert moved["s_u"].value == rows.audit["counterfactuals"]["swapped history"]["s_u"].value
    assert math.isnan(moved["s_u"].low)
    assert math.isnan(one.audit["leakage"]["auc_verdict"].low)
    assert math.isnan(one.quality["trained"]["words"].low)
    assert not math.isnan(rows.quality["trained"]["words"].low)
    shown(one)


def test_labels_all_alike_leave_no_auc() -> None:
    found = assessed([1.0] * ROWS)
    assert found.notes == [
        "all test rows have the same label, so AUC, its gain and the leakage of labels are undefined"
    ]
    assert "gain" not in found.audit
    assert found.audit["counterfactuals"]["swapped history"]["rows"] == 4
    assert math.isnan(found.audit["leakage"]["auc"].value)
    assert "The label predicted from the words alone: AUC -" in shown(found)


def test_without_a_ctr_model_the_gain_is_left_out() -> None:
    found = assessed(ctr=False)
    assert found.notes == ["no CTR model is trained yet, so the audit of its gain is missing"]
    assert "s_r" not in found.audit["counterfactuals"]["swapped history"]
    assert "verdict_agrees_s_u" in found.quality["trained"]
    assert "verdict_agrees_s_r" not in found.quality["trained"]
    assert "Swapped history (4 rows): changes s_u by" in shown(found)


@pytest.mark.parametrize("empty", [1, ROWS])
def test_empty_explanations_are_counted_and_the_others_measured(empty: int) -> None:
    found = assessed(texts=["", " \n", "\t"][:empty] + [""] * (empty - 3) + LIKING[empty:])
    assert found.notes == [f"{empty} of {ROWS} explanations of the trained model are empty"]
    assert found.quality["trained"]["empty"].value == empty / ROWS
    assert found.quality["untrained"]["empty"].value == 0
    assert math.isnan(found.quality["trained"]["words"].value) == (empty == ROWS)
    assert found.columns["verdict"][0] == 0
    assert f"{empty} of {ROWS} explanations" in shown(found)


def test_without_titles_none_is_looked_for() -> None:
    found = assessed(given=[SampleText("")] * ROWS)
    assert "no prompt contains a title, so explanations were not searched for titles" in found.notes
    assert math.isnan(found.quality["trained"]["names_history"].value)
    assert found.audit.get("counterfactuals") is None
    assert found.quality["trained"]["words"].value > 1
    assert "Words per sentence: " in shown(found)


def test_no_rows_are_changed_where_none_are_asked_for() -> None:
    fake: Any = Fake([0.0, 1.0] * (ROWS // 2), LIKING, True, GIVEN)
    outputs = query_models(fake, GIVEN, counterfactual_rows=0)
    assert outputs.counterfactuals == {}
    assert "counterfactuals" not in assess(fake, GIVEN, outputs).audit
    assert set(outputs.scores) >= {"real", "none", "untrained", "shuffled", "no verdict words"}
    assert torch.tensor(outputs.scores["shuffled"]).shape == (audit.SHUFFLES, ROWS)


def test_every_one_of_several_explanations_is_replaced_and_their_scores_averaged() -> None:
    """Each row has one positive and one negative explanation, so without its verdicts it scores less."""
    fake: Any = Fake([float(i % 2) for i in range(ROWS)], LIKING, True, GIVEN)
    fake.evaluated["texts"] = [[text, "They will hate it."] for text in LIKING]
    scores = query_models(fake, GIVEN, counterfactual_rows=0).scores
    assert all(len(table) == ROWS for tables in scores.values() for table in tables)
    assert scores["no verdict words"] == [pytest.approx([0.2] * ROWS)]
    assert scores["shuffled within verdict"][0] == pytest.approx([0.55] * ROWS)
