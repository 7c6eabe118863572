"""The bounded queue of one ring kernel, with exact priorities.

All conditions are folded into two values that the fast paths look at: `room`, how many messages of default priority fit
without further thought, and `ready`, the deque from which one may be taken without further thought. Pause, stop,
other priorities and blocked senders set them so that the general paths are taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from typing import Any, Literal, Protocol, get_args

from ..exceptions import PriorityError, QueueFullError
from ..messages import DEFAULT_PRIORITY
from ..telemetry.observer import Delivery, delivery
from .dead_letters import Kind
from .scheduler import FAILED, Scheduler, Wait, clock

Backpressure = Literal["block", "reject", "drop_oldest", "drop_newest"]
STRATEGIES: tuple[str, ...] = get_args(Backpressure)

Entry = tuple[Any, int, "Wait | None"]
"""A message, `clock()` when it was put (that of a compiled kernel: the instance that it is for), and where its reply
goes. It is a `Delivery` while somebody observes the kernel, and when its handling has failed before."""

NO_ENTRIES: deque[Entry] = deque(maxlen=0)


class Owner(Protocol):
    """What a mailbox needs of its kernel."""

    id: str

    def bury(self, entry: Entry, reason: str, kind: Kind = "unhandled") -> None:
        """Make a dead letter of it."""

    def seen(self, what: str, *args: Any) -> None:
        """Tell those who observe the kernel."""


class Mailbox:
    """At most `capacity` messages; by priority, first in first out inside one priority.

    A sender that finds it full waits in line (`block`), is refused (`reject`), pushes out the oldest message of the
    lowest priority (`drop_oldest`) or drops its own (`drop_newest`).
    """

    __slots__ = (
        "_bits",
        "_blocked",
        "_extra",
        "_has_priority",
        "_levels",
        "_line",
        "_owner",
        "_scheduler",
        "capacity",
        "closed",
        "dropped",
        "getter",
        "halted",
        "observed",
        "paused",
        "peak",
        "plain",
        "ready",
        "retried",
        "room",
        "stepped",
        "steps",
        "stops_before",
        "strategy",
        "tells",
        "unhandled",
    )

    counts_plain = True
    """Whether messages that were not taken are in `plain`, but for other priorities."""

    def __init__(
        self, owner: Owner, scheduler: Scheduler, capacity: int, strategy: str = "block", *, tells: bool = True
    ) -> None:
        self._owner, self._scheduler = owner, scheduler
        self.tells = tells
        """Whether observers of the kernel hear of what comes in here: not of replies, which the body tells of."""
        self.observed = False
        """Whether what comes in becomes a `Delivery`."""
        self.retried = 0
        """Messages in here whose handling has failed before."""
        self.steps = 0
        """How many messages may be taken although it is paused."""
        self.stepped: list[Any] = []
        """Those that were."""
        self.stops_before: Callable[[Entry], bool] | None = None
        """Asked before an entry is handed out; True: it stays, and this has paused the kernel."""
        self.capacity, self.strategy = capacity, strategy
        self.plain: deque[Entry] = deque()
        """Messages of default priority."""
        self._levels: dict[int, deque[Entry]] | None = None
        self._bits = 0  # bit p is set while messages of priority p are queued in _levels
        self._extra = 0  # messages in _levels
        self._blocked: dict[Wait, tuple[Entry, int]] | None = None  # senders in line, in order
        self._line: deque[Wait] | None = None  # receivers behind the first
        self._has_priority = True  # until a message without that attribute comes
        self.getter: Wait | None = None
        self.paused = False
        self.halted = False
        """The body shall leave `receive()`: another one takes its place."""
        self.closed: Callable[[], Exception] | None = None
        """Once intake has stopped: what makes the error that senders get."""
        self.peak = 0
        self.dropped = 0
        """Messages that the strategy dropped, old or new."""
        self.unhandled = 0
        """Messages that were let in and left in another way than by being taken."""
        self.room = capacity
        self.ready = self.plain

    def __len__(self) -> int:
        return len(self.plain) + self._extra

    @property
    def blocked(self) -> int:
        """Senders that wait for room."""
        return len(self._blocked or ())

    @property
    def would_block(self) -> bool:
        """Whether the next sender has to wait."""
        return self.strategy == "block" and not self.closed and (bool(self._blocked) or len(self) >= self.capacity)

    def _tune(self) -> None:
        """Recompute the two values that the fast paths look at."""
        simple = not (self.closed or self._blocked)
        self.room = self.capacity - self._extra if simple and self._has_priority and not self.observed else 0
        watched = self.observed or self.retried or self.stops_before is not None
        self.ready = self.plain if simple and not (self.paused or self.halted or self._extra or watched) else NO_ENTRIES

    # -- in ------------------------------------------------------------------------------------------------------------

    def put(self, msg: Any, sink: Wait | None = None, mark: int | None = None) -> Wait | None:
        """The general way in. None: it is in, or dropped as the strategy says. A `Wait`: await `accepted(wait)`.

        `mark` is the second part of the entry, by default the time.

        Raises:
            PriorityError: its priority is not an integer from 0 to 255.
            QueueFullError: full, and the strategy is `reject`.
        """
        priority = getattr(msg, "priority", None)
        if priority is None:
            priority = DEFAULT_PRIORITY
            if self._has_priority:
                self._has_priority = False
                self._tune()
        else:
            priority = checked_priority(priority, msg)
        return self.put_at(priority, msg, sink, mark)

    def put_at(self, priority: int, msg: Any, sink: Wait | None = None, mark: int | None = None) -> Wait | None:
        """`put` with a priority that is known to be right."""
        if self.closed:
            raise self.closed()
        entry: Entry = (msg, clock() if mark is None else mark, sink)
        if self.observed:
            entry = delivery(entry, self._owner.id)
            if self.tells and (self.strategy != "reject" or len(self) < self.capacity):
                self._owner.seen("sent", entry)
        if self._blocked or len(self) >= self.capacity:
            if self.strategy == "block":
                if self._blocked is None:
                    self._blocked = {}
                wait = self._scheduler.wait()
                self._blocked[wait] = (entry, priority)
                self._tune()
                return wait
            if self.strategy == "reject":
                raise QueueFullError(
                    f"the mailbox of {self._owner.id!r} is full ({self.capacity}): try again later, or define the "
                    f"kernel with a larger queue_size or backpressure='block'"
                )
            self.peak = max(self.peak, len(self))
            queued = [DEFAULT_PRIORITY] * bool(self.plain) + [p for p in self._levels or () if self._bits >> p & 1]
            lowest = min(queued, default=256)  # none: all of them are in the ring of a compiled kernel
            self.dropped += 1
            if self.strategy == "drop_newest" or priority < lowest:
                self._owner.bury(entry, self.strategy, "dropped")
                return None
            self.unhandled += 1
            self._owner.bury(self._take(lowest), self.strategy, "dropped")
        self._insert(entry, priority)
        return None

    async def accepted(self, wait: Wait, timeout: float | None = None) -> None:
        """Wait for room; a sender that gives up leaves the line."""
        try:
            await (wait if timeout is None else self._scheduler.within(wait, timeout))
        finally:
            if wait.state == FAILED and self._blocked and self._blocked.pop(wait, None):
                self._tune()

    def put_many(self, messages: Sequence[Any], start: int) -> int:
        """How many of these were taken, all of default priority, from `start` on and without waiting."""
        n = min(self.room - len(self.plain), len(messages) - start)
        if n <= 0:
            return 0
        part = messages if n == len(messages) else messages[start : start + n]
        self.plain.extend(zip(part, repeat(clock()), repeat(None)))
        if len(self.plain) > self.peak:
            self.peak = len(self.plain)
        if self.getter is not None:
            self.wake()
        return n

    def _insert(self, entry: Entry, priority: int) -> None:
        if priority == DEFAULT_PRIORITY:
            self.plain.append(entry)
        else:
            if self._levels is None:
                self._levels = {}
            self._levels.setdefault(priority, deque()).append(entry)
            self._bits |= 1 << priority
            self._extra += 1
            self._tune()
        if len(self) > self.peak:
            self.peak = len(self)
        if self.observed and self.tells:
            self._owner.seen("queued", entry)
        if self.getter is not None:
            self.wake()

    # -- out -----------------------------------------------------------------------------------------------------------

    def _take(self, priority: int) -> Entry:
        if priority == DEFAULT_PRIORITY:
            entry = self.plain.popleft()
        else:
            assert self._levels is not None
            level = self._levels[priority]
            entry = level.popleft()
            self._extra -= 1
            if not level:
                self._bits ^= 1 << priority
        self._forget(entry)
        return entry

    def _forget(self, entry: Entry) -> None:
        if self.retried and type(entry) is Delivery and entry.attempts:
            self.retried -= 1

    def _level(self, priority: int) -> deque[Entry]:
        """The queue of that priority."""
        if priority == DEFAULT_PRIORITY:
            return self.plain
        assert self._levels is not None
        return self._levels[priority]

    def _top(self) -> int:
        """The highest priority of those that are queued; -1: nothing is."""
        top = self._bits.bit_length() - 1
        return DEFAULT_PRIORITY if self.plain and top < DEFAULT_PRIORITY else top

    def pull(self) -> Entry | None:
        """The general way out: by priority, letting a blocked sender in. None: there is nothing to hand out now."""
        top = self._top()
        if top < 0 or (self.paused and not self.steps):
            return None
        if self.stops_before is not None and not self.steps and self.stops_before(self._level(top)[0]):
            return None
        # The fast ways in count messages of default priority alone; beside others the queue is deepest before one goes.
        self.peak = max(self.peak, len(self))
        entry = self._take(top)
        if self.steps:
            self.steps -= 1
            self.stepped.append(entry[0])
        self._let_in()
        return entry

    def put_back(self, entry: Entry) -> None:
        """Undo a `pull` of a message of default priority, although others may have come meanwhile."""
        self.put_first(entry, DEFAULT_PRIORITY)

    def put_first(self, entry: Entry, priority: int) -> None:
        """Let an entry be the next of its priority, whether there is room or not."""
        if priority == DEFAULT_PRIORITY:
            self.plain.appendleft(entry)
        else:
            if self._levels is None:
                self._levels = {}
            self._levels.setdefault(priority, deque()).appendleft(entry)
            self._bits |= 1 << priority
            self._extra += 1
        if type(entry) is Delivery and entry.attempts:
            self.retried += 1
        self._tune()
        if self.getter is not None:
            self.wake()

    # -- by hand -------------------------------------------------------------------------------------------------------

    def entries(self, most: int | None = None) -> list[tuple[Entry, int]]:
        """What is queued and its priorities, in the order in which it will be handed out; the first `most` of them."""
        priorities = [p for p in range(255, -1, -1) if p == DEFAULT_PRIORITY or self._bits >> p & 1]
        return list(islice(((entry, p) for p in priorities for entry in self._level(p)), most))

    def remove(self, index: int) -> tuple[Entry, int]:
        """Take the entry at a place of that order out; it and its priority."""
        entry, priority = self.entries()[index]
        level = self._level(priority)
        del level[next(i for i, other in enumerate(level) if other is entry)]
        if priority != DEFAULT_PRIORITY:
            self._extra -= 1
            if not level:
                self._bits ^= 1 << priority
        self._forget(entry)
        self._let_in()
        return entry, priority

    def insert(self, index: int, entry: Entry, priority: int) -> None:
        """Put an entry at a place of that order: into the priority of the one that is behind it then, or before it."""
        queued = self.entries()
        if queued:
            priority = queued[min(index, len(queued) - 1)][1]
        self.put_first(entry, priority)
        self.peak = max(self.peak, len(self))
        level = self._level(priority)
        level.popleft()
        if index < len(queued):
            level.insert(next(i for i, other in enumerate(level) if other is queued[index][0]), entry)
        else:
            level.append(entry)

    def _let_in(self) -> None:
        while self._blocked and len(self) < self.capacity:
            wait = next(iter(self._blocked))
            entry, priority = self._blocked.pop(wait)
            if wait.set(None):  # else that sender was cancelled
                self._insert(entry, priority)
        self._tune()

    def wake(self) -> None:
        """Wake the first receiver in line, if messages may be handed out."""
        if not self.paused or self.steps:
            getter, self.getter = self.getter, self._line.popleft() if self._line else None
            if getter is not None:
                getter.set(None)

    def join(self, wait: Wait) -> None:
        """Wait behind other receivers."""
        if self.getter is None:
            self.getter = wait
        else:
            if self._line is None:
                self._line = deque()
            self._line.append(wait)

    def leave(self, wait: Wait) -> None:
        """A receiver gives up: the next one takes its place, and its wake-up if it had one."""
        if self._line and wait in self._line:
            self._line.remove(wait)
        elif self.getter is wait:
            self.getter = self._line.popleft() if self._line else None
        if self.getter is not None and len(self):
            self.wake()

    # -- control -------------------------------------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        self.paused, self.steps = paused, 0
        self._tune()
        if not paused and self.getter is not None and len(self):
            self.wake()

    def halt(self, halted: bool) -> None:
        self.halted = halted
        self._tune()
        if halted and self.getter is not None:
            getter, self.getter = self.getter, None
            getter.set(None)

    def allow(self, steps: int) -> None:
        """Hand out so many messages although it is paused, and list them in `stepped`."""
        self.steps, self.stepped = steps, []
        if self.getter is not None and len(self):
            self.wake()

    def observe(self, observed: bool) -> None:
        """Make a `Delivery` of whatever comes in."""
        self.observed = observed
        self._tune()

    def stop_before(self, stops: Callable[[Entry], bool] | None) -> None:
        """Ask before an entry is handed out; None: no longer."""
        self.stops_before = stops
        self._tune()

    def resize(self, capacity: int, strategy: str) -> None:
        """Another bound and strategy. What is queued beyond a smaller bound stays."""
        self.capacity, self.strategy = capacity, strategy
        self._let_in()

    def close(self, error: Callable[[], Exception]) -> None:
        """Stop intake: from now on senders get what `error` makes. What is queued can still be pulled."""
        self.closed, self.paused = error, False
        blocked, self._blocked = self._blocked, None
        for wait in blocked or ():
            wait.fail(error())
        self._tune()
        while self.getter is not None:
            self.wake()

    def bury_all(self, reason: str) -> None:
        """Make dead letters of all that is queued."""
        self.peak = max(self.peak, len(self))
        while (top := self._top()) >= 0:
            self.unhandled += 1
            self._owner.bury(self._take(top), reason)
        self._let_in()


def checked_priority(priority: Any, msg: Any) -> int:
    """The priority as an int.

    Raises:
        PriorityError: not an integer from 0 to 255.
    """
    if type(priority) is int and 0 <= priority <= 255:
        return priority
    try:
        number = priority.__index__()
    except (AttributeError, TypeError):  # arrays have the method, but only some can use it
        number = -1
    if isinstance(priority, bool) or not 0 <= number <= 255:
        raise PriorityError(f"priority must be an integer from 0 to 255, not {priority!r} (of {type(msg).__name__})")
    return int(number)
