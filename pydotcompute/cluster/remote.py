"""A ring kernel on another node, as the runtime of the notebook has it.

Its mailbox, its outbox and its policy are here, and the bound of its queue counts what is on the way as well: a full
one blocks who sends, as ever. The body is a **shuttle**, which brings messages to the host in order and takes them off
the books when that is done with them. It ends as the body there does, and with `NodeLostError` when the node is gone:
then the policy decides, as about any failure, and a new shuttle begins on another node.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from itertools import repeat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DefinitionError, InstanceError, KernelStateError, MessageDecodeError, NodeLostError
from ..messages import DEFAULT_PRIORITY, from_record, from_records, layout
from ..runtime.kernel import CODES, RingKernel, RingKernelDefinition
from ..runtime.lifecycle import KernelState
from ..runtime.mailbox import Entry, Mailbox
from ..runtime.scheduler import AWAITED, Wait
from ..runtime.step import StepDefinition
from ..telemetry import COUNTERS
from ..telemetry.observer import Delivery
from . import wire

if TYPE_CHECKING:
    from .driver import Cluster, Link, Placement

PART = 512
"""Messages that are encoded before the event loop has its turn, so that they are on their way meanwhile."""
GRACE = 2.0
"""Seconds that a host has to say that a kernel has ended, after the kernel's own time for that."""


ADDED = ("processed", "replied", "errors", "retried", "busy_ns", "waited", "handled")
"""Counters of a host that add to those of the hosts before it."""

Mark = bytes | tuple[bytes, int]
"""The second part of the entries in a mailbox whose kernel is elsewhere: the encoded message, and the instance that it
names. Not a class of its own: the garbage collector would look at each of them again and again."""


class Box(Mailbox):
    """The mailbox of a ring kernel on another node. What is on the way counts; what has no encoding is refused here."""

    __slots__ = ("_kernel",)

    counts_plain = False

    def __init__(self, kernel: RemoteKernel, definition: RingKernelDefinition) -> None:
        self._kernel = kernel
        super().__init__(kernel, kernel._scheduler, definition.queue_size, definition.backpressure)
        self._tune()

    def __len__(self) -> int:
        return len(self.plain) + self._extra + self._kernel.flying + self._kernel.returned

    @property
    def waiting(self) -> int:
        """Messages that are still here."""
        return len(self.plain) + self._extra

    def _tune(self) -> None:
        super()._tune()
        self.room = 0  # all are to be encoded

    def put(self, msg: Any, sink: Wait | None = None, mark: Any = None) -> Wait | None:
        return super().put(msg, sink, self._kernel.marked(msg, mark))  # type: ignore[arg-type]

    def put_many(self, messages: Sequence[Any], start: int) -> int:
        if self.closed or self.blocked or self.observed:
            return 0
        n = min(self.capacity - len(self), len(messages) - start, PART)
        if n <= 0:
            return 0
        part = messages[start : start + n]
        self._kernel.check_named(None)
        marks: list[Any] = wire.all_encoded(part)
        if not self.waiting and self._kernel.ship_at_once(part, marks):
            return n
        self.plain.extend(zip(part, marks, repeat(None)))
        self.peak = max(self.peak, len(self))
        if self.getter is not None:
            self.wake()
        return n

    def take(self, most: int) -> list[Entry]:
        """The next ones; they go on the way, where they still count, so that nobody is let in for them."""
        entries: list[Entry] = []
        if self.paused:
            most = min(most, self.steps)
        plain, simple = self.plain, not (self._extra or self.retried) and self.stops_before is None
        while len(entries) < most and (top := self._top()) >= 0:
            if simple:
                entries = [plain.popleft() for _ in range(min(most, len(plain)))]
                break
            if self.stops_before is not None and self.stops_before(self._level(top)[0]):
                break
            entries.append(self._take(top))
        self.steps = max(self.steps - len(entries), 0)
        self._kernel.flying += len(entries)
        self._tune()
        return entries

    def pause(self, paused: bool) -> None:
        was, _ = self.paused, super().pause(paused)
        if was and not paused:
            self._kernel.pause_ends()

    def let_in(self) -> None:
        """Some have been handled."""
        self._let_in()


