"""Memory with a host side and, where there is a GPU, a device side; each knows how new its contents are."""

from __future__ import annotations

import ctypes
import functools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import MethodType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DeviceMemoryError, UnifiedBufferError
from .text import human_size

ALIGNMENT = 64
"""Bytes: one cache line, and at least what any vector load asks for."""

Side = Literal[0, 1]
HOST: Side = 0
DEVICE: Side = 1


@functools.cache
def cupy() -> Any:
    """CuPy, built for CUDA or ROCm, where it is installed and finds a GPU; else None."""
    try:
        library = import_module("cupy")
    except ImportError:
        return None
    return library if library.cuda.is_available() else None


class Gpu:
    """What all memory of one GPU has in common: a stream for copies, and what cannot be freed yet."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.cupy = cupy()
        self._retired: deque[Block] = deque()
        with self.current():
            # Neither waits for the default stream nor keeps it waiting: what has to wait is told to, by events.
            self.stream = self.cupy.cuda.Stream(non_blocking=True)

    def current(self) -> Any:
        """Context manager: this GPU is the one that CuPy works with on this thread."""
        return self.cupy.cuda.Device(self.index)

    def free_later(self, block: Block) -> None:
        """Keep a block until all work on it is done."""
        self._retired.append(block)
        self.sweep()

    def sweep(self) -> None:
        for _ in range(len(self._retired)):
            try:
                block = self._retired.popleft()
            except IndexError:  # another thread sweeps, too
                return
            if not block.at_rest:
                self._retired.append(block)


gpu = functools.cache(Gpu)


class Block:
    """`nbytes` of host memory, page-locked where there is a GPU, and as much of a GPU's once that is asked for.

    Raises `MemoryError` where the machine cannot give that much.
    """

    def __init__(self, nbytes: int, zeroed: bool) -> None:
        self.nbytes = nbytes
        self.gpu: Gpu | None = None
        self.device: Any = None
        """`cupy.cuda.MemoryPointer`, or None where no GPU was asked for memory yet."""
        self._streams: dict[int, Any] = {}  # that may work on the device side, by their address
        self._done: Any = None  # event: the last copy, and all that it had to wait for
        library = cupy()
        try:
            if library is None:
                self._host: Any = (np.zeros if zeroed else np.empty)(nbytes + ALIGNMENT, np.uint8)
                at = self._host.ctypes.data
            else:
                self._host = library.cuda.alloc_pinned_memory(nbytes + ALIGNMENT)
                at = self._host.ptr
        except (MemoryError, ValueError, OverflowError, RuntimeError) as error:
            # NumPy's ValueError: more than an address can count. CuPy raises a RuntimeError for whatever is wrong.
            if isinstance(error, RuntimeError) and "out of memory" not in str(error):
                raise
            raise MemoryError(
                f"a buffer of this shape and dtype needs {human_size(nbytes)}, more than this machine can give; "
                "use a smaller shape or dtype, or several buffers in turn"
            ) from None
        self.address: int = at + -at % ALIGNMENT
        if library is not None and zeroed:
            ctypes.memset(at, 0, nbytes + ALIGNMENT)

    def reserve(self, gpu: Gpu) -> None:
        """Memory on that GPU, unless it is there already."""
        if self.device is None:
            gpu.sweep()
            with gpu.current():
                try:
                    self.device = gpu.cupy.cuda.alloc(max(self.nbytes, 1))
                except MemoryError:
                    free, total = gpu.cupy.cuda.runtime.memGetInfo()
                    raise DeviceMemoryError(
                        f"GPU {gpu.index} cannot give {human_size(self.nbytes)}: {human_size(free)} of "
                        f"{human_size(total)} are free; drop arrays and buffers that are no longer needed, "
                        "call cupy.get_default_memory_pool().free_all_blocks(), or use a smaller buffer"
                    ) from None
                # CuPy's pool gives what another array of that stream had, which may be at work yet.
                stream = gpu.cupy.cuda.get_current_stream()
            self._streams[stream.ptr] = stream
            self.gpu = gpu

    def copy(self, to: Side, nbytes: int, settled: bool) -> None:
        """Begin to copy the first `nbytes` to that side; does not wait. `settled` as of `settle`."""
        gpu = self.gpu
        assert gpu is not None
        self.settle(settled)
        with gpu.current():
            move = self.device.copy_from_host_async if to == DEVICE else self.device.copy_to_host_async
            move(self.address, nbytes, gpu.stream)
            self._done = _event(gpu, gpu.stream)
        gpu.sweep()

    def settle(self, settled: bool) -> None:
        """What comes after on the stream for copies waits for all that was asked of the device side before.

        `settled`: the streams that the device side was handed to do not go on to work on it.
        """
        gpu = self.gpu
        if gpu is not None and self._streams:
            with gpu.current():
                for stream in self._streams.values():
                    gpu.stream.wait_event(_event(gpu, stream))
                if settled:
                    self._streams = {}
                self._done = _event(gpu, gpu.stream)

    def hand_to(self, stream: Any) -> None:
        """Work on that stream comes after what was asked of the device side so far, and before later copies."""
        assert self.gpu is not None
        if self._streams.keys() - {stream.ptr}:
            self.settle(settled=False)
        if (done := self._done) is not None and not done.done:
            with self.gpu.current():
                stream.wait_event(done)
        self._streams[stream.ptr] = stream

    def wait(self) -> None:
        """Until the copies so far are done."""
        if (done := self._done) is not None:
            done.synchronize()
            if self._done is done:
                self._done = None

    def retire(self) -> None:
        """Free the memory once all work on it is done; does not wait. For the garbage collector: on any thread."""
        if self.gpu is not None:
            self.settle(settled=True)
            self.gpu.free_later(self)

    @property
    def at_rest(self) -> bool:
        return not self._streams and (self._done is None or bool(self._done.done))


class ForeignStream:
    """A stream of another library, of which only the address is known."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr
        self._runtime = cupy().cuda.runtime

    def wait_event(self, event: Any) -> None:
        self._runtime.streamWaitEvent(self.ptr, event.ptr)

    def record(self, event: Any) -> Any:
        self._runtime.eventRecord(event.ptr, self.ptr)
        return event


