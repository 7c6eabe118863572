"""Ring kernels whose step runs in plain Python, on the event loop of the runtime.

Slow, and what a debugger needs: ``breakpoint()`` works in a step, an index out of bounds is an IndexError, and nothing
has to be installed. What a step does to integers is NumPy's: they wrap around as in compiled steps, but those narrower
than 64 bits do so in their own type, and a Python number that does not fit its field is an OverflowError here.
"""

from __future__ import annotations

import contextvars
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..messages import Layout, layout
from ..runtime.executor import BY_KEY, NOTHING, PENDING, REFUSED, Event, Executor, Program, RingPositions, Rings
from ..runtime.scheduler import SLICE_NS, Rests, clock
from ..telemetry import BUCKETS, COUNTERS

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition

_PROCESSED, _REPLIED, _BUSY_NS, _WAITED, _HANDLED = (
    COUNTERS.fields[name][1] // 8  # type: ignore[index]
    for name in ("processed", "replied", "busy_ns", "waited", "handled")
)
"""Words of a row of counters."""


class InterpretedProgram:
    """A step as it was written."""

    def __init__(self, definition: StepDefinition) -> None:
        self.definition = definition


@cache
def _view(dtype: np.dtype[np.void]) -> type:
    """A class whose attributes are the fields of a record: NumPy scalars, arrays, and such views of nested records.

    A NumPy record has methods of its own, `mean` for one, which would hide fields.
    """

    def shown(self: Any) -> str:
        return f"record({', '.join(f'{name}={getattr(self, name)!r}' for name in dtype.names or ())})"

    namespace: dict[str, Any] = {"__slots__": ("_record",), "__repr__": shown}
    for name in dtype.names or ():
        inner = _view(dtype[name]) if dtype[name].names else None

        def get(self: Any, name: str = name, inner: type | None = inner) -> Any:
            return self._record[name] if inner is None else _viewed(inner, self._record[name])

        def put(self: Any, value: Any, name: str = name) -> None:
            self._record[name] = getattr(value, "_record", value)

        namespace[name] = property(get, put)
    return type("record", (), namespace)


def _viewed(kind: type, record: Any) -> Any:
    view: Any = object.__new__(kind)
    view._record = record
    return view


class _Record:
    """Memory for one record, and the view of it that a step gets."""

    def __init__(self, known: Layout) -> None:
        self.layout = known
        array = np.zeros(1, known.dtype)
        self.memory = array.view(np.uint8).data
        self.view = _viewed(_view(known.dtype), array[0])
        self.blank = bytes(known.dtype.itemsize)


