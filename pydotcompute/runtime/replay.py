"""`replay`: the messages of a recording once more, and whether the kernels answer as they did then."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..exceptions import (
    KernelNotFoundError,
    KernelStateError,
    PyDotComputeError,
    QueueTimeoutError,
    RecordingError,
)
from ..messages import DEFAULT_PRIORITY
from ..messages.message import type_name
from ..messages.standard import equal_values
from ..telemetry.observer import Delivery, Observer, on_behalf_of
from .checks import checked_timeout
from .compiled import CompiledKernel
from .dead_letters import error_text
from .lifecycle import KernelState
from .recording import (
    RecordedEnd,
    RecordedFailure,
    RecordedKernel,
    RecordedMessage,
    RecordedReply,
    counted,
    read_log,
)

if TYPE_CHECKING:
    from os import PathLike

    from .kernel import RingKernel
    from .runtime import RingKernelRuntime
    from .scheduler import Wait

TIMEOUT = 30.0
"""Seconds in which nothing happens, by default, until a replay gives up."""
LATE = 0.5
"""Seconds in all that it waits, when all kernels are idle, for what tasks of theirs may still send."""
BATCH = 256
"""Messages that are sent at most until the event loop has its turn."""
ROWS = 100
"""How many differences a table in a page shows; one of text a fifth of that."""

Kind = Literal["reply", "missing reply", "extra reply", "failure", "missing message", "extra message", "refused"]
"""What differs: a reply; one that was recorded did not come; one came that was not recorded; the kernel failed with the
message, and did not when recorded, or the reverse; a message that a kernel sent to another, as with replies; a message
that the kernel did not take, or did not handle."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that was not as it was recorded."""

    kernel_id: str
    kind: Kind
    message: Any
    """What the kernel had in hand, or had been sent."""
    expected: Any
    """The reply, or the name of the error, that was recorded; None: none was."""
    got: Any
    """The reply or the error of now; None: there was none."""
    text: str
    """What differs, in words: ``mean: 2.5, recorded was 2.0``."""


