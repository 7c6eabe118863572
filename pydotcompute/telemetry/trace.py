"""What happened to messages and kernels, in order and with what caused it: recorded, to look into and to draw.

`Events` are a stretch of it; a `Trace` is an observer that records them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from operator import attrgetter
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, get_args, overload

from .clock import HybridClock, Stamp, process_clock
from .observer import Delivery, Observer, in_hand

if TYPE_CHECKING:
    from os import PathLike

    import pandas

Kind = Literal["send", "enqueue", "start", "reply", "end", "drop", "crash", "restart", "state"]
"""What happened: a message was sent to a kernel, is in its mailbox, was taken by the body, was answered, is handled; a
message or reply has become a dead letter; a kernel has failed, was started again, has come into another state."""
KINDS: tuple[Kind, ...] = get_args(Kind)

LIMIT = 100_000


class TraceEvent(NamedTuple):
    """One event at one kernel. What does not apply to it is None, or empty."""

    kind: Kind
    kernel_id: str
    number: int | None
    """Of the delivery: the message on its way into this kernel, as numbered by its process. Of a reply or crash: of
    what the kernel had in hand."""
    type: str
    """Name of the message's class."""
    message: Any
    """The message or reply itself, as it is now; None where the trace keeps none."""
    message_id: Any
    """Its id, if it has been given or made by then."""
    cause: int | None
    """Number of the delivery that was being handled where the message was sent; None: it came from outside. Of a reply,
    of where the ask that it answers was sent."""
    source: str | None
    """The kernel that sent the message, or asked; None: it came from outside of the kernels."""
    answers: int | None
    """Of a reply: number of the ask that it answers; None: it went to the outbox or to a connected kernel."""
    attempts: int
    """How often the handling of the message has failed before."""
    detail: str
    """Of a drop its kind and the reason, of a crash the error, of a restart its number, of a state its name."""
    time: int
    """Nanoseconds since the epoch, by a clock that runs steadily throughout one trace."""
    stamp: Stamp
    """Its place in the order of the events of all machines."""
    home: str
    """The process that has numbered the deliveries: `node`, but for a ring kernel on a node of a cluster that of the
    runtime which has launched it there."""

    @property
    def node(self) -> str:
        """The process that it happened in, or the name of the node of a cluster."""
        return self.stamp.node

    def __repr__(self) -> str:
        words = [self.kind, repr(self.kernel_id)]
        if self.number is not None:
            words.append(f"#{self.number}")
        if self.type:
            words.append(self.type)
        if self.answers is not None:
            words.append(f"answers #{self.answers}")
        elif self.cause is not None:
            words.append(f"caused by #{self.cause} at {self.source!r}")
        if self.detail:
            words.append(f"({self.detail})")
        return f"<{' '.join(words)}>"


class TracedDelivery(NamedTuple):
    """What became of one message on its way into one kernel. Times are those of `TraceEvent`; None: not seen."""

    number: int
    kernel_id: str
    type: str
    message: Any
    cause: int | None
    source: str | None
    node: str
    fate: str
    """``"sent"``, and waiting for room; ``"queued"``; ``"in hand"``; ``"handled"``; ``"failed"``, so that its body
    ended; or another kind of dead letter."""
    attempts: int
    """How often its handling has failed."""
    sent: int | None
    queued: int | None
    started: int | None
    """When it was taken; the last time if it was retried."""
    ended: int | None
    waited: float | None
    """Seconds in the mailbox, until it was taken first."""
    handled: float | None
    """Seconds from when it was taken last to the end of its handling, or to the failure."""


class Handling(NamedTuple):
    """A stretch of time in which a kernel had a message in hand.

    Those of one kernel never overlap. One at most, the last, is open: what else has been put into the ring of a
    compiled kernel is not in hand yet.
    """

    start: TraceEvent
    begun: int
    """Time of the start; at the earliest when the one before was over: messages of a compiled ring kernel wait in its
    ring for that."""
    end: TraceEvent | None
    """None: the trace ends before."""


