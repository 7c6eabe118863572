"""The two queues of a compiled ring kernel: what is in front of the ring of its executor, and what is behind it.

Messages of default priority go straight into the ring, from any thread, while the **gate** is open: the kernel is
active, and nobody waits in its mailbox. All others wait in the mailbox, by priority, from where the **pump** takes them
into the ring.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import InstanceError, MessageTypeError
from ..messages import DEFAULT_PRIORITY, from_records, layout
from ..telemetry.observer import Delivery, delivery
from .executor import BY_KEY, NOTHING, Event
from .kernel import PATIENCE
from .mailbox import NO_ENTRIES, Entry, Mailbox
from .scheduler import Wait

if TYPE_CHECKING:
    from .compiled import CompiledKernel
    from .step import StepDefinition

BATCH = 256
"""Messages that the pump keeps in the ring at most while others with priorities wait."""
PUMP_AGAIN = 0.001
"""Seconds until it looks again where no event says that there is room."""


class Rest:
    """Records of a batch that the ring had no room for, and the sender that waits until it has."""

    __slots__ = ("after", "instance", "records", "wait")

    def __init__(self, records: NDArray[np.void], instance: int, wait: Wait, after: int) -> None:
        self.records, self.instance, self.wait = records, instance, wait
        self.after = after
        """How many messages of default priority have left the mailbox when those are gone that came before."""


class Intake(Mailbox):
    """The mailbox in front of the ring. Its bound counts what is in the ring too.

    The executor runs while it is neither `paused` nor `halted`: not started yet, or held between two messages.
    """

    __slots__ = (
        "_batch",
        "_executor",
        "_is_open",
        "_is_timed",
        "_kernel",
        "_layout",
        "_passed",
        "_pumping",
        "_rests",
        "_runs",
        "_scratch",
        "_unnamed",
        "_watching",
        "is_held",
    )

    _kernel: CompiledKernel

    def __init__(self, kernel: CompiledKernel, definition: StepDefinition) -> None:
        super().__init__(kernel, kernel._scheduler, definition.queue_size)
        self._kernel, self._executor = kernel, kernel._executor
        self._is_open = self._runs = False
        self.is_held = False
        """The pump waits until replies are taken, or answers come."""
        self._pumping = False  # the pump will come, by the loop or by an event that is armed
        self._is_timed = False  # a timer will have the pump look again
        self._watching = False  # a timer will look whether replies are unread
        self._rests: deque[Rest] = deque()
        self._passed = 0  # messages of default priority that the pump has taken
        self.halted = True
        self.adopt(definition)

    def adopt(self, definition: StepDefinition) -> None:
        self.strategy = definition.backpressure
        self._layout = layout(definition.message_type)
        self._scratch = bytearray(self._layout.dtype.itemsize)
        several = definition.instances > 1 and definition.key is None
        self._unnamed: int | None = None if several else BY_KEY
        # Only what is in the mailbox can be dropped for a newer message.
        fraction = 4 if self.strategy == "drop_oldest" else 1
        self._batch = max(1, min(BATCH, self.capacity // fraction))
        self._tune()

    def __len__(self) -> int:
        return len(self.plain) + self._extra + self._executor.depth

    def addressed(self, instance: int | None) -> int:
        """What the executor calls an instance, or a message that names none."""
        if instance is None:
            instance = self._unnamed
        if instance is None:
            several, name = self._kernel.definition.instances, self._kernel.id
            raise InstanceError(
                f"{name!r} has {several} instances and the message is for one: send it to runtime[{name!r}][0], or "
                f"define the ring kernel with key= and the field of the message that says which"
            )
        return instance

    # -- in ------------------------------------------------------------------------------------------------------------

    def put(self, msg: Any, sink: Wait | None = None, mark: int | None = None) -> Wait | None:
        instance = self.addressed(mark)
        self.check(msg)
        blocked = super().put(msg, sink, instance)
        if blocked is not None:
            self._watch_later()
        return blocked

    def check(self, msg: Any) -> None:
        """Raise `MessageTypeError` here, and not in the pump, for a message that cannot be packed."""
        self._layout.pack_into(self._scratch, 0, msg)

    def _watch_later(self) -> None:
        if not self._watching:
            self._watching = True
            self._scheduler.loop.call_later(PATIENCE, self._watch)

    def _watch(self) -> None:
        self._watching = False
        if self._kernel._out.blocked:
            self._kernel._say_unread()

    def packed(self, messages: Sequence[Any]) -> NDArray[np.void]:
        """The messages as records; raises `MessageTypeError` if one of them holds what its layout cannot."""
        pack, size = self._layout.pack_into, self._layout.dtype.itemsize
        records = np.zeros(len(messages), self._layout.dtype)
        buffer = records.view(np.uint8).data
        for i, message in enumerate(messages):
            pack(buffer, i * size, message)
        return records

    def put_records(self, records: NDArray[np.void], instance: int | None) -> int:
        """How many of them the ring has taken."""
        taken = max(self._executor.put_records(records, self.addressed(instance)), 0)
        self.peak = max(self.peak, len(self))
        return taken

    @property
    def takes_rests(self) -> bool:
        """Whether the pump can put records into the ring as there is room; else they go by the mailbox, as messages."""
        return self._runs and self.strategy == "block" and not (self.closed or self._is_watched)

    async def put_rest(self, records: NDArray[np.void], instance: int | None) -> None:
        """Wait until these records are in the ring."""
        before = len(self.plain) + sum(priority == DEFAULT_PRIORITY for _, priority in (self._blocked or {}).values())
        rest = Rest(records, self.addressed(instance), self._scheduler.wait(), self._passed + before)
        self._rests.append(rest)
        self._tune()
        self._watch_later()
        try:
            await rest.wait
        except asyncio.CancelledError:
            if rest in self._rests:
                self._rests.remove(rest)
                self._tune()
            raise

    @property
    def blocked(self) -> int:
        return super().blocked + len(self._rests)

    def _insert(self, entry: Entry, priority: int) -> None:
        super()._insert(entry, priority)
        self._tune()
        if self.paused and self._kernel._watchers:  # who steps it may wait for a message
            self._kernel._tell_watchers()

    def put_first(self, entry: Entry, priority: int) -> None:
        super().put_first(entry, priority)
        for rest in self._rests:  # they came later
            rest.after += priority == DEFAULT_PRIORITY

    # -- out -----------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Put what waits in the mailbox into the ring, by priority, and let blocked senders in."""
        self._pumping, self.is_held = True, False
        self._let_in()
        left = BATCH
        while left and self._runs and (top := self._top()) >= 0 and self._feed(top):
            self._let_in()
            left -= 1
        if self._runs and not self._extra:
            self._put_rests()
        self._tune()
        self._pumping = self._runs and self._is_waited_in and not self.is_held
        if self._pumping:
            loop = self._scheduler.loop
            if not left:
                loop.call_soon(self.pump)
            elif self._is_exact:  # less is in the ring than it can hold, and yet no more may go there
                if self._executor.depth:  # else it is idle, and would say so again and again
                    self._kernel._arm(Event.IDLE)
                if not self._is_timed:
                    self._is_timed = True
                    loop.call_later(PUMP_AGAIN, self._pump_again)
            elif self._executor.arm(Event.ROOM):
                loop.call_soon(self.pump)
        if self._kernel._watchers:
            self._kernel._watch_idle()

    def _pump_again(self) -> None:
        self._is_timed = False
        self.pump()

    def take_rest_over(self) -> bool:
        """Put the first record that waits for room into the mailbox, for who steps the kernel. False: none waits."""
        if not self._rests:
            return False
        rest = self._rests[0]
        message: Any = from_records(self._kernel.definition.message_type, rest.records[:1])[0]
        rest.records = rest.records[1:]
        if not len(rest.records):
            self._rests.popleft().wait.set(None)
        self._insert((message, rest.instance, None), DEFAULT_PRIORITY)
        return True

    def _put_rests(self) -> None:
        while self._rests:
            rest = self._rests[0]
            if self._passed < rest.after and (self.plain or self._blocked):
                break
            taken = self._executor.feed_records(rest.records, rest.instance)
            rest.records = rest.records[taken:]
            if not len(rest.records):
                self._rests.popleft().wait.set(None)
            elif not taken:
                break

    def _feed(self, priority: int) -> bool:
        """Put the next message of this priority into the ring. False: there is no room."""
        if self._is_exact and self._executor.depth >= (1 if self.stops_before is not None else self._batch):
            return False
        kernel, entry = self._kernel, self._level(priority)[0]
        if self.stops_before is not None and self.stops_before(entry):
            return False
        message, instance, sink = entry
        handled: Delivery | None = None
        if self._is_tracked or (type(entry) is Delivery and entry.attempts):
            # What goes with a ticket comes back to the host, and so do the replies that are to come behind it.
            if sink is None and len(kernel._out) + len(kernel._flying) + self._executor.depth >= kernel._out.capacity:
                self.is_held = True
                if self._executor.depth:  # what is in the ring may send no reply
                    kernel._arm(Event.IDLE)
                return False
            handled = entry if type(entry) is Delivery else delivery(entry, kernel.id)
        ticket = next(kernel._tickets) if sink is not None or handled is not None else 0
        if sink is not None:
            kernel._asks[ticket] = sink
        if handled is not None:
            kernel._flying[ticket] = handled
        try:
            taken = self._executor.feed(message, instance, ticket)
        except MessageTypeError as error:  # it was changed after it was sent
            self._forget_ticket(ticket)
            self.unhandled += 1
            kernel.bury(self._take(priority), str(error), "failed", error)
            if sink is not None:
                sink.fail(error)
            return True
        if not taken:
            self._forget_ticket(ticket)
            return False
        if handled is not None and kernel._observers:
            kernel.seen("started", handled)
        self._take(priority)
        self._passed += priority == DEFAULT_PRIORITY
        if ticket:
            kernel._look_for_answers()
        return True

    def _forget_ticket(self, ticket: int) -> None:
        self._kernel._asks.pop(ticket, None)
        self._kernel._flying.pop(ticket, None)

    def go_on(self) -> None:
        """There may be room for replies again, or nothing in the ring that was observed."""
        if self.is_held or not (self._is_open or self._is_watched):
            self.is_held = False
            self._tune()

    @property
    def _is_watched(self) -> bool:
        """Whether every message goes by the mailbox."""
        return self._is_tracked or self.stops_before is not None

    @property
    def _is_tracked(self) -> bool:
        """Whether what goes into the ring comes back to the host: until all replies that did are taken, too."""
        return self.observed or bool(self._kernel._flying or self._kernel._out.plain)

    @property
    def _is_exact(self) -> bool:
        """Whether the ring holds one batch at most."""
        return self._extra > 0 or self.strategy == "drop_oldest" or self.stops_before is not None

    # -- control -------------------------------------------------------------------------------------------------------

    @property
    def _is_waited_in(self) -> bool:
        return bool(self.plain or self._extra or self._blocked or self._rests)

    def close(self, error: Callable[[], Exception]) -> None:
        super().close(error)
        while self._rests:
            self._rests.popleft().wait.fail(error())
        self._tune()

    def _tune(self) -> None:
        # No message is put into or taken from a compiled kernel's mailbox in the fast ways of others.
        self.room, self.ready = 0, NO_ENTRIES
        runs, waited_in = not (self.paused or self.halted), self._is_waited_in
        is_open = runs and not (waited_in or self.closed or self._is_watched) and self.strategy != "drop_oldest"
        if is_open is not self._is_open:
            self._is_open = is_open
            self._executor.open_gate(is_open)
        if runs is not self._runs:
            self._runs = runs
            if runs:
                self._executor.run()
            else:
                self._executor.pause()
        if waited_in and runs and not self._pumping and not self.is_held:
            self._pumping = True
            self._scheduler.loop.call_soon(self.pump)


