"""Each promise of docs/security.md names its tests, and they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROMISES = [
    line.split(" | ")
    for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]


def test_each_promise_names_its_tests() -> None:
    assert len(PROMISES) > 20
    assert [promise for promise, tests in PROMISES if not re.search(r"`tests/[\w/]+\.py::test_\w+`", tests)] == []


def test_the_tests_that_it_names_are_there() -> None:
    named = {tuple(name.split("::")) for _, tests in PROMISES for name in re.findall(r"`([^`]+)`", tests)}
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in named}
    assert [(file, test) for file, test in sorted(named) if f"\ndef {test}(" not in sources[file]] == []
