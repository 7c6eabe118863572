"""The parts of the CUDA toolkit that compile steps for a GPU: which versions are installed, and whether they fit."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

PACKAGES: Final = (
    "pip install 'numba-cuda[cu13]' 'cuda-toolkit[cccl,cudart,nvrtc,nvvm]==13.0.*' 'nvidia-nvjitlink==13.0.*'"
)
"""What brings the compiler, for drivers from 580 on. All parts are of one version: each refuses what a newer one has
made, and so does a driver that is older."""

PARTS: Final = {
    "nvvm": ("nvidia-nvvm", "nvidia-cuda-nvcc-cu12"),
    "nvjitlink": ("nvidia-nvjitlink", "nvidia-nvjitlink-cu12"),
    "nvrtc": ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
    "cudart": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
}
"""The wheels that bring each part, of CUDA 13 and of CUDA 12."""


def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except (PackageNotFoundError, KeyError):  # the latter: its files are damaged
        return None


def versions() -> dict[str, str]:
    """The versions of the parts that wheels have brought: ``{"nvvm": "13.0.88", ...}``."""
    found = {part: next(filter(None, map(installed, wheels)), None) for part, wheels in PARTS.items()}
    return {part: number for part, number in found.items() if number is not None}


def release(number: str) -> tuple[int, int]:
    """``"13.0.88"`` is of CUDA ``(13, 0)``."""
    major, minor, *_ = number.split(".")
    return int(major), int(minor)


def mismatch() -> str | None:
    """Why what one part writes cannot be read by the next, and what to install; None if they fit.

    Each release of NVVM writes a newer version of PTX; nvJitLink reads those up to its own release.
    """
    found = versions()
    if "nvvm" in found and "nvjitlink" in found and release(found["nvvm"]) > release(found["nvjitlink"]):
        return (
            f"the parts of the CUDA toolkit do not fit: NVVM {found['nvvm']} writes code that nvJitLink "
            f"{found['nvjitlink']} cannot read: `{PACKAGES}`, and restart the notebook's kernel"
        )
    return None


def oldest_driver() -> tuple[int, int]:
    """The CUDA version that a driver must support for what the toolkit compiles.

    Within one major version every driver runs it, see
    https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html.
    """
    found = versions()
    return (max(release(number)[0] for number in found.values()) if found else 13), 0
