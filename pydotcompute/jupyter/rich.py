"""How objects of the package show as the last expression of a cell once the extension is loaded: live, where they move.

Each object has one widget, however often it is shown. What does not move, or where the widget libraries are missing,
shows as text and HTML, as it does without the extension.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from numpy.typing import NDArray

from ..device.memory_pool import MemoryPool
from ..device.unified_buffer import UnifiedBuffer
from ..messages.html import records_html
from ..origin import notebook_shell
from ..runtime import RingKernel, RingKernelRuntime
from ..runtime.compiled import CompiledKernel
from ..telemetry.diagram import svg
from ..telemetry.trace import Trace

if TYPE_CHECKING:
    from .widgets.live import Live

EVENTS = 200
"""How many events of a trace its picture shows."""

_widgets: WeakKeyDictionary[Any, Live] = WeakKeyDictionary()


def _of_runtime(runtime: RingKernelRuntime) -> Live | None:
    if runtime.closed:
        return None
    from .widgets import dashboard

    return dashboard(runtime, layout="compact")


def _of_kernel(kernel: RingKernel) -> Live | None:
    runtime = kernel.runtime
    if runtime.closed or runtime.kernels.get(kernel.id) is not kernel:
        return None
    from .widgets import dashboard

    return dashboard(runtime, embed=kernel)


def _of_memory(memory_of: UnifiedBuffer | MemoryPool) -> Live | None:
    if isinstance(memory_of, UnifiedBuffer) and (memory_of.closed or memory_of.shared):
        return None  # where both sides are one, nothing moves
    from .widgets import memory

    return memory(memory_of)


def _of_trace(trace: Trace) -> Live | None:
    if not trace.recording:
        return None  # its picture is complete
    from .widgets import sequence

    return sequence(trace)


_LIVE: dict[type, Callable[[Any], Live | None]] = {
    RingKernelRuntime: _of_runtime,
    RingKernel: _of_kernel,
    CompiledKernel: _of_kernel,
    UnifiedBuffer: _of_memory,
    MemoryPool: _of_memory,
    Trace: _of_trace,
}


def _svg_of_trace(trace: Trace) -> str:
    return svg(trace, EVENTS)


def _svg_of_kernel(kernel: RingKernel) -> str | None:
    try:
        from .widgets.lifecycle import diagram_svg
    except ModuleNotFoundError:  # of the widget libraries
        return None
    return diagram_svg(list(kernel.history))


def _svg_of_runtime(runtime: RingKernelRuntime) -> str | None:
    try:
        from .widgets.topology import graph_svg
    except ModuleNotFoundError:  # of the widget libraries
        return None
    return graph_svg(runtime)


_SVG: dict[type, Callable[[Any], str | None]] = {
    RingKernelRuntime: _svg_of_runtime,
    Trace: _svg_of_trace,
    RingKernel: _svg_of_kernel,
    CompiledKernel: _svg_of_kernel,
}


def _html_of_array(array: NDArray[Any]) -> str | None:
    return records_html(array) if array.dtype.names is not None else None


_HTML: dict[type, Callable[[Any], str | None]] = {np.ndarray: _html_of_array, np.void: _html_of_array}


def _for(value: Any, table: dict[type, Callable[[Any], Any]]) -> Callable[[Any], Any] | None:
    """What a table has for the class of an object, or for the nearest one that it inherits from: as IPython looks."""
    return next((table[cls] for cls in type(value).__mro__ if cls in table), None)


def show(value: Any) -> None:
    """Show an object live; IPython calls it.

    Raises:
        NotImplementedError: nothing of it moves, or not here. IPython then shows it as usual.
    """
    _sweep()
    widget = _widgets.get(value)
    if widget is None and notebook_shell() is not None:
        with suppress(ModuleNotFoundError):  # the widget libraries
            widget = _for(value, _LIVE)(value)  # type: ignore[misc]
    if widget is None:
        raise NotImplementedError
    if value not in _widgets:
        _widgets[value] = widget
        widget._dress = partial(_dressed, ref(value))
    widget._outputs.show(widget._repr_mimebundle_())


def _dressed(what: ref[Any], bundle: dict[str, Any]) -> dict[str, Any]:
    """What a notebook gets of a widget that stands for an object: for those who read it without a kernel, its forms."""
    value = what()
    if value is None:
        return bundle
    bundle["text/plain"] = repr(value)
    if isinstance(value, RingKernelRuntime):
        bundle["text/html"] = value._repr_html_()  # more than one line
    draw = _for(value, _SVG)
    if draw is not None and (picture := draw(value)) is not None:
        bundle["image/svg+xml"] = picture
    return bundle


def _sweep() -> None:
    """Close the widgets of what is over; those of buffers close by themselves."""
    for value, widget in list(_widgets.items()):
        replaced = isinstance(value, RingKernel) and value.runtime.kernels.get(value.id) is not value
        if replaced or widget._source.closed or widget.status == "closed":
            del _widgets[value]
            widget.close()


def load(shell: InteractiveShell) -> None:
    """Let this shell show objects of the package so."""
    for formatter, printers in _printers(shell):
        for kind, printer in printers.items():
            formatter.for_type(kind, printer)


def unload(shell: InteractiveShell) -> None:
    """Undo `load`; what is shown goes on."""
    for formatter, printers in _printers(shell):
        for kind, printer in printers.items():
            if formatter.type_printers.get(kind) is printer:
                formatter.pop(kind)
    _widgets.clear()


def _printers(shell: InteractiveShell) -> list[tuple[Any, dict[type, Callable[[Any], Any]]]]:
    display = shell.display_formatter
    assert display is not None
    return [
        (display.ipython_display_formatter, dict.fromkeys(_LIVE, show)),
        (display.formatters["image/svg+xml"], _SVG),
        (display.formatters["text/html"], _HTML),
    ]
