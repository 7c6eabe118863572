"""A hybrid logical clock: stamps that follow the wall clock, and never contradict who has heard from whom.

After Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks and Consistent Snapshots in Globally
Distributed Databases", 2014. A stamp is the largest wall time that its node has seen, its own or another's, and a count
that tells apart what came at one such time. If one event can have caused another, its stamp is the smaller one,
although the clocks of the machines differ; and a stamp is ahead of the wall clock of its node by no more than these do.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import cache
from itertools import count
from threading import Lock
from typing import NamedTuple


class Stamp(NamedTuple):
    """A point in the total order of the events of all nodes: compare two as tuples."""

    wall: int
    """Nanoseconds since the epoch."""
    logical: int
    """Tells apart what has the same wall time."""
    node: str


class HybridClock:
    """Makes the stamps of one node; any thread may use it.

    Where the paper's node remembers its latest wall time, this one has a steady clock that begins at the wall time and
    is never put back, and its counter does not begin anew: `tick` then needs no lock.

    Args:
        node: its name, which no other node has; by default host and process, ``"lab3:4711"``.
        wall: what gives the wall time, in nanoseconds since the epoch. It may stand still and step back.
        steady: what gives the nanoseconds in between, from any beginning. It never steps back.
        max_ahead: seconds by which the stamp of another node may be ahead of this one's wall clock. One clock that is
            set wrong would else push those of all nodes, for good.

    Raises:
        ValueError: `max_ahead` is negative or no number.
    """

    __slots__ = ("_lock", "_max_ahead", "_wall", "counter", "heard", "node", "offset", "steady")

    def __init__(
        self,
        node: str | None = None,
        *,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = time.perf_counter_ns,
        max_ahead: float = 60.0,
    ) -> None:
        if not max_ahead >= 0:
            raise ValueError(f"max_ahead must be a number of seconds, 0 or more, not {max_ahead!r}")
        self.node = f"{socket.gethostname()}:{os.getpid()}" if node is None else node
        self.steady = steady
        self.offset = wall() - steady()
        """What makes a wall time of the steady clock."""
        self.heard = 0
        """The largest wall time of another node."""
        self.counter = count()
        self._wall, self._max_ahead = wall, max_ahead
        self._lock = Lock()

    def tick(self) -> Stamp:
        """The stamp of an event here: larger than all before."""
        wall = self.steady() + self.offset
        return Stamp(wall if wall > self.heard else self.heard, next(self.counter), self.node)

    def update(self, remote: Stamp) -> Stamp:
        """The stamp of hearing from another node: larger than all before, and than the one that came from there.

        Raises:
            ValueError: that one is too far ahead; this clock stays as it is.
        """
        self.adjust()
        with self._lock:
            ahead = (remote.wall - self.steady() - self.offset) / 1e9
            if ahead > self._max_ahead:
                raise ValueError(
                    f"the clock of {remote.node!r} is {ahead:,.1f} s ahead of that of {self.node!r}, more than "
                    f"{self._max_ahead:g} s: let both machines get their time from one source (NTP)"
                )
            # The counter first: whoever reads the new wall time must not get an old count with it.
            self.counter = count(max(next(self.counter), remote.logical + 1))
            self.heard = max(self.heard, remote.wall)
        return self.tick()

    def adjust(self) -> None:
        """Follow the wall clock where it was put on, or went on while the machine slept; it is never followed back."""
        with self._lock:
            self.offset = max(self.offset, self._wall() - self.steady())

    def __repr__(self) -> str:
        return f"<hybrid clock of {self.node!r}>"


def process_clock() -> HybridClock:
    """The clock of this process, which all its traces share."""
    return _clock_of(os.getpid())


@cache
def _clock_of(process: int) -> HybridClock:  # that of its parent would, after a fork, give out the parent's stamps
    return HybridClock()
