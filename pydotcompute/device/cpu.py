"""Ring kernels on the CPU: native threads that need the interpreter for nothing.

An engine has as many workers as this process may use cores. A worker attends one kernel at a time and one that has
nothing to do looks around for `SPIN_NS`, then sleeps in the system until it is woken through a file descriptor; the
event loop is woken in the same way. On one core nobody spins.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray, cfunc
from numpy.typing import NDArray

from ..exceptions import BackendUnavailableError, StepError
from ..messages import layout
from ..runtime.executor import BY_KEY, NOTHING, PENDING, REFUSED, Event, Executor, Program
from ..telemetry import COUNTERS
from . import atomics, compiler, ring
from .cache import cached_module, fingerprint_of
from .interpreted import rehearse
from .ring import Ring, address, block
from .rules import check_step

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition

log = logging.getLogger("pydotcompute")

SPIN_NS = 100_000
"""How long a worker without work looks for some until it sleeps: longer than an event loop takes to come back with the
next message, since waking a processor that sleeps takes as long. Up to eight times that where it proves too short."""
LEASE = 30.0
"""Seconds that workers go on while the event loop of the runtime does not move. When it does, they go on again."""
QUANTUM = 0.001
"""Seconds that a kernel keeps its worker while others wait for one, unless its definition says otherwise."""
LOOKS = 300
"""How often an ask looks for its answer before it leaves that to the event loop: some microseconds."""
PATIENCE = 20
"""Passes of the event loop."""
PATIENCE_AT_END = 2.0
"""Seconds that closing waits for steps to come back."""
CONTROL_GROUP = Path("/sys/fs/cgroup")

# What a worker calls by its address. It is compiled once for each step and kept on disk, so the step is a global in it.
TEMPLATE = """
@cfunc("int64(int64)", cache=CACHE, error_model="numpy")
def serve(kernel):
    messages, message_mask = load(kernel, MESSAGES), load(kernel, MESSAGE_MASK)
    replies, reply_mask = load(kernel, REPLIES), load(kernel, REPLY_MASK)
    first, last = load(kernel, FIRST), load(kernel, LAST)
    tail, limit = load(kernel, REPLY_TAIL), load(kernel, REPLY_LIMIT)
    to_instance = load(kernel, TO_INSTANCE)
    unsaid = 0 if last - first <= 16 else 15
{arrays}
    while first < last and tail < limit and acquire(kernel, PAUSED) == 0:
        message = {message}
        instance = {instance}
        reply = {reply}
        replied = False
        try:
            replied = truth(step({given}))
        except Exception:
            store(kernel, FAILED, 1)
            store(kernel, PAUSED, 1)
            break
        if replied:
            {done}
        first += 1
        if first & unsaid == 0:
            store(kernel, FIRST, first)
    store(kernel, FIRST, first)
    store(kernel, REPLY_TAIL, tail)
    return 0
"""
_ON_STACK = 256
"""Bytes of a record up to which it is copied to the stack for its step, where the optimizer can do more with it."""


_WORDS = (
    *("MESSAGES", "MESSAGE_MASK", "FIRST", "LAST", "TO_INSTANCE", "REPLIES", "REPLY_MASK", "REPLY_TAIL", "REPLY_LIMIT"),
    *("PAUSED", "FAILED", "STATES", "BUFFERS"),
)
_INTRINSICS = ("acquire", "load", "store", "blank_record", "copied_record", "pointer", "put_record", "truth")


def cores() -> int:
    """How many cores this process may use: by its affinity, and by the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, quota())))


