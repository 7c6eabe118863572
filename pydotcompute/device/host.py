"""The host's side of backends that run steps beside the event loop: rings, and threads that serve them natively.

A **pool** is what the kernels of one runtime share on one device: threads that need the interpreter for nothing, and
file descriptors through which these and the event loop wake each other. What runs the steps, the threads themselves or
a GPU that they talk to, is the backend's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..exceptions import BackendUnavailableError, StepError, UnifiedBufferError
from ..messages.record import Layout
from ..runtime.executor import BY_KEY, NOTHING, PENDING, REFUSED, Event, Program, Rings
from ..telemetry import COUNTERS
from . import atomics, ring
from .cache import cached_module, fingerprint_of
from .interpreted import rehearse
from .ring import Ring, address, block

log = logging.getLogger("pydotcompute")

SPIN_NS = 100_000
"""How long a thread without work looks for some until it sleeps: longer than an event loop takes to come back with the
next message, since waking a processor that sleeps takes as long. Up to eight times that where it proves too short."""
LEASE = 30.0
"""Seconds that threads go on while the event loop of the runtime does not move. When it does, they go on again."""
LOOKS = 300
"""How often an ask looks for its answer before it leaves that to the event loop: some microseconds."""
PATIENCE = 20
"""Passes of the event loop."""
PATIENCE_AT_END = 2.0
"""Seconds that closing waits for steps to come back."""
FOR_EVER = 1 << 60
"""Nanoseconds."""
CONTROL_GROUP = Path("/sys/fs/cgroup")


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


class Native:
    """The compiled code that works on rings, as what calls it from Python."""

    def __init__(self) -> None:
        source = Path(__file__).with_name("loop.py").read_text()
        self.module = module = cached_module(source, {}, fingerprint_of(source, COUNTERS))
        self.work: Callable[[int, int], int] = module.work
        self.put, self.put_plain, self.put_many = map(entry, (module.put, module.put_plain, module.put_many))
        self.ask, self.take, self.arm, self.collect = map(entry, (module.ask, module.take, module.arm, module.collect))
        self.do = entry(module.do)
        self.has_membarrier = atomics.has_membarrier()  # asked once: the system takes milliseconds to switch it on


def entry(function: Any) -> Callable[..., int]:
    """The C entry point of a compiled function with one signature: calling it costs half of calling the dispatcher."""
    (compiled,) = function.overloads.values()
    return compiled.entry_point  # type: ignore[no-any-return]


native = cache(Native)
"""Compiled once; the first time this takes some seconds, and reads files."""


class RingProgram(Program, Protocol):
    """What of a program the host's side knows."""

    message: Layout
    reply: Layout | None
    state: np.dtype[np.void] | None


