"""Ring kernels on the CPU: native threads that need the interpreter for nothing.

An engine has as many workers as this process may use cores. A worker attends one kernel at a time and one that has
nothing to do looks around for a while, then sleeps in the system until it is woken through a file descriptor; the
event loop is woken in the same way. On one core nobody spins.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray, cfunc
from numpy.typing import NDArray

from ..exceptions import PyDotComputeError
from ..messages import layout
from ..runtime.executor import BY_KEY, Executor, Program
from . import atomics, compiler, host, ring
from .ring import Ring, address, block
from .rules import check_step

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition

QUANTUM = 0.001
"""Seconds that a kernel keeps its worker while others wait for one, unless its definition says otherwise."""

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


class CpuEngine(host.Pool):
    """The workers of one runtime and what they share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, host.native(), min(host.cores(), ring.MAX_WORKERS), "cpu")
        self._gone: list[tuple[CpuExecutor, list[int] | None]] = []  # with the passes of the workers at that time
        self._rings: list[tuple[Ring, list[int]]] = []  # likewise

    def executor(self, program: Program, row: memoryview, notify: Callable[[int], None]) -> CpuExecutor:
        assert isinstance(program, CpuProgram)
        self._sweep()
        executor = CpuExecutor(self, program, row, notify)
        self.enter(executor)
        return executor

    def let_go(self, executor: CpuExecutor) -> None:
        """Free the memory of an executor as soon as no worker can know of it any more."""
        self._gone.append((executor, None))
        self._sweep()

    def keep(self, former: Ring) -> None:
        """Keep the memory of a ring that no kernel reads any longer, as long as a worker may be looking at it."""
        self.native.do(ring.FENCE, 0)  # who begins a round after this does not find it
        self._rings.append((former, self._rounds()))
        self._sweep()

    def _rounds(self) -> list[int]:
        rounds: list[int] = self._passes[:: ring.WORKER_WORDS].tolist()
        return rounds

    def _is_known_since(self, rounds: list[int]) -> bool:
        """Whether a worker may know yet what it could know of at that time."""
        asleep = self._passes[1 :: ring.WORKER_WORDS].tolist()
        return any(was == is_ and not sleeps for was, is_, sleeps in zip(rounds, self._rounds(), asleep, strict=True))

    def _sweep(self) -> None:
        """Look which of the closed executors, and of the rings, no worker knows any more."""
        kept: list[tuple[CpuExecutor, list[int] | None]] = []
        for executor, rounds in self._gone:
            if rounds is None and self.native.do(ring.WITHDRAW, executor.address):
                self.leave(int(executor.words[ring.INDEX]))
                rounds = self._rounds()
            if rounds is None or self._is_known_since(rounds):
                kept.append((executor, rounds))
        self._gone = kept if self._threads else []
        self._rings = [one for one in self._rings if self._is_known_since(one[1])] if self._threads else []


