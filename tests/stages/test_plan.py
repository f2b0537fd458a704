"""The learning rate over the plan's stages."""

import pytest

from expctr.stages.plan import lr_factor, policy_stages
from expctr.training.scheduler import make_plan


def test_stages_of_the_policy_are_counted_in_epochs() -> None:
    assert policy_stages(make_plan(lc_epochs=3, rounds=2, ctr_epochs=5, ic_epochs=2)) == [3, 2, 2]
    assert policy_stages(make_plan(lc_epochs=0, rounds=2, ctr_epochs=5, ic_epochs=1)) == [1, 1]
    assert policy_stages(make_plan(lc_epochs=2, rounds=1, ctr_epochs=5, ic_epochs=0)) == [2]


def test_it_rises_once_and_falls_in_each_stage() -> None:
    found = [lr_factor(step, [5, 3], warmup=2, final=0.2) for step in range(9)]
    assert found == pytest.approx([0.5, 0.8, 0.6, 0.4, 0.2, 1.0, 0.6, 0.2, 0.2])


def test_by_default_it_stays_where_it_is() -> None:
    assert [lr_factor(step, [4, 4], warmup=1, final=1.0) for step in range(9)] == [1.0] * 9


def test_a_stage_of_one_step_takes_it_whole() -> None:
    assert lr_factor(0, [1, 1], warmup=1, final=0.0) == lr_factor(1, [1, 1], warmup=1, final=0.0) == 1.0
