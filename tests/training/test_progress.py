"""What a log says of the time left."""

import pytest

from expctr.training.progress import StageTimes, duration


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_is_that_of_the_epochs_to_come() -> None:
    """LC epochs of 100 s and CTR epochs of 10 s: one and three of them, after 30 s of this one."""
    times = StageTimes()
    assert times.forecast([], 30) == "0:30 left"
    times.add("lc", 100)
    assert times.forecast(["lc", "ctr"], 30) == "at most 2:10 left, without the ctr stage, whose time is not known yet"
    assert times.forecast(["lc", "ic"], 0) == "3:20 left"  # an IC epoch does what an LC epoch does
    times.add("ctr", 10)
    times.add("ic", 60)
    assert times.forecast(["lc", "ctr", "ctr", "ctr"], 30) == "at most 2:40 left"
    assert times.forecast(["ic"], 0) == "1:00 left"
