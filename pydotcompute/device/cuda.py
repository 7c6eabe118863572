"""Ring kernels that live on a GPU: launched once, and there until they are paused.

A launch belongs to one ring kernel. Its instances are spread over blocks of threads, which keep polling for messages
(`resident` is their loop). On the host, one native thread for each device and runtime, the poller, hands messages over
and takes replies (`ferry`). So that nothing that waits for an idle device waits for ever, a kernel leaves after a
**quantum** and is launched again, where it left; so that none outlives its host, it also leaves when its **lease** is
not renewed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ..exceptions import BackendUnavailableError, DeviceError, PyDotComputeError
from ..messages import layout
from ..runtime.executor import BY_KEY, Executor, Program
from ..telemetry import COUNTERS
from . import bridge, cuda_compiler, driver, host, ring
from .cache import cached_module, fingerprint_of
from .ring import LINE, address, block
from .rules import check_step

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition
    from .driver import Pinned

log = logging.getLogger("pydotcompute")

QUANTUM = 0.5
"""Seconds that a kernel stays on the device at a time, unless its definition says otherwise: so long may a call of the
host wait that needs an idle device."""
LEASE = 1.0
"""Seconds that a kernel goes on while the poller gives no sign of life."""
WINDOW = 4096
"""Messages of a kernel that are on the device at a time, at most."""
CONNECTIONS = 32
"""Kernels that a device runs side by side, at most: each needs a queue of its own to it (CUDA C++ Programming Guide,
`CUDA_DEVICE_MAX_CONNECTIONS`). With more, those without work make room."""
POLLING: Mapping[str, int] = {
    "WARP": 32,
    "LOOK_NS": 20_000,  # between two looks of a busy kernel at what the host wants
    "POLL_EVERY": 16,  # looks for messages of other kernels between two at those of the host
    "NAP_AFTER": 64,  # looks, each of about a microsecond, until a block naps
    "LEAST_NAP": 100,
    "MOST_NAP": 20_000,  # nanoseconds
}
"""How the loop on the device waits."""

TEMPLATE = """
@inside
def handled(desk, state, message, reply):
    return attempt(step, {given})


@inside
def instance_of(named, message):
    return {instance}


def entry(kernel, turn):
    resident(kernel, turn, block_index())