class Observable(Protocol):
    """What a trace can be started on: a runtime."""

    def observe(self, observer: Observer) -> None: ...
    def unobserve(self, observer: Observer) -> None: ...


class Events(Sequence[TraceEvent]):
    """Events in order. Slices and selections of them are `Events` too, and can be drawn and exported alike."""

    def __init__(self, events: Iterable[TraceEvent] = (), left_out: int = 0) -> None:
        self._events = list(events)
        self._left_out = left_out

    def _all(self) -> tuple[list[TraceEvent], int]:
        """All events, and how many there were before that are kept no longer."""
        return self._events, self._left_out

    @property
    def left_out(self) -> int:
        """How many older events were recorded that are kept no longer."""
        return self._all()[1]

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, index: int) -> TraceEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Events: ...
    def __getitem__(self, index: int | slice) -> TraceEvent | Events:
        events, left_out = self._all()
        return Events(events[index], left_out) if isinstance(index, slice) else events[index]

    def __iter__(self) -> Iterator[TraceEvent]:
        return iter(self._all()[0])

    # -- to look into --------------------------------------------------------------------------------------------------

    @property
    def recorded(self) -> int:
        """How many events were recorded so far, those that are kept no longer among them."""
        return self.left_out + len(self)

    def latest(self, n: int, until: int | None = None) -> Events:
        """The newest `n` events, or those of the first `until` that were recorded; others are not read.

        `left_out` of the result says how many came before. Of a trace that records 10,000 messages a second this takes
        as long as of one that is at rest: only the `n` events are copied.

        Raises:
            ValueError: n is below 0.
        """
        if n < 0:
            raise ValueError(f"n must be 0 or more, not {n!r}")
        stretch = self._stretch(n, until)
        return Events(_in_order(stretch), stretch.left_out)

    def _stretch(self, n: int, until: int | None = None) -> Events:
        """`latest`, in the order in which they were recorded."""
        events, left_out = self._all()
        end = len(events) if until is None else min(max(until - left_out, 0), len(events))
        start = max(end - n, 0)
        return Events(events[start:end], left_out + start)

    def _count(self, kind: Kind, start: int, end: int) -> int:
        """How many there are of a kind, from one place in the order of recording to another."""
        events, left_out = self._all()
        return sum(e.kind == kind for e in events[max(start - left_out, 0) : max(end - left_out, 0)])

    def of(self, kernel_id: str | None = None, kind: Kind | None = None) -> Events:
        """Those at one kernel, of one kind, or both.

        Raises:
            ValueError: there is no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}; not {kind!r}")
        events, left_out = self._all()
        chosen = (e for e in events if kernel_id in (None, e.kernel_id) and kind in (None, e.kind))
        return Events(chosen, left_out)

    def chain(self, message: Any) -> Events:
        """All that belongs to one message: what caused it, back to what came from outside, and all that came of it.

        Args:
            message: a message itself, or the number of its delivery.

        Raises:
            LookupError: there is no such message here.
            ValueError: several nodes have a delivery of that number: give the message.
        """
        events, left_out = self._all()
        known = _causes(events)
        members = _keys_of(message, events)
        came_of: dict[_Key, list[_Key]] = {}
        for key, cause in known.items():
            if cause is not None:
                came_of.setdefault(cause, []).append(key)
        new = list(members)
        while new:
            children = [child for child in came_of.get(new.pop(), ()) if child not in members]
            new += children
            members.update(children)
        for key in _keys_of(message, events):
            while (cause := known.get(key)) is not None and cause not in members:
                members.add(cause)
                key = cause
        late = ("drop", None)
        return Events(
            (
                e
                for e in events
                if (e.home, e.number) in members or ((e.kind, e.number) == late and (e.home, e.cause) in members)
            ),
            left_out,
        )

    def tree(self, limit: int = 100) -> str:
        """The messages as text, each below the one that was being handled when it was sent; `limit` lines at most.

        Raises:
            ValueError: the limit is below 1.
        """
        _checked_limit(limit)
        deliveries = {(d.node, d.number): d for d in self.deliveries}
        came_of: dict[_Key | None, list[TracedDelivery]] = {}
        for delivery in deliveries.values():
            cause = (delivery.node, delivery.cause) if delivery.cause is not None else None
            came_of.setdefault(cause if cause in deliveries else None, []).append(delivery)
        lines: list[str] = []
        left = [(delivery, 0) for delivery in reversed(came_of.get(None, ()))]
        while left and len(lines) < limit:
            delivery, depth = left.pop()
            lines.append(_line_of(delivery, depth))
            left += [(child, depth + 1) for child in reversed(came_of.get((delivery.node, delivery.number), ()))]
        if len(lines) < len(deliveries):
            lines.append(f"… {len(deliveries) - len(lines):,} messages left out")
        return _Text("\n".join(lines) or "no messages")

    @property
    def deliveries(self) -> list[TracedDelivery]:
        """What became of each message, in the order in which they are first seen here."""
        made: dict[_Key, dict[str, Any]] = {}
        first_start: dict[_Key, int] = {}
        for e in self:
            if e.number is None or e.kind == "reply":
                continue
            key = (e.home, e.number)
            now = made.get(key)
            if now is None:
                if e.kind not in ("send", "enqueue", "start"):
                    continue
                now = made[key] = dict.fromkeys(TracedDelivery._fields)
                now.update({name: getattr(e, name) for name in TracedDelivery._fields if hasattr(e, name)}, node=e.home)
            now["attempts"] = max(now["attempts"], e.attempts + (e.kind == "crash"))
            if e.kind == "send":
                now.update(sent=e.time, fate="sent")
            elif e.kind == "enqueue":
                now.update(queued=e.time, fate="queued")
            elif e.kind == "start":
                now.update(started=e.time, ended=None, handled=None, fate="in hand")
                if first_start.setdefault(key, e.time) == e.time and now["queued"] is not None:
                    now["waited"] = (e.time - now["queued"]) / 1e9
            elif e.kind in ("end", "crash"):
                now.update(ended=e.time, fate="handled" if e.kind == "end" else "failed")
                if now["started"] is not None:
                    now["handled"] = (e.time - now["started"]) / 1e9
            elif e.kind == "drop":
                now["fate"] = e.detail.partition(":")[0]
        return [TracedDelivery(**values) for values in made.values()]

    @property
    def handlings(self) -> list[Handling]:
        """When each kernel had which message in hand, in order."""
        found: dict[_Key, Handling] = {}
        latest: dict[tuple[str, str], Handling] = {}  # of each kernel, of those that have ended
        done: list[Handling] = []
        for e in self:
            key = (e.home, e.number)
            kernel = (e.home, e.kernel_id)
            if e.kind == "start":
                found[key] = Handling(e, e.time, None)
            elif e.kind in ("end", "crash", "drop") and key in found:
                start = found.pop(key).start
                before = latest[kernel].end if kernel in latest else None
                latest[kernel] = Handling(start, max(start.time, before.time if before is not None else 0), e)
                done.append(latest[kernel])
        in_hand: dict[tuple[str, str], Handling] = {}
        for start, _, _ in found.values():
            kernel = (start.home, start.kernel_id)
            last = latest.get(kernel)
            if last is None or last.start.time < start.time:  # else its end came while nothing was recorded
                ended = last.end.time if last is not None and last.end is not None else 0
                in_hand.setdefault(kernel, Handling(start, max(start.time, ended), None))
        return sorted([*done, *in_hand.values()], key=lambda handling: handling.begun)

    @staticmethod
    def merge(*traces: Events) -> Events:
        """The events of several traces in one order, that of their hybrid clocks.

        What one machine did is in its own order. Between machines, an event that may have caused another comes before
        it where messages carry the stamps of `telemetry.clock`, else as their wall clocks say. To take a trace to
        another machine, pickle its `events`; one with ``messages=False`` needs no classes of yours there.
        """
        parts = [trace._all() for trace in traces]
        return Events(_in_order(e for part, _ in parts for e in part), sum(left_out for _, left_out in parts))

    # -- to take elsewhere ---------------------------------------------------------------------------------------------

    def to_svg(self, limit: int = 200, path: str | PathLike[str] | None = None) -> str:
        """A sequence diagram as SVG that needs nothing else, readable on light and dark pages.

        Args:
            limit: how many events are drawn, the first ones; of the others it says how many they are. Of the latest
                100 draw ``trace.latest(100).to_svg()``.
            path: a file to write it to, which is replaced.

        Returns:
            The SVG text.

        Raises:
            ValueError: the limit is below 1.
            OSError: the file cannot be written.
        """
        from .diagram import svg  # only to draw

        return _written(svg(self, _checked_limit(limit)), path)

    def to_mermaid(self, limit: int = 200, path: str | PathLike[str] | None = None) -> str:
        """The source of a Mermaid sequence diagram. Arguments and errors as those of `to_svg`."""
        from .diagram import mermaid

        return _written(mermaid(self, _checked_limit(limit)), path)

    def to_chrome(self, path: str | PathLike[str] | None = None) -> str:
        """Trace Event Format (JSON), which https://ui.perfetto.dev and chrome://tracing open.

        Each kernel has a track with what it had in hand; arrows lead from sends to starts, and from replies to who
        asked.

        Args:
            path: a file to write it to, which is replaced.

        Returns:
            The JSON text.

        Raises:
            OSError: the file cannot be written.
        """
        from .chrome import chrome

        return _written(chrome(self), path)

    def to_pandas(self) -> pandas.DataFrame:
        """A frame with one row for each event and the columns of `TraceEvent`, `time` in UTC, and `node` for `stamp`.

        Raises:
            ModuleNotFoundError: pandas is missing.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_pandas() needs the package pandas: pip install pandas") from error
        events = list(self)
        columns: dict[str, Any] = {
            name: pandas.Series([getattr(e, name) for e in events], dtype=_DTYPES.get(name, object))
            for name in (*(name for name in TraceEvent._fields if name not in ("time", "stamp")), "node")
        }
        columns["time"] = pandas.to_datetime([e.time for e in events], unit="ns", utc=True)
        return pandas.DataFrame(columns)

    # -- to look at ----------------------------------------------------------------------------------------------------

    @property
    def caption(self) -> str:
        """``"1,234 events at 3 kernels in 1.2 s: 300 messages, 1 crash"``."""
        from .html import _plural, duration  # only where somebody looks

        events, left_out = self._all()
        counts = dict.fromkeys(KINDS, 0)
        for e in events:
            counts[e.kind] += 1
        text = _plural(len(events), "event")
        if events:
            times = [e.time for e in events]
            text += f" at {_plural(len({(e.home, e.kernel_id) for e in events}), 'kernel')}"
            if len(events) > 1:
                text += f" in {duration((max(times) - min(times)) / 1e9)}"
        nouns: dict[Kind, tuple[str, str]] = {
            "send": ("message", "messages"),
            "drop": ("drop", "drops"),
            "crash": ("crash", "crashes"),
            "restart": ("restart", "restarts"),
        }
        if known := [
            f"{counts[kind]:,} {noun if counts[kind] == 1 else plural}"
            for kind, (noun, plural) in nouns.items()
            if counts[kind]
        ]:
            text += f": {', '.join(known)}"
        return text + (f"; {left_out:,} older left out" if left_out else "")

    def __repr__(self) -> str:
        return f"<{self.caption}>"

    def _repr_html_(self) -> str:
        from .diagram import page

        return page(self, 200)


