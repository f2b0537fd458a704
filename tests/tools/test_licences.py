"""Licences that a project under Apache-2.0 may depend on, and the pins of all dependencies."""

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.licences import ROOT, installed, is_allowed, requirements

PINS = {
    canonicalize_name(one.name): one
    for line in (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#") and (one := Requirement(line))
}


@pytest.mark.parametrize("name", ["MIT", "BSD-3-Clause", "MPL-2.0 AND MIT", "Apache-2.0 OR GPL-2.0", "3-Clause BSD"])
def test_free_licences_are_allowed(name: str) -> None:
    assert is_allowed(name)


@pytest.mark.parametrize(
    "name", ["unknown", "GPL-3.0-only", "MIT AND GPL-3.0-only", "MIT License, AGPL", "Proprietary"]
)
def test_others_are_not(name: str) -> None:
    assert not is_allowed(name)


def test_each_requirement_has_a_pin_within_its_bounds() -> None:
    for one in requirements():
        (pin,) = PINS[canonicalize_name(one.name)].specifier
        assert pin.operator == "=="
        assert one.specifier.contains(pin.version), f"{one}: the pin is {pin}"


def test_what_the_requirements_bring_has_pins_too() -> None:
    """Or a new release of it would change what the tests and the results are made with."""
    assert {*installed(requirements())} - {*PINS} == set()
