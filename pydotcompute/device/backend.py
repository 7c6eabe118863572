"""The backends by name."""

from __future__ import annotations

import os

from ..exceptions import BackendUnavailableError, DefinitionError
from ..runtime.executor import Backend

NAMES = ("auto", "cpu", "cuda", "interpreted")


def choose(name: str) -> Backend:
    """The backend of that name; ``"auto"`` is the fastest that can be used here.

    Raises:
        DefinitionError: there is none of that name.
        BackendUnavailableError: it cannot be used here; the text says why and what to install.
    """
    if name not in NAMES:
        raise DefinitionError(f"no backend {name!r}: use one of {', '.join(map(repr, NAMES))}")
    if name == "interpreted":
        from .interpreted import InterpretedBackend

        return InterpretedBackend()
    if name == "cuda":
        raise BackendUnavailableError("ring kernels cannot run on a GPU here: pass backend='cpu' or 'auto'")
    if os.name != "posix":
        raise BackendUnavailableError(
            "compiled ring kernels need Linux or macOS (on Windows: WSL); pass backend='interpreted', which is slow"
        )
    from .compiler import compiler_missing

    if missing := compiler_missing():
        raise BackendUnavailableError(f"{missing}; or pass backend='interpreted', which is slow and needs nothing")
    from .cpu import CpuBackend

    return CpuBackend()