def _written(text: str, path: str | PathLike[str] | None) -> str:
    """A text, put into a file if there shall be one."""
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def _noting(kind: Kind) -> Any:
    """What records this kind of event of a delivery."""

    def note(self: Trace, delivery: Delivery) -> None:
        clock = self.clock
        at = clock.steady()
        wall = at + clock.offset
        message = delivery[0]
        cause = delivery.cause
        self._log.append(
            (next(self._numbers), wall if wall > clock.heard else clock.heard, next(clock.counter), at, kind,
             delivery.kernel_id, delivery.number, None if cause is None else cause.number, delivery.source,
             message if self.messages else _brief(message), None,
             delivery.attempts, "", None)
        )  # fmt: skip

    return note


class Trace(Events, Observer):
    """Records what happens: the latest `limit` events. `runtime.trace()` makes one.

    Use it as ``with runtime.trace() as trace``, or `start` and `stop` it. It can be read by any thread at any time,
    also while it records; `events` are those of now, which change no more.

    A compiled ring kernel starts a message, as seen from here, when the message is put into its ring, and replies and
    ends when the runtime gets the answer back.

    What a ring kernel on a node of a cluster does is stamped there, and takes its place in the order when word of it is
    here: up to half a second later.

    Args:
        runtime: what `start` observes.
        limit: how many events are kept.
        kernels: ids of those that are recorded, also of such as will be launched later; by default all.
        messages: keep the messages and replies themselves, which then live as long as their events. Else only the names
            of their classes are kept, and their ids, where they have one by then.
        clock: what stamps the events; by default that of the process.

    Raises:
        ValueError: the limit is below 1.
        TypeError: an id is not a text.
    """

    def __init__(
        self,
        runtime: Observable | None = None,
        *,
        limit: int = LIMIT,
        kernels: Iterable[str] | None = None,
        messages: bool = True,
        clock: HybridClock | None = None,
    ) -> None:
        self.limit = _checked_limit(limit)
        self.messages = messages
        self.clock = clock if clock is not None else process_clock()
        if kernels is not None:
            ids = [kernels] if isinstance(kernels, str) else list(kernels)
            for kernel_id in ids:
                if not isinstance(kernel_id, str):
                    raise TypeError(f"kernels takes ids of kernels, which are texts, not {kernel_id!r}")
            self.kernels = frozenset(ids)
        self._runtime = runtime
        self._recording = False
        self._is_mixed = False  # some of it happened on nodes of a cluster, and was told later
        self._numbers = count()
        self._log: deque[_Raw] = deque(maxlen=limit)
        self._epoch = self.clock.offset  # the same throughout, so that durations are right

    # -- recording -----------------------------------------------------------------------------------------------------

    @property
    def recording(self) -> bool:
        """Whether it was started and not yet stopped."""
        return self._recording

    def start(self) -> Self:
        """Record from now on. Any thread may call it; it waits for the runtime's loop. A second call does nothing.

        Raises:
            RuntimeError: it was made without a runtime.
            RuntimeClosedError: the runtime is closed.
        """
        if self._runtime is None:
            raise RuntimeError("this trace has no runtime: make it with runtime.trace()")
        if not self._recording:
            self.clock.adjust()
            if not self._log:
                self._epoch = self.clock.offset
            self._runtime.observe(self)
            self._recording = True
        return self

    def stop(self) -> None:
        """Record no more; what is recorded stays. Any thread may call it."""
        if self._recording and self._runtime is not None:
            self._recording = False
            self._runtime.unobserve(self)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # An event costs what its sender and receiver wait for: hence one plain tuple, and no further call.

    sent = _noting("send")
    queued = _noting("enqueue")
    started = _noting("start")
    ended = _noting("end")

    def _note(
        self,
        kind: Kind,
        kernel_id: str,
        delivery: Delivery | None,
        message: Any,
        detail: str,
        answers: Delivery | None = None,
        cause: Delivery | None = None,
        source: str | None = None,
    ) -> None:
        clock = self.clock
        at = clock.steady()
        number, attempts = (None, 0) if delivery is None else (delivery.number, delivery.attempts)
        by = None if cause is None else cause.number
        self._log.append(
            (next(self._numbers), max(at + clock.offset, clock.heard), next(clock.counter), at, kind, kernel_id,
             number, by, source, message if self.messages or message is None else _brief(message),
             None if answers is None else answers.number, attempts, detail, None)
        )  # fmt: skip

    def replied(self, delivery: Delivery | None, kernel_id: str, reply: Any, answers: Delivery | None) -> None:
        asked = (None, None) if answers is None else (answers.cause, answers.source)
        self._note("reply", kernel_id, delivery, reply, "", answers, *asked)

    def lost(self, kernel_id: str, message: Any, kind: str, reason: str, delivery: Delivery | None) -> None:
        if delivery is not None:
            cause, source = delivery.cause, delivery.source
        else:  # a late reply, for one: the body may have sent it just now
            cause = in_hand.get()
            if cause is not None and cause.kernel_id != kernel_id:
                cause = None
            source = None if cause is None else cause.kernel_id
        self._note("drop", kernel_id, delivery, message, f"{kind}: {reason}", None, cause, source)

    def failed(self, kernel_id: str, error: BaseException, delivery: Delivery | None) -> None:
        message, cause, source = (
            (None, None, None) if delivery is None else (delivery[0], delivery.cause, delivery.source)
        )
        self._note("crash", kernel_id, delivery, message, _error_text(error), None, cause, source)

    def restarted(self, kernel_id: str, number: int) -> None:
        self._note("restart", kernel_id, None, None, f"restart {number}")

    def changed(self, kernel_id: str, state: str) -> None:
        self._note("state", kernel_id, None, None, state)

    def elsewhere(self, stamp: Stamp, what: str, *args: Any) -> None:
        getattr(self, what)(*args)
        number, _, _, _, *rest = self._log.pop()
        self._log.append((number, stamp.wall, stamp.logical, stamp.wall - self._epoch, *rest[:-1], stamp.node))
        self._is_mixed = True

    # -- reading -------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> list[_Raw]:
        while True:
            try:
                return list(self._log)
            except RuntimeError:  # the runtime's loop has added one meanwhile
                continue

    def _newest(self, n: int, start: int) -> list[_Raw]:
        """`n` of them, in order, so that `start` newer ones are left."""
        while True:
            try:
                return list(islice(reversed(self._log), start, start + n))[::-1]
            except RuntimeError:
                continue

    def _all(self) -> tuple[list[TraceEvent], int]:
        events, left_out = self._read(self._snapshot())
        return _in_order(events) if self._is_mixed else events, left_out

    def _read(self, raw: list[_Raw]) -> tuple[list[TraceEvent], int]:
        kept, epoch, node = self.messages, self._epoch, self.clock.node
        events = [_event(one, kept, epoch, node) for one in raw]
        asked = {e.number: e for e in events if e.kind == "send"}
        for place, e in enumerate(events):
            # An ask that went out of hand before it was answered has forgotten by then where it came from.
            if e.answers is not None and e.source is None and (ask := asked.get(e.answers)) is not None:
                events[place] = e._replace(cause=ask.cause, source=ask.source)
        return events, raw[0][0] if raw else 0

    @property
    def events(self) -> Events:
        """The events of now, which change no more."""
        return Events(*self._all())

    @property
    def left_out(self) -> int:
        """How many older events were recorded that are kept no longer."""
        try:
            return self._log[0][0]
        except IndexError:
            return 0

    @property
    def recorded(self) -> int:
        """How many events were recorded so far, those that are kept no longer among them."""
        try:
            return self._log[-1][0] + 1
        except IndexError:
            return 0

    def _stretch(self, n: int, until: int | None = None) -> Events:
        for _ in range(10):
            now = self.recorded
            end = now if until is None else min(max(until, 0), now)
            raw = self._newest(n, now - end)
            if not raw or raw[-1][0] < end:
                break
        raw = [one for one in raw if one[0] < end]  # if so many come that others always get between
        return Events(*self._read(raw)) if raw else Events((), end)

    def _count(self, kind: Kind, start: int, end: int) -> int:
        raw = self._newest(max(self.recorded - start, 0), 0)
        return sum(one[4] == kind and start <= one[0] < end for one in raw)

    def __len__(self) -> int:
        return len(self._log)

    def __repr__(self) -> str:
        return f"<trace, {'recording' if self._recording else 'not recording'}: {self.caption}>"


