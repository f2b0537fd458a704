"""A short form of the fuzzing, with fixed seeds; and that it finds faults which are there."""

from collections.abc import Mapping

import pytest
from hypothesis import strategies as st
from running import World

from expctr.errors import UserError
from tools.bench.fuzz import Target, find_fault, make_targets
from tools.fuzz.check import LETTERS, FaultError, answered
from tools.fuzz.texts import elements

COUNTS = {
    "table": 20,
    "layout": 20,
    "people": 25,
    "pairs": 15,
    "prompt": 40,
    "report": 3,
    "request": 40,
    "option": 2,
}
"""How many inputs a target gets here."""


@pytest.fixture(scope="module")
def targets(world: World, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Target]:
    run = world.tested("one")
    return make_targets(run, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", COUNTS)
def test_random_inputs_make_no_fault(targets: Mapping[str, Target], name: str) -> None:
    assert targets.keys() == COUNTS.keys()
    assert find_fault(targets[name], COUNTS[name], number=1) is None


def test_a_fault_is_found_with_its_smallest_input() -> None:
    def attempt(number: int) -> None:
        with answered():
            if number >= 17:
                [][number]

    fault = find_fault(Target(st.integers(0, 1000), attempt), 100, number=0)
    assert fault is not None
    assert fault.given == "17"
    assert fault.what.startswith("IndexError")


def test_errors_for_people_are_no_faults_unless_nobody_can_read_them() -> None:
    with answered():
        raise UserError("the file is empty. Fix: write it again")
    for message in ("", "Traceback (most recent call last)", "x" * (LETTERS + 1)):
        with pytest.raises(FaultError), answered():
            raise UserError(message)


def test_an_escaped_title_makes_no_element() -> None:
    plain = "<p class=a>{}</p><script>let x = {}</script>"
    assert elements(plain.format("Heat", '"Heat"')) == [("p", "class"), ("script",)]
    assert elements(plain.format("&lt;b&gt;", '"<b>"')) == elements(plain.format("Heat", '"Heat"'))
    assert elements(plain.format("<b>", '"Heat"')) != elements(plain.format("Heat", '"Heat"'))
    assert elements(plain.format("", '"</script><b>"')) != elements(plain.format("", '"Heat"'))