def _event(gpu: Gpu, stream: Any) -> Any:
    return stream.record(gpu.cupy.cuda.Event(disable_timing=True))


@dataclass(frozen=True, slots=True)
class Copies:
    """What was copied to one side of a buffer so far, from the other one."""

    count: int = 0
    nbytes: int = 0
    """Bytes of all of them together: each copies the whole memory, that of a view's buffer too."""
    last: float | None = None
    """When the last one began, as `time.time()` has it."""


class Memory:
    """The first `nbytes` of a block, which all arrays that were ever made from them keep alive.

    A side is newer than the other if its version is higher. An array that was handed out for writing may be
    written as long as it or an array made from it is alive: until then a copy of it does not count as up to date,
    or until the other side is taken for writing in its place.
    """

    def __init__(
        self, block: Block, nbytes: int, device: int | None, give_back: Callable[[Block], object] | None = None
    ) -> None:
        self.block = block
        self.nbytes = nbytes
        self.index = device if block.gpu is None else block.gpu.index
        """Of the GPU; None until the first use on one."""
        self.shared = cupy() is None
        """The device side is the host side."""
        self.versions = [1, 0]
        self.copies = [Copies(), Copies()]
        """To each side."""
        self._claims: list[Callable[[], object]] = []  # on the side with the higher version
        self._loans: list[Loan] = []
        self._lock = threading.RLock()
        # For `np.asarray`, whose result refers to this object.
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (nbytes,), "data": (block.address, False)}
        if give_back is None and not self.shared:
            give_back = Block.retire
        if give_back is not None:
            weakref.finalize(self, give_back, block).atexit = False

    def open(self, side: Side, claim: Callable[[], object] | None, fetch: bool, stream: Any = None) -> None:
        """Make the contents of `side` the newest, unless they will be overwritten (`fetch` is false).

        `claim` returns something as long as `side` may be written; None: nobody will. `stream` is the one that the
        device side will be used on.
        """
        with self._lock:
            if side == DEVICE:
                self.block.reserve(self.gpu)
            behind = self.versions[side] < self.versions[1 - side]
            copies = behind and fetch
            if copies:
                settled = not any(other() for other in self._claims)
                self.block.copy(side, self.nbytes, settled)
                before = self.copies[side]
                self.copies[side] = Copies(before.count + 1, before.nbytes + self.nbytes, time.time())
                if settled:
                    self.versions[side] = self.versions[1 - side]
            if claim is not None:
                if behind:
                    self._revoke()
                self._claims = [*(other for other in self._claims if other() and other != claim), claim]
                self.versions[side] = max(self.versions) + 1
            if stream is not None:
                self.block.hand_to(stream)
            elif copies or claim is not None:
                self.block.wait()

    def hand_to(self, stream: Any) -> None:
        """The device side is used on that stream, too."""
        with self._lock:
            self.block.hand_to(stream)

    def close(self, claim: Claim) -> None:
        """Nothing more will be written by that claim."""
        with self._lock:
            claim.revoke()
            self._claims = [other for other in self._claims if other() is not claim]

    def lend(self, holder: Callable[[], str | None], device: int | None) -> Side:
        """Which side is that of a kernel on GPU `device`; it has the newest contents, and those that will be."""
        side = HOST if device is None or self.shared else DEVICE
        with self._lock:
            if side == DEVICE:
                if self.index is not None and self.index != device:
                    raise UnifiedBufferError(
                        f"this buffer lies on GPU {self.index}, and the ring kernel runs on GPU {device}: "
                        f"give one of them the other's `device=`"
                    )
                self.index = device
            if self.versions[side] < self.versions[1 - side]:
                self.check_free()
            loan = next((loan for loan in self._loans if loan.holder() == holder), None) or Loan(holder)
            loan.has_run = False
            self._loans = [*(other for other in self._loans if other.holder() and other is not loan), loan]
            if not self.shared:
                self.block.settle(settled=False)
                self.open(side, loan.may_write, fetch=True)
        return side

    def check_free(self) -> None:
        """Raise `UnifiedBufferError` while a kernel works on this memory."""
        if (kernel := self.kernel) is not None:
            raise UnifiedBufferError(
                f"ring kernel {kernel!r} is working on this buffer; deactivate({kernel!r}) or terminate({kernel!r}) "
                "gives it back"
            )

    @property
    def kernel(self) -> str | None:
        """Id of the ring kernel that works on this memory."""
        return next((kernel for loan in self._loans if (kernel := loan.kernel) is not None), None)

    @property
    def newest(self) -> tuple[bool, bool]:
        """Whether the host's and the device's side are up to date."""
        host, device = self.versions
        return host >= device, device >= host

    def stream(self) -> Any:
        """The one that CuPy uses now on this thread and this memory's GPU."""
        return self.gpu.cupy.cuda.get_current_stream(self.index)

    @property
    def gpu(self) -> Gpu:
        """The one that the device's side is on, from now on if it was undecided."""
        if self.index is None:
            self.index = cupy().cuda.Device().id
        return gpu(self.index)

    def _revoke(self) -> None:
        for claim in self._claims:
            if isinstance(claimed := claim(), Claim):
                claimed.revoke()
        self._claims = []


class Claim:
    """Lives as long as any of the arrays that were made from one that was handed out for writing."""

    __slots__ = ("__array_interface__", "__weakref__", "memory", "view")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.__array_interface__ = memory.__array_interface__
        self.view: Callable[[], NDArray[Any] | None] = lambda: None
        """The array that was handed out, if it lies on the host and is alive."""

    def revoke(self) -> None:
        """From now on the array refuses to be written, rather than lose what is written."""
        if (array := self.view()) is not None:
            array.flags.writeable = False


class Loan:
    """A ring kernel's use of memory, whenever `holder` returns its id."""

    def __init__(self, holder: Callable[[], str | None]) -> None:
        # An executor that has ended need not stay alive because it once used a buffer.
        self.holder: Callable[[], Callable[[], str | None] | None] = (
            weakref.WeakMethod(holder) if isinstance(holder, MethodType) else lambda: holder
        )
        self.has_run = False

    @property
    def kernel(self) -> str | None:
        holder = self.holder()
        kernel = None if holder is None else holder()
        self.has_run |= kernel is not None
        return kernel

    def may_write(self) -> bool:
        """It runs, or may run yet for all that was seen of it."""
        return self.kernel is not None or (self.holder() is not None and not self.has_run)
