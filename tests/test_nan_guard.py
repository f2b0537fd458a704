"""A run that went wrong says where, in which rows, and what to do; on all ranks or on none."""

import math
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch

from expctr import nan_guard
from expctr.errors import BadRunError, UserError
from expctr.modules.checks import check_precision
from expctr.nan_guard import NaNGuard, describe_rows

LONG = "The viewer liked a film with a very long title, and then another one with a longer title."


def test_rows_with_a_number_that_is_none_are_named() -> None:
    values = torch.tensor([[0.0, 1.0], [math.nan, 1.0], [0.0, -math.inf], [0.0, 0.0]])
    rows = NaNGuard("lc, epoch 1 of 9, batch 3", [7, 9, 4, 2], ["a", LONG, "", "d"])
    with pytest.raises(BadRunError) as caught:
        rows.check("s_u", values, "Do this")
    start = "The viewer liked a film with a very long title, and then ano"
    assert str(caught.value) == (
        f'lc, epoch 1 of 9, batch 3: s_u is NaN or infinite in 2 of 4 rows (sample 4, sample 9 "{start}..."). Do this'
    )


def test_numbers_pass() -> None:
    rows = NaNGuard("here", [1, 2])
    rows.check("s_u", torch.tensor([0.0, 1e30]), "")
    rows.check("s_u", torch.zeros(2, 0), "")
    NaNGuard("here", []).check("s_u", torch.zeros(0), "")  # a rank without rows
    rows.check_gradients("the norm", [torch.ones(3)], "")


def test_a_gradient_norm_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(BadRunError, match=r"^here: the norm is inf\. Do this$"):
        NaNGuard("here", [1, 2]).check_gradients("the norm", [torch.tensor([math.inf])], "Do this")


def test_another_precision_than_the_models_own_is_refused() -> None:
    check_precision(cast(L.Trainer, SimpleNamespace(precision="32-true")))
    with pytest.raises(
        UserError, match=r"precision must be 32-true \(it is bf16-mixed\): .* model\.explainer\.llm\.dtype"
    ):
        check_precision(cast(L.Trainer, SimpleNamespace(precision="bf16-mixed")))


def test_a_few_rows_are_named_and_the_others_counted() -> None:
    assert describe_rows([(i, "x") for i in range(5)], 8) == (
        ' in 5 of 8 rows (sample 0 "x", sample 1 "x", sample 2 "x", 2 more)'
    )
    assert describe_rows([], 8) == ""


def test_some_texts_may_be_empty_and_not_all() -> None:
    assert NaNGuard("here", [1, 2, 3, 4], ["a", " ", "b", ""]).share_empty() == 0.5
    with pytest.raises(BadRunError, match=r"^here: all 2 explanations are empty.*chat template.*max_new_tokens"):
        NaNGuard("here", [1, 2], ["", " \n"]).share_empty()


def test_a_rank_whose_rows_are_good_ends_too_and_names_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(mine: Any) -> list[Any]:
        return [mine, ([(3, "theirs")], 2) if isinstance(mine, tuple) else [True, True]]

    monkeypatch.setattr(nan_guard, "all_gather_objects", gather)
    rows = NaNGuard("here", [1, 2], ["a", ""])
    assert rows.share_empty() == 0.75
    monkeypatch.setattr(nan_guard, "all_sum", lambda x: x + 1)
    with pytest.raises(BadRunError, match=r'in 1 of 4 rows \(sample 3 "theirs"\)'):
        rows.check("s_u", torch.zeros(2), "")