# -- what is recorded, and what is read --------------------------------------------------------------------------------

_Key = tuple[str, int | None]
"""Node and number of a delivery."""

_Raw = tuple[int, int, int, int, Kind, str, int | None, int | None, str | None, Any, int | None, int, str, str | None]
"""An event as it is recorded: how many came before, the stamp's wall time and counter, the steady clock, kind, kernel,
number of the delivery, cause, source, the message or its `_brief`, answers, attempts, detail, the node if it happened
elsewhere."""


def _brief(message: Any) -> tuple[str, Any]:
    """What is kept of a message that is not: the name of its class, and its id, if it has one already."""
    return type(message).__name__, _id_of(message)


def _id_of(message: Any) -> Any:
    return getattr(message, "__dict__", {}).get("message_id")  # reading the attribute would make it


def _event(raw: _Raw, kept: bool, epoch: int, node: str) -> TraceEvent:
    _, wall, logical, at, kind, kernel_id, number, cause, source, message, answers, attempts, detail, elsewhere = raw
    if not kept:
        name, message_id = message or ("", None)
        message = None
    elif message is None and number is None:  # nothing was in hand
        name, message_id = "", None
    else:
        name, message_id = _brief(message)
    return TraceEvent(
        kind,
        kernel_id,
        number,
        name,
        message,
        message_id,
        cause,
        source,
        answers,
        attempts,
        detail,
        at + epoch,
        Stamp(wall, logical, node if elsewhere is None else elsewhere),
        node,
    )


