"""The sampler runs only while somebody listens; each listener gets frames at its rate; a lag is seen while it lasts."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from pydotcompute.telemetry import LoopLag, Sampler


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.001)


class Ear:
    """A listener that keeps what it heard and can be waited for."""

    def __init__(self, error=None):
        self.frames, self.times, self.threads, self.error = [], [], set(), error

    def __call__(self, frame):
        self.frames.append(frame)
        self.times.append(time.monotonic())
        self.threads.add(threading.current_thread())
        if self.error is not None:
            raise self.error

    def wait(self, count):
        wait_for(lambda: len(self.frames) >= count)


@pytest.fixture
def counts():
    return SimpleNamespace(taken=0, poked=0)


@pytest.fixture
def sampler(counts):
    def take():
        counts.taken += 1
        return counts.taken

    def poke():
        counts.poked += 1

    sampler = Sampler(take, poke)
    yield sampler
    sampler.close()


def is_gone(thread):
    return not thread.is_alive() and "pydotcompute-sampler" not in {t.name for t in threading.enumerate()}


def test_nothing_is_sampled_when_nobody_listens(sampler, counts):
    assert not sampler.running
    assert "pydotcompute-sampler" not in {t.name for t in threading.enumerate()}
    ear = Ear()
    sampler.listen(ear, 100)
    assert sampler.running
    ear.wait(3)
    sampler.ignore(ear)
    assert not sampler.running
    (thread,) = ear.threads
    thread.join(5)
    assert is_gone(thread)
    assert len(ear.frames) == counts.taken == counts.poked


def test_frames_come_on_a_daemon_thread_of_the_samplers_own(sampler):
    ear = Ear()
    sampler.listen(ear, 100)
    ear.wait(3)
    (thread,) = ear.threads
    assert thread.name == "pydotcompute-sampler"
    assert thread.daemon


def test_the_first_frame_comes_at_once(sampler):
    ear = Ear()
    begun = time.monotonic()
    sampler.listen(ear, 0.01)
    ear.wait(1)
    assert time.monotonic() - begun < 1


def test_each_listener_gets_frames_at_its_own_rate(sampler):
    fast, slow = Ear(), Ear()
    sampler.listen(slow, 10)
    sampler.listen(fast, 50)
    fast.wait(50)
    heard = len(slow.frames)
    took = fast.times[49] - fast.times[0]
    assert 0.9 <= took <= 5  # a second, or more when the machine is busy
    assert 0.5 * took * 10 <= heard <= took * 10 + 2


def test_the_default_is_ten_a_second(sampler):
    ear = Ear()
    sampler.listen(ear)
    ear.wait(4)
    assert 0.28 <= ear.times[3] - ear.times[0] <= 3


@pytest.mark.parametrize(("first", "then"), [(0.01, 100), (1, 50)])
def test_listening_again_changes_the_rate_at_once(sampler, first, then):
    ear = Ear()
    sampler.listen(ear, first)
    ear.wait(1)
    begun = time.monotonic()
    sampler.listen(ear, then)
    ear.wait(11)
    assert time.monotonic() - begun < 5
    sampler.listen(ear, 0.01)
    time.sleep(0.05)
    heard = len(ear.frames)
    time.sleep(0.1)
    assert len(ear.frames) == heard


@pytest.mark.parametrize("hz", [0, -1, 100.1, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(sampler, hz):
    with pytest.raises(ValueError, match="hz must be above 0 and at most 100"):
        sampler.listen(Ear(), hz)
    assert not sampler.running


def test_a_slow_listener_gets_the_latest_frame_and_no_backlog(sampler, counts):
    heard = []

    def slow(frame):
        heard.append((frame, counts.taken))
        time.sleep(0.05)

    sampler.listen(slow, 100)
    wait_for(lambda: len(heard) >= 5)
    assert all(frame == taken for frame, taken in heard)


def test_a_listener_that_raises_is_taken_off_and_logged_and_others_go_on(sampler, caplog):
    bad, good = Ear(ZeroDivisionError("as told")), Ear()
    sampler.listen(bad, 100)
    sampler.listen(good, 100)
    good.wait(5)
    assert len(bad.frames) == 1
    (record,) = caplog.records
    assert record.name == "pydotcompute"
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert "taken off" in record.getMessage()
    sampler.ignore(good)
    assert not sampler.running


def test_a_listener_may_leave_or_bring_another_while_it_is_called(sampler):
    ear = Ear()

    def once(frame):
        sampler.ignore(once)
        sampler.listen(ear, 100)

    sampler.listen(once, 100)
    ear.wait(3)
    assert sampler.running
    sampler.ignore(ear)
    assert not sampler.running


def test_leaving_and_coming_again_and_again(sampler):
    for _ in range(100):
        ear = Ear()
        sampler.listen(ear, 100)
        ear.wait(1)
        sampler.ignore(ear)
    assert sum(thread.name == "pydotcompute-sampler" for thread in threading.enumerate()) <= 1
    sampler.close()
    assert "pydotcompute-sampler" not in {thread.name for thread in threading.enumerate()}


def test_ignoring_who_does_not_listen_changes_nothing(sampler):
    sampler.ignore(print)
    ear = Ear()
    sampler.listen(ear, 100)
    sampler.ignore(print)
    ear.wait(2)


def test_close_takes_everybody_off_and_waits_for_the_thread(sampler):
    ears = [Ear() for _ in range(3)]
    for ear in ears:
        sampler.listen(ear, 100)
    for ear in ears:
        ear.wait(1)
    (thread,) = ears[0].threads
    sampler.close()
    assert is_gone(thread)
    sampler.close()


def test_a_listener_may_close_the_sampler(sampler):
    closed = threading.Event()

    def last(frame):
        sampler.close()
        closed.set()

    sampler.listen(last, 100)
    assert closed.wait(5)
    wait_for(lambda: "pydotcompute-sampler" not in {thread.name for thread in threading.enumerate()})


# -- lag -----------------------------------------------------------------------------------------------------------


@pytest.mark.may_block
async def test_the_lag_of_a_loop_is_shown_while_it_is_blocked_and_afterwards():
    lag = LoopLag(asyncio.get_running_loop())
    assert lag.seconds is None
    lag.poke()
    time.sleep(0.03)
    first = lag.seconds
    time.sleep(0.03)
    second = lag.seconds
    assert 0.03 <= first < second
    lag.poke()  # one is on its way already
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert lag.seconds >= 0.06
    lag.poke()
    while lag.seconds >= 0.06:
        await asyncio.sleep(0)
    assert lag.seconds >= 0


def test_a_closed_loop_has_no_lag():
    loop = asyncio.new_event_loop()
    lag = LoopLag(loop)
    loop.close()
    lag.poke()
    assert lag.seconds is None