@cache
def quota() -> float:
    """Cores that the control group of this process allows; Linux keeps it in files, of version 2 or 1."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):  # not there; or "max", which is no number
            allowed, period = map(int, " ".join((CONTROL_GROUP / file).read_text() for file in files).split())
            if allowed > 0:
                return allowed / period
    return math.inf


class _Native:
    """The compiled code that works on rings, as what calls it from Python."""

    def __init__(self) -> None:
        source = Path(__file__).with_name("loop.py").read_text()
        self._module = module = cached_module(source, {}, fingerprint_of(source, COUNTERS))
        self.work: Callable[[int, int], int] = module.work
        self.put, self.put_plain, self.put_many = map(_entry, (module.put, module.put_plain, module.put_many))
        self.ask, self.take, self.arm, self.collect = map(_entry, (module.ask, module.take, module.arm, module.collect))
        self.do = _entry(module.do)
        self.has_membarrier = atomics.has_membarrier()  # asked once: the system takes milliseconds to switch it on


def _entry(function: Any) -> Callable[..., int]:
    """The C entry point of a compiled function with one signature: calling it costs half of calling the dispatcher."""
    (compiled,) = function.overloads.values()
    return compiled.entry_point  # type: ignore[no-any-return]


_native = cache(_Native)


class CpuProgram:
    """A step, compiled: the address of what a worker calls."""

    def __init__(self, definition: StepDefinition) -> None:
        self.definition = definition
        self.message = layout(definition.message_type)
        self.reply = layout(definition.reply_type) if definition.reply_type is not None else None
        self.state = np.dtype(layout(definition.state_type).dtype) if definition.state_type is not None else None
        self._module = compiler.compiled(definition, *self._source())  # kept: its code goes with it
        self.serve: int = self._module.serve.address

    def _source(self) -> tuple[str, dict[str, Any]]:
        """The text around the step, and what it uses by name."""
        definition = self.definition
        names: dict[str, Any] = {name: getattr(ring, name) for name in _WORDS}
        names |= {name: getattr(atomics, name) for name in _INTRINSICS}
        names |= {"cfunc": cfunc, "carray": carray, "np": np, "MESSAGE": self.message.dtype}
        arrays, given = [], ["None", "message", "reply"]
        if self.state is not None:
            names["STATE"] = self.state
            arrays.append(f"states = carray(pointer(load(kernel, STATES)), {definition.instances}, STATE)")
            given[0] = "states[instance]"
        for i, (name, buffer) in enumerate(definition.buffers.items()):
            names[f"DTYPE_{i}"] = buffer.dtype
            at = f"pointer(load(load(kernel, BUFFERS), {i}))"
            arrays.append(f"buffer_{i} = carray({at}, {buffer.shape!r}, DTYPE_{i})  # {name}")
            given.append(f"buffer_{i}")
        size = self.message.dtype.itemsize
        at = f"messages + (first & message_mask) * {size}"
        message = f"copied_record(MESSAGE, {at})" if size <= _ON_STACK else f"carray(pointer({at}), 1, MESSAGE)[0]"
        reply, done = "None", "pass"
        if self.reply is not None:
            names["REPLY"] = self.reply.dtype
            size = self.reply.dtype.itemsize
            at = f"replies + (tail & reply_mask) * {size}"
            if size <= _ON_STACK:
                reply, done = "blank_record(REPLY)", f"put_record({at}, reply); tail += 1"
            else:
                names["clear"] = atomics.clear
                reply, done = f"carray(pointer(clear({at}, {size})), 1, REPLY)[0]", "tail += 1"
        instance = "0"
        if definition.instances > 1:
            instance = "to_instance"
            if definition.key is not None:
                instance += f" if to_instance >= 0 else np.int64(message.{definition.key}) % {definition.instances}"
        return TEMPLATE.format(
            arrays="\n".join(f"    {line}" for line in arrays),
            message=message,
            instance=instance,
            reply=reply,
            given=", ".join(given),
            done=done,
        ), names


class CpuEngine:
    """The workers of one runtime and what they share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.native = loop, _native()
        self.cores = cores()
        workers = min(self.cores, ring.MAX_WORKERS)
        self._executors: dict[int, CpuExecutor] = {}
        self._free = list(range(ring.MAX_KERNELS - 1, -1, -1))
        self._gone: list[tuple[CpuExecutor, list[int] | None]] = []  # with the passes of the workers at that time
        self._kernels = block(8 * ring.MAX_KERNELS)
        self._ready = block(ring.MAX_KERNELS // 8)
        self._noted = block(ring.MAX_KERNELS // 8)
        self._passes = block(8 * ring.WORKER_WORDS * workers)
        self._pairs = block(16 * ring.MAX_KERNELS)
        self._one = block(8 * (2 + workers))  # the word that is written to wake somebody; then where each one reads it
        self._one[0] = 1
        self._words = words = block(8 * ring.POOL_WORDS)
        self.address = address(words)
        self._host_fds = _wake_up_fds(blocking=False)
        self._worker_fds = [_wake_up_fds(blocking=True) for _ in range(workers)]
        self._read_fds = np.array([reader for reader, _ in self._worker_fds], np.int64)
        self._write_fds = np.array([writer for _, writer in self._worker_fds], np.int64)
        words[ring.KERNELS], words[ring.READY_BITS] = address(self._kernels), address(self._ready)
        words[ring.NOTED_BITS], words[ring.PASSES] = address(self._noted), address(self._passes)
        words[ring.HOST_FD], words[ring.ONE] = self._host_fds[1], address(self._one)
        words[ring.READ_FDS], words[ring.WRITE_FDS] = address(self._read_fds), address(self._write_fds)
        words[ring.SPIN] = SPIN_NS if self.cores > 1 else 0
        words[ring.SPIN_PLACES] = self.cores - 1
        words[ring.BIT_WORDS] = 1
        words[ring.FENCED] = not self.native.has_membarrier
        self._threads: list[threading.Thread] = []
        self._renewed = threading.Event()
        self._renewal: asyncio.TimerHandle | None = None
        self._closed = False
        loop.add_reader(self._host_fds[0], self._on_events)

    def executor(self, program: Program, row: memoryview, notify: Callable[[int], None]) -> CpuExecutor:
        assert isinstance(program, CpuProgram)
        self._sweep()
        if not self._free:
            raise BackendUnavailableError(
                f"the CPU backend runs {ring.MAX_KERNELS} ring kernels at most: end some first"
            )
        index = self._free.pop()
        executor = CpuExecutor(self, program, row, notify, index)
        self._executors[index] = executor
        self._words[ring.BIT_WORDS] = max(int(self._words[ring.BIT_WORDS]), index // 64 + 1)
        self._kernels[index] = executor.address
        return executor

    def start(self) -> None:
        """Start the workers, if they do not run yet."""
        if self._threads or self._closed:
            return
        self._renew()
        for me in range(len(self._worker_fds)):
            thread = threading.Thread(target=self._work, args=(me,), name=f"pydotcompute-cpu-{me}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, me: int) -> None:
        while self.native.work(self.address, me):  # else it was stopped
            self._renewed.clear()
            if self._words[ring.LEASE] < self.native.do(ring.CLOCK, 0) and not self._words[ring.STOP]:
                self._renewed.wait()

    def _renew(self) -> None:
        """The event loop lives: so may the workers."""
        self._words[ring.LEASE] = self.native.do(ring.CLOCK, 0) + int(LEASE * 1e9)
        self._renewed.set()
        self._renewal = self._loop.call_later(LEASE / 3, self._renew)

    def _on_events(self) -> None:
        pairs = self._pairs
        for i in range(self.native.collect(self.address, self._host_fds[0], address(pairs))):
            executor = self._executors.get(int(pairs[2 * i]))
            if executor is not None and pairs[2 * i + 1]:
                try:
                    executor.notify(int(pairs[2 * i + 1]))
                except Exception as error:  # noqa: BLE001 - the others are to hear of theirs all the same
                    self._loop.call_exception_handler({"message": "a ring kernel's event failed", "exception": error})

    def let_go(self, executor: CpuExecutor) -> None:
        """Free the memory of an executor as soon as no worker can know of it any more."""
        self._gone.append((executor, None))
        self._sweep()

    def _sweep(self) -> None:
        """Look which of the closed executors no worker knows any more."""
        kept: list[tuple[CpuExecutor, list[int] | None]] = []
        for executor, passes in self._gone:
            if passes is None and self.native.do(ring.WITHDRAW, executor.address):
                self._kernels[executor.index] = 0
                del self._executors[executor.index]
                self._free.append(executor.index)
                passes = self._passes[:: ring.WORKER_WORDS].tolist()
            asleep = self._passes[1 :: ring.WORKER_WORDS].tolist()
            now = self._passes[:: ring.WORKER_WORDS].tolist()
            if passes is None or any(
                was == is_ and not sleeps for was, is_, sleeps in zip(passes, now, asleep, strict=True)
            ):
                kept.append((executor, passes))
        self._gone = kept if self._threads else []

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._words[ring.STOP] = 1
        self._renewed.set()
        for _, writer in self._worker_fds:
            os.write(writer, _ONE)
        latest = time.monotonic() + PATIENCE_AT_END
        for thread in self._threads:
            thread.join(max(latest - time.monotonic(), 0))
        stuck = [thread for thread in self._threads if thread.is_alive()]
        if stuck:
            log.warning("%d threads stay in steps that do not end; they end with the process", len(stuck))
            _stuck.append(self)  # the memory that they use must outlive them
        else:
            _close_all(fd for pair in self._worker_fds for fd in pair)
        try:
            self._loop.call_soon_threadsafe(self._leave_loop)
        except RuntimeError:  # it is closed
            _close_all(self._host_fds)

    def _leave_loop(self) -> None:
        self._loop.remove_reader(self._host_fds[0])
        if self._renewal is not None:
            self._renewal.cancel()
        if self not in _stuck:
            _close_all(self._host_fds)


_stuck: list[CpuEngine] = []
_ONE = (1).to_bytes(8, "little")


def _wake_up_fds(*, blocking: bool) -> tuple[int, int]:
    """What is read and what is written to wake the reader."""
    if hasattr(os, "eventfd"):
        fd = os.eventfd(0, os.EFD_CLOEXEC | (0 if blocking else os.EFD_NONBLOCK))
        return fd, fd
    reader, writer = os.pipe()
    os.set_blocking(reader, blocking)
    return reader, writer


def _close_all(fds: Iterable[int]) -> None:
    for fd in set(fds):
        os.close(fd)


class CpuExecutor:
    """One ring kernel: its rings, its states, its words."""

    def __init__(
        self, engine: CpuEngine, program: CpuProgram, row: memoryview, notify: Callable[[int], None], index: int
    ) -> None:
        definition = program.definition
        self.engine, self.program, self.notify, self.index = engine, program, notify, index
        self._native = engine.native
        self.patience = PATIENCE if engine.cores > 1 else 0
        self._looks = LOOKS if engine.cores > 1 else 0
        message_size = program.message.dtype.itemsize
        self._reply_size = program.reply.dtype.itemsize if program.reply is not None else 0
        limit = definition.queue_size
        self._inbox = Ring(message_size, limit, runs=True)
        self._answers = Ring(16 + self._reply_size, limit)
        self._row = np.frombuffer(row, np.int64)
        self._buffers = definition.buffers  # kept alive, as the arrays themselves
        self._buffer_words = block(8 * max(len(self._buffers), 1))
        for i, buffer in enumerate(self._buffers.values()):
            self._buffer_words[i] = address(buffer.host)
        self._states: NDArray[np.void] | None = None
        if program.state is not None:
            self._state_words = block(definition.instances * program.state.itemsize)
            self._states = self._state_words.view(program.state)
            self._states[:] = definition.initial()
        self._sources = block(8 * MAX_SOURCES)
        # Kept alive: their kernels may end before this one has read them, and a worker may be looking at them.
        self._source_rings: list[Ring | None] = [None] * MAX_SOURCES
        self._former_rings: list[Ring | None] = []
        self._target: CpuExecutor | None = None
        self._failure: BaseException | None = None
        self._closed = False
        self._words = words = block(8 * ring.KERNEL_WORDS)
        self.address = address(words)
        words[ring.SERVE] = program.serve
        words[ring.STATES] = address(self._states) if self._states is not None else 0
        self._give_new_out()
        words[ring.INBOX] = self._inbox.address
        words[ring.ANSWERS], words[ring.ROW] = self._answers.address, address(self._row)
        words[ring.SOURCES] = address(self._sources)
        words[ring.INDEX], words[ring.POOL], words[ring.BUFFERS] = index, engine.address, address(self._buffer_words)
        words[ring.QUANTUM] = int((QUANTUM if definition.quantum is None else definition.quantum) * 1e9)
        words[ring.CHUNK], words[ring.PAUSED], words[ring.PATIENCE] = 1, 1, self._looks
        self._answers.words[ring.WRITER] = self.address
        self._scratch = _Scratch(message_size, self._reply_size)
        words[ring.SCRATCH] = self._scratch.message_address
        self._of_thread = threading.local()
        self._slots = block(_SLOTS * (16 + self._reply_size))
        self._bind()

    def _give_new_out(self) -> None:
        self._out = Ring(max(self._reply_size, 8), self.program.definition.queue_size)
        self._out.words[ring.WRITER] = self.address
        self._words[ring.OUT] = self._out.address

    # -- messages in ---------------------------------------------------------------------------------------------------

    def _own_scratch(self) -> _Scratch:
        """Threads other than that of the event loop pack their messages each into memory of its own."""
        try:
            scratch: _Scratch = self._of_thread.scratch
        except AttributeError:
            scratch = self._of_thread.scratch = _Scratch(self.program.message.dtype.itemsize, self._reply_size)
        return scratch

    def _bind(self) -> None:
        """Make `put`, `feed` and `ask` for the present program: closures, since looking attributes up costs 100 ns."""
        mine, others, kernel, looks = self._scratch, self._own_scratch, self.address, self._looks
        put_one, put_plain, ask_one = self._native.put, self._native.put_plain, self._native.ask
        pack = self.program.message.pack_into
        unpack = self.program.reply.unpack_from if self.program.reply is not None else _no_reply
        message_view, message_at, reply_view, reply_at = (
            mine.message, mine.message_address, mine.reply, mine.reply_address
        )  # fmt: skip

        def put(message: Any, instance: int, ticket: int = 0) -> bool:
            pack(message_view, 0, message)
            if instance == BY_KEY and not ticket:
                return put_plain(kernel) > 0
            return put_one(kernel, message_at, instance, ticket, 1) > 0

        def feed(message: Any, instance: int, ticket: int = 0) -> bool:
            pack(message_view, 0, message)
            return put_one(kernel, message_at, instance, ticket, 0) > 0

        def ask(message: Any, instance: int, ticket: int) -> Any:
            pack(message_view, 0, message)
            code = ask_one(kernel, message_at, instance, ticket, reply_at, looks)
            if code == 2:
                return unpack(reply_view, 0)
            return None if code == 3 else PENDING if code == 1 else REFUSED

        def put_from_afar(message: Any, instance: int, ticket: int = 0) -> bool:
            scratch = others()
            pack(scratch.message, 0, message)
            return put_one(kernel, scratch.message_address, instance, ticket, 1) > 0

        def ask_from_afar(message: Any, instance: int, ticket: int) -> Any:
            scratch = others()
            pack(scratch.message, 0, message)
            code = ask_one(kernel, scratch.message_address, instance, ticket, scratch.reply_address, looks)
            if code == 2:
                return unpack(scratch.reply, 0)
            return None if code == 3 else PENDING if code == 1 else REFUSED

        self.put, self.feed, self.ask, self._unpack = put, feed, ask, unpack
        self.put_from_afar, self.ask_from_afar = put_from_afar, ask_from_afar

    def put_records(self, records: NDArray[np.void], instance: int) -> int:
        count = min(len(records), max(_MOST_BYTES // records.itemsize, 1))
        return self._native.put_many(self.address, address(records), count, instance, 1)

    def feed_records(self, records: NDArray[np.void], instance: int) -> int:
        count = min(len(records), max(_MOST_BYTES // records.itemsize, 1))
        return self._native.put_many(self.address, address(records), count, instance, 0)

    def open_gate(self, is_open: bool) -> None:
        self._words[ring.GATE] = is_open

    @property
    def depth(self) -> int:
        return 0 if self._closed else self._native.do(ring.QUEUED, self.address)

    # -- messages out --------------------------------------------------------------------------------------------------

    def answers(self) -> Sequence[tuple[int, Any]]:
        slots, found = self._slots, []
        size = 16 + self._reply_size
        while count := self._native.take(self._answers.address, address(slots), _SLOTS):
            view = _bytes(slots)
            for i in range(count):
                ticket, replied = int(slots[i * size // 8]), slots[i * size // 8 + 1]
                found.append((ticket, self._unpack(view, i * size + 16) if replied else None))
            if count < _SLOTS:
                break
        return found

    def take(self) -> Any:
        if (
            self._target is None
            and not self._closed
            and self._native.take(self._out.address, self._scratch.reply_address, 1)
        ):
            return self._unpack(self._scratch.reply, 0)
        return NOTHING

    def take_records(self, max_n: int) -> NDArray[np.void]:
        count = min(self.unread, max_n)
        records = np.empty(count, self.program.reply.dtype if self.program.reply is not None else [])
        self._native.take(self._out.address, address(records), count)
        return records

    @property
    def unread(self) -> int:
        if self._target is not None or self._closed:
            return 0
        return int(self._out.words[ring.TAIL] - self._out.words[ring.HEAD])

    def arm(self, events: int) -> int:
        looks = self._looks if events in (Event.REPLY, Event.ROOM) else 0
        return self._native.arm(self.address, events, looks)

    def connect(self, target: Executor) -> bool:
        if not isinstance(target, CpuExecutor) or target.engine is not self.engine or self._target is not None:
            return False
        place = next((i for i, other in enumerate(target._source_rings) if other is None or other.is_done), None)
        if place is None:
            return False
        self._target = target
        self._out.words[ring.READER] = target.address
        target._former_rings.append(target._source_rings[place])
        target._source_rings[place] = self._out
        target._sources[place] = self._out.address
        target._words[ring.SOURCE_COUNT] = max(int(target._words[ring.SOURCE_COUNT]), place + 1)
        self._native.do(ring.NOTIFY, target.address)
        return True

    def disconnect(self) -> None:
        if self._target is not None:
            self._target = None
            self._give_new_out()

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self.engine.start()
        self._words[ring.PAUSED] = 0
        self._native.do(ring.NOTIFY, self.address)

    def pause(self) -> None:
        self._words[ring.PAUSED] = 1

    @property
    def resting(self) -> bool:
        return self._native.do(ring.RESTING, self.address) != 0

    def swap(self, program: Program) -> None:
        assert isinstance(program, CpuProgram)
        self.program = program
        self._buffers = program.definition.buffers
        for i, buffer in enumerate(self._buffers.values()):
            self._buffer_words[i] = address(buffer.host)
        quantum = program.definition.quantum
        self._words[ring.QUANTUM] = int((QUANTUM if quantum is None else quantum) * 1e9)
        self._words[ring.SERVE] = program.serve
        self._bind()

    def states(self) -> NDArray[np.void]:
        return self._states.copy() if self._states is not None else np.empty(0, [])

    def retrieve(self) -> Sequence[tuple[Any, int]]:
        words, inbox = self._words, self._inbox.words
        head, tail, mask = int(inbox[ring.HEAD]), int(inbox[ring.TAIL]), int(inbox[ring.MASK])
        if words[ring.MESSAGES] == inbox[ring.BUFFER]:  # a batch that is not over: what was handled of it is known here
            head = max(head, int(words[ring.FIRST]))
        found = []
        view = _bytes(self._inbox.memory[0])
        unpack, size = self.program.message.unpack_from, self.program.message.dtype.itemsize
        for run in range(int(inbox[ring.RUN_HEAD]), int(inbox[ring.RUN_TAIL])):
            at = (run & mask) * ring.RUN_WORDS
            end, ticket = (int(self._inbox.memory[1][at + word]) for word in (ring.END, ring.TICKET))
            found += [(unpack(view, (position & mask) * size), ticket) for position in range(head, end)]
            head = max(head, end)
        if not self.resting:  # a step that does not come back; it would find nothing more than the message in its hands
            return found
        inbox[ring.RUN_HEAD], inbox[ring.HEAD] = inbox[ring.RUN_TAIL], tail
        for source in self._sources[self._sources != 0].tolist():
            while self._native.take(source, self._scratch.message_address, 1):
                found.append((unpack(self._scratch.message, 0), 0))
        return found

    @property
    def failure(self) -> BaseException | None:
        if self._words[ring.FAILED] and self._failure is None:
            self._failure = self._rehearsed()
        return self._failure

    def _rehearsed(self) -> BaseException:
        """Compiled code does not say where it failed: let Python try the same message on a copy of the state."""
        words, program = self._words, self.program
        definition = program.definition
        size = program.message.dtype.itemsize
        place = int(words[ring.FIRST] & words[ring.MESSAGE_MASK]) * size
        memory = ctypes.string_at(int(words[ring.MESSAGES]) + place, size)
        message = np.frombuffer(memory, program.message.dtype)
        instance = int(words[ring.TO_INSTANCE])
        if instance < 0:
            instance = int(message[definition.key][0]) % definition.instances if definition.key is not None else 0
        state = self._states[instance : instance + 1].copy() if self._states is not None else None
        failure = rehearse(definition, message, state)
        return failure or StepError(
            f"the step of {definition.kernel_id!r} failed in compiled code, and does not in Python: perhaps a variable "
            f"has no value on some way through it. The message was {program.message.unpack_from(memory, 0)!r}"
        )

    def close(self) -> None:
        self.open_gate(False)
        self.pause()
        self._closed = True
        self._out.words[ring.WRITER] = 0
        self._row = np.zeros_like(self._row)  # a step that has not come back counts here; the row may go to another
        self._words[ring.ROW] = address(self._row)
        self.engine.let_go(self)


def _bytes(words: NDArray[np.int64]) -> memoryview:
    return memoryview(words.view(np.uint8))  # type: ignore[arg-type, unused-ignore]


def _no_reply(view: memoryview, offset: int) -> None:
    """The step has no reply type."""


class _Scratch:
    """Where a message is packed before it is put, and a reply is before it is unpacked."""

    __slots__ = ("_words", "message", "message_address", "reply", "reply_address")

    def __init__(self, message_size: int, reply_size: int) -> None:
        self._words = block(message_size), block(max(reply_size, 8))
        self.message, self.reply = map(_bytes, self._words)
        self.message_address, self.reply_address = map(address, self._words)


MAX_SOURCES = 16
_SLOTS = 256
_MOST_BYTES = 1 << 20
"""Bytes that one call puts at most: the interpreter is locked meanwhile."""


class CpuBackend:
    """Steps as native code on threads of this process."""

    name = "cpu"

    def check(self, definition: StepDefinition) -> None:
        check_step(definition)

    def build(self, definition: StepDefinition) -> CpuProgram:
        # The first time this takes some seconds, and reads files: not on the event loop, where the engine is made.
        _native()
        quota()
        return CpuProgram(definition)

    def engine(self, loop: asyncio.AbstractEventLoop) -> CpuEngine:
        return CpuEngine(loop)
