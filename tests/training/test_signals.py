"""Signals wait for the next look, whenever they come."""

import signal
from collections.abc import Iterator

import pytest
import torch

from expctr.training.signals import LISTENED, Signals, Stopped, stopping

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Those of a terminal: nohup ignores SIGHUP, and a shell SIGINT of what it starts in the background."""
    before = {number: signal.getsignal(number) for number in LISTENED}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals(usual_handlers: None) -> Signals:
    found = Signals()
    found.listen()
    return found


def test_the_strongest_that_came_is_told(signals: Signals) -> None:
    assert signals.look(CPU) is None
    signal.raise_signal(signal.SIGUSR1)
    assert signals.look(CPU) == signal.SIGUSR1
    signal.raise_signal(signal.SIGTERM)
    assert signals.look(CPU) == signal.SIGTERM
    signals.done()
    assert signals.look(CPU) is None


@pytest.mark.parametrize("asked", [None, signal.SIGUSR1, signal.SIGTERM])
def test_what_comes_while_a_checkpoint_is_written_is_not_forgotten(
    signals: Signals, asked: signal.Signals | None
) -> None:
    if asked:
        signal.raise_signal(asked)
    assert signals.look(CPU) == asked
    signal.raise_signal(signal.SIGTERM)
    signals.done()
    assert signals.look(CPU) == signal.SIGTERM
    signals.done()
    assert signals.look(CPU) is None


def test_a_second_ctrl_c_stops_at_once(signals: Signals) -> None:
    signal.raise_signal(signal.SIGINT)
    assert signals.look(CPU) == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_sigusr2_and_sighup_count_as_sigusr1_and_sigterm(signals: Signals) -> None:
    signal.raise_signal(signal.SIGUSR2)
    assert signals.look(CPU) == signal.SIGUSR2
    signal.raise_signal(signal.SIGHUP)
    assert signals.look(CPU) == signal.SIGHUP


def test_nohup_is_obeyed(signals: Signals) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.listen()
    with stopping():
        signal.raise_signal(signal.SIGHUP)
    assert signals.look(CPU) is None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_command_without_a_fit_stops_and_leaves_the_handlers(number: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in LISTENED]
    with pytest.raises(Stopped) as stop, stopping():
        signal.raise_signal(number)
    assert stop.value.number == number
    assert [signal.getsignal(number) for number in LISTENED] == before
