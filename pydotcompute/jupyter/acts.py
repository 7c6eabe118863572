"""What a view can do to ring kernels, and what it says of them in words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from traceback import format_exception
from typing import Any

from ..exceptions import PyDotComputeError
from ..origin import notebook_shell
from ..runtime import KernelState, RingKernel, RingKernelDefinition, RingKernelRuntime
from ..runtime.dead_letters import error_text
from ..runtime.lifecycle import allowed
from ..runtime.step import StepDefinition
from .display import brief
from .reports import without_our_end

METHODS = {
    "activate": RingKernelRuntime.activate,
    "pause": RingKernelRuntime.deactivate,
    "resume": RingKernelRuntime.reactivate,
    "restart": RingKernelRuntime.restart,
    "stop": RingKernelRuntime.terminate,
}
"""What buttons are called, and what they do to a kernel."""
STEP = 2.0
"""Seconds that a step may take: a button is no place to wait."""
LONGEST = 8000
"""Characters of a traceback, at most; the end of it tells most."""

_VERBS = {"activate": "activate", "deactivate": "pause", "reactivate": "resume", "terminate": "stop"}

Make = Callable[[], Coroutine[Any, Any, Any]]
"""Makes what a button asks for, on the loop that it shall run on."""


def verbs(state: KernelState) -> list[str]:
    """What the buttons offer in a state."""
    if state.over:
        return ["restart"]
    offered = [_VERBS[verb] for verb in allowed(state) if verb in _VERBS]
    if state in (KernelState.ACTIVE, KernelState.DEACTIVATED):
        offered.insert(-1, "restart")
    return offered


def follow(post: Callable[[Make], Future[Any]], make: Make, told: Callable[[bool, str], None]) -> None:
    """Post what a button asks for to where it belongs; `told` is called with whether it went well, and a text."""

    def done(future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            told(False, error_text(error))
        else:
            value = None if future.cancelled() else future.result()
            told(True, value if isinstance(value, str) else "")

    try:
        post(make).add_done_callback(done)
    except PyDotComputeError as error:  # closed meanwhile
        told(False, error_text(error))


async def step(runtime: RingKernelRuntime, kernel_id: str) -> str:
    """Let a paused kernel handle one message."""
    kernel = runtime[kernel_id]
    if kernel.state is KernelState.DEACTIVATED and not kernel.queue_depth:
        return f"{kernel_id}: nothing is queued"
    handled = await runtime.step(kernel_id, 1, STEP)
    return f"{kernel_id} handled {brief(handled[0])}" if handled else ""


def tag(definition: RingKernelDefinition) -> str:
    """What runs it, and how many."""
    if not isinstance(definition, StepDefinition):
        return "async"
    return definition.backend_name + (f" ×{definition.instances:,}" if definition.instances > 1 else "")


def place(kernel: RingKernel, error: BaseException) -> str:
    """Where its body was defined, with the line that raised if it is one of the body's file."""
    code = getattr(inspect.unwrap(kernel.definition.body), "__code__", None)
    line, trace = None, error.__traceback__
    while trace is not None and code is not None:
        if trace.tb_frame.f_code.co_filename == code.co_filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return kernel.definition.origin + (f", line {line}" if line is not None else "")


def fate(kernel: RingKernel) -> str:
    """Why it was not started again, if it could have been."""
    return f"{kernel._gave_up.removeprefix('after ')}, limit reached" if kernel._gave_up else ""


def traceback(error: BaseException) -> str:
    """The traceback of an error of a body, from the body on; cells as IPython calls them."""
    trace = without_our_end(error.__traceback__) if error.__traceback__ is not None else None
    text = re.sub(r'File "([^"\n]+)"', _cell, "".join(format_exception(type(error), error, trace)).rstrip())
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]


def shortened(text: str, limit: int = 300) -> str:
    """The beginning of a text that is longer."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def known(value: float | None) -> float | None:
    """A number that a browser can read: NaN has no JSON."""
    return float(value) if value is not None and value == value else None


def _cell(found: re.Match[str]) -> str:
    """The cell of that file name, as IPython calls it; another file as it is."""
    shell = notebook_shell()
    name = shell.compile.format_code_name(found[1]) if shell is not None else None
    return " ".join(name) if name else found[0]
