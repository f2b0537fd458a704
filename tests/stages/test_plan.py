"""The plan: the order of the stages, early stops, and the learning rate over it."""

import pytest

from expctr.stages.plan import PlanEntry, lr_factor, make_plan


def test_the_plan_is_the_papers_order() -> None:
    plan = make_plan(lc_epochs=2, rounds=2, ctr_epochs=3, ic_epochs=1)
    names = ["lc", "lc", "ctr1", "ctr1", "ctr1", "ic1", "ctr2", "ctr2", "ctr2", "ic2"]
    assert [entry.name for entry in plan] == names
    assert [entry.stage_epoch for entry in plan] == [0, 1, 0, 1, 2, 0, 0, 1, 2, 0]
    assert [entry.seed_epoch for entry in plan] == list(range(10))
    assert [i for i, entry in enumerate(plan) if entry.last] == [1, 4, 5, 8, 9]
    assert plan[0] == PlanEntry("lc", 0, 0, False, 0)
    assert plan[5] == PlanEntry("ic", 1, 0, True, 5)


def test_stages_may_be_left_out() -> None:
    assert [e.name for e in make_plan(0, 1, 1, 1)] == ["ctr1", "ic1"]
    assert [e.name for e in make_plan(1, 0, 9, 9)] == ["lc"]
    assert [e.name for e in make_plan(0, 2, 1, 0)] == ["ctr1", "ctr2"]


def test_a_stage_that_stops_early_takes_its_other_epochs_out_and_no_later_entry_changes() -> None:
    plan = make_plan(lc_epochs=1, rounds=2, ctr_epochs=5, ic_epochs=1)
    after = plan[6]
    plan.stop(plan.at(2))  # the second epoch of ctr1
    assert [entry.name for entry in plan] == ["lc", "ctr1", "ctr1", "ic1", *["ctr2"] * 5, "ic2"]
    assert plan.at(3) == after  # the entry that seeds the epoch is the one that it would have been
    assert after.seed_epoch == 6
    plan.stop(plan.at(4))
    assert [entry.name for entry in plan] == ["lc", "ctr1", "ctr1", "ic1", "ctr2", "ic2"]
    assert len(plan.full) == 13
    assert plan.stopped == {"ctr1": 2, "ctr2": 1}


def test_a_stage_that_uses_all_its_epochs_changes_nothing() -> None:
    plan = make_plan(1, 1, 2, 1)
    plan.stop(plan.at(2))
    assert [entry.name for entry in plan] == ["lc", "ctr1", "ctr1", "ic1"]
    assert plan.at(99) == plan[-1]


def test_stages_of_the_policy_are_counted_in_epochs() -> None:
    assert make_plan(lc_epochs=3, rounds=2, ctr_epochs=5, ic_epochs=2).policy_epochs() == [3, 2, 2]
    assert make_plan(lc_epochs=0, rounds=2, ctr_epochs=5, ic_epochs=1).policy_epochs() == [1, 1]
    assert make_plan(lc_epochs=2, rounds=1, ctr_epochs=5, ic_epochs=0).policy_epochs() == [2]


def test_it_rises_once_and_falls_in_each_stage() -> None:
    found = [lr_factor(step, [5, 3], warmup=2, final=0.2) for step in range(9)]
    assert found == pytest.approx([0.5, 0.8, 0.6, 0.4, 0.2, 1.0, 0.6, 0.2, 0.2])


def test_by_default_it_stays_where_it_is() -> None:
    assert [lr_factor(step, [4, 4], warmup=1, final=1.0) for step in range(9)] == [1.0] * 9


def test_a_stage_of_one_step_takes_it_whole() -> None:
    assert lr_factor(0, [1, 1], warmup=1, final=0.0) == lr_factor(1, [1, 1], warmup=1, final=0.0) == 1.0
