"""For tests of ring kernels, with any test runner: time that does not pass by itself, and parts for a test to play.

::

    async def test_the_alarm_comes_once():
        async with RingKernelRuntime() as runtime:
            with FakeClock():
                sensor = await Peer.launch(runtime, "sensor", replies=[Level(3), Level(9), ValueError("broken")])
                bell = await Probe.launch(runtime, "bell")
                await (await runtime.launch(watchman)).activate()  # asks the sensor once an hour, and tells the bell
                assert (await bell.expect(Alarm, timeout=7200)).level == 9
                await bell.expect_nothing(within=24 * 3600)
                assert len(sensor.messages) == 3

In a synchronous test ``runtime.sync.call`` runs the coroutines: ``runtime.sync.call(bell.expect, Alarm)``.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import math
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from .exceptions import KernelKilledError, LoopError, QueueTimeoutError
from .runtime import KernelContext, RingKernelRuntime
from .runtime.checks import checked_timeout, is_count, is_number
from .runtime.compiled import CompiledKernel
from .runtime.kernel import RingKernel, _runtimes, definition_of
from .runtime.scheduler import Wait
from .telemetry.observer import Delivery, Observer

__all__ = ["Chaos", "FakeClock", "Peer", "Probe", "after", "settle"]

POLL = 0.001
"""Seconds between two looks at what works in other threads and does not say when it is done."""
GRACE = 0.002
"""Seconds that a compiled ring kernel which has just done its work has to tell the event loop of it."""
STUCK = 0.05
"""Seconds without a message handled after which a compiled ring kernel without room for its replies counts as stuck."""


# -- time --------------------------------------------------------------------------------------------------------------


class _Loop:
    """An event loop that is watched."""

    def __init__(self, loop: Any) -> None:
        if not all(hasattr(loop, name) for name in ("_selector", "_ready", "_scheduled")):
            raise LoopError(
                f"{type(loop).__module__}.{type(loop).__qualname__} does not show when its tasks wait: run the test on "
                f"an event loop of asyncio, as `asyncio.run` makes it"
            )
        self.loop = loop
        self.thread = 0
        self.waits = False
        """Whether nothing is to be done there now."""
        self._former: list[tuple[Any, str, Any]] = []

    def patch(self, owner: Any, name: str, value: Any) -> None:
        """Put something in the place of a method of one object, until `restore`."""
        self._former.append((owner, name, vars(owner).get(name, _nothing)))
        setattr(owner, name, value)

    def restore(self) -> None:
        while self._former:
            owner, name, former = self._former.pop()
            if former is _nothing:
                delattr(owner, name)
            else:
                setattr(owner, name, former)

    @property
    def until(self) -> float:
        """When its next timer is due."""
        return self.loop._scheduled[0]._when if self.loop._scheduled else math.inf

    def wake(self) -> None:
        with suppress(RuntimeError):  # it is closed
            self.loop.call_soon_threadsafe(_nothing)

    def do(self, function: Callable[[], None]) -> None:
        """Before whatever this thread asks of it next."""
        if self.loop is asyncio._get_running_loop() or not self.loop.is_running():
            function()
        else:
            self.loop.call_soon_threadsafe(function)


def _nothing() -> None:
    """Makes a loop go round."""


def _check(name: str, seconds: Any) -> None:
    if not is_number(seconds):
        raise TypeError(f"{name} must be a number of seconds, not {seconds!r}")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} must be 0 or more and finite, not {seconds!r}")


class _Goal:
    """Somebody waits until the time has come and all that was due then is done."""

    def __init__(self, when: float, limit: float) -> None:
        self.when = when
        self.latest = time.monotonic() + limit
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def end(self, error: BaseException | None = None) -> None:
        def end() -> None:
            if not self.future.done():
                if error is None:
                    self.future.set_result(None)
                else:
                    self.future.set_exception(error)

        with suppress(RuntimeError):  # its loop is closed
            self.loop.call_soon_threadsafe(end)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()


class _Watch:
    """Watches event loops: it knows when all of them wait, and nothing that they know of works in other threads."""

    def __init__(self, loops: Iterable[asyncio.AbstractEventLoop], patience: float = 0.0, caller: int = 0) -> None:
        self.loops = [_Loop(loop) for loop in loops]
        self.users = 0
        self._patience = patience
        self._caller = caller
        """A thread without a loop of its own, which works unless it waits in `runtime.sync`."""
        self._on = False
        self._lock = threading.Lock()
        self._goals: list[_Goal] = []
        self._jobs: set[asyncio.Future[Any]] = set()
        self._moved = time.monotonic()  # when something was done last
        self._compiled_works = False  # whether a compiled kernel did something when that was looked at last
        self._compiled_worked = 0.0  # when it did so no longer
        # Of compiled kernels that may be stuck: messages handled, seconds without another one, when that was looked at.
        self._counts: dict[str, tuple[int, float, float]] = {}

    # -- on and off ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        for one in self.loops:
            if one.loop in _watches:
                raise LoopError("a FakeClock rules the time of this event loop already: use that one")
        self._on = True
        for one in self.loops:
            _watches[one.loop] = self
            one.do(partial(self._patch, one))

    def end(self) -> None:
        self._on = False
        while self._goals:
            self._goals.pop().end(LoopError("the clock has come to its end"))
        for one in self.loops:
            _watches.pop(one.loop, None)
            one.do(partial(self._restore, one))

    def _patch(self, one: _Loop) -> None:
        """Let a loop call `_select` instead of waiting; in the thread of that loop."""
        one.thread = threading.get_ident()
        select: Callable[[float | None], list[Any]] = one.loop._selector.select
        run: Callable[..., asyncio.Future[Any]] = one.loop.run_in_executor

        def run_in_executor(executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
            future = run(executor, function, *args)
            self._jobs.add(future)
            future.add_done_callback(self._jobs.discard)
            return future

        one.patch(one.loop._selector, "select", lambda timeout=None: self._select(one, select, timeout))
        one.patch(one.loop, "run_in_executor", run_in_executor)

    def _restore(self, one: _Loop) -> None:
        one.restore()

    # -- what the loops call instead of waiting ------------------------------------------------------------------------

    def _select(self, one: _Loop, select: Callable[[float | None], list[Any]], timeout: float | None) -> list[Any]:
        found = select(0)
        if self._goals:
            self._give_up_late_goals()
        if found or (timeout is not None and timeout <= 0):
            return found
        one.waits = True
        try:
            while self._on and not (one.loop._ready or one.until <= self._now(one)):
                pause = self._look(one)
                if pause != 0 and (found := select(pause)):
                    break
        finally:
            one.waits = False
            self._moved = time.monotonic()
        return found

    def _waits(self, one: _Loop) -> bool:
        """Whether nothing is to be done on that loop; or nothing can be, for its thread waits in `runtime.sync`."""
        if one.waits:
            return not one.loop._ready and one.until > self._now(one)
        return one.thread in self._asking()

    def _now(self, one: _Loop) -> float:
        now: float = one.loop.time()
        return now

    def _look(self, one: _Loop) -> float | None:
        """Do what can be done now that this loop waits.

        Returns:
            Seconds of real time until it looks again; None: when something comes.
        """
        if not self._lock.acquire(blocking=False):
            return POLL / 10
        try:
            until = self._pause(one)
            if self._goals:
                self._give_up_late_goals()
            if not all(map(self._waits, self.loops)):
                return min(POLL, until) if self._goals else None if until == math.inf else until
            if not self._wants_to_act():
                return None if until == math.inf else until
            now = time.monotonic()
            if next(self._at_work(), None) is not None:
                self._moved = now
                return min(POLL, until)
            if self._compiled_works:
                # From now on, not from when it was seen at work: this thread may have kept the interpreter since.
                self._compiled_works, self._compiled_worked = False, now
            rest = max(self._moved + self._patience, self._compiled_worked + GRACE) - now
            if rest > 0:
                return min(rest, until)
            self._act()
            return 0
        finally:
            self._lock.release()

    def _pause(self, one: _Loop) -> float:
        """Seconds of real time until a timer of this loop is due."""
        return max(one.until - self._now(one), 0.0)

    def _wants_to_act(self) -> bool:
        return bool(self._goals)

    def _act(self) -> None:
        """All wait."""
        self._reach(-math.inf)

    def _reach(self, now: float) -> bool:
        reached = [goal for goal in self._goals if goal.when <= now or goal.when == -math.inf]
        for goal in reached:
            self._forget(goal)
            goal.end()
        return bool(reached)

    def _forget(self, goal: _Goal) -> None:
        with suppress(ValueError):  # another thread was quicker
            self._goals.remove(goal)

    # -- who waits for it ----------------------------------------------------------------------------------------------

    async def reach(self, when: float, limit: float) -> None:
        """Wait until the time has come and everything waits.

        Raises:
            TimeoutError: after `limit` seconds of real time; the text says what still moves.
        """
        goal = _Goal(when, limit)
        self._goals.append(goal)
        for one in self.loops:
            if one.loop is not goal.loop:
                one.wake()
        try:
            await goal.future
        finally:
            self._forget(goal)

    def _give_up_late_goals(self) -> None:
        now = time.monotonic()
        for goal in [goal for goal in self._goals if goal.latest < now]:
            self._forget(goal)
            goal.end(TimeoutError("; ".join(self._at_work()) or "; ".join(self._in_motion()) or "nothing is left"))

    def _in_motion(self) -> Iterator[str]:
        """What keeps the event loops busy."""
        for one in self.loops:
            tasks = {task.get_name() for task in asyncio.all_tasks(one.loop) if getattr(task, "_fut_waiter", 0) is None}
            if tasks:
                yield "the tasks " + ", ".join(map(repr, sorted(tasks)))
        for runtime in self._runtimes():
            for kernel in list(runtime._kernels.values()):
                if not kernel._idle:
                    yield f"{kernel!r}, {kernel.outlook}"

    # -- other threads -------------------------------------------------------------------------------------------------

    def _asking(self) -> set[int]:
        """The threads that wait in `runtime.sync` for one of these loops."""
        return {ident for runtime in self._runtimes() for ident in list(runtime._posted.values())} - {0}

    def _runtimes(self) -> list[RingKernelRuntime]:
        """Those that live on these loops."""
        loops = [one.loop for one in self.loops]
        return [runtime for runtime in list(_runtimes) if runtime._loop in loops]

    def _at_work(self) -> Iterator[str]:
        """What other threads do of which the loops will hear."""
        runtimes = self._runtimes()
        asking = self._asking()
        if self._caller and self._caller not in asking:
            yield "the thread of the test"
        posted = {future for runtime in runtimes for future in list(runtime._posted)}
        jobs = self._jobs.union(*(_of_other_threads(one.loop, posted) for one in self.loops))
        # A thread of an executor that waits for one of these loops itself does not work.
        if (working := len(jobs) - len(asking - {self._caller, *(one.thread for one in self.loops)})) > 0:
            yield f"{working} calls in threads (asyncio.to_thread, run_in_executor)"
        for runtime in runtimes:
            for kernel in list(runtime._kernels.values()):
                if isinstance(kernel, CompiledKernel) and self._works(kernel):
                    self._compiled_works = True
                    yield f"the compiled {kernel!r}"

    def _works(self, kernel: CompiledKernel) -> bool:
        box, out, executor = kernel._box, kernel._out, kernel._executor
        if kernel.state.over:
            return False
        if not box._runs:
            return not executor.resting
        if executor.depth == 0:  # it is done; but does the loop know?
            return bool(kernel._asks or kernel._flying or (out.getter is not None and len(out)))
        link = kernel._link
        target = link.targets[0] if link is not None and link.task is None and link.targets else None
        if executor.unread < out.capacity and not (isinstance(target, RingKernel) and target._box.would_block):
            return True
        # It may have no room for its next reply; or have an ask before it that needs none.
        now, count = time.monotonic(), kernel._processed
        known, stuck, last = self._counts.get(kernel.id, (-1, 0.0, now))
        # A pause of this thread, as for a collection of garbage, is one of that kernel too.
        stuck = stuck + min(now - last, 2 * POLL) if known == count else 0.0
        self._counts[kernel.id] = count, stuck, now
        return stuck < STUCK


def _of_other_threads(loop: asyncio.AbstractEventLoop, posted: set[Any]) -> set[asyncio.Future[Any]]:
    """What tasks of this loop wait for that other threads bring, except for what was `posted` to a loop."""
    found = set()
    for task in asyncio.all_tasks(loop):
        waiter = getattr(task, "_fut_waiter", None)
        for future in [waiter, *getattr(waiter, "_children", ())]:
            for callback, _ in getattr(future, "_callbacks", None) or ():
                # What ties a future of asyncio to one of `concurrent.futures`, which it calls its source.
                if getattr(callback, "__qualname__", "").startswith("_chain_future."):
                    source = inspect.getclosurevars(callback).nonlocals.get("source")
                    if source not in posted:
                        found.add(future)
    return found


class FakeClock(_Watch):
    """Time that stands still while anything is to be done, and jumps to the next timer when everything waits.

    ``with FakeClock():`` inside a coroutine holds for its event loop, ``with FakeClock(runtime)`` also for that of a
    runtime with ``loop="thread"``, with which it then shares one time. ``asyncio.sleep``, ``asyncio.timeout``,
    ``call_later`` and all timeouts, back-offs and windows of ring kernels go by it, those too that began before.
    `time.time`, the times of dead letters and the durations in statistics stay real.

    It never jumps past work that it knows of: calls in threads by `asyncio.to_thread` and ``run_in_executor``, compiled
    ring kernels with messages that they can handle, and the test itself where it is synchronous and does not wait in
    ``runtime.sync``. Of other threads and processes it knows nothing; `patience` leaves these some real time.

    At its end the loop's time is the real one again; what waits then has as long to wait as it had left. While a timer
    sets itself anew for ever, time runs on for as long as the test waits for something else. A fixture that enters the
    clock for coroutines is one itself.

    Args:
        runtimes: those whose event loops go by it, beside the running one.
        autojump: False: time moves by `advance` alone.
        patience: seconds of real time that everything must have waited before each jump.

    Raises:
        LoopError: an event loop of another kind than those of asyncio (uvloop), or one that has a FakeClock already;
            or there is no loop.
        ValueError: a negative patience.
    """

    def __init__(self, *runtimes: RingKernelRuntime, autojump: bool = True, patience: float = 0.0) -> None:
        _check("patience", patience)
        self._given = runtimes
        self._autojump = autojump
        self._for_patience = patience
        self._time = self._began = 0.0
        self._on = False

    def __enter__(self) -> Self:
        running = asyncio._get_running_loop()
        loops = [running] if running is not None else []
        for runtime in self._given:
            if runtime.loop_mode == "thread" or running is not None:
                runtime._start()
            if runtime._loop is None:
                raise LoopError("the runtime has no event loop yet: enter it with `async with`, and then the clock")
            if runtime._loop not in loops:
                loops.append(runtime._loop)
        if not loops:
            raise LoopError("there is no event loop here: use the clock inside a coroutine, or give it a runtime")
        me = threading.get_ident()
        is_home = running is not None or any(runtime._home == me for runtime in self._given)
        super().__init__(loops, self._for_patience, caller=0 if is_home else me)
        # The clock of all loops of asyncio is one; what the instance has may be that of a former FakeClock.
        began = max(type(loop).time(loop) for loop in loops)
        # It begins at a time of few binary digits: whole seconds that are added to it then stay whole.
        self._time = self._began = math.ceil(began * 2**20) / 2**20
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    @property
    def elapsed(self) -> float:
        """Seconds that have passed on it."""
        return self._time - self._began

    async def advance(self, seconds: float) -> None:
        """Let this time pass, step by step from timer to timer; returns when all that was due is done.

        Args:
            seconds: 0 or more. It may be awaited on any event loop.

        Raises:
            ValueError: less than 0.
            LoopError: outside of ``with``.
        """
        if not self._on:
            raise LoopError("the clock does not run: write `with FakeClock() as clock:` around it")
        _check("seconds", seconds)
        await self.reach(self._time + seconds, math.inf)

    def _patch(self, one: _Loop) -> None:
        super()._patch(one)
        one.patch(one.loop, "time", lambda: self._time)

    def _restore(self, one: _Loop) -> None:
        super()._restore(one)
        loop = one.loop
        shift = loop.time() - self._time
        for handle in loop._scheduled:
            handle._when += shift
        heapq.heapify(loop._scheduled)
        for runtime in list(_runtimes):
            if runtime._loop is loop and runtime._scheduler is not None:
                runtime._scheduler.shift(shift)
                kernels = list(runtime._kernels.values())
                limits = [kernel._limit for kernel in kernels]
                limits += [group.limit for group in {kernel._group for kernel in kernels} if group is not None]
                for limit in limits:
                    if limit is not None:
                        limit._times = deque(when + shift for when in limit._times)

    def _now(self, one: _Loop) -> float:
        return self._time

    def _pause(self, one: _Loop) -> float:
        return math.inf

    def _next(self) -> float:
        """The time of the next thing that somebody waits for, and that time may go on to."""
        goal = min((goal.when for goal in self._goals), default=math.inf)
        timer = min((one.until for one in self.loops if one.waits), default=math.inf)
        if not self._autojump and timer > max((goal.when for goal in self._goals), default=-math.inf):
            return goal
        return min(goal, timer)

    def _wants_to_act(self) -> bool:
        return self._next() < math.inf

    def _act(self) -> None:
        if not self._reach(self._time):
            self._time = max(self._next(), self._time)
            for one in self.loops:
                if one.until <= self._time:
                    one.wake()


async def settle(runtime: RingKernelRuntime, limit: float = 5.0) -> None:
    """Wait until nothing more happens unless something comes from outside, or time passes.

    That is: no task can run, on the loop of the runtime or on the present one; calls in threads are done, and compiled
    ring kernels have handled what they can. Kernels need not be idle: one that is paused, waits for room, for a reply,
    for another event or for a time to come has settled.

    Args:
        limit: seconds of real time.

    Raises:
        TimeoutError: something still moves after that; the text says what.
    """
    _check("limit", limit)
    runtime._start()
    home, here = runtime._loop, asyncio.get_running_loop()
    assert home is not None
    watch = _watches.get(home)
    if watch is None:
        watch = _Watch(dict.fromkeys((here, home)))
        watch.begin()
        watch.users = 1
    elif watch.users:
        watch.users += 1
    try:
        await watch.reach(-math.inf, limit)
    except TimeoutError as error:
        raise TimeoutError(f"the runtime has not settled within {limit:g} s: {error}") from None
    finally:
        if watch.users:
            watch.users -= 1
            if not watch.users:
                watch.end()


# -- parts to play -----------------------------------------------------------------------------------------------------


class Probe:
    """A ring kernel that takes whatever it gets, and says what that was.

    A target for `connect`, `tell` and topics: ``probe = await Probe.launch(runtime, "probe")``.
    """

    def __init__(self, runtime: RingKernelRuntime, kernel_id: str) -> None:
        self.runtime = runtime
        self.id = kernel_id
        self.messages: list[Any] = []
        """All that it has got so far, in order; a message whose handling was tried again is there again."""
        self._expected = 0  # how many of them have been expected
        self._waiting: list[Wait] = []

    @classmethod
    async def launch(cls, runtime: RingKernelRuntime, kernel_id: str = "probe", **options: Any) -> Self:
        """Launch and activate one.

        Args:
            options: those of `ring_kernel`: `queue_size`, `input_type`, `restart` and so on.

        Raises:
            DefinitionError: an option that cannot be.
            What `RingKernelRuntime.launch` raises.
        """
        probe = cls(runtime, kernel_id)
        await probe._begin(options)
        return probe

    async def _begin(self, options: dict[str, Any]) -> None:
        async def body(ctx: KernelContext[Any, Any]) -> None:
            async for message in ctx:
                self.messages.append(message)
                while self._waiting:
                    self._waiting.pop().set(None)
                await self._answer(ctx, message)

        await self.runtime.launch(definition_of(body, kernel_id=self.id, **options))
        await self.runtime.activate(self.id)

    async def _answer(self, ctx: KernelContext[Any, Any], message: Any) -> None:
        """Play the part."""

    @property
    def kernel(self) -> RingKernel:
        """The handle of its kernel."""
        return self.runtime[self.id]

    async def expect(self, what: Any = object, timeout: float | None = 5.0) -> Any:
        """The next message, which has to be `what`; the first that no `expect` before has returned.

        Args:
            what: a class, whose instance it has to be; a function, which has to return what is true of it; or what it
                has to be equal to. By default anything is right.
            timeout: seconds of the runtime's event loop (see `FakeClock`) in which it has to come; None: any time.

        Raises:
            AssertionError: another message came, which stays the next; or none did. The text says what came.
        """
        if self.runtime._away:
            return await self.runtime._hop(self.expect, what, timeout)
        checked_timeout(timeout)
        if not await self._comes(timeout):
            before = f", only {self._list(self.messages)} before" if self.messages else ""
            raise AssertionError(
                f"{self.id!r} got nothing within {timeout:g} s, instead of {_name(what)}{before}; "
                f"it is {self.kernel.outlook}"
            )
        message = self.messages[self._expected]
        if not _fits(message, what):
            raise AssertionError(
                f"{self.id!r} got {self._list(self.messages[self._expected :])}, instead of {_name(what)}"
            )
        self._expected += 1
        return message

    async def expect_nothing(self, within: float = 0.0) -> None:
        """Nothing has come, beside what was expected, when all has settled and so many seconds of the loop have passed.

        Raises:
            AssertionError: something came; the text says what.
            TimeoutError: as from `settle`.
        """
        _check("within", within)
        await settle(self.runtime)
        if self.runtime._away:
            came = await self.runtime._hop(self._comes, within)
        else:
            came = await self._comes(within)
        if came:
            raise AssertionError(f"{self.id!r} got {self._list(self.messages[self._expected :])}, instead of nothing")

    async def _comes(self, timeout: float | None) -> bool:
        """Whether a message is there, or comes in time."""
        scheduler = self.runtime._scheduler_of_loop()
        while len(self.messages) <= self._expected:
            self._waiting.append(wait := scheduler.wait())
            try:
                await (wait if timeout is None else scheduler.within(wait, timeout))
            except QueueTimeoutError:
                return False
            finally:
                if wait in self._waiting:
                    self._waiting.remove(wait)
        return True

    def _list(self, messages: list[Any]) -> str:
        more = f" and {len(messages) - 5} more" if len(messages) > 5 else ""
        return ", ".join(map(repr, messages[:5])) + more

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}, {len(self.messages)} messages>"


def _fits(message: Any, what: Any) -> bool:
    if isinstance(what, type):
        return isinstance(message, what)
    return bool(what(message)) if callable(what) else type(message) is type(what) and bool(message == what)


def _name(what: Any) -> str:
    if what is object:
        return "a message"
    if isinstance(what, type):
        return f"one of {what.__qualname__}"
    if callable(what):
        return f"one for which {getattr(what, '__qualname__', repr(what))} is true"
    return repr(what)


@dataclass(frozen=True, slots=True)
class after:  # noqa: N801 - reads as what it does: replies=[after(5.0, Pong())]
    """A reply, in the script of a `Peer`, that comes so many seconds of the loop later than it could."""

    seconds: float
    reply: Any

    def __post_init__(self) -> None:
        _check("seconds", self.seconds)


class Peer(Probe):
    """A ring kernel that plays the part of another one, by a script; and a `Probe` for what it gets.

    ``service = await Peer.launch(runtime, "service", replies=[Pong(1), after(3.0, Pong(2)), None, ValueError("no")])``
    """

    _replies: Any
    _delay: float
    _fail_at: Mapping[int, BaseException]

    @classmethod
    async def launch(
        cls,
        runtime: RingKernelRuntime,
        kernel_id: str = "peer",
        replies: Any = None,
        *,
        delay: float = 0.0,
        fail_at: Mapping[int, BaseException] | None = None,
        **options: Any,
    ) -> Self:
        """Launch and activate one.

        Each message gets one reply of the script. That is the reply itself; None: it stays silent; an exception: its
        body raises it, and the kernel fails; ``after(seconds, reply)``; or a function of the message, async or not,
        that returns one of these, or raises. A message for which the script has nothing makes it fail with an
        AssertionError.

        Args:
            replies: an iterable, one item for each message; a mapping of classes of messages to what their instances
                get; or a function for all. None: it is silent.
            delay: seconds of the runtime's event loop that it takes for each message.
            fail_at: what it raises at its n-th message, counted from 1, instead of the reply.
            options: as of `Probe.launch`.

        Raises:
            TypeError: `replies` is none of these.
            ValueError: a negative delay.
            What `Probe.launch` raises.
        """
        peer = cls(runtime, kernel_id)
        _check("delay", delay)
        peer._delay, peer._fail_at = delay, dict(fail_at or {})
        if replies is None:
            replies = _silence
        elif isinstance(replies, (str, bytes)) or not (callable(replies) or isinstance(replies, (Mapping, Iterable))):
            raise TypeError(
                f"replies are a list, a mapping of classes of messages, or a function of a message; not {replies!r}"
            )
        elif not callable(replies) and not isinstance(replies, Mapping):
            replies = iter(replies)
        peer._replies = replies
        await peer._begin(options)
        return peer

    async def _answer(self, ctx: KernelContext[Any, Any], message: Any) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        if (error := self._fail_at.get(len(self.messages))) is not None:
            raise error
        reply = self._scripted(message)
        while True:
            if isinstance(reply, after):
                await asyncio.sleep(reply.seconds)
                reply = reply.reply
            elif callable(reply) and not isinstance(reply, type):
                reply = reply(message)
            elif inspect.isawaitable(reply):
                reply = await reply
            else:
                break
        if isinstance(reply, BaseException):
            raise reply
        if reply is not None:
            await ctx.send(reply)

    def _scripted(self, message: Any) -> Any:
        if callable(self._replies):
            return self._replies
        if isinstance(self._replies, Mapping):
            for cls in type(message).__mro__:
                if cls in self._replies:
                    return self._replies[cls]
        else:
            for reply in self._replies:
                return reply
        raise AssertionError(f"the script of {self.id!r} has nothing for its message {len(self.messages)}: {message!r}")


def _silence(message: Any) -> None:
    return None


# -- chaos -------------------------------------------------------------------------------------------------------------


class Chaos(Observer):
    """Kills kernels as they take messages, the same ones each time: ``with Chaos(runtime, seed=7, rate=0.01):``.

    Whether a kernel dies with its n-th message in hand, counted from where the chaos begins and each attempt at a
    message as one, depends on the seed, its id and n alone; not on what other kernels do. So a run can be repeated
    where each kernel gets its messages in the same order. A compiled ring kernel finishes the message in hand first.

    Args:
        seed: a number or text; another one, other kills.
        rate: the probability, from 0 to 1, that a kernel dies with the message that it takes.
        at: instead of `rate`, the numbers of the messages with which each kernel dies: ``{"stage 3": (5, 17)}``.
        kernels: the ids of those that may die; None: all.
        limit: how often each of them dies at most; None: without limit.
        error: makes what they fail with, from the id of the kernel; by default a `KernelKilledError`.

    Raises:
        ValueError: an argument that cannot be, or not one of `rate` and `at`.
    """

    def __init__(
        self,
        runtime: RingKernelRuntime,
        *,
        seed: int | str = 0,
        rate: float | None = None,
        at: Mapping[str, Collection[int]] | None = None,
        kernels: Iterable[str] | None = None,
        limit: int | None = None,
        error: Callable[[str], BaseException] | None = None,
    ) -> None:
        if (rate is None) is (at is None):
            raise ValueError("say either at which rate kernels die, or at= which messages")
        if rate is not None and not 0 <= rate <= 1:
            raise ValueError(f"rate must be a number from 0 to 1, not {rate!r}")
        if limit is not None and not is_count(limit):
            raise ValueError(f"limit must be an integer of at least 1, not {limit!r}")
        if kernels is not None:
            self.kernels = frozenset(kernels)
        self.kills: list[tuple[str, int]] = []
        """What it has killed, in order: the id of the kernel, and the number of the message that it took."""
        self._runtime, self._seed, self._limit = runtime, seed, limit
        self._rate = 0.0 if rate is None else rate
        self._at = None if at is None else {kernel_id: frozenset(numbers) for kernel_id, numbers in at.items()}
        self._error = _killed if error is None else error
        self._taken: Counter[str] = Counter()
        self._killed: Counter[str] = Counter()
        self._dice: dict[str, random.Random] = {}

    def __enter__(self) -> Self:
        self._runtime.observe(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._runtime.unobserve(self)

    def started(self, delivery: Delivery) -> None:
        kernel_id = delivery.kernel_id
        self._taken[kernel_id] += 1
        number = self._taken[kernel_id]
        if self._at is not None:
            dies = number in self._at.get(kernel_id, ())
        else:
            if kernel_id not in self._dice:
                self._dice[kernel_id] = random.Random(f"{self._seed} {kernel_id}")
            dies = self._dice[kernel_id].random() < self._rate
        if dies and (self._limit is None or self._killed[kernel_id] < self._limit):
            self._killed[kernel_id] += 1
            self.kills.append((kernel_id, number))
            self._runtime[kernel_id]._kill(self._error(kernel_id))


def _killed(kernel_id: str) -> BaseException:
    return KernelKilledError(f"{kernel_id!r} was killed by chaos")
