# ruff: noqa: N802 - functions have the names of the driver's
"""NVIDIA's driver on a machine without one: as the C library of `libcuda`, and as the module ``cuda.bindings.driver``.

Device memory is memory of the host, and what copies is done at once. It checks what a real one would refuse: calls
without a context, addresses that are none of its own, and whatever could wait for a kernel on another stream.
"""

import ctypes
import os
import sys
from enum import IntEnum
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE, INVALID_CONTEXT = 0, 1, 2, 3, 100, 201
NAMES = {
    INVALID_VALUE: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    OUT_OF_MEMORY: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    NOT_INITIALIZED: ("CUDA_ERROR_NOT_INITIALIZED", "initialization error"),
    NO_DEVICE: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    INVALID_CONTEXT: ("CUDA_ERROR_INVALID_CONTEXT", "invalid device context"),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    802: ("CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"),
}
H200 = ("NVIDIA H200", bytes(range(16)), (9, 0), 132, 141 << 30)
GTX = ("NVIDIA GeForce GTX 1080", bytes(range(16, 32)), (6, 1), 20, 8 << 30)

_do_nothing = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)


class Library:
    """The functions that `libcuda` calls, with arguments as ctypes passes them."""

    def __init__(self, *gpus: tuple[Any, ...], version: int = 13000) -> None:
        self.gpus, self.version = gpus, version
        self.init_code = SUCCESS
        self.seen: dict[str, str] = {}
        self.process: int | None = None
        self.cuLaunchKernel, self.cuStreamQuery = _do_nothing, _do_nothing

    def cuInit(self, flags):
        self.seen = dict(os.environ)
        if self.process not in (None, os.getpid()):
            return NOT_INITIALIZED  # as the real one in a forked child
        self.process = os.getpid()
        return self.init_code if self.gpus or self.init_code else NO_DEVICE

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return SUCCESS

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.gpus)
        return SUCCESS

    def cuDeviceGet(self, device, ordinal):
        if not 0 <= ordinal < len(self.gpus):
            return INVALID_VALUE
        device._obj.value = ordinal
        return SUCCESS

    def cuDeviceGetName(self, name, size, device):
        name.value = self.gpus[device.value][0].encode()
        return SUCCESS

    def cuDeviceGetUuid_v2(self, uuid, device):
        uuid.raw = self.gpus[device.value][1]
        return SUCCESS

    def cuDeviceTotalMem_v2(self, nbytes, device):
        nbytes._obj.value = self.gpus[device.value][4]
        return SUCCESS

    def cuDeviceGetAttribute(self, value, attribute, device):
        _, _, (major, minor), multiprocessors, _ = self.gpus[device.value]
        value._obj.value = {16: multiprocessors, 75: major, 76: minor}[attribute]
        return SUCCESS

    def cuGetErrorName(self, code, name):
        if code not in NAMES:
            return INVALID_VALUE
        name._obj.value = NAMES[code][0].encode()
        return SUCCESS

    def cuGetErrorString(self, code, text):
        text._obj.value = NAMES[code][1].encode()
        return SUCCESS


