"""The hybrid logical clock: an order that wall clocks which step, stand still or differ cannot spoil."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute.telemetry.clock import HybridClock, Stamp, process_clock

SECOND = 1_000_000_000
TIMES = st.integers(0, 5)  # few, so that many are equal


def clock_that_says(times: list[int], node: str = "a", **options: float) -> HybridClock:
    left = iter(times)
    return HybridClock(node, wall=lambda: next(left), **options)


@given(st.lists(TIMES, min_size=1))
def test_stamps_of_a_node_rise_whatever_its_wall_clock_does(times):
    clock = clock_that_says(times)
    stamps = [clock.tick() for _ in times]
    assert all(one < two for one, two in pairwise(stamps))


@given(st.lists(st.integers(1, 10**18), min_size=1))
def test_a_stamp_is_the_largest_wall_time_so_far(times):
    clock = clock_that_says(times)
    stamps = [clock.tick() for _ in times]
    assert [stamp.wall for stamp in stamps] == [max(times[: n + 1]) for n in range(len(times))]


@given(st.integers(1, 10**18), st.integers(1, 1000))
def test_the_counter_begins_anew_with_the_wall_clock(time, ticks):
    clock = clock_that_says([time] * ticks + [time + 1])
    assert [clock.tick().logical for _ in range(ticks)] == list(range(ticks))
    assert clock.tick() == (time + 1, 0, "a")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), TIMES, TIMES), min_size=1))
def test_who_has_heard_of_an_event_has_a_larger_stamp(steps):
    """Nodes with clocks of their own send each other messages; the order of the stamps follows them."""
    now = 0
    clocks = {node: HybridClock(node, wall=lambda: now) for node in "abc"}
    known: dict[str, list[Stamp]] = {node: [] for node in "abc"}  # all that may have caused what happens there
    everything: list[Stamp] = []
    for source, target, sent_at, received_at in steps:
        now = sent_at
        sent = clocks[source].tick()
        assert all(sent > before for before in known[source])
        known[source].append(sent)
        everything.append(sent)
        if source == target:
            continue
        now = received_at
        received = clocks[target].update(sent)
        assert all(received > before for before in known[target] + known[source])
        known[target] = [*dict.fromkeys(known[target] + known[source]), received]
        everything.append(received)
    assert len(set(everything)) == len(everything)  # a total order: none is the equal of another


@given(TIMES, TIMES, TIMES, st.integers(0, 9))
def test_update_counts_on_only_from_stamps_of_the_same_time(before, now, remote_wall, remote_logical):
    clock = clock_that_says([before, now])
    local = clock.tick()
    heard = clock.update(Stamp(remote_wall, remote_logical, "b"))
    assert heard.wall == max(local.wall, now, remote_wall)
    same = [logical for wall, logical in ((local.wall, local.logical), (remote_wall, remote_logical))
            if wall == heard.wall]  # fmt: skip
    assert heard.logical == (max(same) + 1 if same else 0)


def test_stamps_of_one_time_are_ordered_by_their_nodes():
    assert Stamp(5, 0, "a") < Stamp(5, 0, "b") < Stamp(5, 1, "a") < Stamp(6, 0, "a")


def test_a_clock_that_is_set_wrong_is_not_followed():
    clock = clock_that_says([SECOND] * 4, max_ahead=2.0)
    assert clock.update(Stamp(3 * SECOND, 7, "b")) == (3 * SECOND, 8, "a")
    with pytest.raises(ValueError, match=r"clock of 'far' is 5\.0 s ahead of that of 'a', more than 2 s.*NTP"):
        clock.update(Stamp(6 * SECOND, 0, "far"))
    assert clock.tick() == (3 * SECOND, 9, "a")


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_max_ahead_is_a_number_of_seconds(wrong):
    with pytest.raises(ValueError, match="max_ahead must be a number of seconds"):
        HybridClock(max_ahead=wrong)


def test_threads_never_get_the_same_stamp():
    clock = HybridClock(wall=lambda: 1)
    stamps: list[list[Stamp]] = [[] for _ in range(4)]

    def work(mine: list[Stamp]) -> None:
        mine += [clock.tick() for _ in range(2000)]

    threads = [threading.Thread(target=work, args=(mine,)) for mine in stamps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({stamp for mine in stamps for stamp in mine}) == 8000
    assert all(mine == sorted(mine) for mine in stamps)


def test_a_process_has_one_clock_which_names_it():
    assert process_clock() is process_clock()
    host, _, process = process_clock().node.rpartition(":")
    assert host
    assert process.isdigit()
    assert process_clock().tick().node == process_clock().node