"""


def program_source(definition: StepDefinition, polling: Mapping[str, int] = POLLING) -> tuple[str, dict[str, Any]]:
    """The text of the program around a step, for `cuda_compiler.compiled`, and what it uses by name."""
    names: dict[str, Any] = {**polling, **sizes(definition)}
    names |= {"THREADS": definition.threads, "HANDS": hands(definition)}
    names["MESSAGE"] = layout(definition.message_type).dtype
    given = ["None", "record_at(MESSAGE, message)", "None"]
    if definition.state_type is not None:
        names["STATE"] = layout(definition.state_type).dtype
        given[0] = "record_at(STATE, state)"
    if definition.reply_type is not None:
        names["REPLY"] = layout(definition.reply_type).dtype
        given[2] = "record_at(REPLY, reply)"
    for i, buffer in enumerate(definition.buffers.values()):
        names[f"DTYPE_{i}"], names[f"SHAPE_{i}"] = buffer.dtype, buffer.shape
        given.append(f"array_at(DTYPE_{i}, SHAPE_{i}, get(look(desk, {bridge.BUFFERS}), {i}))")
    instance = "0"
    if definition.instances > 1:
        instance = "named"
        if definition.key is not None:
            by_key = f"np.int64(record_at(MESSAGE, message).{definition.key}) % {definition.instances}"
            instance = f"named if named >= 0 else {by_key}"
    text = Path(__file__).with_name("resident.py").read_text()
    return f"{text}\n\nimport numpy as np\n{TEMPLATE.format(given=', '.join(given), instance=instance)}", names


def hands(definition: StepDefinition) -> int:
    """Threads of a block, at most. Where messages go to several blocks, many threads copy them."""
    return max(definition.threads, HANDS if definition.instances > 1 else WARP)


def sizes(definition: StepDefinition) -> dict[str, int]:
    """Bytes of records and of slots."""
    state, message, reply = (
        layout(cls).dtype.itemsize if cls is not None else 0
        for cls in (definition.state_type, definition.message_type, definition.reply_type)
    )
    return {
        "SLOT": _multiple(bridge.HEAD_OF_SLOT + message, 64),
        "FED_SLOT": _multiple(bridge.HEAD_OF_SLOT + message, 16),
        "FED_REPLY": _multiple(bridge.HEAD_OF_SLOT + reply, 16),
        "UP_SLOT": _multiple(bridge.HEAD_OF_UP + reply, 64),
        "REPLY_SIZE": reply,
        "STATE_SIZE": state,
    }


def compiled(definition: StepDefinition, arch: str) -> cuda_compiler.Binary:
    """A step and the loop around it for an architecture such as ``"sm_90"``. Errors as `cuda_compiler.compiled`."""
    return cuda_compiler.compiled(definition, *program_source(definition), arch)


class Device(Protocol):
    """What of `driver.Driver` the backend uses."""

    index: int
    arch: str
    launch: int
    query: int

    def error_text(self, code: int) -> str: ...
    def attach(self) -> None: ...
    def pinned(self, nbytes: int) -> Pinned: ...
    def stream(self) -> int: ...
    def end_stream(self, stream: int) -> None: ...
    def allocate(self, nbytes: int, stream: int) -> int: ...
    def free(self, address: int, stream: int) -> None: ...
    def write(self, address: int, array: NDArray[Any], stream: int) -> None: ...
    def read(self, address: int, nbytes: int, stream: int) -> NDArray[np.uint8]: ...
    def load(self, cubin: bytes, name: str) -> int: ...
    def room(self, function: int, threads: int) -> int: ...


class CudaProgram:
    """A step, compiled for the devices that it has been wanted on."""

    def __init__(self, definition: StepDefinition, compiled: Callable[[StepDefinition, str], cuda_compiler.Binary]):
        self.definition = definition
        self.message = layout(definition.message_type)
        self.reply = layout(definition.reply_type) if definition.reply_type is not None else None
        self.state = np.dtype(layout(definition.state_type).dtype) if definition.state_type is not None else None
        self._compiled = compiled
        self._functions: dict[int, int] = {}

    def function(self, device: Device) -> int:
        """The kernel on that device, ready to be launched."""
        if device.index not in self._functions:
            binary = self._compiled(self.definition, device.arch)
            self._functions[device.index] = device.load(binary.cubin, binary.name)
        return self._functions[device.index]


class _Native(host.Native):
    """The code of the host's side, with the poller's in place of the workers'."""

    def __init__(self) -> None:
        super().__init__()
        source = Path(__file__).with_name("ferry.py").read_text()
        names = {name: getattr(self.module, name) for name in ("count", "events", "heavy", "queued", "tell")}
        sys.modules[self.module.__name__] = self.module  # what Numba keeps of the poller names it
        self._ferry = cached_module(source, names, fingerprint_of(source, COUNTERS))
        self.work = self._ferry.ferry


_native = cache(_Native)


