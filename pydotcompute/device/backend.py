"""The backends by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..exceptions import BackendUnavailableError, DefinitionError
from ..runtime.executor import Backend

NAMES = ("auto", "cpu", "cuda", "interpreted")

_to_compile = ContextVar("to_compile", default=False)


@contextmanager
def only_to_compile() -> Iterator[None]:
    """Ring kernels that are defined inside may be for a GPU that is elsewhere: they are compiled, not launched."""
    token = _to_compile.set(True)
    try:
        yield
    finally:
        _to_compile.reset(token)


def choose(name: str) -> Backend:
    """The backend of that name; ``"auto"`` is the fastest that can be used here.

    Raises:
        DefinitionError: there is none of that name.
        BackendUnavailableError: it cannot be used here; the text says why and what to install.
    """
    if name not in NAMES:
        raise DefinitionError(f"no backend {name!r}: use one of {', '.join(map(repr, NAMES))}")
    if name == "auto":
        name = "cuda" if _has_cuda() else "cpu"
    if not (name == "cuda" and _to_compile.get()) and (why := why_not(name)):
        if name == "cuda":
            raise BackendUnavailableError(
                f"ring kernels cannot run on a GPU here: {why}; or pass backend='cpu' or 'auto'"
            )
        raise BackendUnavailableError(f"{why}; or pass backend='interpreted', which is slow and needs nothing")
    if name == "interpreted":
        from .interpreted import InterpretedBackend

        return InterpretedBackend()
    if name == "cuda":
        from .cuda import CudaBackend

        return CudaBackend()
    from .cpu import CpuBackend

    return CpuBackend()


def why_not(name: str) -> str | None:
    """Why the backend of that name, other than ``"auto"``, cannot be used here and what to do; None if it can.

    It is quick when asked again, and makes no CUDA context.
    """
    if name == "interpreted":
        return None
    if os.name != "posix":
        return "compiled ring kernels need Linux or macOS (on Windows: WSL)"
    if name == "cpu":
        from . import compiler

        return compiler.compiler_missing()
    from . import driver, toolkit

    if why := driver.unavailable():
        return _on_amd() or why
    from . import cuda_compiler

    return toolkit.mismatch() or cuda_compiler.compiler_missing()


def _has_cuda() -> bool:
    """Whether steps can run on a GPU. Where there is none it reads no file: event loops ask this too."""
    from . import driver

    return os.name == "posix" and driver.unavailable() is None and why_not("cuda") is None


def _on_amd() -> str | None:
    """What to say of an AMD GPU where NVIDIA's driver is missing."""
    from .accelerator import amd_is_here
    from .libcuda import has_driver

    if has_driver() or not amd_is_here():
        return None
    return (
        "they need CUDA, and the GPU is AMD's, where arrays alone work (UnifiedBuffer, through CuPy's build for ROCm)"
    )