class Shipped(NamedTuple):
    """What is on the way: entries of the mailbox; or messages and their bytes; or records."""

    things: Sequence[Any]
    blobs: list[bytes] | None = None
    records: NDArray[np.void] | None = None
    instance: int | None = None

    def __len__(self) -> int:
        return len(self.things) if self.records is None else len(self.records)

    def after(self, n: int) -> Shipped:
        """All but the first so many."""
        blobs = None if self.blobs is None else self.blobs[n:]
        return Shipped(self.things[n:], blobs, None if self.records is None else self.records[n:], self.instance)

    @property
    def entries(self) -> Sequence[Entry]:
        """Those of the mailbox; records have none."""
        if self.blobs is None:
            return self.things
        return [(message, blob, None) for message, blob in zip(self.things, self.blobs, strict=True)]  # type: ignore[misc]


class Rest:
    """Records of a batch that wait for room, and their sender."""

    __slots__ = ("instance", "records", "wait")

    def __init__(self, records: NDArray[np.void], instance: int | None, wait: Wait | None) -> None:
        self.records, self.instance, self.wait = records, instance, wait


class RemoteKernel(RingKernel):
    """The handle to a ring kernel on another node."""

    __slots__ = (
        "_again",
        "_asks",
        "_cluster",
        "_done",
        "_done_before",
        "_fate",
        "_has_ended_there",
        "_host_row",
        "_limit_of_end",
        "_link_there",
        "_moved",
        "_number",
        "_page",
        "_received",
        "_renews",
        "_resent",
        "_rests",
        "_rows_before",
        "_said",
        "_sent_before",
        "_sent_from_there",
        "_ship_number",
        "_started",
        "_traced",
        "flying",
        "placement",
        "returned",
    )

    _box: Box

    def __init__(
        self, runtime: Any, definition: RingKernelDefinition, kernel_id: str, cluster: Cluster, placement: Placement
    ) -> None:
        self.flying = 0
        """Messages that the host has, or that are on the way there."""
        self.returned = 0
        """Records that a host had that is lost, and that will be sent again."""
        super().__init__(runtime, definition, kernel_id)
        self._cluster, self.placement = cluster, placement
        self._box = Box(self, definition)
        self._page: deque[tuple[int, Shipped]] = deque()  # what is on the way, with the number of its first message
        self._asks: dict[int, Wait] = {}  # by the number of the message
        self._traced: dict[int, Delivery] = {}  # asks that observers were told of
        self._rests: deque[Rest] = deque()
        self._again: deque[Rest] = deque()  # records to be sent once more
        self._resent: list[Wait] = []  # asks of messages that are to be sent once more
        self._number = 0  # of this kernel on its host
        self._link_there: Link | None = None
        self._done = self._done_before = 0  # messages that its host is done with; and the hosts before
        self._host_row: bytes | None = None
        self._rows_before: NDArray[np.void] | None = None  # the counters of hosts that it ran on before
        self._sent_from_there: dict[str, int] = {}
        self._sent_before: Counter[str] = Counter()  # from those hosts
        self._renews: bool | None = None  # it is to begin again, which came while it was being launched
        self._begin_anew()
        self._limit_of_end: tuple[bool, float] | None = None
        self._said = ""  # what it waits for there

    def _begin_anew(self) -> None:
        self._ship_number = 1  # of the next message that is sent
        self._done_before += self._done
        self._done = self._received = 0
        self._started = False
        self._moved: Wait | None = None
        self._fate: tuple[BaseException | None, str] | None = None  # how it ended
        self._has_ended_there = False
        if self._host_row is not None:
            row = np.frombuffer(self._host_row, COUNTERS)
            if self._rows_before is not None:
                row = _summed(row, self._rows_before)
            self._rows_before, self._host_row = row, None
            self._sent_before.update(self._sent_from_there)
            self._sent_from_there = {}

    # -- what a user asks of it ----------------------------------------------------------------------------------------

    @property
    def node(self) -> str | None:
        return self._link_there.node.name if self._link_there is not None else None

    def _where(self) -> dict[str, Any]:
        where = self.placement
        named = where.node is not None and self._cluster.nodes[where.node].state == "alive"
        return {
            "node": where.node if named else None,
            "num_gpus": where.num_gpus,
            "spread": not (named or where.num_gpus),
            "delivery": where.delivery,
        }

    @property
    def waiting_for(self) -> str:
        return super().waiting_for or self._said

    def _instance(self, instance: Any) -> int:
        if not isinstance(self.definition, StepDefinition):
            return super()._instance(instance)
        n = self.definition.instances
        if not isinstance(instance, int) or isinstance(instance, bool) or not 0 <= instance < n:
            raise InstanceError(f"{self.id!r} has the instances 0 to {n - 1}, and none {instance!r}")
        return instance

    def _injected(self, message: Any) -> Entry:
        return (message, self.marked(message, None), None)  # type: ignore[return-value]

    def marked(self, message: Any, instance: int | None) -> Mark:
        """What the mailbox keeps beside a message.

        Raises:
            MessageEncodeError: it has no encoding.
            InstanceError: it has to say for which instance it is.
        """
        self.check_named(instance)
        blob = wire.encoded(message)
        return blob if instance is None else (blob, instance)

    def check_named(self, instance: int | None) -> None:
        """Raise `InstanceError` for a message that has to say for which instance it is, and does not."""
        definition = self.definition
        if instance is not None or not isinstance(definition, StepDefinition):
            return
        if definition.instances > 1 and definition.key is None:
            raise InstanceError(
                f"{self.id!r} has {definition.instances} instances and the message is for one: send it to "
                f"runtime[{self.id!r}][0], or define the ring kernel with key= and the field of the message that says "
                "which"
            )

    def _instance_of(self, mark: Any) -> int | None:
        return mark[1] if isinstance(mark, tuple) else None

    def _age(self, entry: Entry, now: int) -> float | None:
        return None

    def _handed_over(self) -> dict[str, int]:
        return dict(self._sent_before + Counter(self._sent_from_there))

    async def _snapshot(self, instance: int | None) -> Any:
        kind, *rest = await self._call("snapshot", wire.encoded(instance))
        if kind == "fields":
            return SimpleNamespace(**wire.decoded(rest[0]))
        if kind == "value":
            return wire.decoded(rest[0])
        several, data = rest
        definition = self.definition
        assert isinstance(definition, StepDefinition)
        assert definition.state_type is not None
        states = np.frombuffer(data, layout(definition.state_type).dtype).copy()
        return states if several else from_record(definition.state_type, states[0])

    async def _call(self, verb: str, arguments: bytes) -> Any:
        """Have the host do something with it, once it is there."""
        while not (self._started or self.state.over or self._task is None):
            await self._move_or_idle()
        if self.state.over:
            raise self._unusable()
        if self.state is KernelState.LAUNCHED:
            raise KernelStateError(f"{self.id!r} is LAUNCHED and runs nowhere yet: activate it first")
        link = self._link_there
        if link is None or not self._started:
            raise NodeLostError(f"{self.id!r} runs nowhere just now: {self.outlook}")
        return await link.call(self._number, verb, arguments)

    # -- the shuttle ---------------------------------------------------------------------------------------------------

    def _body(self) -> Coroutine[Any, Any, Any]:
        return self._shuttle()

    async def _shuttle(self) -> None:
        self._begin_anew()
        self._link_there = link = await self._cluster.place(self)
        try:
            paused, definition = self._box.paused, self.definition
            self._number = await link.launch(self, paused)
            self._started = True
            self._resent = [sink for sink in self._resent if sink.state <= AWAITED]
            self._tell_watchers()
            if paused != self._box.paused:
                link.start_call(self._number, "deactivate" if self._box.paused else "reactivate", b"")
            if self.definition is not definition:
                link.replace(self)
            renews, self._renews = self._renews, None
            if renews is not None:
                self._renew(renews)
            while self._fate is None and link.lost is None:
                if self._box.closed and not (self._box.waiting or self._rests or self._again):
                    await self._end_there(link)
                    break
                if not self._ship(link):
                    await self._until_moved()
                else:
                    await asyncio.sleep(0)
            if link.lost is not None:
                raise self._told_lost(link)
            assert self._fate is not None
            self.exception, gave_up = self._fate
            if self._has_ended_there:
                self._gave_up = f"{gave_up} on {link.node.name}" if gave_up else ""
                self._errors -= self.exception is not None  # it was counted there
        finally:
            link.forget(self)
            self._renews = None
            self._started = False
            self._link_there = None
            self._settle(link)

    async def _end_there(self, link: Link) -> None:
        """End it on its host, once all was sent there."""
        drain, timeout = self._limit_of_end or (True, 5.0)
        link.start_call(self._number, "terminate", wire.encoded((drain, timeout)))
        while self._fate is None and link.lost is None:
            await self._until_moved()

    def _told_lost(self, link: Link) -> NodeLostError:
        names = COUNTERS.names
        assert names is not None
        depth = 0 if self._host_row is None else np.frombuffer(self._host_row, np.int64)[names.index("queue_depth")]
        # Those that kernels beside it have sent are known by number only, and of a moment ago.
        beside = f", and about {depth - self.flying} of kernels beside it" if depth > self.flying else ""
        return NodeLostError(f"{link.lost}, and {self.id!r} with it ({self.flying} messages were there{beside})")

    async def _until_moved(self) -> None:
        self._moved = wait = self._scheduler.wait()
        if not self._box.closed:
            self._box.getter = wait
        if self._watchers and not len(self._box):
            self._tell_watchers()
        try:
            await wait
        finally:
            if self._box.getter is wait:
                self._box.getter = None
            self._moved = None

    def go_on(self) -> None:
        """Something has changed that the shuttle may wait for."""
        if self._moved is not None:
            self._moved.set(None)

    @property
    def _window(self) -> int:
        """How many messages may be on the way."""
        box = self._box
        # What is to be dropped for a newer one has to be here.
        return box.capacity if box.strategy in ("block", "reject") else max(1, box.capacity // 4)

    def _ship(self, link: Link) -> int:
        """Send what there is room for; how many."""
        box, room = self._box, min(self._window - self.flying, wire.FRAME)
        if room <= 0 or (box.paused and not (box.closed or box.steps)):
            return 0
        if self._again:
            return self._ship_records(link, self._again, room)
        if entries := box.take(room):
            first = self._ship_number
            for kind in {type(entry[0]) for entry in entries}:
                link.teach(kind)
            asked: list[int] = []
            for place, (_, _, sink) in enumerate(entries):
                if sink is not None:  # although its asker may have gone: the reply shall not come to somebody else
                    asked.append(place)
                    self._asks[first + place] = sink
            if self._observers:
                self._tell_started(first, entries)
            marks: list[Any] = [entry[1] for entry in entries]
            instances: list[Any] | None = None
            if not all(type(mark) is bytes for mark in marks):
                instances = [None if type(mark) is bytes else mark[1] for mark in marks]
                marks = [mark if type(mark) is bytes else mark[0] for mark in marks]
            link.say("messages", self._number, first, marks, asked, instances)
            self._page.append((first, Shipped(entries)))
            self._ship_number += len(entries)
            return len(entries)
        return self._ship_records(link, self._rests, room) if self._rests and not box.paused else 0

    def ship_at_once(self, messages: Sequence[Any], blobs: list[bytes]) -> bool:
        """Send messages past the empty mailbox, with no entry made for each of them. False: they have to wait there."""
        link, box = self._link_there, self._box
        if link is None or not self._started or box.paused or box.stops_before or self._again or self._rests:
            return False
        if self._window - self.flying < len(messages):
            return False
        link.teach(*set(map(type, messages)))
        link.say("messages", self._number, self._ship_number, blobs, [], None)
        # The link may put a large one beside its frame, and a number in its place.
        self._page.append((self._ship_number, Shipped(messages, list(blobs))))
        self._ship_number += len(messages)
        self.flying += len(messages)
        box.peak = max(box.peak, len(box))
        return True

    def _ship_records(self, link: Link, rests: deque[Rest], room: int) -> int:
        rest = rests[0]
        part, rest.records = rest.records[:room], rest.records[room:]
        link.say("records", self._number, self._ship_number, len(part), part.tobytes(), _address(rest.instance))
        self._page.append((self._ship_number, Shipped((), None, part, rest.instance)))
        self._ship_number += len(part)
        self.flying += len(part)
        if rests is self._again:
            self.returned -= len(part)
        self._box.peak = max(self._box.peak, len(self._box))
        if not len(rest.records):
            rests.popleft()
            if rest.wait is not None:
                rest.wait.set(None)
        return len(part)

    async def _put_batch(self, records: NDArray[np.void], instance: int | None) -> None:
        self.check_named(instance)
        if self._box.closed:
            raise self._box.closed()
        if self._box.strategy != "block" or self._box.observed:
            for message in self._messages(records):
                await self.runtime.send(self.id, message, instance)
            return
        if not len(records):
            return
        rest = Rest(records.copy(), instance, self._scheduler.wait())
        self._rests.append(rest)
        self.go_on()
        assert rest.wait is not None
        try:
            await rest.wait
        except asyncio.CancelledError:
            if rest in self._rests:
                self._rests.remove(rest)
            raise

    # -- what its host says --------------------------------------------------------------------------------------------

    @property
    def _processed(self) -> int:
        return self._done_before + self._done

    def done(self, done: int) -> None:
        """The host is done with so many messages, from the first on."""
        n = done - self._done
        if n <= 0:
            return
        if n > self.flying:
            raise MessageDecodeError(f"it is done with {n} messages of {self.id!r}, and {self.flying} were there")
        self._done = done
        self.flying -= n
        while n:
            first, shipped = self._page[0]
            if self._observers:
                self._tell_ended(shipped.entries[:n])
            if len(shipped) <= n:
                self._page.popleft()
                n -= len(shipped)
            else:
                self._page[0] = (first + n, shipped.after(n))
                n = 0
        self._box.let_in()
        self.go_on()
        if not self.flying:
            self._tell_watchers()

    def answer(self, number: int, well: bool, value: Any, where: str) -> None:
        """The reply to an ask, or why there is none."""
        sink = self._asks.pop(number, None)
        if sink is None:
            return
        if not well:
            sink.fail(wire.restored(value, where))
            return
        asked = self._traced.pop(number, None)
        try:
            reply = None if value is None else wire.decoded(value)
        except MessageDecodeError as error:  # of a class that is not known here, or not any more
            self.bury((_unread(value), 0, None), str(error), "undeliverable", error)
            sink.fail(error)
            return
        if self._observers and reply is not None:
            self.seen("replied", asked, self.id, reply, asked)
        if not sink.set(reply):
            self.bury((reply, 0, None), "late reply: the ask had ended", "late")

    def replies(self, blobs: list[bytes]) -> None:
        """Replies that belong to no ask."""
        for blob in blobs:
            try:
                reply = wire.decoded(blob)
            except MessageDecodeError as error:  # as above
                self._received += 1
                self.bury((_unread(blob), 0, None), str(error), "undeliverable", error)
            else:
                self.reply(reply)

    def reply(self, reply: Any) -> None:
        """A reply that belongs to no ask."""
        self._received += 1
        if self._observers:
            self.seen("replied", None, self.id, reply, None)
        if self._out.closed:
            self.bury((reply, 0, None), "the reply came when the kernel had ended", "unread")
        else:
            self._out.put_at(DEFAULT_PRIORITY, reply)

    def reply_records(self, n: int, data: bytes) -> None:
        definition = self.definition
        assert isinstance(definition, StepDefinition)
        assert definition.reply_type is not None
        replies: list[Any] = from_records(
            definition.reply_type, np.frombuffer(data, layout(definition.reply_type).dtype)
        )
        if len(replies) != n:
            raise MessageDecodeError(f"{len(replies)} records came where {n} were announced")
        for reply in replies:
            self.reply(reply)

    # Observers hear that a message is started when it leaves for the node, and that it has ended when the node says so.

    def _tell_started(self, first: int, entries: list[Entry]) -> None:
        for place, entry in enumerate(entries):
            if type(entry) is Delivery:
                self.seen("started", entry)
                if entry[2] is not None:
                    self._traced[first + place] = entry

    def _tell_ended(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if type(entry) is Delivery:
                self.seen_end(entry)

    @property
    def credit(self) -> int:
        """How many of its replies were taken."""
        return self._received - len(self._out)

    def ended(self, failure: BaseException | None, gave_up: str) -> None:
        """It has ended there: failed, perhaps after restarts, or returned."""
        self._fate = failure, gave_up
        self._has_ended_there = True
        self.go_on()

    @property
    def has_ended_there(self) -> bool:
        """Whether its host said so."""
        return self._has_ended_there

    def restarted_there(self, times: int, when: list[Any], failure: BaseException | None) -> None:
        """Its host has started it again, as the policy says: its group may say otherwise."""
        self.restarts += times
        self.restarted += [(float(at), str(what)) for at, what in when]
        del self.restarted[:-100]
        self._marker = None
        if failure is not None:
            self.last_exception = failure
            if self._observers:
                self.seen("failed", self.id, failure, None)
        if self._observers:
            self.seen("restarted", self.id, self.restarts)
        self._tell_watchers()
        group = self._group
        if group is None or failure is None or self.state is KernelState.TERMINATING:
            return
        for _ in range(sum(bool(what) for _, what in when)):
            if self._fate is None and not group.restarts_others(self, self._scheduler.loop.time()):
                self._gave_up = f"after {group.limit} of its group"
                self._end_for_good(failure)

    def _end_for_good(self, error: BaseException) -> None:
        """End it here, whatever its policy makes of it there."""
        self._fate = error, self._gave_up
        self.go_on()

    def _wait_before_restart(
        self, failure: BaseException | None, cancelled: bool, renewal: bool | None
    ) -> float | None:
        if self._has_ended_there:
            return None  # the policy was followed there
        return super()._wait_before_restart(failure, cancelled, renewal)

    def count(self, row: bytes, sent: dict[str, int], waits_for: str) -> None:
        """Its counters on its host."""
        if len(row) != COUNTERS.itemsize or not all(type(n) is int for n in sent.values()):
            raise MessageDecodeError(f"no counters of {self.id!r}")
        self._host_row, self._sent_from_there, self._said = row, sent, waits_for
        self._marker = None

    # -- its life ------------------------------------------------------------------------------------------------------

    def _settle(self, link: Link) -> None:
        """The shuttle has ended: see what becomes of what is on the way."""
        page, self._page = self._page, deque()
        flying, self.flying = self.flying, 0
        asks, self._asks = self._asks, {}
        self._traced.clear()
        if not flying:
            for sink in asks.values():
                sink.fail(self._lost_ask(link))
            return
        if link.lost is not None and self.placement.delivery == "at_least_once":
            mixed = any(shipped.records is None for _, shipped in page)
            for first, shipped in reversed(page):
                entries: Sequence[Any] = shipped.entries
                if shipped.records is not None and mixed:  # they keep their place among the others
                    messages = self._messages(shipped.records)
                    entries = [(message, self.marked(message, shipped.instance), None) for message in messages]
                elif shipped.records is not None:
                    self._again.appendleft(Rest(shipped.records, shipped.instance, None))
                    self.returned += len(shipped.records)
                for place, entry in reversed(list(enumerate(entries))):
                    if first + place in asks:
                        self._resent.append(asks.pop(first + place))
                    self._box.put_first(entry, DEFAULT_PRIORITY)
                self._retried += len(shipped)
        else:
            error = self._lost_ask(link) if link.lost is not None else None
            reason = "the kernel was ended with it in hand" if link.lost is None else f"{link.lost} while it was there"
            for first, shipped in page:
                entries = shipped.entries
                if shipped.records is not None:
                    mark: Any = _mark(shipped.instance)
                    entries = [(message, mark, None) for message in self._messages(shipped.records)]
                for place, entry in enumerate(entries):
                    self._unfinished += 1
                    self.bury((entry[0], entry[1], None), reason, "failed", error)
                    if first + place in asks:
                        asks.pop(first + place).fail(error or self._unusable())
        for sink in asks.values():  # their messages were handled, and put aside
            sink.fail(self._lost_ask(link))
        self._box.let_in()

    def _messages(self, records: NDArray[np.void]) -> list[Any]:
        cls: type[Any] = self._input_types[0]
        return from_records(cls, records)

    def _lost_ask(self, link: Link) -> BaseException:
        if link.lost is None:
            return self._unusable()
        return NodeLostError(f"{link.lost}, and with it what {self.id!r} would have replied")

    def _finish(self, ctx: Any) -> None:
        resent, self._resent = self._resent, []
        if isinstance(self.exception, NodeLostError):  # after which it does not begin again
            for sink in resent:
                sink.fail(NodeLostError(str(self.exception)))
        super()._finish(ctx)
        while self._rests:
            wait = self._rests.popleft().wait
            if wait is not None:
                wait.fail(self._unusable())
        while self._again:
            rest = self._again.popleft()
            self.returned -= len(rest.records)
            for message in self._messages(rest.records):
                self._unfinished += 1
                self.bury((message, _mark(rest.instance), None), f"the kernel is {self.state}: it was not handled")

    async def _end(self, drain: bool, timeout: float) -> None:
        self._limit_of_end = drain, timeout
        if not drain and self._link_there is not None and self._started:
            self._link_there.start_call(self._number, "terminate", wire.encoded((False, timeout)))
        self.go_on()
        await super()._end(drain, timeout + GRACE)

    async def _after_pause(self) -> None:
        await self._call_paused("deactivate")

    async def _call_paused(self, verb: str) -> None:
        """Have the host do something with it while it is paused; where it runs nowhere, it will begin paused."""
        while self._box.paused and not (self._started or self.state.over or self._task is None):
            await self._move_or_idle()
        if self._box.paused and self._started:
            with suppress(NodeLostError):
                await self._call(verb, b"")

    def pause_ends(self) -> None:
        if self._started and self._link_there is not None:
            self._link_there.start_call(self._number, "reactivate", b"")
        self.go_on()

    def _kill(self, error: BaseException) -> None:
        if self._gave_up and self._task is not None:  # with its group
            self._end_for_good(error)
            if not self._started:
                super()._kill(error)
        elif self._started and self._link_there is not None:
            self._link_there.start_call(self._number, "kill", wire.encoded(wire.described(error)))
        else:
            super()._kill(error)

    def _renew(self, keep_state: bool) -> None:
        if self._started and self._link_there is not None:
            self._link_there.start_call(self._number, "restart", wire.encoded(keep_state))
        else:
            self._renews = keep_state

    def _replace(self, definition: RingKernelDefinition) -> None:
        if self.state.over or self.state is KernelState.TERMINATING:
            return
        self._adopt(definition)
        if self._started and self._link_there is not None:
            self._link_there.replace(self)

    async def _steps(self, n: int, handled: list[Any]) -> None:
        await self._until_stop()
        self._stopped_before = None
        self._box.steps = max(n - self.flying, 0)
        self.go_on()
        try:
            handled += map(wire.decoded, await self._call("step", wire.encoded(n)))
        except asyncio.CancelledError:
            if self._link_there is not None:
                self._link_there.start_call(self._number, "step no more", b"")
            raise
        finally:
            self._box.steps = 0

    async def _until_stop(self) -> None:
        """Until the kernel, which is paused, has nothing in hand. What a breakpoint was behind is handled first."""
        while self._stopped_before is not None and self.flying and self.state is KernelState.DEACTIVATED:
            await self._move_or_idle()
        await self._call_paused("deactivate")
        await self._call_paused("come to a stop")

    # -- telemetry -----------------------------------------------------------------------------------------------------

    def _publish_histograms(self) -> None:
        """They come with the other counters."""

    def _publish(self) -> None:
        box, row = self._box, self._row
        names = COUNTERS.names
        assert names is not None
        counters = np.frombuffer(self._host_row or bytes(COUNTERS.itemsize), COUNTERS)
        if self._rows_before is not None:
            counters = _summed(counters, self._rows_before)
        np.asarray(row)[:] = counters.view(np.int64)  # at once: any thread may be here
        words = dict(zip(names, row[: len(names)], strict=True))
        depth = len(box)
        box.peak = max(box.peak, depth)
        own = {
            "state": CODES[self.state],
            "version": self.version,
            "queue_size": box.capacity,
            "queue_depth": depth,
            "queue_peak": box.peak,
            "replies_unread": len(self._out),
            "received": words["processed"] + depth + box.unhandled + self._unfinished,
            "dropped": box.dropped,
            "dead_letters": self._dead_letters,
            "restarts": self.restarts,
            "errors": words["errors"] + self._errors,
            "retried": words["retried"] + self._retried,
        }
        for place, name in enumerate(names):
            if name in own:
                row[place] = own[name]


def _summed(row: NDArray[np.void], before: NDArray[np.void]) -> NDArray[np.void]:
    """The counters of a host and of those before it."""
    row = row.copy()
    for name in ADDED:
        row[name] += before[name]
    return row


def _mark(instance: int | None) -> Any:
    """That of a message which is not sent any more."""
    return b"" if instance is None else (b"", instance)


def _unread(blob: bytes) -> str:
    """What stands for a reply that cannot be decoded."""
    return f"<a reply of {len(blob)} bytes>"


def _address(instance: int | None) -> int:
    return -1 if instance is None else instance


def check_shippable(definition: RingKernelDefinition) -> None:
    """Raise `DefinitionError` for what cannot run on another node."""
    if isinstance(definition, StepDefinition) and definition.buffers:
        names = ", ".join(map(repr, definition.buffers))
        raise DefinitionError(
            f"{definition.kernel_id!r} has the buffers {names}, which are memory of this process: launch it here, or "
            "make them in state="
        )


__all__ = ["RemoteKernel", "check_shippable"]
