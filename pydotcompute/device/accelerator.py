"""What can compute here: GPUs, and the processor, which is always the last one."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..exceptions import DeviceError
from . import libcuda, toolkit
from .text import html_table, human_size

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, repr=False)
class Accelerator:
    """A GPU or the processor, as it was found; the methods say how it is now.

    Finding them makes no CUDA context, and so takes no memory of a GPU::

        for accelerator in Accelerator.all():
            print(accelerator.name, accelerator.memory)
    """

    kind: Literal["cuda", "rocm", "cpu"]
    """What programs it: NVIDIA's CUDA, AMD's ROCm through CuPy, or the processor itself."""
    index: int
    """Its number among those of its kind; ``device=`` of a ring kernel means that of kind ``"cuda"``."""
    name: str
    multiprocessors: int
    """Those of a GPU; cores of the processor that this process may use."""
    memory: int
    """Bytes: its own on a GPU, else what this process may use."""
    arch: str
    """What code for it is compiled for: ``"sm_90"``, ``"gfx942"``, ``"x86_64"``."""
    capability: tuple[int, int] | None = None
    """Compute capability, such as (9, 0); None where it is no NVIDIA GPU."""
    uuid: str | None = None
    """``GPU-`` and 32 hexadecimal digits; None where it has none."""
    driver_version: str | None = None
    """That of NVIDIA's driver and the newest CUDA it supports: ``"580.95.05, CUDA 13.0"``; None without it."""
    runtime_version: str | None = None
    """That of the CUDA or ROCm runtime which is installed for Python; None if none is."""

    @classmethod
    def all(cls) -> tuple[Accelerator, ...]:
        """All that this process may use: NVIDIA's GPUs, AMD's, then the processor.

        Why a GPU is not among them tells `pydotcompute.doctor()`.
        """
        return (*_nvidia(), *_amd(), _processor())

    @property
    def runs_ring_kernels(self) -> bool:
        """Whether compiled ring kernels run on such a device. With ROCm only arrays do: ring kernels need CUDA."""
        return self.kind == "cpu" or (self.kind == "cuda" and (self.capability or (0, 0)) >= libcuda.OLDEST_CAPABILITY)

    def memory_free(self) -> int | None:
        """Bytes that nobody uses; None where nobody tells: for NVIDIA's GPUs, `pip install nvidia-ml-py` does."""
        if self.kind == "cuda":
            return self._told(lambda nvml, gpu: int(nvml.nvmlDeviceGetMemoryInfo(gpu).free))
        if self.kind == "rocm":
            cupy = import_module("cupy")
            with cupy.cuda.Device(self.index):
                return int(cupy.cuda.runtime.memGetInfo()[0])
        return _available_memory()

    def utilisation(self) -> float | None:
        """How busy it is, from 0 to 1; None where nobody tells.

        For a GPU of kind ``"cuda"``, the share of the last moment in which any kernel ran: a ring kernel that waits for
        messages counts as busy. For the processor, threads that wanted to run in the last minute, for each core.
        """
        if self.kind == "cuda":
            return self._told(lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        if self.kind == "cpu" and hasattr(os, "getloadavg"):
            with suppress(OSError):
                return min(os.getloadavg()[0] / self.multiprocessors, 1.0)
        return None

    def temperature(self) -> float | None:
        """Degrees Celsius; None where nobody tells."""
        return self._told(lambda nvml, gpu: float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)))

    def power(self) -> float | None:
        """Watts that it draws; None where nobody tells."""
        return self._told(lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000)

    def _told(self, ask: Callable[[Any, Any], _T]) -> _T | None:
        """What NVIDIA's management library says of this GPU, if it is there and knows."""
        nvml = _nvml() if self.kind == "cuda" else None
        if nvml is None or self.uuid is None:
            return None
        # A part of a GPU (MIG) has its own kind of id. NVML knows other GPUs than CUDA, and counts them differently.
        for uuid in (self.uuid, self.uuid.replace("GPU-", "MIG-")):
            with suppress(nvml.NVMLError, AttributeError):
                return ask(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
        return None

    def _limit(self) -> str:
        if self.runs_ring_kernels:
            return ""
        if self.kind == "rocm":
            return " (for arrays alone: ring kernels need CUDA)"
        return " (for arrays alone: ring kernels need compute capability {}.{})".format(*libcuda.OLDEST_CAPABILITY)

    def facts(self) -> dict[str, str]:
        """What is known of it, in words, without asking it anything."""
        known = {
            "kind": self.kind + self._limit(),
            "multiprocessors" if self.kind != "cpu" else "cores": str(self.multiprocessors),
            "memory": human_size(self.memory),
            "architecture": self.arch,
            "UUID": self.uuid,
            "driver": self.driver_version,
            "runtime": self.runtime_version,
        }
        return {name: value for name, value in known.items() if value is not None}

    def __str__(self) -> str:
        units = "cores" if self.kind == "cpu" else "multiprocessors"
        facts = self.name, self.arch, f"{self.multiprocessors} {units}", human_size(self.memory)
        return ", ".join(facts) + self._limit()

    def __repr__(self) -> str:
        return f"<Accelerator {self.kind} {self.index}: {self}>"

    def _repr_html_(self) -> str:
        return html_table(self.name, self.facts(), caption=True)


# -- NVIDIA ------------------------------------------------------------------------------------------------------------


def _nvidia() -> Iterator[Accelerator]:
    if libcuda.fault() is not None:
        return
    runtime = toolkit.versions().get("cudart")
    for index in range(libcuda.count()):
        with suppress(DeviceError):  # one that has failed
            gpu = libcuda.gpu(index)
            yield Accelerator(
                "cuda", index, gpu.name, gpu.multiprocessors, gpu.memory, gpu.arch, gpu.capability, gpu.uuid,
                driver_version(), runtime,
            )  # fmt: skip


def driver_version() -> str | None:
    """``"580.95.05, CUDA 13.0"``, or as much of it as is known; None without NVIDIA's driver."""
    supported = libcuda.version()
    if supported is None:
        return None
    cuda = "CUDA {}.{}".format(*supported)
    nvml = _nvml()
    if nvml is not None:
        with suppress(nvml.NVMLError):
            return f"{nvml.nvmlSystemGetDriverVersion()}, {cuda}"
    return cuda


@cache
def _nvml() -> Any:
    """NVIDIA's management library, started; None where it or the package that talks to it is missing."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - whatever is wrong with an installation: it is not there
        return None
    return nvml


# -- AMD ---------------------------------------------------------------------------------------------------------------


@cache
def amd_is_here() -> bool:
    """Whether an AMD GPU can be expected: by its driver, or by CuPy's build for it."""
    return Path("/dev/kfd").exists() or cupy_for_rocm() is not None


def cupy_for_rocm() -> str | None:
    """The version of CuPy's build for ROCm; None if it is not installed."""
    spec = find_spec("cupy")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for package in Path(folder).parent.glob("cupy_rocm*.dist-info"):
            return package.stem.split("-")[1]
    return None


def _amd() -> Iterator[Accelerator]:
    if not amd_is_here():
        return
    try:
        runtime = import_module("cupy").cuda.runtime
        count = runtime.getDeviceCount() if runtime.is_hip else 0
        for index in range(count):
            found = runtime.getDeviceProperties(index)
            yield Accelerator(
                "rocm", index, _decoded(found["name"]), found["multiProcessorCount"], found["totalGlobalMem"],
                _decoded(found.get("gcnArchName", b"gfx")), runtime_version=f"ROCm {runtime.runtimeGetVersion()}",
            )  # fmt: skip
    except Exception:  # noqa: BLE001 - CuPy raises what it likes where its libraries are missing: no such GPU can be used
        return


def _decoded(text: bytes | str) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


# -- the processor -----------------------------------------------------------------------------------------------------


def _processor() -> Accelerator:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Accelerator("cpu", 0, _processor_name(), cores, _total_memory(), platform.machine())


def _processor_name() -> str:
    with suppress(OSError):  # Linux alone
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _total_memory() -> int:
    """Bytes of the machine, or what the control group of this process may use of it."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return 0
    return min(total, _memory_limit() or total)


def _memory_limit() -> int | None:
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups of version 2 and 1
        with suppress(OSError, ValueError):  # not there; or "max", which is no number
            return int(Path("/sys/fs/cgroup", file).read_text())
    return None


def _available_memory() -> int | None:
    with suppress(OSError):  # Linux alone
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _total_memory())
    return None
