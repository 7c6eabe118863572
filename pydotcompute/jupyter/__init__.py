"""Ring kernels in a notebook: magics, and live widgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .widgets import dashboard as dashboard

__all__ = ["dashboard", "load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext pydotcompute``: the magics `%%ring_kernel` and `%ring`, and the variable `runtime`."""
    from .magics import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext pydotcompute``: take the magics away; kernels go on."""
    from .magics import unload

    unload(shell)


def __getattr__(name: str) -> Any:
    if name == "dashboard":  # needs the widget libraries, which the magics do not
        from .widgets import dashboard

        return dashboard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
