"""Signals in a worker: at once, or after the step that is under way."""

import os
import signal

import pytest

from qwen_align import interrupt


@pytest.fixture
def installed(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(interrupt, "_state", {"asked": False, "deferred": False})
    interrupt.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_once(installed, number):
    with pytest.raises(interrupt.Interrupted):
        os.kill(os.getpid(), number)
    assert interrupt.asked()


def test_a_signal_within_a_step_lets_the_step_end(installed, capsys):
    done = []

    def step() -> None:
        with interrupt.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("the rest of the step")

    with pytest.raises(interrupt.Interrupted):
        step()
    assert done == ["the rest of the step"]
    assert "stopping after this step (now in " in capsys.readouterr().out


def test_a_step_without_a_signal_is_followed_by_the_next(installed):
    with interrupt.deferred():
        pass
    assert not interrupt.asked()


def test_no_handler_for_errors_swallows_an_interruption():
    assert not issubclass(interrupt.Interrupted, Exception)