class CpuExecutor(host.RingExecutor):
    """One ring kernel: its rings, its states, its words."""

    program: CpuProgram
    pool: CpuEngine

    def __init__(self, engine: CpuEngine, program: CpuProgram, row: memoryview, notify: Callable[[int], None]) -> None:
        super().__init__(engine, program, row, notify)
        definition, words = program.definition, self.words
        self._states: NDArray[np.void] | None = None
        if program.state is not None:
            self._state_words = block(definition.instances * program.state.itemsize)
            self._states = self._state_words.view(program.state)
            self._states[:] = definition.initial()
            words[ring.STATES] = address(self._states)
        self._source_rings: list[Ring | None] = [None] * host.MAX_SOURCES  # their kernels may end before it reads them
        self._buffer_words = block(8 * max(len(definition.buffers), 1))
        words[ring.BUFFERS] = address(self._buffer_words)
        self._arrays: list[NDArray[Any]] = []
        self._adopt(program)

    def _adopt(self, program: CpuProgram) -> None:
        self.program, definition, words = program, program.definition, self.words
        self._buffers = definition.buffers  # kept alive, as the arrays themselves
        quantum = QUANTUM if definition.quantum == "auto" else definition.quantum
        words[ring.QUANTUM] = host.FOR_EVER if quantum is None else int(quantum * 1e9)
        words[ring.SERVE] = program.serve

    def _shares(self) -> None:
        """It has the host's memory, which the host may use too."""

    def connect(self, target: Executor) -> bool:
        if not isinstance(target, CpuExecutor) or target.pool is not self.pool or self._target is not None:
            return False
        place = next((i for i, other in enumerate(target._source_rings) if other is None or other.is_done), None)
        if place is None:
            return False
        self._target, self._handed_before = target, int(self._out.words[ring.HEAD])  # what is unread goes there too
        self._out.words[ring.READER] = target.address
        former, target._source_rings[place] = target._source_rings[place], self._out
        target._sources[place] = self._out.address
        if former is not None:
            self.pool.keep(former)
        target.words[ring.SOURCE_COUNT] = max(int(target.words[ring.SOURCE_COUNT]), place + 1)
        self._native.do(ring.NOTIFY, target.address)
        return True

    def _handed(self) -> int:
        return int(self._out.words[ring.TAIL])

    def disconnect(self) -> None:
        if self._target is not None:
            self._target = None
            self._out.words[ring.WRITER] = 0  # when the target has taken all, another may have its place
            self._give_new_out()

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            for i, place in enumerate(self._lent(self._shares, None)):  # anew: a GPU may have written them meanwhile
                self._buffer_words[i] = place
            self._arrays = [buffer.numpy() for buffer in self._buffers.values()]  # good also when a buffer is closed
        except PyDotComputeError as error:
            self._end_with(error)
            return
        self.pool.start()
        self._go_on()
        self._native.do(ring.NOTIFY, self.address)

    def pause(self) -> None:
        self.words[ring.PAUSED] = 1

    def _comes_to_rest(self) -> bool:
        return self._native.do(ring.RESTING, self.address) != 0

    def swap(self, program: Program) -> None:
        assert isinstance(program, CpuProgram)
        self._adopt(program)
        self._bind()

    def states(self) -> NDArray[np.void]:
        return self._states.copy() if self._states is not None else np.empty(0, [])

    def _instance_state(self, instance: int) -> NDArray[np.void]:
        assert self._states is not None
        return self._states[instance : instance + 1].copy()

    def retrieve(self) -> Sequence[tuple[Any, int, int]]:
        words, inbox = self.words, self._inbox.words
        head = int(inbox[ring.HEAD])
        if words[ring.MESSAGES] == inbox[ring.BUFFER]:  # a batch that is not over: what was handled of it is known here
            head = max(head, int(words[ring.FIRST]))
        found = [one for _, one in self._queued(head)]
        if not self.resting:  # a step that does not come back; it would find nothing more than the message in its hands
            return found
        self._empty_inbox()
        for source in self._source_rings:
            if source is not None:
                sent = self._sent_by(source)
                has_failed = words[ring.FAILED] and words[ring.MESSAGES] == source.words[ring.BUFFER]
                found = [*sent, *found] if has_failed else [*found, *sent]
        self._native.do(ring.TELL, self.address)
        return found

    def _sent_by(self, source: Ring) -> list[tuple[Any, int, int]]:
        """Take what another kernel has sent and is there now: it may be sending more."""
        unpack, scratch, sent = self.program.message.unpack_from, self._scratch, []
        for _ in range(int(source.words[ring.TAIL] - source.words[ring.HEAD])):
            self._native.take(source.address, scratch.message_address, 1)
            sent.append((unpack(scratch.message, 0), BY_KEY, 0))
        return sent

    def renew(self, keep_states: bool) -> None:
        if self._states is not None and not keep_states:
            self._states[:] = self.program.definition.initial()
        self._forget_failure()

    @property
    def failure(self) -> BaseException | None:
        words = self.words
        if words[ring.FAILED] and self._failure is None:
            size = self.program.message.dtype.itemsize
            place = int(words[ring.FIRST] & words[ring.MESSAGE_MASK]) * size
            memory = ctypes.string_at(int(words[ring.MESSAGES]) + place, size)
            self._failure = self._rehearsed(memory, int(words[ring.TO_INSTANCE]))
        return self._failure

    def close(self) -> None:
        self._shut()
        self.pause()
        self.pool.let_go(self)


class CpuBackend:
    """Steps as native code on threads of this process."""

    name = "cpu"

    def check(self, definition: StepDefinition) -> None:
        check_step(definition)

    def build(self, definition: StepDefinition) -> CpuProgram:
        # The first time this takes some seconds, and reads files: not on the event loop, where the engine is made.
        host.native()
        host.quota()
        return CpuProgram(definition)

    def engine(self, loop: asyncio.AbstractEventLoop) -> CpuEngine:
        return CpuEngine(loop)
