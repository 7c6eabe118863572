"""A CuPy with GPUs that are not there: memory of its own, and streams that do nothing until they must.

What is asked of a stream is put off until somebody waits for it, so that whatever lacks an order shows: a copy that
did not wait for what it copies, an array that is read before it is filled, memory that is used again too early. Only
arrays over given memory exist, and of their operations only assignment, `fill` and `get`, which are work on a stream.
"""

import ctypes
import itertools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from pydotcompute.device import memory

ALLOCATION_LIMIT = 1 << 40


@contextmanager
def in_place_of_cupy(library):
    """The package finds `library` (None: nothing) where it looks for CuPy."""

    def find(name):
        assert name == "cupy"
        if library is None:
            raise ImportError
        return library

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "import_module", find)
        for cache in (memory.cupy, memory.gpu):
            cache.cache_clear()
        try:
            yield library
        finally:
            for cache in (memory.cupy, memory.gpu):
                cache.cache_clear()


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class Event:
    def __init__(self, block=False, disable_timing=False):
        self.done = True
        self._stream = None
        self.ptr = self  # what the functions of the runtime are given

    def synchronize(self):
        if not self.done:
            self._stream._run_until(self)


class Stream:
    _pointers = itertools.count(0x1000)

    def __init__(self, fake, non_blocking=False, ptr=None):
        assert non_blocking, "ring kernels would wait for a blocking stream"
        self._fake, self._queue = fake, deque()
        self.ptr = next(self._pointers) if ptr is None else ptr

    def enqueue(self, work: Callable[[], None]) -> None:
        self._queue.append(work)

    def record(self, event):
        event.done, event._stream = False, self
        self._queue.append(event)
        return event

    def wait_event(self, event):
        self._queue.append(event.synchronize)

    def synchronize(self):
        self.record(Event()).synchronize()

    def _run_until(self, event):
        with self._fake.lock:
            while not event.done:
                self.step()

    def step(self) -> None:
        """The GPU gets round to one thing."""
        with self._fake.lock:
            if self._queue:
                work = self._queue.popleft()
                if isinstance(work, Event):
                    work.done = True
                else:
                    work()

    @contextmanager
    def use(self):
        before, self._fake.here.stream = self._fake.here.stream, self
        try:
            yield self
        finally:
            self._fake.here.stream = before


class Memory:
    """Freed memory is overwritten, and never used again: whoever still reads it sees that."""

    def __init__(self, fake, nbytes, on_device):
        self.fake, self._on_device = fake, on_device
        self._bytes = np.full(nbytes, 0xA5, np.uint8)
        self.ptr = self._bytes.ctypes.data
        fake.graves.append(self._bytes)
        fake.allocated_on_device += nbytes * on_device

    def __del__(self):
        self._bytes[:] = 0xEE
        self.fake.allocated_on_device -= self._bytes.nbytes * self._on_device


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset

    def copy_from_host_async(self, mem, size, stream):
        self.mem.fake.copies.append(("device", size))
        stream.enqueue(lambda to=self.ptr: ctypes.memmove(to, mem, size))

    def copy_to_host_async(self, mem, size, stream):
        self.mem.fake.copies.append(("host", size))
        stream.enqueue(lambda source=self.ptr: ctypes.memmove(mem, source, size))


class UnownedMemory:
    def __init__(self, fake, ptr, size, owner, device_id):
        self.fake, self.ptr, self.size, self.owner, self.device_id = fake, ptr, size, owner, device_id


