"""A ring kernel on another node, as the runtime of the notebook has it.

Its mailbox, its outbox and its policy are here, and the bound of its queue counts what is on the way as well: a full
one blocks who sends, as ever. The body is a **shuttle**, which brings messages to the host in order and takes them off
the books when that is done with them. It ends as the body there does, and with `NodeLostError` when the node is gone:
then the policy decides, as about any failure, and a new shuttle begins on another node.

The instances of a compiled one may be spread over several nodes. It has a `Lane` to each of them then; all of them have
memory for all instances, so that the others can go on with those of a node that is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from itertools import repeat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DefinitionError, InstanceError, KernelStateError, NodeLostError
from ..messages import DEFAULT_PRIORITY, from_record, from_records, layout
from ..runtime.dead_letters import error_text
from ..runtime.kernel import CODES, RingKernel, RingKernelDefinition
from ..runtime.lifecycle import KernelState
from ..runtime.mailbox import Entry, Mailbox
from ..runtime.scheduler import AWAITED, Wait
from ..runtime.step import StepDefinition
from ..telemetry import COUNTERS
from ..telemetry.clock import Stamp
from ..telemetry.observer import Delivery, Observer, delivery
from . import wire
from .lane import Lane

if TYPE_CHECKING:
    from .driver import Cluster, Placement

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
        kernel = self._kernel
        kernel.check_named(None)
        marks: list[Any] = wire.all_encoded(part)
        if kernel.most_nodes > 1:
            marks = [(blob, kernel.instance_for(message)) for blob, message in zip(marks, part, strict=True)]
        elif not self.waiting and kernel.ship_at_once(part, marks):
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


class Rest:
    """Records of a batch that wait for room, and their sender."""

    __slots__ = ("instance", "records", "wait")

    def __init__(self, records: NDArray[np.void], instance: int | None, wait: Wait | None) -> None:
        self.records, self.instance, self.wait = records, instance, wait


class RemoteKernel(RingKernel):
    """The handle to a ring kernel on another node."""

    __slots__ = (
        "_again",
        "_cluster",
        "_done_before",
        "_failed_there",
        "_fate",
        "_has_ended_there",
        "_instead",
        "_lanes",
        "_limit_of_end",
        "_moved",
        "_owners",
        "_renews",
        "_resent",
        "_rests",
        "_rows_before",
        "_sent_before",
        "flying",
        "placement",
        "returned",
    )

    _box: Box

    def __init__(
        self, runtime: Any, definition: RingKernelDefinition, kernel_id: str, cluster: Cluster, placement: Placement
    ) -> None:
        self.flying = 0
        """Messages that its hosts have, or that are on the way there."""
        self.returned = 0
        """Records that a host had that is lost, and that will be sent again."""
        super().__init__(runtime, definition, kernel_id)
        self._cluster, self.placement = cluster, placement
        self._box = Box(self, definition)
        self._lanes: list[Lane] = []
        self._owners: NDArray[np.int64] | None = None  # by instance, the place of its lane; None: there is one lane
        self._rests: deque[Rest] = deque()
        self._again: deque[Rest] = deque()  # records to be sent once more
        self._resent: list[Wait] = []  # asks of messages that are to be sent once more
        self._done_before = 0  # messages that hosts which it has left were done with; and their counters
        self._rows_before: NDArray[np.void] | None = None
        self._sent_before: Counter[str] = Counter()
        self._renews: bool | None = None  # it is to begin again, which came while it was being launched
        self._limit_of_end: tuple[bool, float] | None = None
        self._moved: Wait | None = None
        self._fate: tuple[BaseException | None, str] | None = None  # how it ended
        self._has_ended_there = False
        self._failed_there: tuple[Stamp | None, Delivery | None] | None = None
        self._instead = ""  # what is said of a failure that others make good

    # -- what a user asks of it ----------------------------------------------------------------------------------------

    @property
    def node(self) -> str | None:
        return " and ".join(lane.node for lane in self._lanes) or None

    @property
    def most_nodes(self) -> int:
        """On how many nodes it can be at most."""
        definition = self.definition
        return definition.instances if self.placement.spread and isinstance(definition, StepDefinition) else 1

    def _where(self) -> dict[str, Any]:
        where = self.placement
        named = where.node is not None and self._cluster.nodes[where.node].state == "alive"
        return {
            "node": where.node if named else None,
            "num_gpus": where.num_gpus,
            "spread": where.spread or not (named or where.num_gpus),
            "delivery": where.delivery,
        }

    @property
    def waiting_for(self) -> str:
        return super().waiting_for or next(filter(None, (lane.waits_for for lane in self._lanes)), "")

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
        if instance is None and self.most_nodes > 1:
            instance = self.instance_for(message)
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
        return dict(sum((Counter(lane.sent_from_there) for lane in self._lanes), self._sent_before.copy()))

    async def _snapshot(self, instance: int | None) -> Any:
        await self._until_there()
        lanes, owners = list(self._lanes) if instance is None else [self._lane_of(instance)], self._owners
        answers = await self._call("snapshot", wire.encoded(instance), lanes)
        kind, *rest = answers[0]
        if kind == "fields":
            return SimpleNamespace(**wire.decoded(rest[0]))
        if kind == "value":
            return wire.decoded(rest[0])
        definition = self.definition
        assert isinstance(definition, StepDefinition)
        assert definition.state_type is not None
        dtype = layout(definition.state_type).dtype
        states = np.frombuffer(rest[1], dtype).copy()
        if not rest[0]:
            return from_record(definition.state_type, states[0])
        for place, (_, _, data) in enumerate(answers):
            if owners is not None:
                states[owners == place] = np.frombuffer(data, dtype)[owners == place]
        return states

    async def _until_there(self) -> None:
        """Until it runs on its nodes.

        Raises:
            KernelStateError, KernelFailedError: it does not.
            NodeLostError: not any more, and not yet again.
        """
        while not (self._runs or self.state.over or self._task is None):
            await self._move_or_idle()
        if self.state.over:
            raise self._unusable()
        if self.state is KernelState.LAUNCHED:
            raise KernelStateError(f"{self.id!r} is LAUNCHED and runs nowhere yet: activate it first")
        if not self._runs:
            raise NodeLostError(f"{self.id!r} runs nowhere just now: {self.outlook}")

    @property
    def _runs(self) -> bool:
        """Whether it has begun on all its nodes."""
        return bool(self._lanes) and all(lane.started for lane in self._lanes)

    async def _call(self, verb: str, arguments: bytes, lanes: Sequence[Lane] = ()) -> list[Any]:
        """Have its hosts do something with it, once it is there; what each of them, or of these, has answered."""
        await self._until_there()
        calls = [lane.link.call(lane.number, verb, arguments) for lane in lanes or self._lanes]
        return await asyncio.gather(*calls)

    def _tell_all(self, verb: str, arguments: bytes = b"") -> None:
        for lane in self._lanes:
            lane.call(verb, arguments)

    # -- its instances -------------------------------------------------------------------------------------------------

    def _share(self) -> None:
        """Give each lane its instances, those with neighbouring numbers together."""
        self._owners = None
        if len(self._lanes) > 1:
            assert isinstance(self.definition, StepDefinition)
            n = self.definition.instances
            self._owners = np.arange(n) * len(self._lanes) // n

    def _lane_of(self, instance: int) -> Lane:
        return self._lanes[0 if self._owners is None else self._owners[instance]]

    def instance_for(self, message: Any) -> int:
        """The instance that its key names: now, for the message may be changed before it is sent."""
        definition = self.definition
        assert isinstance(definition, StepDefinition)
        return int(self._instances_by(getattr(message, str(definition.key))))

    def _instances_by(self, keys: Any) -> Any:
        """What a compiled ring kernel makes of a key or an array of keys."""
        definition = self.definition
        assert isinstance(definition, StepDefinition)
        return np.asarray(keys).astype(np.int64) % definition.instances

    # -- the shuttle ---------------------------------------------------------------------------------------------------

    def _body(self) -> Coroutine[Any, Any, Any]:
        return self._shuttle()

    def _begin_anew(self) -> None:
        self._fate, self._has_ended_there, self._failed_there = None, False, None

    async def _shuttle(self) -> None:
        self._begin_anew()
        self._lanes = await self._cluster.place(self)
        self._share()
        try:
            paused, definition = self._box.paused, self.definition
            await asyncio.gather(*(lane.launch(paused) for lane in self._lanes))
            self._resent = [sink for sink in self._resent if sink.state <= AWAITED]
            self._tell_watchers()
            if self._observers:
                self._watch(True)
            if paused != self._box.paused:
                self._tell_all("deactivate" if self._box.paused else "reactivate")
            if self.definition is not definition:
                for lane in self._lanes:
                    lane.link.replace(lane)
            renews, self._renews = self._renews, None
            if renews is not None:
                self._renew(renews)
            while self._fate is None:
                if any(lane.link.lost is not None for lane in self._lanes):
                    self._take_over()
                if self._box.closed and not (self._box.waiting or self._rests or self._again):
                    await self._end_there()
                elif not self._ship():
                    await self._until_moved()
                else:
                    await asyncio.sleep(0)
            self.exception, gave_up = self._fate
            if self._has_ended_there:
                where = " and ".join(lane.node for lane in self._lanes if lane.has_ended)
                self._gave_up = f"{gave_up} on {where}" if gave_up else ""
                self._errors -= self.exception is not None  # it was counted there
        finally:
            self._renews = None
            for lane in list(self._lanes):
                self._leave(lane)

    def _take_over(self) -> None:
        """Nodes of it are lost: those that are left go on with their instances, as its policy allows.

        Raises:
            NodeLostError: none is left, or its policy says that it has failed.
        """
        lost = [lane for lane in self._lanes if lane.link.lost is not None]
        left = [lane for lane in self._lanes if lane not in lost]
        error = NodeLostError("; ".join(map(self._told_lost, lost)))
        if not left:
            raise error
        owners, several = self._owners, len(left) > 1
        assert owners is not None
        names = " and ".join(lane.node for lane in left)
        mine = np.isin(owners, [self._lanes.index(lane) for lane in lost])
        where = " and ".join(lane.node for lane in lost)
        self._instead = f"on {where}; {names} begin{'s' * (not several)} {int(mine.sum())} of its instances anew"
        try:
            if self._wait_before_restart(error, False, None) is None:
                raise error
        finally:
            self._instead = ""
        self._errors += 1
        if self._observers:
            self.seen("failed", self.id, error, None)
        places = np.array([left.index(lane) if lane in left else -1 for lane in self._lanes])
        for lane in lost:
            self._leave(lane)
        owners = places[owners]
        owners[mine] = np.arange(int(mine.sum())) * len(left) // max(int(mine.sum()), 1)
        self._owners = owners if several else None
        self.restarts += 1
        self.restarted.append((time.time(), error_text(error)))
        del self.restarted[:-100]
        self._marker = None
        if self._observers:
            self.seen("restarted", self.id, self.restarts)
        self._tell_watchers()

    def _leave(self, lane: Lane) -> None:
        """It has ended on a node, or that is lost: keep what is known of it there."""
        self._lanes.remove(lane)
        lane.link.forget(lane)
        self._done_before += lane.done_there
        if lane.row is not None:
            row = np.frombuffer(lane.row, COUNTERS)
            self._rows_before = row if self._rows_before is None else _summed(row, self._rows_before)
        self._sent_before.update(lane.sent_from_there)
        self._settle(lane)

    async def _end_there(self) -> None:
        """End it on its hosts, once all was sent there."""
        drain, timeout = self._limit_of_end or (True, 5.0)
        self._tell_all("terminate", wire.encoded((drain, timeout)))
        while self._fate is None and not any(lane.link.lost is not None for lane in self._lanes):
            await self._until_moved()

    def _told_lost(self, lane: Lane) -> str:
        names = COUNTERS.names
        assert names is not None
        depth = 0 if lane.row is None else np.frombuffer(lane.row, np.int64)[names.index("queue_depth")]
        # Those that kernels beside it have sent are known by number only, and of a moment ago.
        beside = f", and about {depth - lane.flying} of kernels beside it" if depth > lane.flying else ""
        return f"{lane.link.lost}, and {self.id!r} with it ({lane.flying} messages were there{beside})"

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

    def _ship(self) -> int:
        """Send what there is room for; how many."""
        box, room = self._box, min(self._window - self.flying, wire.FRAME)
        if room <= 0 or (box.paused and not (box.closed or box.steps)):
            return 0
        if self._again:
            return self._ship_records(self._again, room)
        if entries := box.take(room):
            if self._owners is None:
                self._lanes[0].ship(entries)
            else:
                parts: dict[Lane, list[Entry]] = {}
                for entry in entries:
                    parts.setdefault(self._lane_of(self._instance_of(entry[1]) or 0), []).append(entry)
                for lane, part in parts.items():
                    lane.ship(part)
            if box.paused:
                self._tell_watchers()
            return len(entries)
        return self._ship_records(self._rests, room) if self._rests and not box.paused else 0

    def ship_at_once(self, messages: Sequence[Any], blobs: list[bytes]) -> bool:
        """Send messages past the empty mailbox of a kernel on one node, without entries. False: they have to wait."""
        box = self._box
        if not self._runs or self._fate is not None or self._lanes[0].link.lost is not None:
            return False
        if box.paused or box.stops_before or self._again or self._rests or self._window - self.flying < len(messages):
            return False
        self._lanes[0].ship_plain(messages, blobs)
        self.flying += len(messages)
        box.peak = max(box.peak, len(box))
        return True

    def _ship_records(self, rests: deque[Rest], room: int) -> int:
        rest = rests[0]
        part, rest.records = rest.records[:room], rest.records[room:]
        if self._owners is None or rest.instance is not None:
            self._lane_of(rest.instance or 0).ship_records(part, rest.instance)
        else:
            definition = self.definition
            assert isinstance(definition, StepDefinition)
            by = self._owners[self._instances_by(part[definition.key])]
            for place in np.unique(by):
                self._lanes[place].ship_records(part[by == place], None)
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
        return self._done_before + sum(lane.done_there for lane in self._lanes)

    def done(self, n: int) -> None:
        """Its hosts are done with so many messages more."""
        self.flying -= n
        self._box.let_in()
        self.go_on()
        if not self.flying:
            self._tell_watchers()

    def reply(self, reply: Any) -> None:
        """A reply that belongs to no ask."""
        if self._out.closed:
            self.bury((reply, 0, None), "the reply came when the kernel had ended", "unread")
        else:
            self._out.put_at(DEFAULT_PRIORITY, reply)

    def ended_there(self, lane: Lane, failure: BaseException | None, gave_up: str) -> None:
        """It has ended on a node: as a whole if it has failed there, else when it has on all of them."""
        if failure is not None or all(one.has_ended for one in self._lanes):
            self._fate = failure, gave_up
            self._has_ended_there = True
            self._failed_there = lane.failed_there()
        self.go_on()

    def restarted_there(
        self,
        times: int,
        when: list[Any],
        failure: BaseException | None,
        failed: tuple[Stamp | None, Delivery | None] | None,
    ) -> None:
        """Its host has started it again, as the policy says: its group may say otherwise."""
        self.restarts += times
        self.restarted += [(float(at), str(what)) for at, what in when]
        del self.restarted[:-100]
        self._marker = None
        if failure is not None:
            self.last_exception = failure
            stamp, message = failed or (None, None)
            self.seen_there(stamp, "failed", self.id, failure, message)
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

    # -- what observers are told: its hosts say what becomes of each message, and when ---------------------------------

    def _observe(self, observers: tuple[Observer, ...]) -> None:
        was = bool(self._observers)
        super()._observe(observers)
        if was != bool(self._observers):
            self._watch(not was)

    def _watch(self, watched: bool) -> None:
        for lane in self._lanes:
            lane.watch(watched)

    def seen_there(self, stamp: Stamp | None, what: str, *args: Any) -> None:
        """Tell those who observe it what has happened on another node, and when; None: nobody knows when."""
        if not self._observers:
            return
        if stamp is None:
            super().seen(what, *args)
        else:
            super().seen("elsewhere", stamp, what, *args)

    def seen(self, what: str, *args: Any) -> None:
        failed = self._failed_there
        if what == "failed" and failed is not None:  # with which it has ended there
            self._failed_there = None
            self.seen_there(failed[0], what, *args[:2], failed[1])
        else:
            super().seen(what, *args)

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

    def _report(self, failure: BaseException, fate: str = "") -> None:
        if isinstance(failure, NodeLostError):
            failure.__traceback__ = None  # it would lead through this module, and tells nobody anything
        super()._report(failure, self._instead or fate)

    # -- its life ------------------------------------------------------------------------------------------------------

    def _settle(self, lane: Lane) -> None:
        """See what becomes of what is on the way by a lane that has ended."""
        link, page, asks = lane.link, lane.page, lane.asks
        self.flying -= lane.flying
        if not lane.flying:
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
                    self.bury(self._unasked(entry), reason, "failed", error)
                    if first + place in asks:
                        asks.pop(first + place).fail(error or self._unusable())
        for sink in asks.values():  # their messages were handled, and put aside
            sink.fail(self._lost_ask(link))
        self._box.let_in()

    def _unasked(self, entry: Entry) -> Entry:
        """An entry whose asker hears from elsewhere what became of it."""
        if type(entry) is not Delivery:
            return (entry[0], entry[1], None)
        same = delivery((entry[0], entry[1], None), self.id, entry.attempts)
        same.number, same.cause, same.source = entry.number, entry.cause, entry.source
        return same

    def _messages(self, records: NDArray[np.void]) -> list[Any]:
        cls: type[Any] = self._input_types[0]
        return from_records(cls, records)

    def _lost_ask(self, link: Any) -> BaseException:
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
        if not drain:
            self._tell_all("terminate", wire.encoded((False, timeout)))
        self.go_on()
        await super()._end(drain, timeout + GRACE)

    async def _after_pause(self) -> None:
        await self._call_paused("deactivate")

    async def _call_paused(self, verb: str) -> None:
        """Have its hosts do something with it while it is paused; where it runs nowhere, it will begin paused."""
        while self._box.paused and not (self._runs or self.state.over or self._task is None):
            await self._move_or_idle()
        if self._box.paused and self._runs:
            with suppress(NodeLostError):
                await self._call(verb, b"")

    def pause_ends(self) -> None:
        self._tell_all("reactivate")
        self.go_on()

    def _kill(self, error: BaseException) -> None:
        if self._gave_up and self._task is not None:  # with its group
            self._end_for_good(error)
            if not self._runs:
                super()._kill(error)
        elif self._runs:
            self._tell_all("kill", wire.encoded(wire.described(error)))
        else:
            super()._kill(error)

    def _renew(self, keep_state: bool) -> None:
        if self._runs:
            self._tell_all("restart", wire.encoded(keep_state))
        else:
            self._renews = keep_state

    def _replace(self, definition: RingKernelDefinition) -> None:
        if self.state.over or self.state is KernelState.TERMINATING:
            return
        self._adopt(definition)
        if self._runs:
            for lane in self._lanes:
                lane.link.replace(lane)

    async def _steps(self, n: int, handled: list[Any]) -> None:
        await self._until_stop()
        self._stopped_before = None
        self._box.steps = max(n - self.flying, 0)
        self.go_on()
        try:
            while n and self.state is KernelState.DEACTIVATED:
                if not (shares := self._shares(n)):
                    await self._move_or_idle()
                    continue
                lanes = list(shares)
                calls = [lane.link.call(lane.number, "step", wire.encoded(shares[lane])) for lane in lanes]
                for messages in await asyncio.gather(*calls):
                    handled += map(wire.decoded, messages)
                n -= sum(shares.values())
        except asyncio.CancelledError:
            self._tell_all("step no more")
            raise
        finally:
            self._box.steps = 0

    def _shares(self, n: int) -> dict[Lane, int]:
        """How many of the next `n` messages each lane is to handle: as many as it has, and all if it is alone."""
        if self._owners is None:
            return {lane: n for lane in self._lanes if lane.started}
        shares: dict[Lane, int] = {}
        for lane in self._lanes:
            if share := min(lane.flying, n):
                shares[lane] = share
                n -= share
        return shares

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
        counters = np.zeros(1, COUNTERS) if self._rows_before is None else self._rows_before
        for lane in self._lanes:
            if lane.row is not None:
                counters = _summed(np.frombuffer(lane.row, COUNTERS), counters)
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


def check_shippable(definition: RingKernelDefinition) -> None:
    """Raise `DefinitionError` for what cannot run on another node."""
    if isinstance(definition, StepDefinition) and definition.buffers:
        names = ", ".join(map(repr, definition.buffers))
        raise DefinitionError(
            f"{definition.kernel_id!r} has the buffers {names}, which are memory of this process: launch it here, or "
            "make them in state="
        )


__all__ = ["RemoteKernel", "check_shippable"]
