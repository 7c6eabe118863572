"""Memory, streams and kernels of a GPU, through NVIDIA's driver.

It works in the primary context of a device, which CuPy, PyTorch and Numba use too, and never so that it waits for a
kernel that may run without an end: no call here uses the default stream, synchronises a device, or gives memory back
that only an idle device can take.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_int64
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import BackendUnavailableError, DeviceError, DeviceMemoryError
from . import libcuda, toolkit
from .text import human_size

# -- which GPUs --------------------------------------------------------------------------------------------------------


@cache
def unavailable() -> str | None:
    """Why no GPU can run ring kernels in this process, and what to do about it; None if one can.

    Starts CUDA the first time, and makes no context.
    """
    if why := libcuda.fault():
        return why
    supported, needed = libcuda.version() or (0, 0), toolkit.oldest_driver()
    if supported < needed:
        return (
            f"the NVIDIA driver is too old: it supports CUDA {_dotted(supported)}, and what compiles for the GPU is of "
            f"CUDA {_dotted(needed)}: update the driver to {_DRIVERS.get(needed[0], 'a newer one')}"
        )
    try:
        faults = [_too_old(libcuda.gpu(index)) for index in range(libcuda.count())]
        if all(faults):
            return faults[0]
        _cuda()
    except DeviceError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an installation
        return f"what talks to the GPU is missing ({error}): `{toolkit.PACKAGES}`, and restart the notebook's kernel"
    return None


def device_count() -> int:
    """How many GPUs this process may use; 0 where `unavailable` says why."""
    return libcuda.count() if unavailable() is None else 0


def driver(index: int = 0) -> Driver:
    """The driver of one GPU, the same for all callers; any thread may ask. A context is made when it is first used.

    Raises:
        BackendUnavailableError: there is no such GPU, or none can be used.
        DeviceError: it does not work.
    """
    with _lock:
        if index not in _drivers:
            if why := unavailable():
                raise BackendUnavailableError(why)
            if not 0 <= index < libcuda.count():
                raise BackendUnavailableError(f"there is no GPU {index}: {_numbered(libcuda.count())}")
            _drivers[index] = Driver(index)
        return _drivers[index]


_drivers: dict[int, Driver] = {}
_lock = threading.Lock()
_DRIVERS = {12: "525 or newer", 13: "580 or newer"}  # the first that support a major version of CUDA


def _forget() -> None:
    """In a forked child CUDA does not work: asked again, the driver says so."""
    global _lock
    _lock = threading.Lock()
    _drivers.clear()
    unavailable.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _too_old(gpu: libcuda.Gpu) -> str | None:
    if gpu.capability >= libcuda.OLDEST_CAPABILITY:
        return None
    return (
        f"GPU {gpu.index} ({gpu.name}) has compute capability {_dotted(gpu.capability)}, and ring kernels need "
        f"{_dotted(libcuda.OLDEST_CAPABILITY)} or newer, such as Turing, Ampere or Hopper"
    )


def _dotted(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def _numbered(count: int) -> str:
    return "the only one is GPU 0" if count == 1 else f"they are numbered from 0 to {count - 1}"


# -- one GPU -----------------------------------------------------------------------------------------------------------

SLAB = 16 << 20
"""Bytes of page-locked memory that are taken from the system at once: to take some may wait for kernels that run."""
CHUNK = 1 << 20
"""Bytes that are copied at once, through page-locked memory."""
KEPT = 256 << 20
"""Bytes of device memory that stay with this process when they are free; more is given back when a stream is idle."""
_PAGE = 4096
_PART = SLAB // 16  # larger pieces are no part of a slab


class Pinned:
    """Page-locked memory of the host that the GPU reads and writes in place."""

    __slots__ = ("_give_back", "device_address", "words")

    def __init__(self, words: NDArray[np.int64], device_address: int, give_back: Callable[[], None]) -> None:
        self.words = words
        """The memory as int64 of shape (nbytes // 8,), zeros at first."""
        self.device_address = device_address
        """Where the GPU finds it."""
        self._give_back: Callable[[], None] | None = give_back

    def free(self) -> None:
        """Let the next one of about its size have it. Neither a kernel nor the host may use it any more."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class Driver:
    """One GPU in this process: `driver` gives it. Any thread may call any method.

    Addresses, streams and functions are ints. Every method but `use`, `attach` and `error_text` can raise `DeviceError`
    with the driver's code; those that allocate, `DeviceMemoryError`.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.gpu = libcuda.gpu(index)
        self.arch = self.gpu.arch
        """What its code is compiled for: ``"sm_90"``."""
        self.launch = libcuda.address("cuLaunchKernel")
        """Where the C function `cuLaunchKernel` lies."""
        self.query = libcuda.address("cuStreamQuery")
        """Where the C function `cuStreamQuery` lies."""
        self._starting = threading.RLock()
        self._context = 0
        self._pool: Any = None
        self._lock = threading.Lock()
        self._streams: list[int] = []
        self._pinned: dict[int, list[tuple[int, int]]] = {}  # size: the free ones, address for the host and the GPU
        self._slab = (0, 0)
        self._slab_left = 0
        self._loading = threading.Lock()
        self._modules: dict[bytes, Any] = {}

    def __repr__(self) -> str:
        return f"<Driver of GPU {self.index}: {self.gpu.name}, {self.arch}>"

    def error_text(self, code: int) -> str:
        """Name and text of a CUresult."""
        return libcuda.error_text(code)

    # -- its context ---------------------------------------------------------------------------------------------------

    def _primary(self) -> int:
        """The primary context. It takes hundreds of megabytes of the device, and so is made when it is first used."""
        with self._starting:
            if not self._context:
                self._context = int(_call("cuDevicePrimaryCtxRetain", _call("cuDeviceGet", self.index)))
            return self._context

    @contextmanager
    def use(self) -> Iterator[None]:
        """Inside, calls of this thread to CUDA are for this GPU."""
        _call("cuCtxPushCurrent", self._primary())
        try:
            yield
        finally:
            _call("cuCtxPopCurrent")

    def attach(self) -> None:
        """From now on, calls of this thread to CUDA are for this GPU."""
        _call("cuCtxSetCurrent", self._primary())

    def stream(self) -> int:
        """A stream that waits for no other, the default one included."""
        with self._lock:
            if self._streams:
                return self._streams.pop()
        with self.use():
            return int(_call("cuStreamCreate", _cuda().CUstream_flags.CU_STREAM_NON_BLOCKING))

    def end_stream(self, stream: int) -> None:
        """Keep it for whoever asks next. Nothing may be under way on it."""
        with self._lock:
            self._streams.append(stream)

    # -- memory of the host --------------------------------------------------------------------------------------------

    def pinned(self, nbytes: int) -> Pinned:
        """Zeroed memory of the host for the GPU; `nbytes` is a multiple of 8. The system never gets it back.

        Giving it back would wait for every kernel on the device.
        """
        if nbytes <= 0 or nbytes % 8:
            raise ValueError(f"{nbytes} is not a positive multiple of 8")
        # Powers of two out of slabs, multiples of a part of a slab beyond.
        size = max(_PAGE, 1 << (nbytes - 1).bit_length()) if nbytes <= _PART else -(-nbytes // _PART) * _PART
        with self._lock:
            free = self._pinned.setdefault(size, [])
            place = free.pop() if free else self._new_pinned(size)
        words = np.frombuffer(memoryview((c_int64 * (nbytes // 8)).from_address(place[0])), np.int64)
        words[:] = 0

        def give_back() -> None:
            with self._lock:
                free.append(place)

        return Pinned(words, place[1], give_back)

    def _new_pinned(self, size: int) -> tuple[int, int]:
        if size > _PART:
            return self._from_system(size)
        if size > self._slab_left:
            self._slab, self._slab_left = self._from_system(SLAB), SLAB
        at = SLAB - self._slab_left
        self._slab_left -= size
        return self._slab[0] + at, self._slab[1] + at

    def _from_system(self, size: int) -> tuple[int, int]:
        cuda = _cuda()
        flags = cuda.CU_MEMHOSTALLOC_PORTABLE | cuda.CU_MEMHOSTALLOC_DEVICEMAP
        with self.use():
            try:
                host = int(_call("cuMemHostAlloc", size, flags))
            except DeviceMemoryError as error:
                raise DeviceMemoryError(
                    f"the system gives no {human_size(size)} of page-locked memory; use a smaller queue_size, or let "
                    "this process have more memory (`docker run --memory`, `ulimit -l`)",
                    error.code,
                ) from None
            return host, int(_call("cuMemHostGetDevicePointer", host, 0))

    # -- memory of the device ------------------------------------------------------------------------------------------

    def _own_pool(self) -> Any:
        """A pool of device memory: the default one is shared, and may make one stream wait for another."""
        with self._starting:
            if self._pool is None:
                self._pool = self._new_pool()
            return self._pool

    def _new_pool(self) -> Any:
        cuda = _cuda()
        properties = cuda.CUmemPoolProps()
        properties.allocType = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.handleTypes = cuda.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_NONE
        properties.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = self.index
        pool = _call("cuMemPoolCreate", properties)
        attributes = cuda.CUmemPool_attribute
        _call("cuMemPoolSetAttribute", pool, attributes.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, cuda.cuuint64_t(KEPT))
        # What is freed behind a kernel that runs without an end must not become what another stream waits for.
        _call("cuMemPoolSetAttribute", pool, attributes.CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, 0)
        return pool

    def allocate(self, nbytes: int, stream: int) -> int:
        """Zeroed memory of the device, aligned to 256 bytes, for what comes later on that stream."""
        with self.use():
            try:
                address = int(_call("cuMemAllocFromPoolAsync", max(nbytes, 1), self._own_pool(), stream))
            except DeviceMemoryError as error:
                free, total = _call("cuMemGetInfo")
                raise DeviceMemoryError(
                    f"GPU {self.index} ({self.gpu.name}) has no {human_size(nbytes)} left: {human_size(free)} of "
                    f"{human_size(total)} are free. Use fewer instances, a smaller state or queue_size, or terminate "
                    "kernels; free what other libraries keep (`cupy.get_default_memory_pool().free_all_blocks()`, "
                    "`torch.cuda.empty_cache()`), or see in `nvidia-smi` which process has the rest",
                    error.code,
                ) from None
            _call("cuMemsetD8Async", address, 0, max(nbytes, 1), stream)
        return address

    def free(self, address: int, stream: int) -> None:
        """Give back what `allocate` gave, once the stream has done what it was told before."""
        with self.use():
            _call("cuMemFreeAsync", address, stream)

    def write(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy an array, of any shape and a dtype without objects, to the device; it is there on return.

        What the stream was told before is waited for.
        """
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with self._staging(source.size) as staging, self.use():
            for at in range(0, source.size, CHUNK):
                part = staging[: min(CHUNK, source.size - at)]
                part[:] = source[at : at + CHUNK]
                _call("cuMemcpyHtoDAsync", address + at, part.ctypes.data, part.size, stream)
                _call("cuStreamSynchronize", stream)

    def read(self, address: int, nbytes: int, stream: int) -> NDArray[np.uint8]:
        """A copy of memory of the device, uint8 of shape (nbytes,). What the stream was told before is waited for."""
        result = np.empty(nbytes, np.uint8)
        with self._staging(nbytes) as staging, self.use():
            for at in range(0, nbytes, CHUNK):
                part = staging[: min(CHUNK, nbytes - at)]
                _call("cuMemcpyDtoHAsync", part.ctypes.data, address + at, part.size, stream)
                _call("cuStreamSynchronize", stream)
                result[at : at + CHUNK] = part
        return result

    @contextmanager
    def _staging(self, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        """Page-locked memory for a copy, `CHUNK` bytes at most.

        The driver would have to find such memory for itself, and may wait for a kernel on another stream to do so.
        """
        pinned = self.pinned(max(-(-min(nbytes, CHUNK) // 8) * 8, 8))
        try:
            yield pinned.words.view(np.uint8)
        finally:
            pinned.free()

    # -- kernels -------------------------------------------------------------------------------------------------------

    def load(self, cubin: bytes, name: str) -> int:
        """The function of that name of a compiled module, ready to be launched. The device keeps it."""
        with self._loading, self.use():
            if cubin not in self._modules:
                self._modules[cubin] = _call("cuModuleLoadData", cubin)
            function = _call("cuModuleGetFunction", self._modules[cubin], name.encode())
            if hasattr(_cuda(), "cuFuncLoad"):  # from CUDA 12.4 on: also where modules are loaded lazily
                _call("cuFuncLoad", function)
            return int(function)

    def room(self, function: int, threads: int) -> int:
        """How many blocks of that many threads run the function at the same time, on an idle device."""
        with self.use():
            per_multiprocessor = _call("cuOccupancyMaxActiveBlocksPerMultiprocessor", function, threads, 0)
        return int(per_multiprocessor) * self.gpu.multiprocessors


@cache
def _cuda() -> Any:
    return import_module("cuda.bindings.driver")


def _call(function: str, *args: Any) -> Any:
    """Call the driver; what it returns beside its result: nothing, a value, or a tuple of them."""
    code, *values = getattr(_cuda(), function)(*args)
    if code:
        number = int(code)
        kind = DeviceMemoryError if number == libcuda.OUT_OF_MEMORY else DeviceError
        raise kind(f"{function} failed: {libcuda.explained(number)}", number)
    return values[0] if len(values) == 1 else tuple(values) or None
