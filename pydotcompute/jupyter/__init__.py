"""Ring kernels in a notebook: magics, and live widgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .widgets import dashboard as dashboard
    from .widgets import lifecycle as lifecycle
    from .widgets import mailbox as mailbox
    from .widgets import memory as memory
    from .widgets import sequence as sequence
    from .widgets import topology as topology

__all__ = [
    "dashboard",
    "lifecycle",
    "load_ipython_extension",
    "mailbox",
    "memory",
    "sequence",
    "topology",
    "unload_ipython_extension",
]

_WIDGETS = ("dashboard", "lifecycle", "mailbox", "memory", "sequence", "topology")
"""What needs the widget libraries, which the magics do not."""


PANEL = "pydotcompute.panel"
"""Of the comm that the panel in JupyterLab asks on. The kernel has one from the beginning, by which it is found."""
FRAMES = "pydotcompute.panel.frames"
"""Of the comm that the panel is sent frames on."""


def announce() -> None:
    """Let the panel in JupyterLab find ring kernels here: importing the package in a notebook calls it.

    Nothing is sent, and nothing is loaded before a panel asks.
    """
    import comm

    manager = comm.get_comm_manager()
    if PANEL in manager.targets:
        return

    def opened(control: Any, opening: dict[str, Any]) -> None:
        from .panel import panel

        panel.opened(control, opening)

    def frames_opened(frames: Any, opening: dict[str, Any]) -> None:
        from .panel import panel

        panel.frames_opened(frames, opening)

    manager.register_target(PANEL, opened)
    manager.register_target(FRAMES, frames_opened)
    manager.register_comm(comm.create_comm(target_name=PANEL, primary=False))


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext pydotcompute``: the magics `%%ring_kernel` and `%ring`, the variable `runtime`, and live views.

    What the last expression of a cell is shows live where it moves: a runtime, a ring kernel, a pool of buffers.
    """
    from .magics import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext pydotcompute``: take the magics away; kernels go on."""
    from .magics import unload

    unload(shell)


def __getattr__(name: str) -> Any:
    if name in _WIDGETS:
        from . import widgets

        return getattr(widgets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