class Outbox(Mailbox):
    """Replies that belong to no ask: those that were taken out of the executor, and then those that are in it still."""

    __slots__ = ("_executor", "_kernel", "_takes_all")

    def __init__(self, kernel: CompiledKernel, definition: StepDefinition) -> None:
        super().__init__(kernel, kernel._scheduler, definition.queue_size, tells=False)
        self._kernel, self._executor = kernel, kernel._executor
        self._takes_all = False  # the runtime closes: nobody reads replies any more

    def __len__(self) -> int:
        return len(self.plain) + self._executor.unread

    @property
    def blocked(self) -> int:
        return int(self._executor.unread >= self.capacity and self._executor.depth > 0)

    def pull(self) -> Entry | None:
        entry = super().pull()
        if self._kernel._box.is_held or not self.plain:
            self._kernel._box.go_on()
        if entry is None and (reply := self._executor.take()) is not NOTHING:
            return (reply, 0, None)
        return entry

    def pull_records(self, max_n: int) -> NDArray[np.void] | None:
        """Up to that many, if they are in the executor."""
        return self._executor.take_records(max_n) if self._executor.unread and not self.plain else None

    def join(self, wait: Wait) -> None:
        super().join(wait)
        self._kernel._arm(Event.REPLY)

    def resize(self, capacity: int, strategy: str) -> None:
        self.capacity, self._takes_all = capacity, True
        self._kernel._arm(Event.REPLY)

    def come(self) -> None:
        """There are replies."""
        if self._takes_all:
            self.take_all()
        for _ in range(len(self)):
            if self.getter is None:
                break
            self.wake()
        if self._takes_all or self.getter is not None:
            self._kernel._arm(Event.REPLY)

    def come_by_ticket(self, entry: Entry) -> None:
        """A reply that came under a ticket. There is room: the pump has seen to that."""
        self.plain.append(entry)
        self.come()

    def take_all(self) -> None:
        """Make room in the executor."""
        while (reply := self._executor.take()) is not NOTHING:
            self.plain.append((reply, 0, None))