@dataclass(frozen=True)
class Replay:
    """What has come of a replay; true if nothing differs from what was recorded. A notebook shows it as a table."""

    path: Path
    differences: tuple[Difference, ...]
    """In the order of the messages."""
    messages: int
    """How many messages were sent."""
    replies: int
    """How many replies were compared."""
    seconds: float
    notes: tuple[str, ...] = field(default=())
    """What was left out, and why differences may be expected."""

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def __bool__(self) -> bool:
        return self.ok

    @property
    def _caption(self) -> str:
        what = counted(len(self.differences), "difference") if self.differences else "no differences"
        return (
            f"replay of {self.path.name!r}: {what}; {counted(self.messages, 'message')} sent, "
            f"{counted(self.replies, 'reply')} compared in {self.seconds:.2g} s"
        )

    def __repr__(self) -> str:
        lines = [self._caption, *(f"note: {note}" for note in self.notes)]
        rows = [_cells(one) for one in self.differences[: ROWS // 5]]
        if rows:
            rows.insert(0, ("kernel", "kind", "message", "what"))
            widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
            lines += ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]
        left_out = len(self.differences) - ROWS // 5
        return "\n".join(lines + [f"... and {left_out:,} more"] * (left_out > 0))

    def _repr_html_(self) -> str:
        from ..telemetry.html import table_html  # only where somebody looks

        left_out = len(self.differences) - ROWS
        notes = [*self.notes, *[f"{left_out:,} more differences not shown"] * (left_out > 0)]
        return table_html(
            self._caption,
            ("kernel", "kind", "message", "what"),
            [_cells(one) for one in self.differences[:ROWS]],
            "; ".join(notes),
        )


_short = Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 3


def _shown(value: Any) -> str:
    try:
        text = _short.repr(value)
    except Exception:  # noqa: BLE001 - an object of the user's, which may do anything
        text = f"<{type(value).__qualname__}>"
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def _cells(one: Difference) -> tuple[str, ...]:
    return one.kernel_id, one.kind, "" if one.message is None else _shown(one.message), one.text


# -- what was recorded -------------------------------------------------------------------------------------------------


class _Case:
    """One recorded message, and what becomes of it now."""

    __slots__ = (
        "after",
        "arrived",
        "differences",
        "due",
        "ended",
        "entry",
        "failures",
        "failures_now",
        "is_fed",
        "is_over",
        "is_replayed",
        "message",
        "place",
        "recorded",
        "refused",
        "replies",
        "replies_now",
        "skipped",
        "started",
    )

    def __init__(self, entry: RecordedMessage, after: int) -> None:
        self.entry = entry
        self.after = after  # how many messages, of all kernels, were handled when it came
        self.place = -1  # in the order in which its kernel handled them; -1: it did not
        self.due = entry.time  # nanoseconds since the beginning
        self.recorded: list[RecordedReply] = []
        self.ended = False
        self.failures: list[str] = []
        # When it is to be replayed:
        self.is_replayed = self.is_fed = False  # by sending it, or it comes of itself
        self.message: Any = None
        self.replies: list[tuple[Any, bool]] = []  # the recorded ones, and whether each answered the ask
        # As it is replayed:
        self.arrived = self.started = self.is_over = False
        self.skipped = False  # it did not come, and those behind it wait no longer
        self.replies_now = 0
        self.failures_now: list[BaseException] = []
        self.refused: str | None = None
        self.differences: list[Difference] = []

    @property
    def is_handled(self) -> bool:
        """Whether it was handled when recorded, or was at least in hand."""
        return self.place >= 0

    @property
    def is_whole(self) -> bool:
        """Whether the recording has all that came of it."""
        return self.ended or bool(self.failures)

    @property
    def is_awaited(self) -> bool:
        """Whether it is to come before those that were handled after it."""
        is_sure = self.is_fed or self.entry.cause is not None  # what a kernel sends of its own accord may not come
        return self.is_replayed and is_sure and self.refused is None

    @property
    def is_missed(self) -> bool:
        """Whether it, or a reply to it, has not come."""
        return self.is_awaited and not (self.arrived and self.replies_now >= len(self.replies))

    def add(self, kind: Kind, text: str, expected: Any = None, got: Any = None) -> None:
        self.differences.append(Difference(self.entry.kernel_id, kind, self.message, expected, got, text))


class _Plan:
    """What is to be sent, and what is to come of it. Making it reads the file and decodes all messages.

    Messages are sent in the order in which they were handled, as priorities and pauses have made it.
    """

    def __init__(self, path: str | PathLike[str], kernels: Collection[str] | None) -> None:
        self.log = log = read_log(path)
        if log.damage is not None and not log.damage.torn:
            raise RecordingError(
                f"{str(path)!r} is damaged {log.damage}. read_log({str(path)!r}) reads what comes before; what comes "
                f"after it would be missing in a replay"
            )
        self.cases: dict[int, _Case] = {}
        self.orders: defaultdict[str, list[_Case]] = defaultdict(list)
        """The messages of each kernel, in the order in which they were handled."""
        self.ends: list[_Case] = []
        """Those of all kernels, in the order in which their handling has ended."""
        self._loose: Counter[str] = Counter()
        self._launches: Counter[str] = Counter()
        for entry in log:
            self._add(entry)
        handled = sorted(self.orders)
        if kernels is not None and (unknown := [kernel_id for kernel_id in kernels if kernel_id not in handled]):
            raise RecordingError(
                f"{str(path)!r} holds no message that {' or '.join(map(repr, unknown))} has handled "
                f"(those that have handled some: {', '.join(map(repr, handled)) or 'none'})"
            )
        self.kernel_ids = handled if kernels is None else sorted(set(kernels))
        self.feed: list[_Case] = []
        """What is to be sent: all that came from outside of these kernels."""
        self.by_cause: defaultdict[tuple[int | str, str], deque[_Case]] = defaultdict(deque)
        """What will come of itself: by the number of what caused it, or else by who sent it; and to whom."""
        self._without_content: Counter[str] = Counter()
        self._arrange()

    def _add(self, entry: Any) -> None:
        match entry:
            case RecordedMessage():
                self.cases[entry.number] = _Case(entry, len(self.ends))
                self._mention(entry.cause)
            case RecordedReply():
                self._mention(entry.handling)
                case = self.cases.get((entry.handling if entry.answers is None else entry.answers) or 0)
                if case is None:
                    self._loose[entry.kernel_id] += 1
                else:
                    case.recorded.append(entry)
            case RecordedEnd():
                if (case := self._mention(entry.number)) is not None:
                    case.ended = True
                    self.ends.append(case)
            case RecordedFailure():
                if (case := self._mention(entry.number)) is not None:
                    case.failures.append(entry.error)
                    self.ends.append(case)
            case RecordedKernel():
                self._launches[entry.kernel_id] += 1

    def _mention(self, number: int | None) -> _Case | None:
        """It was in hand by now."""
        case = self.cases.get(number or 0)
        if case is not None and case.place < 0:
            order = self.orders[case.entry.kernel_id]
            case.place = len(order)
            order.append(case)
        return case

    def _arrange(self) -> None:
        ids = frozenset(self.kernel_ids)
        for number in sorted(self.cases):  # what caused a message has a smaller number
            case = self.cases[number]
            entry = case.entry
            if entry.kernel_id not in ids:
                continue
            cause = self.cases.get(entry.cause or 0)
            if entry.source in ids and (entry.cause is None or (cause is not None and cause.is_replayed)):
                self.by_cause[entry.cause or str(entry.source), entry.kernel_id].append(case)
                case.is_replayed = case.is_handled
            elif isinstance(entry.content, str):
                self._without_content[entry.content] += 1
            elif case.is_handled:
                case.is_replayed = case.is_fed = True
                self.feed.append(case)
            if case.is_replayed:
                case.message = None if isinstance(entry.content, str) else entry.message
                case.replies = [
                    (one.content if isinstance(one.content, str) else one.message, one.answers is not None)
                    for one in case.recorded
                ]
        for kernel_id in self.kernel_ids:
            latest = 0
            for case in self.orders[kernel_id]:
                latest = case.due = max(latest, case.entry.time)
        self.feed.sort(key=lambda case: (case.due, case.place))

    @property
    def notes(self) -> list[str]:
        """What a replay leaves out, and why differences may be expected."""
        notes = [] if self.log.damage is None else [f"the recording is torn {self.log.damage}"]
        for name, n in self._without_content.items():
            notes.append(f"{n:,} of {name} left out: it has no encoding, put @message on the class")
        ids = frozenset(self.kernel_ids)
        if n := sum(case.entry.kernel_id in ids and not case.is_handled for case in self.cases.values()):
            notes.append(f"{counted(n, 'message')} left out that no kernel had handled when the recording ended")
        if n := sum(self._loose[kernel_id] for kernel_id in ids):
            notes.append(f"{counted(n, 'reply')} not compared, of no message in the recording")
        for kernel_id in self.kernel_ids:
            recorded = self.log.kernels.get(kernel_id)
            if recorded is not None and recorded.handled:
                notes.append(
                    f"{kernel_id!r} had handled {counted(recorded.handled, 'message')} before it was recorded, and may "
                    f"have had another state than now"
                )
            if self._launches[kernel_id] > 1:
                notes.append(f"{kernel_id!r} was launched again while it was recorded, and is not while it is replayed")
        return notes


# -- what happens now --------------------------------------------------------------------------------------------------


class _Watch(Observer):
    """Finds what was recorded in what happens now, and notes what differs."""

    def __init__(self, runtime: RingKernelRuntime, plan: _Plan, ignore: Collection[str]) -> None:
        self.kernels = frozenset(plan.kernel_ids)
        self._runtime, self._plan = runtime, plan
        self._left_out = frozenset(("message_id", "correlation_id", *ignore))
        self.events = 0
        self.compared = 0
        self.extra: list[Difference] = []
        self.feeding: _Case | None = None
        """What is being sent."""
        self.cases: dict[int, _Case] = {}
        """By the number of the delivery of now."""
        self.queues: dict[str, dict[int, int]] = {kernel_id: {} for kernel_id in plan.kernel_ids}
        """The priorities of what is queued, by the numbers of deliveries."""
        self.turns: dict[str, _Turns] = {}
        self._unread: Counter[str] = Counter()  # replies that should be in the outboxes unless somebody takes them
        self._waiting: asyncio.Future[None] | None = None

    def _happened(self) -> None:
        self.events += 1
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def next_event(self) -> asyncio.Future[None]:
        """Done when anything has happened."""
        self._waiting = asyncio.get_running_loop().create_future()
        return self._waiting

    # -- messages ------------------------------------------------------------------------------------------------------

    def sent(self, delivery: Delivery) -> None:
        if self.feeding is not None:
            self.cases[delivery.number], self.feeding = self.feeding, None

    def queued(self, delivery: Delivery) -> None:
        self._happened()
        priority = getattr(delivery.message, "priority", None)
        self.queues[delivery.kernel_id][delivery.number] = DEFAULT_PRIORITY if priority is None else priority
        case = self.cases.get(delivery.number) or self._recognized(delivery)
        if case is not None:
            self.cases[delivery.number] = case
            case.arrived = True
            if (turns := self.turns.get(delivery.kernel_id)) is not None:
                turns.arrived()

    def _recognized(self, delivery: Delivery) -> _Case | None:
        """The recorded message that one is which came of itself; None: nothing that is replayed has caused it."""
        kernel_id, cause = delivery.kernel_id, delivery.cause
        if cause is None:
            source = delivery.source
            came = self._plan.by_cause.get((source, kernel_id)) if source is not None else None
            return came.popleft() if came else None
        origin = self.cases.get(cause.number)
        if origin is None:
            return None
        if came := self._plan.by_cause.get((origin.entry.number, kernel_id)):
            return came.popleft()
        if origin.is_whole:
            text = f"{cause.kernel_id!r} has sent it, and did not when recorded"
            self.extra.append(Difference(kernel_id, "extra message", delivery.message, None, delivery.message, text))
        return None

    def started(self, delivery: Delivery) -> None:
        self._happened()
        self.queues[delivery.kernel_id].pop(delivery.number, None)
        if (case := self.cases.get(delivery.number)) is not None:
            case.started = True

    def ended(self, delivery: Delivery) -> None:
        self._happened()
        if (case := self.cases.get(delivery.number)) is not None:
            case.is_over = True

    def lost(self, kernel_id: str, message: Any, kind: str, reason: str, delivery: Delivery | None) -> None:
        self._happened()
        if delivery is not None:
            self.queues[kernel_id].pop(delivery.number, None)
            case = self.cases.get(delivery.number)
            if case is not None and kind != "failed":
                case.refused = reason

    def failed(self, kernel_id: str, error: BaseException, delivery: Delivery | None) -> None:
        self._happened()
        case = None if delivery is None else self.cases.get(delivery.number)
        if case is not None:
            case.failures_now.append(error)
            case.is_over = True

    # -- replies -------------------------------------------------------------------------------------------------------

    def replied(self, delivery: Delivery | None, kernel_id: str, reply: Any, answers: Delivery | None) -> None:
        self._happened()
        key = answers or delivery
        if answers is None and delivery is not None and delivery.number in self.cases:
            self._unread[kernel_id] += 1
            kernel = self._runtime._kernels[kernel_id]
            if len(kernel._out) + 1 >= kernel._out.capacity:
                asyncio.get_running_loop().call_soon(self.take_replies, kernel)
        case = None if key is None else self.cases.get(key.number)
        if case is None or not case.is_replayed:
            return
        place, case.replies_now = case.replies_now, case.replies_now + 1
        if place >= len(case.replies):
            if case.is_whole:
                case.add("extra reply", f"{_shown(reply)} was not recorded", None, reply)
            return
        self.compared += 1
        expected, answered = case.replies[place]
        if unlike := _unlike(expected, reply, self._left_out):
            case.add("reply", unlike, expected, reply)
        elif answered is not (answers is not None):
            ways = ("to the outbox", "to the ask")
            case.add("reply", f"went {ways[not answered]}, recorded was {ways[answered]}", expected, reply)

    def take_replies(self, kernel: RingKernel) -> None:
        """Take the replies of now out of its outbox, which would hold it up, unless somebody else reads them."""
        out, kernel_id = kernel._out, kernel.id
        if kernel._link is not None or not self._unread[kernel_id]:
            return
        entries = []
        while (entry := out.pull()) is not None:
            entries.append(entry)
        others = [one for one in entries if not self._is_ours(one)]
        if len(entries) - len(others) == self._unread[kernel_id]:
            self._unread[kernel_id] = 0
            entries = others
        for entry in reversed(entries):
            out.put_back(entry)
        kernel._marker = None

    def _is_ours(self, entry: Any) -> bool:
        return type(entry) is Delivery and entry.cause is not None and entry.cause.number in self.cases


class _Turns:
    """Lets a kernel handle messages in the recorded order, although other kernels send it some of them.

    One that has come too early stays in the mailbox until that has come whose turn it is, and which then goes ahead.
    """

    def __init__(self, kernel: RingKernel, order: list[_Case], cases: dict[int, _Case]) -> None:
        self._kernel, self._order, self._cases = kernel, order, cases
        self._place = 0
        self._is_due = False  # the loop will come to `_bring_forward`
        self.holds = False
        """Whether one waits that has come too early."""
        if kernel._box.stops_before is None:  # else the user has set a breakpoint
            kernel._box.stop_before(self._stops_before)

    def end(self) -> None:
        if self._kernel._box.stops_before == self._stops_before:
            self._kernel._box.stop_before(None)
            self._go_on()

    def _turn(self) -> _Case | None:
        """The first that has not started; None: all have."""
        order = self._order
        while self._place < len(order):
            case = order[self._place]
            if case.is_awaited and not (case.started or case.skipped):
                return case
            self._place += 1
        return None

    @property
    def is_stuck(self) -> bool:
        """Whether one waits, and that whose turn it is has not come."""
        turn = self._turn()
        return self.holds and turn is not None and not turn.arrived

    def _stops_before(self, entry: Any) -> bool:
        case = self._cases.get(entry.number) if type(entry) is Delivery else None
        turn = self._turn()
        free = case is None or case is turn or case.started or case.skipped or not case.is_awaited
        self.holds = not (free or turn is None)
        if self.holds and turn is not None and turn.arrived:
            self.arrived()
        return self.holds

    def arrived(self) -> None:
        """A message has come."""
        if self.holds and not self.is_stuck and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._bring_forward)

    def _bring_forward(self) -> None:
        """Put that whose turn it is in front of those that came too early."""
        self._is_due = False
        box, turn = self._kernel._box, self._turn()
        if not self.holds or self.is_stuck:
            return
        for i, (entry, priority) in enumerate(box.entries()):
            if i and type(entry) is Delivery and self._cases.get(entry.number) is turn:
                box.remove(i)
                box.insert(0, entry, priority)
                break
        self._go_on()

    def skip(self) -> bool:
        """Wait no longer for that whose turn it is. False: nobody waits for it."""
        turn = self._turn()
        if turn is None or not self.is_stuck:
            return False
        turn.skipped = True
        self._go_on()
        return True

    def _go_on(self) -> None:
        self.holds = False
        kernel, box = self._kernel, self._kernel._box
        if isinstance(kernel, CompiledKernel):
            kernel._box.pump()
        elif box.getter is not None and len(box):
            box.wake()


