"""How tasks wait for one another here: a future-like `Wait`, woken by the runtime's own run queue.

An `asyncio.Future` that is set costs one callback of the loop to wake its task. A `Wait` that is set costs an append:
one callback resumes every task whose wait was set, in order, for about a millisecond before the loop gets its turn. An
ask goes one step further: it resumes the idle kernel inside the asking task's own step, so that the reply is often
there before the asker would have suspended.

The protocol that a `Wait` follows is the one that `asyncio.Task` asks of a future-like object
(`_asyncio_future_blocking`, `add_done_callback`, `result`, `cancel`), and `_enter_task` / `_leave_task` are the
documented hooks of "Extending asyncio".
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from asyncio.tasks import _enter_task as enter_task
from asyncio.tasks import _leave_task as leave_task
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from select import select
from typing import Any, ClassVar

from ..exceptions import QueueTimeoutError

clock = time.perf_counter_ns

# Not `time.sleep` where there is another way: tools that look for blocking calls in event loops would report it.
_nap: Callable[[float], Any] = time.sleep if sys.platform == "win32" else partial(select, (), (), ())

NEW, AWAITED, SET, FAILED = range(4)

SLICE_NS = 1_000_000
"""How long kernels may run before the loop gets its turn, in nanoseconds."""
REST_EVERY_NS, REST = 5_000_000, 50e-6
"""How long kernels may run until other threads get their turn, in nanoseconds, and for how long, in seconds."""
MAX_DEPTH = 8
"""How many kernels may be resumed inside one another; a deeper chain goes by the run queue, to spare the stack."""


class Wait:
    """What one task waits for once. There is no `__init__`: a call costs; `Scheduler.wait()` makes one."""

    __slots__ = ("_asyncio_future_blocking", "_context", "_wakeup", "state", "value")

    _scheduler: ClassVar[Scheduler]
    _loop: ClassVar[asyncio.AbstractEventLoop]
    _context: contextvars.Context
    _wakeup: Callable[[Any], None]
    state: int
    value: Any

    def __await__(self) -> Generator[Wait, None, Any]:
        if self.state == NEW:
            self._asyncio_future_blocking = True
            yield self
        if self.state == FAILED:
            raise self.value
        return self.value

    def add_done_callback(self, wakeup: Callable[[Any], None], *, context: contextvars.Context) -> None:
        self._wakeup, self._context, self.state = wakeup, context, AWAITED

    # The task calls it before it resumes and only looks for an exception, which `__await__` raises. Calling a type
    # costs half of calling a def.
    result = type(None)

    def set(self, value: Any, state: int = SET) -> bool:
        """Wake the task with this value. False: too late, it was set, failed or cancelled before."""
        was = self.state
        if was > AWAITED:
            return False
        self.value, self.state = value, state
        if was:
            scheduler = self._scheduler
            scheduler.woken.append(self)
            if not scheduler.scheduled:
                scheduler.scheduled = True
                scheduler.loop.call_soon(scheduler.run)
        return True

    def fail(self, error: BaseException) -> bool:
        """Wake the task with an exception. False: too late."""
        return self.set(error, FAILED)

    def cancel(self, msg: Any = None) -> bool:
        return self.fail(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))


class Rests:
    """For what keeps an event loop busy: rests for other threads."""

    __slots__ = ("_rested",)

    def __init__(self) -> None:
        self._rested = 0

    def rest(self) -> None:
        """Let other threads have the interpreter for once, if kernels have kept it busy for some milliseconds.

        Each pass of the loop releases it for an instant. That is too short for a thread that waits for it to wake up
        and take it, and yet it makes its `sys.getswitchinterval()` begin anew, after which Python would give it its
        turn: on a busy runtime the cells of a notebook and the sampler would stand still for seconds.
        """
        now = clock()
        if now - self._rested > REST_EVERY_NS:
            if threading.active_count() > 1:
                _nap(REST)
                now = clock()
            self._rested = now


class Scheduler(Rests):
    """The run queue of one runtime, on one event loop."""

    __slots__ = ("_deadlines", "_deadlines_limit", "_depth", "_timers", "_wait_type", "loop", "over",
                 "scheduled", "slice_end", "woken")  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        # A subclass of its own holds what all waits of a runtime share, so that making one sets two slots and no more.
        self._wait_type: type[Wait] = type("Wait", (Wait,), {"__slots__": (), "_scheduler": self, "_loop": loop})
        self._deadlines: dict[float, dict[Wait, float]] = {}  # by the timeout
        self._timers: dict[float, asyncio.TimerHandle] = {}
        self._deadlines_limit = 100
        self._depth = 0
        self.woken: deque[Wait] = deque()
        self.scheduled = False
        self.slice_end = 0
        """`clock()` at which the present slice ends."""
        self.over = False
        """A task found that the slice has ended: the loop shall have its turn."""

    def wait(self) -> Wait:
        wait = self._wait_type()
        wait.state = NEW
        return wait

    def run(self) -> None:
        """Resume the tasks whose waits were set, in order, for about one slice."""
        woken, self.slice_end, self.over = self.woken, clock() + SLICE_NS, False
        try:
            for _ in range(1000):
                if self.over or not woken:
                    break
                wait = woken.popleft()
                wait._context.run(wait._wakeup, wait)
        finally:
            self.scheduled = bool(woken)
            if woken:
                self.rest()
                self.loop.call_soon(self.run)

    def hand_over(self, wait: Wait) -> None:
        """Resume the task that waits, now, inside the step of the present task, unless that nests too deeply."""
        task = asyncio.current_task(self.loop)
        if task is None or self._depth >= MAX_DEPTH:
            wait.set(None)
            return
        self._depth += 1
        wait.state, wait.value = SET, None
        leave_task(self.loop, task)
        try:
            wait._context.run(wait._wakeup, wait)
        except (SystemExit, KeyboardInterrupt) as error:
            self.loop.call_soon(_leave_loop, error)  # as from a step of its own; the present task goes on
        finally:
            enter_task(self.loop, task)
            self._depth -= 1

    async def within(self, wait: Wait, seconds: float) -> Any:
        """Await `wait` for so many seconds.

        Waits with one and the same timeout end in the order in which they came: one timer of the loop serves them all.

        Raises:
            QueueTimeoutError: the time is over.
        """
        deadline = self.loop.time() + seconds
        deadlines = self._deadlines.get(seconds)
        if deadlines is None:
            if len(self._deadlines) >= self._deadlines_limit:
                self._forget_unused_timers()
            deadlines = self._deadlines[seconds] = {}
            self._timers[seconds] = self.loop.call_at(deadline, self._expire, seconds, deadlines)
        deadlines[wait] = deadline
        try:
            return await wait
        finally:
            deadlines.pop(wait, None)

    def _expire(self, seconds: float, deadlines: dict[Wait, float]) -> None:
        now = self.loop.time()
        for wait, deadline in list(deadlines.items()):
            if deadline > now:
                self._timers[seconds] = self.loop.call_at(deadline, self._expire, seconds, deadlines)
                return
            del deadlines[wait]
            wait.fail(QueueTimeoutError(f"nothing came within {seconds:g} s"))
        del self._deadlines[seconds], self._timers[seconds]

    def _forget_unused_timers(self) -> None:
        """Timeouts that are computed are hardly ever the same, and long ones would keep their timers for long."""
        for seconds in [seconds for seconds, deadlines in self._deadlines.items() if not deadlines]:
            del self._deadlines[seconds]
            self._timers.pop(seconds).cancel()
        self._deadlines_limit = max(100, 2 * len(self._deadlines))

    def shift(self, seconds: float) -> None:
        """The loop's time has been put on by so many seconds, its timers too: waits keep the time they had left."""
        for deadlines in self._deadlines.values():
            deadlines.update({wait: deadline + seconds for wait, deadline in deadlines.items()})


def _leave_loop(error: BaseException) -> None:
    raise error
