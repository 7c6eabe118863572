"""What a ring kernel has on one node: messages on the way there, its counters there, and what is heard of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MessageDecodeError
from ..messages import from_records, is_message_type, layout
from ..runtime.mailbox import Entry
from ..runtime.scheduler import Wait
from ..runtime.step import StepDefinition
from ..telemetry import COUNTERS
from ..telemetry.clock import Stamp
from ..telemetry.observer import Delivery
from . import wire

if TYPE_CHECKING:
    from .driver import Link
    from .remote import RemoteKernel

REPLIES_AHEAD = 1024
"""Replies that observers were told of before they are here, at most."""


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


class Lane:
    """A ring kernel on one node. One whose instances are spread has several."""

    def __init__(self, kernel: RemoteKernel, link: Link) -> None:
        self.kernel, self.link = kernel, link
        self.number = 0
        """Of the kernel on its host."""
        self.started = False
        """Whether it runs there."""
        self.has_ended = False
        """Whether the host said that it has ended there."""
        self.flying = 0
        """Messages that the host has, or that are on the way there."""
        self.page: deque[tuple[int, Shipped]] = deque()  # those, with the number of the first message
        self.asks: dict[int, Wait] = {}  # by the number of the message
        self.done_there = 0
        """Messages that the host is done with."""
        self.row: bytes | None = None
        """Its counters there."""
        self.sent_from_there: dict[str, int] = {}
        self.waits_for = ""
        self._next = 1  # number of the message that is sent next
        self._received = self._credit = 0
        # While observers look at it: messages by number; replies by their bytes, before they come; when it has failed,
        # and with what in hand.
        self._seen: dict[int, Delivery] = {}
        self._over: set[int] = set()  # asks among them that were handled and have no reply yet
        self._replies_seen: dict[bytes, Any] = {}
        self._failed: deque[tuple[Stamp | None, Delivery | None]] = deque(maxlen=100)

    async def launch(self, paused: bool) -> None:
        """Start it there."""
        self.number = await self.link.launch(self, paused)
        self.started = True

    @property
    def node(self) -> str:
        return self.link.node.name

    def call(self, verb: str, arguments: bytes = b"") -> None:
        """Have its host do something with it, if it runs there, and let nobody wait for it."""
        if self.started:
            self.link.start_call(self.number, verb, arguments)

    # -- out -----------------------------------------------------------------------------------------------------------

    def ship(self, entries: list[Entry]) -> None:
        """Send entries of the mailbox."""
        first = self._next
        for kind in {type(entry[0]) for entry in entries}:
            self.link.teach(kind)
        asked: list[int] = []
        for place, (_, _, sink) in enumerate(entries):
            if sink is not None:  # although its asker may have gone: the reply shall not come to somebody else
                asked.append(place)
                self.asks[first + place] = sink
        if self.kernel._observers:
            for place, entry in enumerate(entries):
                if type(entry) is Delivery:
                    self._seen[first + place] = entry
        marks: list[Any] = [entry[1] for entry in entries]
        instances: list[Any] | None = None
        if not all(type(mark) is bytes for mark in marks):
            instances = [None if type(mark) is bytes else mark[1] for mark in marks]
            marks = [mark if type(mark) is bytes else mark[0] for mark in marks]
        self.link.say("messages", self.number, first, marks, asked, instances)
        self._note(Shipped(entries))

    def ship_plain(self, messages: Sequence[Any], blobs: list[bytes]) -> None:
        """Send messages that have no entries."""
        self.link.teach(*set(map(type, messages)))
        self.link.say("messages", self.number, self._next, blobs, [], None)
        # The link may put a large one beside its frame, and a number in its place.
        self._note(Shipped(messages, list(blobs)))

    def ship_records(self, records: NDArray[np.void], instance: int | None) -> None:
        """Send records."""
        address = -1 if instance is None else instance
        self.link.say("records", self.number, self._next, len(records), records.tobytes(), address)
        self._note(Shipped((), None, records, instance))

    def _note(self, shipped: Shipped) -> None:
        self.page.append((self._next, shipped))
        self._next += len(shipped)
        self.flying += len(shipped)

    # -- what its host says --------------------------------------------------------------------------------------------

    def done(self, done: int) -> None:
        """The host is done with so many messages, from the first on."""
        n = done - self.done_there
        if n <= 0:
            return
        if n > self.flying:
            raise MessageDecodeError(
                f"it is done with {n} messages of {self.kernel.id!r}, and {self.flying} were there"
            )
        self.done_there = done
        self.flying -= n
        left = n
        while left:
            first, shipped = self.page[0]
            if len(shipped) <= left:
                self.page.popleft()
                left -= len(shipped)
            else:
                self.page[0] = (first + left, shipped.after(left))
                left = 0
        self.kernel.done(n)

    def answer(self, number: int, well: bool, value: Any) -> None:
        """The reply to an ask, or why there is none."""
        sink = self.asks.pop(number, None)
        if number in self._over:
            self._over.discard(number)
            self._seen.pop(number, None)
        if sink is None:
            return
        if not well:
            sink.fail(wire.restored(value, self.node))
            return
        try:
            reply = None if value is None else self._decoded(value)
        except MessageDecodeError as error:  # of a class that is not known here, or not any more
            self.kernel.bury((_unread(value), 0, None), str(error), "undeliverable", error)
            sink.fail(error)
            return
        if not sink.set(reply):
            self.kernel.bury((reply, 0, None), "late reply: the ask had ended", "late")

    def replies(self, blobs: list[bytes]) -> None:
        """Replies that belong to no ask."""
        for blob in blobs:
            self._received += 1
            try:
                self.kernel.reply(self._decoded(blob))
            except MessageDecodeError as error:  # as above
                self.kernel.bury((_unread(blob), 0, None), str(error), "undeliverable", error)

    def reply_records(self, n: int, data: bytes) -> None:
        """The same of a compiled ring kernel."""
        definition = self.kernel.definition
        assert isinstance(definition, StepDefinition)
        assert definition.reply_type is not None
        replies: list[Any] = from_records(
            definition.reply_type, np.frombuffer(data, layout(definition.reply_type).dtype)
        )
        if len(replies) != n:
            raise MessageDecodeError(f"{len(replies)} records came where {n} were announced")
        self._received += n
        for reply in replies:
            self.kernel.reply(reply)

    @property
    def credit(self) -> int:
        """How many of its replies were taken, at the least: those that are unread may all be its."""
        self._credit = max(self._credit, self._received - len(self.kernel._out))
        return self._credit

    def count(self, row: bytes, sent: dict[str, int], waits_for: str) -> None:
        """Its counters on its host."""
        if len(row) != COUNTERS.itemsize or not all(type(n) is int for n in sent.values()):
            raise MessageDecodeError(f"no counters of {self.kernel.id!r}")
        self.row, self.sent_from_there, self.waits_for = row, sent, waits_for
        self.kernel._marker = None

    def restarted(self, times: int, when: list[Any], failure: BaseException | None) -> None:
        """Its host has started it again."""
        self.kernel.restarted_there(times, when, failure, self.failed_there() if failure is not None else None)

    def ended(self, failure: BaseException | None, gave_up: str) -> None:
        """It has ended there: failed, perhaps after restarts, or returned."""
        self.has_ended = True
        self.kernel.ended_there(self, failure, gave_up)

    # -- what observers are told ---------------------------------------------------------------------------------------

    def watch(self, watched: bool) -> None:
        """Have its host tell what becomes of each message, or no more."""
        if self.started:
            self.link.say("watch", self.number, watched)
        if not watched:
            self._seen.clear()
            self._over.clear()
            self._replies_seen.clear()

    def in_hand(self, number: int) -> Delivery | None:
        """A message that is there, while it is observed."""
        return self._seen.get(number)

    def see(self, events: list[list[Any]]) -> None:
        """Tell observers what has happened there, in that order."""
        for what, number, wall, logical, about in events:
            stamp = self.link.stamp(wall, logical)
            delivery = self._seen.get(number)
            if what == wire.START and delivery is not None:
                self.kernel.seen_there(stamp, "started", delivery)
            elif what == wire.END and delivery is not None:
                if number in self.asks:  # it is known until its reply comes
                    self._over.add(number)
                else:
                    del self._seen[number]
                self.kernel.seen_there(stamp, "ended", delivery)
                delivery.cause = None
            elif what == wire.REPLY:
                self._see_reply(stamp, delivery, *about)
            elif what == wire.FAILED:
                self._failed.append((stamp, delivery))
            elif what == wire.LOST:
                self._see_lost(stamp, self._seen.pop(number, None), *about)

    def _see_reply(self, stamp: Stamp | None, delivery: Delivery | None, answers: int, blob: bytes | None) -> None:
        if blob is None:  # it has no encoding
            return
        try:
            reply = wire.decoded(blob)
        except MessageDecodeError:
            return
        asked = self._seen.get(answers)
        comes_alike = asked is not None or not isinstance(self.kernel.definition, StepDefinition)
        if self.kernel._observers and comes_alike and is_message_type(type(reply)):
            if len(self._replies_seen) >= REPLIES_AHEAD:
                self._replies_seen.clear()
            self._replies_seen[blob] = reply
        self.kernel.seen_there(stamp, "replied", delivery, self.kernel.id, reply, asked)

    def _see_lost(
        self, stamp: Stamp | None, delivery: Delivery | None, kind: str, reason: str, blob: bytes | None
    ) -> None:
        message: Any = delivery[0] if delivery is not None else None
        if delivery is None and blob is not None:
            try:
                message = wire.decoded(blob)
            except MessageDecodeError:
                message = _unread(blob)
        self.kernel.seen_there(stamp, "lost", self.kernel.id, message, kind, reason, delivery)

    def failed_there(self) -> tuple[Stamp | None, Delivery | None] | None:
        """When it has failed there last, and with what in hand."""
        last = self._failed[-1] if self._failed else None
        self._failed.clear()
        return last

    def _decoded(self, blob: bytes | memoryview) -> Any:
        """A reply; the very object that observers were told of."""
        seen = self._replies_seen
        return seen.pop(blob) if seen and type(blob) is bytes and blob in seen else wire.decoded(blob)


def _unread(blob: bytes) -> str:
    """What stands for a reply that cannot be decoded."""
    return f"<a reply of {len(blob)} bytes>"


__all__ = ["Lane", "Shipped"]