class CudaPool(host.Pool):
    """The poller of one runtime and one device, and the kernels that it looks after."""

    def __init__(self, loop: asyncio.AbstractEventLoop, device: Device) -> None:
        super().__init__(loop, _native(), 1, f"cuda-{device.index}")
        self.device = device
        self._leaving: list[CudaExecutor] = []
        self._sweeping: asyncio.TimerHandle | None = None
        self._polled = np.zeros(2, np.int32)  # struct pollfd of the poller: its file descriptor, and POLLIN
        self._polled[:] = self._worker_fds[0][0], 1
        words = self._words
        _pools.add(self)
        words[ring.LAUNCH], words[ring.QUERY], words[ring.POLL] = device.launch, device.query, address(self._polled)

    @property
    def load(self) -> float:
        """The part of the device that its kernels take, by their blocks."""
        return sum(executor.share for executor in self.kernels())

    def kernels(self) -> list[CudaExecutor]:
        """Those that are there."""
        return [executor for executor in list(self._executors.values()) if isinstance(executor, CudaExecutor)]

    def executor(self, program: CudaProgram, row: memoryview, notify: Callable[[int], None]) -> CudaExecutor:
        self._sweep()
        executor = CudaExecutor(self, program, row, notify)
        try:
            self.enter(executor)
        except BackendUnavailableError:
            executor.free()
            raise
        self._count()
        return executor

    def _count(self) -> None:
        """Say whether there are too many kernels on the device for all of them to stay, those of other runtimes too."""
        pools = [pool for pool in list(_pools) if pool.device.index == self.device.index]
        is_crowded = sum(len(pool.kernels()) for pool in pools) > connections() or sum(pool.load for pool in pools) > 1
        for pool in pools:
            pool._words[ring.CROWD] = is_crowded

    def nudge(self, kernel: int) -> None:
        """Have the poller look at what has changed."""
        self._words[ring.NUDGED] = 1
        self.native.do(ring.NOTIFY, kernel)

    def _work(self, me: int) -> None:
        self.device.attach()
        super()._work(me)

    def let_go(self, executor: CudaExecutor) -> None:
        """Free what it has as soon as it has left the device."""
        self._leaving.append(executor)
        self._sweep()

    def _sweep(self) -> None:
        # A kernel may still hand replies over to one that has ended: where its step does not come back in time.
        targets = [executor.target for executor in self.kernels() if not executor.has_left]
        left = [one for one in self._leaving if not self._threads or (one.has_left and one not in targets)]
        for executor in left:
            self._leaving.remove(executor)
            self.leave(int(executor.words[ring.INDEX]))
            executor.free()
        if left:
            self._count()
        if self._leaving and not self._closed and (self._sweeping is None or self._sweeping.cancelled()):
            self._sweeping = self._loop.call_later(0.02, self._sweep_again)

    def _sweep_again(self) -> None:
        self._sweeping = None
        self._sweep()

    def _before_end(self) -> None:
        self._words[ring.LEASE] = host.FOR_EVER  # it may have waited for the event loop
        self._renewed.set()
        for executor in self.kernels():
            if executor not in self._leaving:
                executor.close()
        latest = time.monotonic() + host.PATIENCE_AT_END
        while self._leaving and time.monotonic() < latest:
            self._sweep()
            time.sleep(0.0005)
        for executor in self._leaving:
            name = executor.program.definition.kernel_id
            log.warning("the step of %r does not come back: its memory on the GPU is kept until the process ends", name)
            _stuck.append(executor)

    def _leave_loop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        super()._leave_loop()


_stuck: list[CudaExecutor] = []
_pools: WeakSet[CudaPool] = WeakSet()


