"""Frames: absolute snapshots of the table, taken on a thread of their own and only while somebody listens."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("pydotcompute")

Listener = Callable[["Frame"], None]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The counters of all kernels at one moment. Absolute: whoever misses one has lost nothing."""

    number: int
    time_ns: int
    """`time.perf_counter_ns()` when the rows were copied."""
    ids: tuple[str, ...]
    rows: NDArray[np.void]
    """Shape (len(ids),), dtype `COUNTERS`. Of more than 100 kernels the histograms may be a second old."""
    loop_lag: float | None
    """Seconds that the runtime's loop is late; grows while something blocks it."""
    notebook_lag: float | None
    dead_letters: int
    launches: NDArray[np.int64]
    """Shape (len(ids),): the number of the launch that each kernel came from. Who has another one than before was
    launched again under its id, and counts from 0. It is the same array as before while nothing was launched."""


class LoopLag:
    """How late an event loop is: the time from asking it for a callback to getting it, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: int | None = None
        self._last: float | None = None

    def poke(self) -> None:
        """Ask for a callback unless one is still to come. Any thread may call it."""
        if self._asked is None:
            self._asked = time.perf_counter_ns()
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop was closed
                self._asked = self._last = None

    def _answer(self) -> None:
        if self._asked is not None:
            self._last = (time.perf_counter_ns() - self._asked) * 1e-9
            self._asked = None

    @property
    def pending(self) -> float | None:
        """The age of a callback that has not come yet, in seconds; None: there is none."""
        asked = self._asked
        return None if asked is None else (time.perf_counter_ns() - asked) * 1e-9

    @property
    def seconds(self) -> float | None:
        """The last lag measured, or the age of a callback that has not come yet if that is more."""
        pending = self.pending
        return self._last if pending is None else max(self._last or 0.0, pending)


class Sampler:
    """Calls each listener with a frame, at the rate that it asked for, on the sampler's own thread.

    A slow listener delays the next frame instead of queueing frames: the latest wins. A listener that raises is taken
    off, with the error in the log.
    """

    def __init__(self, take: Callable[[], Frame], poke: Callable[[], None]) -> None:
        self._take, self._poke = take, poke
        self._changed = threading.Condition()
        self._intervals: dict[Listener, float] = {}
        self._due: dict[Listener, float] = {}  # when each is called next, on the clock of time.monotonic
        self._thread: threading.Thread | None = None

    def frame(self) -> Frame:
        """A frame of now, whether anybody listens or not."""
        return self._take()

    @property
    def running(self) -> bool:
        """Whether anybody listens."""
        return bool(self._intervals)

    @property
    def stopped(self) -> bool:
        """Whether it has no thread, not even one that is about to end."""
        return self._thread is None

    def listen(self, listener: Listener, hz: float = 10.0) -> None:
        """Call `listener(frame)` `hz` times a second (0 < hz <= 100); for one that listens already, change the rate."""
        if not 0 < hz <= 100:
            raise ValueError(f"hz must be above 0 and at most 100, not {hz!r}")
        with self._changed:
            self._intervals[listener] = 1.0 / hz
            # A frame at once for who is new; one whose rate changes waits no longer than its new interval.
            self._due[listener] = min(self._due.get(listener, 0.0), time.monotonic() + 1.0 / hz)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pydotcompute-sampler", daemon=True)
                self._thread.start()
            self._changed.notify()

    def ignore(self, listener: Listener) -> None:
        """Stop calling `listener`; after the last one the thread ends."""
        with self._changed:
            self._intervals.pop(listener, None)
            self._due.pop(listener, None)
            self._changed.notify()

    def close(self) -> None:
        """Take every listener off and wait for the thread to end."""
        with self._changed:
            self._intervals.clear()
            self._due.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._intervals:
                    self._thread = None
                    return
                now = time.monotonic()
                wait = min(self._due.values()) - now
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                listeners = [listener for listener, when in self._due.items() if when <= now]
                for listener in listeners:
                    self._due[listener] = now + self._intervals[listener]
            self._deliver(listeners)

    def _deliver(self, listeners: list[Listener]) -> None:
        frame = self._take()
        self._poke()
        for listener in listeners:
            try:
                listener(frame)
            except Exception:
                log.exception("a listener to telemetry raised and is taken off")
                self.ignore(listener)
