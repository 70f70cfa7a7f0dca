"""Interrupts: the first signal asks, the second one stops, and what was there before comes back."""

import os
import signal
import threading

import pytest

from experiments.interrupts import PROMISE, SIGNALS, Interrupts, Stopped


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_asks_and_the_second_one_stops(number):
    said, is_said = [], threading.Event()

    def say(text: str) -> None:
        said.append(text)
        is_said.set()

    before = [signal.getsignal(one) for one in SIGNALS]
    with Interrupts(say) as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        assert interrupts.asked and is_said.wait(10)
        with pytest.raises(Stopped):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert said == [PROMISE]
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_nothing_is_promised_where_nobody_asked():
    said: list[str] = []
    with Interrupts(said.append) as interrupts:
        pass
    assert said == [] and interrupts.asked  # so that the thread, which waits for it, has ended