class Bindings:
    """The functions and names of ``cuda.bindings.driver`` that `driver` uses; `calls` are those that were made."""

    CU_MEMHOSTALLOC_PORTABLE, CU_MEMHOSTALLOC_DEVICEMAP = 1, 2
    CUstream_flags = IntEnum("CUstream_flags", {"CU_STREAM_DEFAULT": 0, "CU_STREAM_NON_BLOCKING": 1})
    CUmemAllocationType = IntEnum("CUmemAllocationType", {"CU_MEM_ALLOCATION_TYPE_PINNED": 1})
    CUmemAllocationHandleType = IntEnum("CUmemAllocationHandleType", {"CU_MEM_HANDLE_TYPE_NONE": 0})
    CUmemLocationType = IntEnum("CUmemLocationType", {"CU_MEM_LOCATION_TYPE_DEVICE": 1})
    CUmemPool_attribute = IntEnum(
        "CUmemPool_attribute",
        {"CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES": 3, "CU_MEMPOOL_ATTR_RELEASE_THRESHOLD": 4},
    )

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing: dict[str, int] = {}
        self.contexts: list[int] = []
        self.memory: dict[int, np.ndarray] = {}
        self.free_memory = 100 << 30

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        function = object.__getattribute__(self, f"_{name}")
        needs_context = name not in ("cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuCtxSetCurrent")

        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, *args))
            if name in self.failing:
                return (self.failing[name],)
            if needs_context and not self.contexts:
                return (INVALID_CONTEXT,)
            result = function(*args)
            return (
                (SUCCESS,) if result is None else (SUCCESS, *result) if isinstance(result, tuple) else (SUCCESS, result)
            )

        return call

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of the calls of one function."""
        return [args for called, *args in self.calls if called == name]

    @staticmethod
    def CUmemPoolProps() -> SimpleNamespace:
        return SimpleNamespace(location=SimpleNamespace())

    @staticmethod
    def cuuint64_t(value: int) -> int:
        return value

    def _block(self, nbytes: int) -> int:
        memory = np.full(nbytes + 4096, 0xCC, np.uint8)
        at = memory.ctypes.data + -memory.ctypes.data % 4096
        self.memory[at] = memory
        return at

    def _inside(self, at: int, nbytes: int) -> None:
        assert any(memory.ctypes.data <= at <= at + nbytes <= memory.ctypes.data + memory.size
                   for memory in self.memory.values()), "memory that was not allocated"  # fmt: skip

    def _cuDeviceGet(self, ordinal):
        return ordinal

    def _cuDevicePrimaryCtxRetain(self, device):
        return 1000 + device

    def _cuCtxPushCurrent(self, context):
        self.contexts.append(context)

    def _cuCtxPopCurrent(self):
        return self.contexts.pop()

    def _cuCtxSetCurrent(self, context):
        self.contexts[-1:] = [context]

    def _cuStreamCreate(self, flags):
        return 50 + len(self.named("cuStreamCreate"))

    def _cuStreamSynchronize(self, stream):
        assert stream, "the default stream waits for all"

    def _cuMemHostAlloc(self, nbytes, flags):
        return self._block(nbytes)

    def _cuMemHostGetDevicePointer(self, host, flags):
        return host

    def _cuMemPoolCreate(self, properties):
        return properties

    def _cuMemPoolSetAttribute(self, pool, attribute, value):
        setattr(pool, attribute.name, value)

    def _cuMemAllocFromPoolAsync(self, nbytes, pool, stream):
        assert stream, "the default stream waits for all"
        return self._block(nbytes)

    def _cuMemFreeAsync(self, address, stream):
        del self.memory[address]

    def _cuMemsetD8Async(self, address, value, nbytes, stream):
        self._inside(address, nbytes)
        ctypes.memset(address, value, nbytes)

    def _cuMemcpyHtoDAsync(self, target, source, nbytes, stream):
        self._inside(target, nbytes)
        self._inside(source, nbytes)  # page-locked: pageable memory may wait for other streams
        ctypes.memmove(target, source, nbytes)

    def _cuMemcpyDtoHAsync(self, target, source, nbytes, stream):
        self._cuMemcpyHtoDAsync(target, source, nbytes, stream)

    def _cuMemGetInfo(self):
        return self.free_memory, 141 << 30

    def _cuModuleLoadData(self, image):
        return len(image)

    def _cuModuleGetFunction(self, module, name):
        return 7000 + module

    def _cuFuncLoad(self, function):
        pass

    def _cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function, threads, shared):
        return 2048 // threads


def install(patch: Any, *gpus: tuple[Any, ...], **options: Any) -> Library:
    """From now on the machine has these GPUs, and packages of CUDA 13.0; `patch` is pytest's `monkeypatch`.

    The module is `sys.modules["cuda.bindings.driver"]`. With ``library=None`` there is no driver.
    """
    from pydotcompute.device import driver, libcuda, toolkit

    library = options["library"] if "library" in options else Library(*gpus, **options)
    patch.setattr(libcuda, "_loaded", lambda: (library, "libcuda.so.1: no such file"))
    patch.setattr(toolkit, "versions", lambda: {"nvvm": "13.0.88", "nvjitlink": "13.0.88", "cudart": "13.0.96"})
    patch.setitem(sys.modules, "cuda.bindings.driver", Bindings())
    # What is known already is known of another machine.
    patch.setattr(driver, "_drivers", {})
    patch.setattr(driver, "unavailable", cache(driver.unavailable.__wrapped__))
    patch.setattr(driver, "_cuda", cache(driver._cuda.__wrapped__))
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS"):
        patch.setenv(name, "")  # whatever is set by the package is taken back
        patch.delenv(name)
    return library
