"""What NVIDIA's driver says of itself and of its GPUs: asked through ctypes, which needs no package, without a context.

The numbers of attributes and results are those of the CUDA driver API
(https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html).
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from uuid import UUID

from ..exceptions import DeviceError

OLDEST_CAPABILITY: Final = (7, 5)
"""Turing: the oldest that CUDA 13 compiles for."""

OUT_OF_MEMORY: Final = 2
_NO_DEVICE: Final = 100
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver describes it; `index` counts those that CUDA_VISIBLE_DEVICES leaves."""

    index: int
    name: str
    uuid: str
    """``GPU-`` and 32 hexadecimal digits in groups, as ``nvidia-smi -L`` prints it."""
    capability: tuple[int, int]
    multiprocessors: int
    memory: int
    """Bytes on the device."""

    @property
    def arch(self) -> str:
        """What code for it is compiled for: ``"sm_90"``."""
        return "sm_{}{}".format(*self.capability)


@cache
def _loaded() -> tuple[Any, str]:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"), ""
    except OSError as error:
        return None, str(error)


def address(function: str) -> int:
    """Where a C function of the driver lies in this process."""
    library, why = _loaded()
    if library is None:
        raise DeviceError(_no_driver(why))
    return ctypes.cast(getattr(library, function), ctypes.c_void_p).value or 0


def has_driver() -> bool:
    """Whether NVIDIA's driver is installed; it may still find no GPU."""
    return _loaded()[0] is not None


def fault() -> str | None:
    """Why the driver gives no GPU to this process, and what to do about it; None if it does.

    Starts CUDA, which takes a moment the first time, and makes no context. Kernels are then loaded as a whole and at
    once: loading one while another runs without an end would wait for it. What the user has set stays.
    """
    library, why = _loaded()
    if library is None:
        return _no_driver(why)
    os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams that do not wait for each other
    code = library.cuInit(0)
    if code == _NO_DEVICE or (not code and not count()):
        return _no_gpu()
    return f"CUDA does not start: {explained(code)}" if code else None


def version() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports: ``(13, 0)`` for driver 580; None without a driver."""
    library, _ = _loaded()
    if library is None:
        return None
    value = ctypes.c_int()
    _check(library.cuDriverGetVersion(ctypes.byref(value)))
    return value.value // 1000, value.value % 1000 // 10


def count() -> int:
    """GPUs that this process may use; only where `fault` is None."""
    value = ctypes.c_int()
    _check(_loaded()[0].cuDeviceGetCount(ctypes.byref(value)))
    return value.value


def gpu(index: int) -> Gpu:
    """The GPU of that index, below `count`."""
    library = _loaded()[0]
    device, number, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name, uuid = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    _check(library.cuDeviceGet(ctypes.byref(device), index))
    _check(library.cuDeviceGetName(name, len(name), device))
    _check(library.cuDeviceGetUuid_v2(uuid, device))
    _check(library.cuDeviceTotalMem_v2(ctypes.byref(memory), device))

    def attribute(which: int) -> int:
        _check(library.cuDeviceGetAttribute(ctypes.byref(number), which, device))
        return number.value

    return Gpu(
        index,
        name.value.decode(errors="replace"),
        f"GPU-{UUID(bytes=uuid.raw)}",
        (attribute(_MAJOR), attribute(_MINOR)),
        attribute(_MULTIPROCESSORS),
        memory.value,
    )


# -- what went wrong ---------------------------------------------------------------------------------------------------


def error_text(code: int) -> str:
    """A CUresult in words: ``"CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"``."""
    library, _ = _loaded()
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    if library is None or library.cuGetErrorName(code, ctypes.byref(name)):
        return f"CUDA error {code}"
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"{(name.value or b'').decode()} ({code}): {(text.value or b'').decode()}"


def explained(code: int) -> str:
    """`error_text` and what to do about it, where something is known to help."""
    advice = _ADVICE.get(code)
    return f"{error_text(code)}. {advice}" if advice else error_text(code)


def _check(code: int) -> None:
    if code:
        raise DeviceError(f"the NVIDIA driver does not answer: {explained(code)}", code)


_RESTART = "Its context is lost for this process: restart it (in a notebook: Kernel, Restart)"
_ADVICE = {
    3: (
        "A process that was forked from one that uses CUDA cannot use it: start it with "
        "multiprocessing.get_context('spawn') or 'forkserver'"
    ),
    34: "A stub of libcuda was loaded, which is for linking alone: take its folder off LD_LIBRARY_PATH",
    46: "Another process has the GPU for itself: `nvidia-smi` shows which",
    209: "What was compiled does not fit this GPU",
    218: "What was compiled does not fit this driver: update the driver",
    222: "What was compiled is newer than this driver: update the driver",
    700: f"A step has used memory that is not its own; try it with boundscheck=True. {_RESTART}",
    702: f"The GPU also draws a screen, and its watchdog ends kernels that run for seconds: use a quantum of 0.5. "
    f"{_RESTART}",
    709: "Another library has reset the GPU: restart the process (in a notebook: Kernel, Restart)",
    **dict.fromkeys((710, 714, 715, 716, 717, 718, 719), _RESTART),
    802: "The machine is not ready: on one with NVSwitch, start nvidia-fabricmanager, else look at `nvidia-smi`",
    803: "The driver was updated, and its kernel module was not: restart the machine",
    804: "A CUDA compatibility package takes the driver's place: remove it, or take it off LD_LIBRARY_PATH",
    900: "A CUDA graph is being captured in this process: capture it in the mode 'thread_local' or 'relaxed'",
    999: "If `nvidia-smi` works, reload the module nvidia_uvm or restart the machine",
}


def _no_driver(why: str) -> str:
    return (
        f"no NVIDIA driver is installed here ({why}): an NVIDIA GPU needs driver 580 or newer, "
        "and a container must be started with `--gpus all`"
    )


def _no_gpu() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return (
            f"the environment variable CUDA_VISIBLE_DEVICES is {visible!r}, which hides all GPUs: "
            "unset it, or set it to the numbers that `nvidia-smi` shows, and start Python again"
        )
    return "an NVIDIA driver is installed, and finds no GPU: look at `nvidia-smi`"