class InterpretedExecutor:
    """One ring kernel whose messages are handled by callbacks of the event loop, for about a millisecond each."""

    patience = 1

    def __init__(
        self, engine: InterpretedEngine, program: Program, row: memoryview, notify: Callable[[int], None]
    ) -> None:
        self._engine, self._row, self._notify = engine, row, notify
        self._lock = Lock()  # held for a few instructions
        self._ring: deque[tuple[bytes, int, int, int]] = deque()  # packed, instance, ticket, clock() when it was put
        self._replies: deque[bytes] = deque()
        self.handed = 0
        self._left = self._read = 0  # how many messages have left the ring, and how many replies were taken
        self._places = 0  # kept in the ring for replies of other kernels, whose steps run
        self._answers: list[tuple[int, Any]] = []
        self._is_open = self._runs = self._scheduled = self._closed = False
        self._armed: int = Event.FAILURE
        self._target: Any = None  # another of these
        self._sources: set[InterpretedExecutor] = set()  # those that wait to hand a reply over
        self.failure: BaseException | None = None
        self._states = program.definition.initial()
        self._adopt(program)

    def _adopt(self, program: Program) -> None:
        definition = program.definition
        self._definition, self._capacity = definition, definition.queue_size
        self._context = definition.context.copy() if definition.context is not None else contextvars.copy_context()
        self._buffers = [buffer.host for buffer in definition.buffers.values()]
        self._message = _Record(layout(definition.message_type))
        self._reply = _Record(layout(definition.reply_type)) if definition.reply_type is not None else None
        self._adopt_states()

    def _adopt_states(self) -> None:
        self._views: list[Any] = [None] * self._definition.instances
        if self._states is not None:
            self._views = [_viewed(_view(self._states.dtype), state) for state in self._states]

    # -- messages in ---------------------------------------------------------------------------------------------------

    def put(self, message: Any, instance: int, ticket: int = 0) -> bool:
        return self._put(message, instance, ticket, False)

    def feed(self, message: Any, instance: int, ticket: int = 0) -> bool:
        return self._put(message, instance, ticket, True)

    def _put(self, message: Any, instance: int, ticket: int, by_force: bool) -> bool:
        packed = bytearray(self._message.blank)
        self._message.layout.pack_into(packed, 0, message)
        return self._append(((bytes(packed), instance, ticket, clock()),), by_force) == 1

    def _append(self, entries: Sequence[tuple[bytes, int, int, int]], by_force: bool) -> int:
        """How many of them there was room for; -1 where the gate is closed."""
        with self._lock:
            if self._closed or not (self._is_open or by_force):
                return -1
            fitting = entries[: max(self._capacity - self.depth, 0)]
            self._ring.extend(fitting)
            self._schedule()
        return len(fitting)

    def put_records(self, records: NDArray[np.void], instance: int) -> int:
        return self._append_records(records, instance, False)

    def feed_records(self, records: NDArray[np.void], instance: int) -> int:
        return self._append_records(records, instance, True)

    def _append_records(self, records: NDArray[np.void], instance: int, by_force: bool) -> int:
        packed, size, now = records[: self._capacity].tobytes(), records.itemsize, clock()
        return self._append([(packed[i : i + size], instance, 0, now) for i in range(0, len(packed), size)], by_force)

    def ask(self, message: Any, instance: int, ticket: int) -> Any:
        return PENDING if self.put(message, instance, ticket) else REFUSED

    put_from_afar, ask_from_afar = put, ask

    def open_gate(self, is_open: bool) -> None:
        with self._lock:
            self._is_open = is_open

    @property
    def depth(self) -> int:
        return len(self._ring) + self._places

    def rings(self) -> Rings:
        limit = self._capacity
        with self._lock:
            left, read = self._left, self._read
            tails = left + len(self._ring), read + len(self._replies)
        return Rings(*(RingPositions(limit, limit, head, tail) for head, tail in zip((left, read), tails, strict=True)))

    # -- messages out --------------------------------------------------------------------------------------------------

    def answers(self) -> Sequence[tuple[int, Any]]:
        answers, self._answers = self._answers, []
        return answers

    def take(self) -> Any:
        if not self._replies:
            return NOTHING
        with self._lock:
            reply = self._replies.popleft()
            self._read += 1
        self._go_on()
        return self._unpacked(reply)

    def take_records(self, max_n: int) -> NDArray[np.void]:
        assert self._reply is not None
        with self._lock:
            taken = [self._replies.popleft() for _ in range(min(max_n, len(self._replies)))]
            self._read += len(taken)
        self._go_on()
        return np.frombuffer(bytearray().join(taken), self._reply.layout.dtype)

    @property
    def unread(self) -> int:
        return len(self._replies)

    def arm(self, events: int) -> int:
        come = self._present() & events
        if not come:
            self._armed |= events
        return come

    def _present(self) -> int:
        return (
            (Event.ANSWER if self._answers else 0)
            | (Event.REPLY if self._replies else 0)
            | (Event.ROOM if self.depth < self._capacity else 0)
            | (Event.IDLE if not self.depth else 0)
            | (Event.FAILURE if self.failure is not None else 0)
        )

    def connect(self, target: Executor) -> bool:
        if type(target) is not type(self):
            return False
        self._target = target
        return True

    def disconnect(self) -> None:
        if self._target is not None:
            self._target._sources.discard(self)
            self._target, self.handed = None, 0
            self._go_on()

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        with self._lock:
            self._runs = True
            self._schedule()

    def pause(self) -> None:
        self._runs = False

    @property
    def resting(self) -> bool:
        # A step runs from its begin to its end while nothing else does on this loop.
        return not self._runs or self.failure is not None

    def refusal(self, program: Program) -> str | None:
        return None

    def swap(self, program: Program) -> None:
        self._adopt(program)

    def states(self) -> NDArray[np.void]:
        assert self._states is not None
        return self._states.copy()

    def retrieve(self) -> Sequence[tuple[Any, int, int]]:
        with self._lock:
            left, self._ring = self._ring, deque()
            self._left += len(left)
        if left and not self._closed:
            self._engine.loop.call_soon(self._tell)  # there is room
        unpack = self._message.layout.unpack_from
        return [(unpack(packed, 0), instance, ticket) for packed, instance, ticket, _ in left]

    def renew(self, keep_states: bool) -> None:
        if not keep_states:
            self._states = self._definition.initial()
            self._adopt_states()
        self._runs, self.failure = False, None
        self._armed |= Event.FAILURE

    def close(self) -> None:
        with self._lock:
            self._closed, self._runs = True, False
            self._left += len(self._ring)
            self._read += len(self._replies)
            self._ring.clear()
            self._replies.clear()
        self._engine.executors.discard(self)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Let the loop look at the messages soon. The lock is held."""
        if self._runs and self._ring and not self._scheduled and self.failure is None:
            self._scheduled = True
            engine = self._engine
            call = engine.loop.call_soon if get_ident() == engine.thread else engine.loop.call_soon_threadsafe
            call(self._handle, context=self._context)

    def _handle(self) -> None:
        """Handle messages until the slice is over."""
        end, goes_on = clock() + SLICE_NS, True
        try:
            with np.errstate(all="ignore"):  # 1 / 0 is inf, as in compiled steps
                while goes_on and self._runs and self._ring and self.failure is None and clock() < end:
                    goes_on = self._handled()
            self._engine.rest()
        finally:
            with self._lock:
                self._scheduled = False
                if goes_on:
                    self._schedule()
            self._tell()

    def _handled(self) -> bool:
        """Handle the first message, which stays in the ring meanwhile. False: there is no room for its reply."""
        packed, instance, ticket, put = self._ring[0]
        target, is_unasked = self._target, self._reply is not None and not ticket
        if is_unasked and target is None and len(self._replies) >= self._capacity:
            return False
        if is_unasked and target is not None and not target._reserved(self):
            return False
        self._message.memory[:] = packed
        begun, packed_reply = clock(), None
        try:
            packed_reply = self._step(instance)
        finally:
            if is_unasked and target is not None:
                target._fill(packed_reply)
                self.handed += packed_reply is not None
        if self.failure is not None:
            return False
        spent, row = clock() - begun, self._row
        row[_BUSY_NS] += spent
        row[_WAITED + min((begun - put).bit_length(), BUCKETS - 1)] += 1
        row[_HANDLED + min(spent.bit_length(), BUCKETS - 1)] += 1
        row[_PROCESSED] += 1
        row[_REPLIED] += packed_reply is not None
        if ticket:
            self._answers.append((ticket, None if packed_reply is None else self._unpacked(packed_reply)))
        elif packed_reply is not None and target is None:
            self._replies.append(packed_reply)
        with self._lock:
            self._ring.popleft()
            self._left += 1
        return True

    def _step(self, instance: int) -> bytes | None:
        """Run the step on the message; the reply that it sends."""
        definition, message, reply = self._definition, self._message.view, self._reply
        if reply is not None:
            reply.memory[:] = reply.blank
        if instance < 0:
            key = definition.key
            instance = 0 if key is None else int(getattr(message, key)) % definition.instances
        try:
            sends = definition.body(
                self._views[instance], message, None if reply is None else reply.view, *self._buffers
            )
        except BaseException as error:
            self.failure = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
            if isinstance(error, KeyboardInterrupt):
                raise
            return None
        return bytes(reply.memory) if sends and reply is not None else None

    def _unpacked(self, reply: bytes) -> Any:
        assert self._reply is not None
        return self._reply.layout.unpack_from(reply, 0)

    def _reserved(self, source: InterpretedExecutor) -> bool:
        """Keep a place in the ring for a reply of another kernel; else that is told when there is room."""
        with self._lock:
            if self.depth < self._capacity:
                self._places += 1
                return True
        self._sources.add(source)
        return False

    def _fill(self, packed: bytes | None) -> None:
        """Put that reply into the place, if there is one."""
        with self._lock:
            self._places -= 1
            if packed is not None and not self._closed:
                self._ring.append((packed, BY_KEY, 0, clock()))
                self._schedule()

    def _go_on(self) -> None:
        """There may be room for a reply."""
        with self._lock:
            self._schedule()

    def _tell(self) -> None:
        """Notify of what was armed for and has come; let those go on that waited for room here."""
        if self._closed:
            return
        if self.depth < self._capacity:
            sources, self._sources = self._sources, set()
            for source in sources:
                source._go_on()
        if come := self._present() & self._armed:
            self._armed &= ~come
            self._notify(come)


def rehearse(
    definition: StepDefinition, message: NDArray[np.void], state: NDArray[np.void] | None
) -> BaseException | None:
    """What a step raises in Python for a message, shape (1,), and a state, shape (1,), that it may change; or None."""
    views = [_viewed(_view(record.dtype), record[0]) if record is not None else None for record in (state, message)]
    reply = _Record(layout(definition.reply_type)).view if definition.reply_type is not None else None
    try:
        with np.errstate(all="ignore"):
            definition.body(*views, reply, *(buffer.host.copy() for buffer in definition.buffers.values()))
    except Exception as error:  # noqa: BLE001 - a step may raise what it likes
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    return None


class InterpretedEngine(Rests):
    """The interpreted kernels of one runtime."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        super().__init__()
        self.loop, self.thread = loop, get_ident()
        self.executors: set[InterpretedExecutor] = set()

    def executor(self, program: Program, row: memoryview, notify: Callable[[int], None]) -> InterpretedExecutor:
        executor = InterpretedExecutor(self, program, row, notify)
        self.executors.add(executor)
        return executor

    def close(self) -> None:
        for executor in list(self.executors):
            executor.close()


class InterpretedBackend:
    """Steps as Python runs them."""

    name = "interpreted"

    def check(self, definition: StepDefinition) -> None:
        from .rules import check_step

        check_step(definition, interpreted=True)

    def build(self, definition: StepDefinition) -> InterpretedProgram:
        return InterpretedProgram(definition)

    def engine(self, loop: AbstractEventLoop) -> InterpretedEngine:
        return InterpretedEngine(loop)