def _in_order(events: Iterable[TraceEvent]) -> list[TraceEvent]:
    """As they happened: word of what happens on nodes of a cluster comes later."""
    return sorted(events, key=attrgetter("stamp"))


_DTYPES = {"number": "Int64", "cause": "Int64", "answers": "Int64", "attempts": "int64"}


def _causes(events: Iterable[TraceEvent]) -> dict[_Key, _Key | None]:
    """By what each delivery was caused."""
    return {
        (e.home, e.number): None if e.cause is None else (e.home, e.cause)
        for e in events
        if e.number is not None and e.kind != "reply"  # which names what its ask was caused by
    }


def _keys_of(message: Any, events: Sequence[TraceEvent]) -> set[_Key]:
    """Those deliveries that `Events.chain` was asked for."""
    by_number = isinstance(message, int) and not isinstance(message, bool)
    if by_number:
        keys = {(e.home, e.number) for e in events if e.number == message}
    else:
        keys = {(e.home, e.number) for e in events if e.message is message and e.number is not None}
    if not keys:
        hint = "" if by_number else "; give the number of its delivery if the trace keeps no messages"
        raise LookupError(f"there is no message {_shortened.repr(message)} among these events{hint}")
    if by_number and len(keys) > 1:
        nodes = ", ".join(sorted(repr(node) for node, _ in keys))
        raise ValueError(f"the nodes {nodes} have a delivery {message} each: give the message itself")
    return keys