class Array:
    """Of memory on the device: a test cannot look into it but by work on a stream."""

    def __init__(self, shape, dtype, memptr, strides=None):
        self.shape, self.dtype, self.data = shape, np.dtype(dtype), memptr
        raw = (ctypes.c_uint8 * memptr.mem.size).from_address(memptr.mem.ptr)
        offset = memptr.ptr - memptr.mem.ptr
        self._elements = np.ndarray(shape, dtype, np.frombuffer(raw, np.uint8), offset, strides)
        self.device_id = memptr.mem.device_id

    @property
    def _fake(self):
        return self.data.mem.fake

    def __getitem__(self, key):
        part = object.__new__(Array)
        part.data, part.dtype, part.device_id = self.data, self.dtype, self.device_id
        part._elements = self._elements[key]
        part.shape = part._elements.shape
        return part

    def __setitem__(self, key, values):
        assert self._fake.here.device == self.device_id, "a kernel for another GPU than the current one"
        target = self._elements
        stream = self._fake.current_stream()
        if isinstance(values, Array):  # read when the kernel runs
            stream.enqueue(lambda: target.__setitem__(key, values._elements))
        else:
            copied = np.array(values)
            stream.enqueue(lambda: target.__setitem__(key, copied))

    def fill(self, value):
        self[...] = value

    def get(self):
        """What the device sees now, by a copy on the current stream."""
        seen = []
        stream = self._fake.current_stream()
        stream.enqueue(lambda: seen.append(self._elements.copy()))
        stream.synchronize()
        return seen[0]

    @property
    def __cuda_array_interface__(self):
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "strides": None,
            "data": (self.data.ptr, False),
        }

    def __dlpack_device__(self):
        return 2, self.device_id

    def __dlpack__(self, *, stream=None, max_version=None):
        return "capsule", self


class Fake:
    """Stands for the module `cupy`."""

    def __init__(self, gpus: int = 2):
        self.gpus, self.allocated_on_device, self.limit = gpus, 0, ALLOCATION_LIMIT
        self.fault = ""
        self.graves: list[np.ndarray] = []
        self.copies: list[tuple[str, int]] = []  # side that was written, bytes
        self.lock = threading.RLock()
        self.here = _Here()
        self.null = Stream(self, True, 0)
        self.streams = [self.null]
        self.cuda = SimpleNamespace(
            Device=self._device,
            Stream=self._stream,
            Event=Event,
            MemoryPointer=MemoryPointer,
            UnownedMemory=lambda ptr, size, owner, device: UnownedMemory(self, ptr, size, owner, device),
            alloc=self._alloc,
            alloc_pinned_memory=self._pinned,
            get_current_stream=lambda device_id=-1: self.current_stream(),
            is_available=lambda: True,
            runtime=SimpleNamespace(
                getDeviceCount=lambda: gpus,
                streamWaitEvent=lambda ptr, event: self._stream_at(ptr).wait_event(event),
                eventRecord=lambda event, ptr: self._stream_at(ptr).record(event),
                memGetInfo=lambda: (self.limit - self.allocated_on_device, self.limit),
            ),
        )
        self.ndarray = Array

    def current_stream(self):
        return self.here.stream or self.null

    def _stream_at(self, ptr):
        return next(stream for stream in self.streams if stream.ptr == ptr)

    def asarray(self, source):
        assert isinstance(source, Array)
        return source

    def from_dlpack(self, source):
        assert isinstance(source, Array)
        return source

    def _stream(self, non_blocking=False):
        stream = Stream(self, non_blocking)
        self.streams.append(stream)
        return stream

    @contextmanager
    def _entered(self, index):
        before, self.here.device = self.here.device, index
        try:
            yield
        finally:
            self.here.device = before

    def _device(self, index=None):
        if index is None:
            return SimpleNamespace(id=self.here.device)
        return self._entered(index)

    def _alloc(self, nbytes):
        if self.allocated_on_device + nbytes > self.limit:
            raise OutOfMemoryError("out of memory")
        memory = Memory(self, nbytes, True)
        # What had it before is still at work on it.
        self.current_stream().enqueue(lambda memory=memory._bytes: memory.fill(0xA6))
        return MemoryPointer(memory, 0)

    def _pinned(self, nbytes):
        if self.fault:
            raise CUDARuntimeError(self.fault)
        if nbytes > ALLOCATION_LIMIT:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        return Memory(self, nbytes, False)


class _Here(threading.local):
    device = 0
    stream = None
