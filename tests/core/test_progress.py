"""Time by name: a block within a block counts once. Signals: a second one ends at once."""

import signal

import pytest

from pipeline.core import progress
from pipeline.core.errors import Interrupted
from pipeline.core.progress import Stopwatch, interruptible, shares_text, summed


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(progress.time, "perf_counter", lambda: Clock.now)
    return Clock


def fail(clock):
    clock.now += 5
    raise KeyError("nobody")


def test_inner_blocks_are_taken_out_of_outer_ones(clock):
    watch = Stopwatch()
    with watch.time("outer"):
        clock.now += 1
        with watch.time("inner"):
            clock.now += 10
        clock.now += 2
    clock.now += 100
    with pytest.raises(KeyError, match="nobody"), watch.time("inner"):
        fail(clock)
    assert watch.seconds == {"outer": 3, "inner": 15}


def test_getting_items_is_timed_and_using_them_is_not(clock):
    def items():
        for number in range(3):
            clock.now += 1
            yield number

    watch = Stopwatch()
    for _ in watch.each("get", items()):
        clock.now += 10
    assert watch.seconds == {"get": 3}


def test_shares_for_a_person():
    seconds = summed([{"decode": 1.0, "enhance": 2.0}, {"enhance": 1.0}])
    assert seconds == {"decode": 1.0, "enhance": 3.0}
    assert shares_text(seconds) == "enhance 75%, decode 25%"
    assert shares_text({}) == ""


def signalled_twice():
    with interruptible():
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGTERM)
        except Interrupted:
            raise AttributeError("as within HDF5") from None


def test_a_second_signal_ends_it_as_one_whatever_error_it_becomes():
    with pytest.raises(Interrupted) as ended:
        signalled_twice()
    assert ended.value.exit_code == 128 + signal.SIGTERM
