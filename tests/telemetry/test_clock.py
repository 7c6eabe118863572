"""The hybrid logical clock: an order that wall clocks which step, stand still or differ cannot spoil."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute.telemetry.clock import HybridClock, Stamp, process_clock

SECOND = 1_000_000_000
TIMES = st.integers(0, 5)  # few, so that many are equal


class Machine:
    """A computer with a clock that somebody sets, and one that only goes on."""

    def __init__(self, node: str = "a", wall: int = 0, **options: float) -> None:
        self.wall, self.steady = wall, 1000
        self.clock = HybridClock(node, wall=lambda: self.wall, steady=lambda: self.steady, **options)

    def go_on(self, nanoseconds: int) -> None:
        self.wall += nanoseconds
        self.steady += nanoseconds


STEPS = st.lists(st.tuples(TIMES, st.integers(-5, 5), st.booleans()), min_size=1)
"""How far the clocks go on, by how much the wall clock is set, and whether it is looked at then."""


@given(STEPS)
def test_stamps_of_a_node_rise_whatever_its_wall_clock_does(steps):
    machine = Machine()
    stamps = []
    for passed, jump, adjust in steps:
        machine.go_on(passed)
        machine.wall += jump
        if adjust:
            machine.clock.adjust()
        stamps.append(machine.clock.tick())
        assert not adjust or stamps[-1].wall >= machine.wall
    assert all(one < two for one, two in pairwise(stamps))


@given(st.integers(0, 10**18), st.lists(TIMES, min_size=1))
def test_a_stamp_has_the_wall_time(begin, steps):
    machine = Machine(wall=begin)
    for passed in steps:
        machine.go_on(passed)
        assert machine.clock.tick().wall == machine.wall


def test_the_wall_clock_is_followed_forwards_only():
    machine = Machine(wall=100)
    machine.wall = 5000
    assert machine.clock.tick().wall == 100
    machine.clock.adjust()
    assert machine.clock.tick().wall == 5000
    machine.wall = 10
    machine.clock.adjust()
    assert machine.clock.tick().wall == 5000


NODES = st.sampled_from("abc")


@given(st.lists(st.tuples(NODES, NODES, TIMES, TIMES), min_size=1), st.lists(TIMES, min_size=3, max_size=3))
def test_who_has_heard_of_an_event_has_a_larger_stamp(steps, set_to):
    """Machines whose clocks differ and run differently send each other messages; the order of the stamps follows."""
    machines = {node: Machine(node, wall) for node, wall in zip("abc", set_to, strict=True)}
    known: dict[str, list[Stamp]] = {node: [] for node in "abc"}  # all that may have caused what happens there
    everything: list[Stamp] = []
    for source, target, passed, passed_there in steps:
        machines[source].go_on(passed)
        sent = machines[source].clock.tick()
        assert all(sent > before for before in known[source])
        known[source].append(sent)
        everything.append(sent)
        if source == target:
            continue
        machines[target].go_on(passed_there)
        received = machines[target].clock.update(sent)
        assert all(received > before for before in known[target] + known[source])
        known[target] = [*dict.fromkeys(known[target] + known[source]), received]
        everything.append(received)
    assert len(set(everything)) == len(everything)  # a total order: none is the equal of another


@given(TIMES, st.integers(0, 9), TIMES)
def test_after_an_update_the_wall_time_is_the_largest_that_was_seen(remote_wall, remote_logical, passed):
    machine = Machine(wall=2)
    heard = machine.clock.update(Stamp(remote_wall, remote_logical, "b"))
    assert heard.wall == max(2, remote_wall)
    assert heard > Stamp(remote_wall, remote_logical, "b")
    machine.go_on(passed)
    assert machine.clock.tick().wall == max(2 + passed, remote_wall)


def test_stamps_of_one_time_are_ordered_by_their_nodes():
    assert Stamp(5, 0, "a") < Stamp(5, 0, "b") < Stamp(5, 1, "a") < Stamp(6, 0, "a")


def test_a_clock_that_is_set_wrong_is_not_followed():
    clock = Machine(wall=SECOND, max_ahead=2.0).clock
    assert clock.update(Stamp(3 * SECOND, 7, "b")) == (3 * SECOND, 8, "a")
    with pytest.raises(ValueError, match=r"clock of 'far' is 5\.0 s ahead of that of 'a', more than 2 s.*NTP"):
        clock.update(Stamp(6 * SECOND, 50, "far"))
    assert clock.tick() == (3 * SECOND, 9, "a")


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_max_ahead_is_a_number_of_seconds(wrong):
    with pytest.raises(ValueError, match="max_ahead must be a number of seconds"):
        HybridClock(max_ahead=wrong)


def test_threads_never_get_the_same_stamp():
    clock = Machine().clock
    stamps: list[list[Stamp]] = [[] for _ in range(4)]

    def work(mine: list[Stamp]) -> None:
        for n in range(2000):
            mine.append(clock.tick() if n % 5 else clock.update(Stamp(n // 100, n, "b")))

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