async def replay(
    runtime: RingKernelRuntime,
    path: str | PathLike[str],
    speed: Any,
    kernels: Iterable[str] | None,
    ignore: Iterable[str],
    timeout: float | None,
) -> Replay:
    """`RingKernelRuntime.replay`, on the runtime's loop."""
    checked_timeout(timeout)
    if speed is not None and not (isinstance(speed, (int, float)) and 0 < speed < math.inf):
        raise ValueError(f"speed must be a number above 0, or None for as fast as can be, not {speed!r}")
    names = [[one] if isinstance(one, str) else list(one) for one in (kernels or (), ignore)]
    plan = await asyncio.to_thread(_Plan, path, names[0] if kernels is not None else None)
    return await _Player(runtime, plan, names[1], speed, timeout).play()


class _Player:
    """Sends what was recorded, and waits for what comes of it."""

    def __init__(
        self,
        runtime: RingKernelRuntime,
        plan: _Plan,
        ignore: Collection[str],
        speed: float | None,
        timeout: float | None,
    ) -> None:
        self._runtime, self._plan, self._speed, self._timeout = runtime, plan, speed, timeout
        self._watch = _Watch(runtime, plan, ignore)
        self._asks: list[Wait] = []
        self._sent = 0
        self._come = Counter[str]()  # how many messages of a kernel have come, in their order without a gap
        self._past = 0  # how many of all kernels have been handled, in their order without a gap
        if missing := [kernel_id for kernel_id in plan.kernel_ids if kernel_id not in runtime._kernels]:
            raise KernelNotFoundError(
                f"{str(plan.log.path)!r} was recorded of ring kernels that are not launched here: "
                f"{', '.join(map(repr, missing))}; launch and activate them first, or name those to be replayed with "
                f"kernels="
            )
        for kernel_id in plan.kernel_ids:
            if (kernel := runtime._kernels[kernel_id]).state is not KernelState.ACTIVE:
                raise KernelStateError(f"{kernel_id!r} is {kernel.state}: a replay needs it to be ACTIVE")
        self._kernels = [runtime._kernels[kernel_id] for kernel_id in plan.kernel_ids]
        self._late = LATE

    async def play(self) -> Replay:
        runtime, plan, watch = self._runtime, self._plan, self._watch
        loop = asyncio.get_running_loop()
        runtime.observe(watch)
        try:
            if runtime._rewiring:  # connected kernels let the host carry their replies from now on
                await asyncio.wait(set(runtime._rewiring))
            for kernel in self._kernels:
                if any(case.is_awaited and not case.is_fed for case in plan.orders[kernel.id]):
                    watch.turns[kernel.id] = _Turns(kernel, plan.orders[kernel.id], watch.cases)
            begun = loop.time()
            first = plan.feed[0].due if plan.feed else 0
            for n, case in enumerate(plan.feed, 1):
                if self._speed is not None:
                    await asyncio.sleep(begun + (case.due - first) * 1e-9 / self._speed - loop.time())
                elif not n % BATCH:
                    await asyncio.sleep(0)
                await self._send(case)
            await self._wait()
            seconds = loop.time() - begun
            for _ in range(3):  # who waits for replies shall get them first
                await asyncio.sleep(0)
        finally:
            for turns in watch.turns.values():
                turns.end()
            for wait in self._asks:
                wait.cancel()
            for kernel in self._kernels:
                watch.take_replies(kernel)
            runtime.unobserve(watch)
        return Replay(
            plan.log.path, self._differences(), self._sent, watch.compared, seconds, (*plan.notes, *self._notes())
        )

    async def _send(self, case: _Case) -> None:
        """Send a message as soon as it can be the next of its kernel."""
        entry = case.entry
        kernel = self._runtime._kernels[entry.kernel_id]
        if not self._is_next(case, kernel):
            await self._wait(lambda: self._is_next(case, kernel))
            # What has not come by now does not hold up the others too.
            self._come[kernel.id], self._past = max(case.place, self._come[kernel.id]), max(case.after, self._past)
        wait = kernel._scheduler.wait() if entry.is_ask else None
        self._watch.feeding = case
        try:
            instance = None if entry.instance is None else kernel._instance(entry.instance)
            if not isinstance(case.message, kernel._input_types):
                kernel._admit_input(case.message)
            with on_behalf_of(None):
                blocked = kernel._box.put(case.message, wait, instance)
            if blocked is not None:  # those that came too early fill it, or somebody else sends too
                await kernel._box.accepted(blocked, self._timeout)
        except PyDotComputeError as error:
            case.refused = str(error)
        else:
            self._sent += 1
            if wait is not None:
                self._asks.append(wait)
        self._watch.feeding = None

    def _is_next(self, case: _Case, kernel: RingKernel) -> bool:
        """Whether all has happened that came before it, and the kernel would handle it in its place."""
        box, kernel_id = kernel._box, kernel.id
        if box.closed is None and (box.blocked or len(box) >= box.capacity):
            return False
        ends = self._plan.ends
        while self._past < case.after and (ends[self._past].is_over or not ends[self._past].is_awaited):
            self._past += 1
        order, come = self._plan.orders[kernel_id], self._come[kernel_id]
        while come < case.place and (order[come].arrived or not order[come].is_awaited):
            come += 1
        self._come[kernel_id] = come
        queue = self._watch.queues[kernel_id]
        overtakes = kernel_id not in self._watch.turns and queue and min(queue.values()) < case.entry.priority
        return self._past >= case.after and come >= case.place and not overtakes

    async def _wait(self, come: Callable[[], bool] | None = None) -> None:
        """Until this has come, or nothing moves any more that could make it come; None: all that was recorded.

        Raises:
            QueueTimeoutError: nothing happens any more, and yet a kernel is busy.
        """
        quiet = asyncio.ensure_future(self._until_quiet())
        try:
            while come is None or not come():
                before = self._watch.events
                await asyncio.wait(
                    (quiet, self._watch.next_event()), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if not quiet.done():
                    if self._watch.events == before:
                        self._give_up()
                    continue
                quiet.result()
                if come is not None and come():
                    return
                if all(map(self._is_quiet, self._kernels)):  # still
                    if self._late > 0 and (come is not None or self._is_any_missed):
                        await self._wait_for_late()
                    elif not any([turns.skip() for turns in self._watch.turns.values()]):  # noqa: C419 - each of them
                        return
                quiet = asyncio.ensure_future(self._until_quiet())
        finally:
            quiet.cancel()

    @property
    def _is_any_missed(self) -> bool:
        return any(case.is_missed for case in self._plan.cases.values())

    async def _wait_for_late(self) -> None:
        """Give tasks of idle kernels a while to send what they may still send."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.wait((self._watch.next_event(),), timeout=self._late)
        self._late -= loop.time() - begun

    async def _until_quiet(self) -> None:
        """Until all kernels are idle, or wait for a message whose turn it is."""
        while True:
            before = [kernel._processed for kernel in self._kernels]
            if (busy := next((kernel for kernel in self._kernels if not self._is_quiet(kernel)), None)) is not None:
                await busy._change()
            elif before == [kernel._processed for kernel in self._kernels]:
                return
            else:
                await asyncio.sleep(0)

    def _is_quiet(self, kernel: RingKernel) -> bool:
        turns = self._watch.turns.get(kernel.id)
        return kernel._idle or (turns is not None and turns.is_stuck and not kernel.busy)

    def _give_up(self) -> None:
        busy = next((kernel for kernel in self._kernels if not self._is_quiet(kernel)), self._kernels[0])
        raise QueueTimeoutError(
            f"nothing has happened for {self._timeout:g} s, after {self._sent:,} of "
            f"{counted(len(self._plan.feed), 'message')}: "
            f"{busy.id!r} is {busy.outlook}"
        )

    # -- what has come of it -------------------------------------------------------------------------------------------

    def _differences(self) -> tuple[Difference, ...]:
        for case in self._plan.cases.values():
            if case.is_replayed:
                self._judge(case)
        return (*(one for case in self._plan.cases.values() for one in case.differences), *self._watch.extra)

    def _judge(self, case: _Case) -> None:
        if case.refused is not None:
            case.add("refused", case.refused)
        elif not case.arrived:
            cause = self._plan.cases.get(case.entry.cause or 0)
            if cause is not None and cause.arrived and cause.refused is None:
                text = f"{case.entry.source!r} did not send it, and did when recorded"
                case.add("missing message", text, case.message)
        else:
            recorded = case.failures
            if case.is_whole and recorded != [type(error).__qualname__ for error in case.failures_now]:
                now = ", ".join(map(error_text, case.failures_now)) or "no failure"
                error = case.failures_now[-1] if case.failures_now else None
                text = f"{now}, recorded was {', '.join(recorded) or 'none'}"
                failure = Difference(case.entry.kernel_id, "failure", case.message, recorded, error, text)
                case.differences.insert(0, failure)
            for reply, _ in case.replies[case.replies_now :]:
                case.add("missing reply", f"recorded was {_shown(reply)}", reply)

    def _notes(self) -> list[str]:
        own = [case for case in self._plan.cases.values() if case.is_replayed and not (case.is_fed or case.arrived)]
        n = sum(case.entry.cause is None for case in own)
        return [f"{counted(n, 'message')} did not come that kernels had sent with nothing in hand"] if n else []


# -- what differs ------------------------------------------------------------------------------------------------------


def _unlike(expected: Any, got: Any, left_out: Collection[str] = (), where: str = "") -> str:
    """In words where the second differs from the first, by values; empty: nowhere.

    Of messages all fields count but those left out; of arrays shape, dtype and values. NaN is equal to NaN.
    """
    if not where and isinstance(expected, str) and not isinstance(got, str):  # only the name of the class was recorded
        name = type_name(type(got))
        return "" if name == expected else f"{name}, recorded was {expected}"
    prefix = f"{where}: " if where else ""
    if is_dataclass(expected) and not isinstance(expected, type):
        if type_name(type(expected)) != type_name(type(got)):
            return f"{prefix}{type_name(type(got))}, recorded was {type_name(type(expected))}"
        for f in fields(expected):
            if f.name not in left_out:
                inner = f"{where}.{f.name}" if where else f.name
                if unlike := _unlike(getattr(expected, f.name), getattr(got, f.name), left_out, inner):
                    return unlike
        return ""
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        pairs = [(f"[{key!r}]", value, got[key]) for key, value in expected.items()]
    elif isinstance(expected, (list, tuple)) and type(expected) is type(got) and len(expected) == len(got):
        pairs = [(f"[{i}]", a, b) for i, (a, b) in enumerate(zip(expected, got, strict=True))]
    else:
        return "" if _equal(expected, got) else f"{prefix}{_shown(got)}, recorded was {_shown(expected)}"
    return next(filter(None, (_unlike(a, b, left_out, where + key) for key, a, b in pairs)), "")


def _equal(a: Any, b: Any) -> bool:
    try:
        if isinstance(a, (np.ndarray, np.void)) and getattr(b, "dtype", None) != a.dtype:
            return False
        return equal_values(a, b)
    except Exception:  # noqa: BLE001 - of a foreign `__eq__`
        return False
