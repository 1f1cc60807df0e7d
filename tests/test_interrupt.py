"""Signals become orderly stops, and only while a run asks for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from whet.interrupt import Stopped, asked, deferred, graceful, join, stop_if_asked


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_region_comes_to_its_next_good_moment() -> None:
    done = []
    with pytest.raises(Stopped) as stop, graceful(), deferred():
        send(signal.SIGTERM)
        done.append("the step goes on")
        assert asked()
        stop_if_asked()
    assert done and stop.value.signal == signal.SIGTERM


def test_a_region_that_did_not_look_stops_at_its_end() -> None:
    with pytest.raises(Stopped), graceful():
        with deferred():
            send(signal.SIGINT)
        raise AssertionError("went on after the region")


def test_outside_of_a_region_and_at_a_second_signal_it_stops_at_once() -> None:
    with pytest.raises(Stopped), graceful():
        send(signal.SIGINT)
        raise AssertionError("went on")
    with pytest.raises(Stopped), graceful(), deferred():
        send(signal.SIGINT)
        send(signal.SIGINT)
        raise AssertionError("went on")


def test_nothing_stays_after_it() -> None:
    with pytest.raises(Stopped), graceful():
        send(signal.SIGINT)
    assert not asked()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_was_not_asked_stops_with_the_others() -> None:
    with pytest.raises(Stopped) as stop, graceful(), deferred():
        assert asked() is None
        join(signal.SIGTERM)
        stop_if_asked()
    assert stop.value.signal == signal.SIGTERM


def test_handlers_of_the_program_stay() -> None:
    def own(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, own)
    with graceful():
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