def _line_of(delivery: TracedDelivery, depth: int) -> str:
    """A line of `Events.tree`."""
    from .html import duration

    indent = "   " * min(depth, 20) + ("└─ " if depth else "")
    words = [delivery.fate if delivery.fate != "handled" else ""]
    if delivery.waited is not None:
        words.append(f"waited {duration(delivery.waited)}")
    if delivery.handled is not None:
        words.append(f"took {duration(delivery.handled)}")
    way = f"{delivery.source or 'outside'} → {delivery.kernel_id}"
    return f"{indent}{one_line(f'{way} #{delivery.number} {delivery.type}')}  {', '.join(filter(None, words))}".rstrip()


class _Text(str):
    """A text that is shown as it is."""

    __slots__ = ()
    __repr__ = str.__str__


_shortened = Repr()
_shortened.maxstring = _shortened.maxother = 80
_shortened.maxlevel = 3


def message_text(event: TraceEvent) -> str:
    """The message of an event in a short line; the name of its class where nothing else is known."""
    if event.message is None:
        return event.type
    try:
        return one_line(_shortened.repr(event.message))
    except Exception:  # noqa: BLE001 - an object of the user's, which may do anything
        return event.type


def one_line(text: str) -> str:
    """It in one line that any page, file and terminal takes."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def _error_text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception of the user's, which may do anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _checked_limit(limit: Any) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ValueError(f"limit must be an integer of at least 1, not {limit!r}")
    return limit
