"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("numpy", "msgpack", "numba", "llvmlite", "numba-cuda", "cuda-bindings", "cuda-core", "cupy-cuda13x"),
    *("cupy-cuda12x", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvrtc", "nvidia-ml-py", "pytest", "hypothesis"),
)


def machine() -> dict[str, Any]:
    """The processor's side, and the versions of all that takes part."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores,
        "packages": versions,
        "commit": _commit(),
    }


def device(index: int = 0) -> dict[str, Any]:
    """The GPU and its driver; only where one can be used. No context is made."""
    from pydotcompute.device import libcuda

    gpu = libcuda.gpu(index)
    return {
        "device": gpu.name,
        "arch": gpu.arch,
        "multiprocessors": gpu.multiprocessors,
        "memory": gpu.memory,
        "devices": libcuda.count(),
        "cuda": "{}.{}".format(*(libcuda.version() or (0, 0))),
        "driver": _driver(),
    }


def _driver() -> str:
    """Its version, which the driver's library for CUDA does not tell."""
    with suppress(OSError, IndexError):
        return Path("/proc/driver/nvidia/version").read_text().split("Kernel Module")[1].split()[0]
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return found.stdout.split()[0]
    with suppress(Exception):
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    return "unknown"


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        here = Path(__file__).parent
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=20)
        return found.stdout.strip()
    return None