def connections() -> int:
    """Kernels that a device runs side by side, at most."""
    return min(int(os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS", CONNECTIONS)), CONNECTIONS)


class CudaExecutor(host.RingExecutor):
    """One ring kernel: its rings on both sides, its words, and its memory on the device."""

    program: CudaProgram
    pool: CudaPool

    def __init__(self, pool: CudaPool, program: CudaProgram, row: memoryview, notify: Callable[[int], None]) -> None:
        super().__init__(pool, program, row, notify)
        self._device = device = pool.device
        self._is_free = False
        definition = program.definition
        function, initial = program.function(device), definition.initial()
        self._blocks, self._hands, self.share = self._granted(function)
        size = sizes(definition)
        limit = min(definition.queue_size, WINDOW)
        places = 1 << max(limit - 1, 1).bit_length()
        up_places, queue_places = 2 * places, 2 * places
        self._base, self._places, self._fed_slot = ring.START, places, size["FED_SLOT"]
        # What both sides see.
        parts = [8 * bridge.CONTROL_WORDS, places * size["SLOT"], up_places * size["UP_SLOT"]]
        (control, down, up), total = _laid_out(parts)
        self._pinned = pinned = device.pinned(total)
        self._control = pinned.words[: bridge.CONTROL_WORDS]
        self._control_address = pinned.device_address + control
        # What only the device sees.
        grid = self._blocks + (self._blocks > 1)
        self._state_size = size["STATE_SIZE"] * definition.instances
        report_size = bridge.HEAD_OF_UP + size["REPLY_SIZE"]
        parts = [8 * bridge.SEAT_WORDS, 8 * bridge.CELL_WORDS * grid, places * size["SLOT"], places * size["FED_SLOT"]]
        parts += [8 * queue_places * self._blocks, report_size * grid, 8 * len(definition.buffers), self._state_size]
        (seat, cells, stage, fed, queues, replies, buffers, states), total = _laid_out(parts)
        self._emptied = False  # and the device does not know yet
        self._stream = stream = device.stream()
        try:
            self._memory = memory = device.allocate(total, stream)
        except BaseException:
            pinned.free()
            device.end_stream(stream)
            raise
        self._seat, self._cells, self._fed = memory + seat, memory + cells, memory + fed
        self._buffers_at, self._states_at = memory + buffers, memory + states
        words = np.zeros(bridge.SEAT_WORDS, np.int64)
        words[bridge.CONTROL] = self._control_address
        words[bridge.DOWN], words[bridge.UP] = pinned.device_address + down, pinned.device_address + up
        words[bridge.STAGE], words[bridge.FED], words[bridge.CELLS] = memory + stage, self._fed, memory + cells
        words[bridge.QUEUES], words[bridge.REPLIES] = memory + queues, memory + replies
        words[bridge.STATES], words[bridge.BUFFERS] = self._states_at, self._buffers_at
        words[bridge.WORKERS], words[bridge.QUEUE_MASK] = self._blocks, queue_places - 1
        words[bridge.WINDOW_MASK], words[bridge.FED_MASK], words[bridge.UP_MASK] = places - 1, places - 1, up_places - 1
        words[bridge.LEASE_NS] = int(LEASE * 1e9)
        device.write(self._seat, words, stream)
        if initial is not None:
            device.write(self._states_at, initial, stream)
        # What only the host sees.
        self._tickets, self._stamps, self._marks = block(8 * places), block(8 * places), block(8 * places)
        self._parameters = block(32)
        self._parameters[:3] = address(self._parameters[2:]), address(self._parameters[3:]), self._seat
        self._fed_words = block(8 * ring.RING_WORDS)
        self._bridge = mine = block(8 * bridge.BRIDGE_WORDS)
        start = address(pinned.words)
        mine[bridge.BRIDGE_CONTROL], mine[bridge.BRIDGE_DOWN], mine[bridge.BRIDGE_UP_RING] = (
            start + control, start + down, start + up
        )  # fmt: skip
        mine[bridge.BRIDGE_WINDOW], mine[bridge.BRIDGE_UP_MASK], mine[bridge.BRIDGE_FED_MASK] = (
            places, up_places - 1, places - 1
        )  # fmt: skip
        mine[bridge.BRIDGE_SLOT], mine[bridge.BRIDGE_UP_SLOT] = size["SLOT"], size["UP_SLOT"]
        mine[bridge.BRIDGE_TICKETS], mine[bridge.BRIDGE_STAMPS] = address(self._tickets), address(self._stamps)
        mine[bridge.BRIDGE_FED_MARKS], mine[bridge.BRIDGE_FED] = address(self._marks), address(self._fed_words)
        mine[bridge.BRIDGE_STREAM], mine[bridge.BRIDGE_BLOCKS] = stream, grid
        mine[bridge.BRIDGE_PARAMETERS], mine[bridge.BRIDGE_FED_PLACES] = address(self._parameters), limit
        mine[bridge.BRIDGE_BASE] = mine[bridge.BRIDGE_SENT] = mine[bridge.BRIDGE_ASKED] = self._base
        mine[bridge.BRIDGE_RUN] = self._base
        mine[bridge.BRIDGE_FAILED_ENTRY] = bridge.NO_ENTRY
        self._control[bridge.FED_LIMIT] = limit
        self.words[ring.BRIDGE] = address(mine)
        self._sources[0], self.words[ring.SOURCE_COUNT] = address(self._fed_words), 1
        self._adopt(program, function)
        self._go_to_host()

    def _granted(self, function: int) -> tuple[int, int, float]:
        """For how many blocks there is room, of how many threads, and what part of the device they take."""
        definition, device = self.program.definition, self._device
        blocks = room = 0
        for threads in sorted({hands(definition), max(definition.threads, WARP)}, reverse=True):
            room = device.room(function, threads)
            # A kernel takes half of the device at most, so that others have a place; its instances then share blocks.
            blocks = min(definition.instances, max(room // 2 - 1, 1))  # and the porter
            if blocks == definition.instances:
                break
        grid = blocks + (blocks > 1)
        is_full = self.pool.load + grid / max(room, 1) > 1 or len(self.pool.kernels()) >= connections()
        if grid > room or (definition.quantum is None and is_full):
            others = ", ".join(repr(one.program.definition.kernel_id) for one in self.pool.kernels()) or "none"
            raise BackendUnavailableError(
                f"too many instances for GPU {device.index}: it has room for {room} blocks of {threads} threads of "
                f"{definition.kernel_id!r} (kernels there: {others}). Use fewer instances or threads, terminate "
                "kernels, pass another device=, or a quantum, with which they take turns"
            )
        return blocks, threads, grid / room

    def _adopt(self, program: CudaProgram, function: int) -> None:
        self.program, definition = program, program.definition
        threads = definition.threads
        self._bridge[bridge.BRIDGE_FUNCTION] = function
        # All threads run the step, or one of them: then that has the only place in the first dimension.
        self._bridge[bridge.BRIDGE_X], self._bridge[bridge.BRIDGE_Y] = (threads, 1) if threads > 1 else (1, self._hands)
        quantum = QUANTUM if definition.quantum == "auto" else definition.quantum
        self._set(bridge.QUANTUM_NS, host.FOR_EVER if quantum is None else int(quantum * 1e9))

    def _set(self, word: int, *values: int) -> None:
        """Write words of the seat; only while it is not on the device."""
        self._device.write(self._seat + 8 * word, np.array(values, np.int64), self._stream)

    def _go_to_host(self) -> None:
        """Replies go to the host, where there is room for them in the ring."""
        counter = self._seat + 8 * bridge.OUT_TAKEN if self.program.reply is not None else 0
        self._set(bridge.ROOM, counter, self._control_address + 8 * bridge.OUT_LIMIT, 0, 0, 0)
        self._set(bridge.OUT_TAKEN, 0)

    # -- connections ---------------------------------------------------------------------------------------------------

    def connect(self, target: Executor) -> bool:
        if not isinstance(target, CudaExecutor) or target.pool is not self.pool or self._target is not None:
            return False
        if not self.resting or self.unread:  # which are to come before those that go there on the device
            return False
        self._target, self._handed_before = target, self._handed()
        self._bridge[bridge.BRIDGE_TARGET] = target.address
        target._control[bridge.IS_FED] = 1
        self._set(
            bridge.ROOM,
            target._seat + 8 * bridge.FED_TAKEN,
            target._control_address + 8 * bridge.FED_LIMIT,
            target._fed,
            target._seat + 8 * bridge.FED_TAIL,
            target._places - 1,
        )
        return True

    def _handed(self) -> int:
        # Those that go to the target leave no trace on this side but that they were counted.
        return int(self._row[ring.REPLIED] - self._answers.words[ring.TAIL])

    def disconnect(self) -> None:
        if self._target is not None:
            self._target = None
            self._give_new_out()
            if not self._is_broken:
                self._go_to_host()

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self._catch_up()
            if self.program.definition.buffers:
                lent = self._lent(self._holder, self._device.index)
                self._device.write(self._buffers_at, np.array(lent, np.int64), self._stream)
        except PyDotComputeError as error:
            self._end_with(error)
            return
        self.pool.start()
        self._let_go()
        self._go_on()
        self.pool.nudge(self.address)

    def _let_go(self) -> None:
        """Let the poller look after it again."""
        if self._rests:
            self.words[ring.OWNER] = ring.NOBODY

    def _holder(self) -> str | None:
        """Who has the buffers."""
        return None if self._closed or self._is_off else self.program.definition.kernel_id

    def pause(self) -> None:
        self.words[ring.PAUSED] = 1
        self.pool.nudge(self.address)

    @property
    def target(self) -> host.RingExecutor | None:
        """The kernel that its replies go to."""
        return self._target

    @property
    def _is_off(self) -> bool:
        """Whether it is not on the device, and is not to be."""
        self._native.do(ring.FENCE, 0)
        return bool(self.words[ring.PAUSED] or self.words[ring.FAILED]) and not self._bridge[bridge.BRIDGE_RESIDENT]

    def _comes_to_rest(self) -> bool:
        return self._is_off and self._native.do(ring.CLAIM, self.address) != 0

    def swap(self, program: Program) -> None:
        assert isinstance(program, CudaProgram)
        self._adopt(program, program.function(self._device))
        self._bind()

    def refusal(self, program: Program) -> str | None:
        assert isinstance(program, CudaProgram)
        threads = max(program.definition.threads, self._hands if program.definition.threads == 1 else WARP)
        room = self._device.room(program.function(self._device), threads)
        grid = int(self._bridge[bridge.BRIDGE_BLOCKS])
        if grid <= room:
            return None
        return f"it has {grid} blocks, and GPU {self._device.index} has room for {room} of {threads} threads"

    @property
    def _is_broken(self) -> bool:
        """Whether what is on the device is lost: it has reported an error, or the memory was given back."""
        return self._is_free or bool(self._bridge[bridge.BRIDGE_FAULT])

    def states(self) -> NDArray[np.void]:
        if self.program.state is None:
            return np.empty(0, [])
        if self._is_broken:
            raise self._fault()
        return self._device.read(self._states_at, self._state_size, self._stream).view(self.program.state)

    def _instance_state(self, instance: int) -> NDArray[np.void]:
        return self.states()[instance : instance + 1]

    def retrieve(self) -> Sequence[tuple[Any, int, int]]:
        mine, head = self._bridge, int(self._inbox.words[ring.HEAD])
        done = {
            position
            for position in range(head, int(mine[bridge.BRIDGE_SENT]))
            if self._tickets[(position - self._base) & (self._places - 1)] == bridge.DONE
        }
        found = [one for one in self._queued(head) if one[0] not in done]
        position, kind = divmod(int(mine[bridge.BRIDGE_FAILED_ENTRY]), 2)
        if kind == bridge.FROM_HOST:
            found.sort(key=lambda one: one[0] != self._base + position)
        messages = [one for _, one in found]
        if not self.resting:
            return messages
        self._empty_inbox()
        tail = int(self._inbox.words[ring.TAIL])
        mine[bridge.BRIDGE_SENT], mine[bridge.BRIDGE_RUN] = tail, self._inbox.words[ring.RUN_TAIL]
        mine[bridge.BRIDGE_ASKED] = self._answers.words[ring.TAIL]  # as many asks as answers
        self._control[bridge.DOWN_TAIL] = tail - self._base
        self._emptied = True
        fed = self._sent_by_others(position if kind == bridge.FROM_KERNEL else None)
        self._native.do(ring.TELL, self.address)
        return [*fed, *messages] if kind == bridge.FROM_KERNEL else [*messages, *fed]

    def _sent_by_others(self, failed: int | None) -> list[tuple[Any, int, int]]:
        """Take the messages of other kernels that were not handled; the one at position `failed` is the first.

        As far as they are there: others may be sending more.
        """
        if not self._control[bridge.IS_FED] or self._is_broken:
            return []
        places, slots = self._places, np.empty(0, np.uint8)
        start = end = int(self._fed_words[ring.HEAD])
        with suppress(DeviceError):  # they are lost
            tail = int(self._device.read(self._seat + 8 * bridge.FED_TAIL, 8, self._stream).view(np.int64)[0])
            if tail > start:
                slots = self._device.read(self._fed, places * self._fed_slot, self._stream)
                numbers = slots.view(np.int64)[:: self._fed_slot // 8]
                while end < tail and numbers[end & (places - 1)] == end + 1:
                    end += 1
                # What was written before such a number is there for sure when the number has been seen.
                slots = self._device.read(self._fed, places * self._fed_slot, self._stream)
        left = [position for position in range(start, end) if not self._marks[position & (places - 1)]]
        left.sort(key=lambda position: position != failed)
        self._marks[:] = 0
        self._fed_words[ring.HEAD] = end
        self._control[bridge.FED_LIMIT] = end + self._bridge[bridge.BRIDGE_FED_PLACES]
        unpack, view = self.program.message.unpack_from, slots.data
        places_of = [(position & (places - 1)) * self._fed_slot for position in left]
        return [(unpack(view, at + bridge.HEAD_OF_SLOT), BY_KEY, 0) for at in places_of]

    def _catch_up(self) -> None:
        """Let the device know that nothing is left of what it was sent."""
        if not self._emptied:
            return
        staged = int(self._inbox.words[ring.HEAD]) - self._base
        self._set(bridge.STAGED, staged, int(self._fed_words[ring.HEAD]))
        cells = np.zeros(bridge.CELL_WORDS * int(self._bridge[bridge.BRIDGE_BLOCKS]), np.int64)
        self._device.write(self._cells, cells, self._stream)
        self._emptied = False

    def renew(self, keep_states: bool) -> None:
        if self._is_broken:
            raise self._fault()
        initial = None if keep_states else self.program.definition.initial()
        self._catch_up()
        if initial is not None:
            self._device.write(self._states_at, initial, self._stream)
        self._bridge[bridge.BRIDGE_FAILED_ENTRY] = bridge.NO_ENTRY
        self._forget_failure()

    def _fed_slot_at(self, position: int) -> bytes:
        at = self._fed + (position & (self._places - 1)) * self._fed_slot
        return self._device.read(at, self._fed_slot, self._stream).tobytes()

    @property
    def failure(self) -> BaseException | None:
        if self.words[ring.FAILED] and self._failure is None:
            if self._is_broken:
                self._failure = self._fault()
            else:
                entry = int(self._bridge[bridge.BRIDGE_FAILED_ENTRY])
                self._failure = self._rehearsed(self._record(entry), int(self._bridge[bridge.BRIDGE_FAILED_INSTANCE]))
        return self._failure

    def _record(self, entry: int) -> bytes:
        size = self.program.message.dtype.itemsize
        if entry & 1 == bridge.FROM_KERNEL:
            return self._fed_slot_at(entry >> 1)[bridge.HEAD_OF_SLOT :][:size]
        at = ((self._base + (entry >> 1)) & int(self._inbox.words[ring.MASK])) * size
        return self._inbox.memory[0].view(np.uint8)[at : at + size].tobytes()

    def _fault(self) -> DeviceError:
        code = int(self._bridge[bridge.BRIDGE_FAULT])
        if not code:
            return DeviceError(f"the memory of {self.program.definition.kernel_id!r} on the GPU was given back")
        what = "the launch ended by itself" if code == bridge.ENDED else self._device.error_text(code)
        return DeviceError(
            f"GPU {self._device.index} reports an error while {self.program.definition.kernel_id!r} ran there: {what}. "
            "A step that writes outside of an array is the usual reason: boundscheck=True says which. CUDA does not "
            "work in this process any more: restart the notebook's kernel",
            code,
        )

    def close(self) -> None:
        if self._closed:  # with the engine, before its runtime
            return
        self._shut()
        self._let_go()
        self.words[ring.PAUSED] = 1
        self._bridge[bridge.BRIDGE_CLOSING] = 1
        self.pool.nudge(self.address)
        self.pool.let_go(self)

    @property
    def has_left(self) -> bool:
        """Whether the poller knows it no longer."""
        return bool(self._bridge[bridge.BRIDGE_CLOSING] == bridge.DONE)

    def free(self) -> None:
        """Give the memory back; only when the poller knows it no longer."""
        self._is_free = True
        with suppress(DeviceError):  # where CUDA does not work any more
            self._device.free(self._memory, self._stream)
            self._device.end_stream(self._stream)
            self._pinned.free()


WARP = 32
"""Threads of a block, at least."""
HANDS = 128
"""Threads that copy messages for several blocks, where there is room for blocks of so many: memory of the host is far
away, and each thread waits for a line of it."""


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of


def _laid_out(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each of these begins, on lines of its own, and how much memory they take."""
    places, at = [], 0
    for size in sizes:
        places.append(at)
        at += _multiple(size, 8 * LINE)
    return places, at


class CudaEngine:
    """The ring kernels of one runtime on the GPUs of this machine."""

    def __init__(self, loop: asyncio.AbstractEventLoop, devices: Sequence[Device]) -> None:
        self._pools = [CudaPool(loop, device) for device in devices]

    def executor(self, program: Program, row: memoryview, notify: Callable[[int], None]) -> CudaExecutor:
        assert isinstance(program, CudaProgram)
        wanted = program.definition.device
        pool = min(self._pools, key=lambda pool: pool.load) if wanted == "auto" else self._pools[wanted]
        return pool.executor(program, row, notify)

    @property
    def in_use(self) -> list[int]:
        """The GPUs that have kernels of the runtime, by their index."""
        return [pool.device.index for pool in self._pools if pool.kernels()]

    def close(self) -> None:
        for pool in self._pools:
            pool.close()


def all_devices() -> Sequence[Device]:
    """The GPUs of this machine that this process may use."""
    return [driver.driver(index) for index in range(driver.device_count())]


class CudaBackend:
    """Steps as kernels that live on a GPU."""

    name = "cuda"

    def __init__(
        self,
        devices: Callable[[], Sequence[Device]] = all_devices,
        compiled: Callable[[StepDefinition, str], cuda_compiler.Binary] = compiled,
    ) -> None:
        self._all, self._compiled = cache(devices), compiled

    def _devices(self, definition: StepDefinition) -> Sequence[Device]:
        """Those that the definition may run on."""
        devices, wanted = self._all(), definition.device
        if wanted == "auto":
            return devices
        if wanted >= len(devices):
            raise BackendUnavailableError(
                f"{definition.kernel_id!r} is for device={wanted}, and this process may use {len(devices)} GPUs, which "
                "count from 0; pass device='auto', or see CUDA_VISIBLE_DEVICES"
            )
        return [devices[wanted]]

    def check(self, definition: StepDefinition) -> None:
        check_step(definition)

    def build(self, definition: StepDefinition) -> CudaProgram:
        # The first time these take seconds, and read files: not on the event loop, where the engine is made.
        _native()
        host.quota()
        program = CudaProgram(definition, self._compiled)
        for device in self._devices(definition):
            program.function(device)
        return program

    def engine(self, loop: asyncio.AbstractEventLoop) -> CudaEngine:
        return CudaEngine(loop, self._all())
