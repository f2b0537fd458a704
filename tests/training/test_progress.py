"""What a log says of the time left."""

import pytest

from expctr.training.progress import Clock, duration


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_is_that_of_the_epochs_to_come() -> None:
    """LC epochs of 100 s and CTR epochs of 10 s: one and three of them, after 30 s of this one."""
    clock = Clock()
    assert clock.forecast([], 30) == "0:30 left"
    clock.add("lc", 100)
    assert clock.forecast(["lc", "ctr"], 30) == "at most 2:10 left, and the ctr stage, which is yet unknown"
    assert clock.forecast(["lc", "ic"], 0) == "3:20 left"  # an IC epoch does what an LC epoch does
    clock.add("ctr", 10)
    clock.add("ic", 60)
    assert clock.forecast(["lc", "ctr", "ctr", "ctr"], 30) == "at most 2:40 left"
    assert clock.forecast(["ic"], 0) == "1:00 left"