class Pool:
    """The threads of one runtime and one device, and what they share with their kernels."""

    def __init__(self, loop: asyncio.AbstractEventLoop, native: Native, workers: int, name: str) -> None:
        self._loop, self.native, self.name = loop, native, name
        self.cores = cores()
        self._executors: dict[int, RingExecutor] = {}
        self._free = list(range(ring.MAX_KERNELS - 1, -1, -1))
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

    def enter(self, executor: RingExecutor) -> None:
        """Give it an index, under which the threads know it."""
        if not self._free:
            raise BackendUnavailableError(
                f"the {self.name} backend runs {ring.MAX_KERNELS} ring kernels at most: end some first"
            )
        index = self._free.pop()
        self._executors[index] = executor
        executor.words[ring.INDEX] = index
        self._words[ring.BIT_WORDS] = max(int(self._words[ring.BIT_WORDS]), index // 64 + 1)
        self._kernels[index] = executor.address

    def leave(self, index: int) -> None:
        """Its threads know it no longer."""
        self._kernels[index] = 0
        del self._executors[index]
        self._free.append(index)

    def start(self) -> None:
        """Start the threads, if they do not run yet."""
        if self._threads or self._closed:
            return
        self._renew()
        for me in range(len(self._worker_fds)):
            thread = threading.Thread(target=self._work, args=(me,), name=f"pydotcompute-{self.name}-{me}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, me: int) -> None:
        while self.native.work(self.address, me):  # else it was stopped
            self._renewed.clear()
            if self._words[ring.LEASE] < self.native.do(ring.CLOCK, 0) and not self._words[ring.STOP]:
                self._renewed.wait()

    def _renew(self) -> None:
        """The event loop lives: so may the threads."""
        self._words[ring.LEASE] = self.native.do(ring.CLOCK, 0) + int(LEASE * 1e9)
        self._renewed.set()
        self._renewal = self._loop.call_later(LEASE / 3, self._renew)

    def tell_soon(self, notify: Callable[[int], None], event: int) -> None:
        """`notify` in the next pass of the event loop."""
        self._loop.call_soon(notify, event)

    def _on_events(self) -> None:
        pairs = self._pairs
        for i in range(self.native.collect(self.address, self._host_fds[0], address(pairs))):
            executor = self._executors.get(int(pairs[2 * i]))
            if executor is not None and pairs[2 * i + 1]:
                try:
                    executor.notify(int(pairs[2 * i + 1]))
                except Exception as error:  # noqa: BLE001 - the others are to hear of theirs all the same
                    self._loop.call_exception_handler({"message": "a ring kernel's event failed", "exception": error})

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._before_end()
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

    def _before_end(self) -> None:
        """What is to be done while the threads are still there."""

    def _leave_loop(self) -> None:
        self._loop.remove_reader(self._host_fds[0])
        if self._renewal is not None:
            self._renewal.cancel()
        if self not in _stuck:
            _close_all(self._host_fds)


_stuck: list[Pool] = []
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


class RingExecutor(ABC):
    """One ring kernel: its rings and its words. Where its states lie and what runs its step is the backend's."""

    program: RingProgram

    def __init__(self, pool: Pool, program: RingProgram, row: memoryview, notify: Callable[[int], None]) -> None:
        definition = program.definition
        self.pool, self.program, self.notify = pool, program, notify
        self._native = pool.native
        self.patience = PATIENCE if pool.cores > 1 else 0
        self._looks = LOOKS if pool.cores > 1 else 0
        message_size = program.message.dtype.itemsize
        self._reply_size = program.reply.dtype.itemsize if program.reply is not None else 0
        limit = definition.queue_size
        self._inbox = Ring(message_size, limit, runs=True)
        self._answers = Ring(16 + self._reply_size, limit)
        self._row = np.frombuffer(row, np.int64)
        self._sources = block(8 * MAX_SOURCES)
        self._target: RingExecutor | None = None
        self._handed_before = 0  # what `_handed` was when it was connected
        self._failure: BaseException | None = None
        self._closed = self._rests = False
        self.words = words = block(8 * ring.KERNEL_WORDS)
        self.address = address(words)
        self._give_new_out()
        words[ring.INBOX] = self._inbox.address
        words[ring.ANSWERS], words[ring.ROW] = self._answers.address, address(self._row)
        words[ring.SOURCES] = address(self._sources)
        words[ring.POOL] = pool.address
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
        self.words[ring.OUT] = self._out.address

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
        self.words[ring.GATE] = is_open

    @property
    def depth(self) -> int:
        return 0 if self._closed else self._native.do(ring.QUEUED, self.address)

    @property
    def handed(self) -> int:
        return self._handed() - self._handed_before if self._target is not None else 0

    @abstractmethod
    def _handed(self) -> int:
        """A number that goes up by one with each reply that goes to the target."""

    def rings(self) -> Rings:
        return Rings(self._inbox.positions, self._out.positions)

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

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def resting(self) -> bool:
        # Once it does, nobody else begins anything with it.
        self._rests = self._rests or self._comes_to_rest()
        return self._rests

    @abstractmethod
    def _comes_to_rest(self) -> bool:
        """Whether it rests and will until `run`."""

    def _go_on(self) -> None:
        """It rests no longer."""
        self._rests = False
        self._native.do(ring.FENCE, 0)  # what has changed meanwhile comes before
        self.words[ring.PAUSED] = 0

    def _lent(self, holder: Callable[[], str | None], device: int | None) -> list[int]:
        """Where the step finds its buffers on that GPU, or on the CPU (None).

        Raises:
            UnifiedBufferError: one of them cannot be used now.
        """
        definition, addresses = self.program.definition, []
        for name, buffer in definition.buffers.items():
            try:
                addresses.append(buffer._lend(holder, device))
            except UnifiedBufferError as error:
                raise UnifiedBufferError(f"buffer {name!r} of {definition.kernel_id!r}: {error}") from error
        return addresses

    def _end_with(self, failure: BaseException) -> None:
        """It cannot go on, although its step has not failed."""
        self._failure = failure
        self.words[ring.PAUSED], self.words[ring.FAILED] = 1, ring.TOLD
        self.pool.tell_soon(self.notify, Event.FAILURE)

    def refusal(self, program: Program) -> str | None:
        return None

    @abstractmethod
    def _instance_state(self, instance: int) -> NDArray[np.void]:
        """A copy of the state of an instance, shape (1,)."""

    def _queued(self, head: int) -> list[tuple[int, tuple[Any, int, int]]]:
        """The messages in the ring from position `head` on: position; message, instance and ticket."""
        inbox, mask = self._inbox.words, int(self._inbox.words[ring.MASK])
        view, found = _bytes(self._inbox.memory[0]), []
        unpack, size = self.program.message.unpack_from, self.program.message.dtype.itemsize
        for run in range(int(inbox[ring.RUN_HEAD]), int(inbox[ring.RUN_TAIL])):
            at = (run & mask) * ring.RUN_WORDS
            end, instance, ticket = self._inbox.memory[1][at + ring.END : at + ring.TICKET + 1].tolist()
            for position in range(head, end):
                found.append((position, (unpack(view, (position & mask) * size), instance, ticket)))
            head = max(head, end)
        return found

    def _empty_inbox(self) -> None:
        """Only while it rests, and the gate is closed."""
        inbox = self._inbox.words
        inbox[ring.RUN_HEAD], inbox[ring.HEAD], inbox[ring.RUN_BEGUN] = inbox[ring.RUN_TAIL], inbox[ring.TAIL], 0

    def _forget_failure(self) -> None:
        """As part of `renew`."""
        self._failure = None
        self.words[ring.PAUSED], self.words[ring.FAILED] = 1, 0

    def _rehearsed(self, memory: bytes, instance: int) -> BaseException:
        """Compiled code does not say where it failed: let Python try the same message on a copy of the state.

        `memory` holds the message; `instance` is the one that its sender has named, or `BY_KEY`.
        """
        program, definition = self.program, self.program.definition
        message = np.frombuffer(memory, program.message.dtype)
        if instance == BY_KEY:
            instance = int(message[definition.key][0]) % definition.instances if definition.key is not None else 0
        failure = rehearse(definition, message, self._instance_state(instance) if program.state is not None else None)
        return failure or StepError(
            f"the step of {definition.kernel_id!r} failed in compiled code, and does not in Python: perhaps a variable "
            f"has no value on some way through it. The message was {program.message.unpack_from(memory, 0)!r}"
        )

    def _shut(self) -> None:
        """`close`, as far as it is the host's."""
        self.open_gate(False)
        self._closed = True
        self._out.words[ring.WRITER] = 0
        self._row = np.zeros_like(self._row)  # a step that has not come back counts here; the row may go to another
        self.words[ring.ROW] = address(self._row)


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
