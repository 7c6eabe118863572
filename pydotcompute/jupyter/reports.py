"""How a notebook shows that something went wrong."""

from __future__ import annotations

import logging
import shlex
import sys
from asyncio import CancelledError
from collections import Counter
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from IPython.core.interactiveshell import InteractiveShell

from ..exceptions import PyDotComputeError
from ..origin import notebook_shell
from ..runtime.dead_letters import error_text
from ..telemetry.trace import one_line

log = logging.getLogger("pydotcompute")

_OURS = (PyDotComputeError, CancelledError, KeyboardInterrupt)  # the last two: a cell was interrupted as it waited
_PACKAGE = str(Path(__file__).parents[1])

P = ParamSpec("P")
T = TypeVar("T")


def written(verb: str, kernel_id: str) -> str:
    """How a notebook writes a step of a kernel's life."""
    if verb == "activate":
        return f"await runtime.activate({kernel_id!r})"
    magic = {"launch": "restart", "deactivate": "pause", "reactivate": "resume", "terminate": "stop"}[verb]
    return f"%ring {magic} {shlex.quote(kernel_id)}"


class one_line_errors:  # noqa: N801 - used like a function
    """Lets the notebook show an error of the package, which says what to do, alone and without any frames."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, PyDotComputeError | ModuleNotFoundError | KeyboardInterrupt):
            show_as(error, [f"\x1b[31m{type(error).__name__}\x1b[39m: {error}".removesuffix(": ")])


def show_as(error: BaseException, lines: list[str]) -> None:
    """Let IPython show an error like this; its class stays, so that a cell can catch it."""
    vars(error)["_render_traceback_"] = lambda: lines


def short_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Let the notebook show what such a function does not take up to the line that calls it, without its own frames."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (PyDotComputeError, TypeError, ValueError) as error:
            shell = notebook_shell()
            if shell is not None and not hasattr(error, "_render_traceback_"):
                vars(error)["_render_traceback_"] = partial(_lines_up_to_the_cell, shell, error)
            raise

    return called


def _lines_up_to_the_cell(shell: InteractiveShell, error: BaseException) -> list[str]:
    trace = error.__traceback__
    kept = None if trace is None else without_our_end(trace)
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, kept)
    return lines


def show_up_to_the_cell(
    shell: InteractiveShell, kind: type, error: BaseException, trace: TracebackType, tb_offset: int | None = None
) -> None:
    """Show an error without the frames in which it left the package; IPython calls it."""
    if not hasattr(error, "_render_traceback_"):
        show_as(error, shell.InteractiveTB.structured_traceback(kind, error, without_our_end(trace), tb_offset))
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def without_our_end(trace: TracebackType) -> TracebackType | None:
    """A traceback up to the last line that is not of this package; all of it when every line is."""
    steps = [trace]
    while (step := steps[-1].tb_next) is not None:
        steps.append(step)
    while steps and steps[-1].tb_frame.f_code.co_filename.startswith((_PACKAGE, "<layout of ")):
        steps.pop()
    kept: TracebackType | None = None
    for step in reversed(steps):
        kept = TracebackType(kept, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return kept or trace


class CrashReport(logging.Handler):
    """Shows why a kernel failed the way that the notebook shows errors, below the cell that defines the kernel.

    The runtime logs a crash in the context of that cell, so that `sys.stderr` leads there.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(logging.WARNING)
        self._shell = shell
        self._told: Counter[tuple[Any, ...]] = Counter()  # how often each error was told, by what and where it is

    def emit(self, record: logging.LogRecord) -> None:
        lines = [record.getMessage()]
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            over = hasattr(record, "failed_kernel")
            times = self._times(record, error, over)
            if times == 1:
                lines += self._shell.InteractiveTB.structured_traceback(
                    type(error), error, error.__traceback__, tb_offset=0
                )
            elif times <= _LINES or over:
                lines = [f"{lines[0]}: {_of_one_line(error)}"]
            elif times & (times - 1):  # of the others only the 16th, the 32nd, the 64th, …
                return
            else:
                lines = [f"{lines[0]}: {_of_one_line(error)} ({times:,} times by now)"]
        if kernel_id := getattr(record, "failed_kernel", None):
            lines.append(f"To go on, correct its cell and run it again, or: {written('launch', kernel_id)}")
        print("\n".join(lines), file=sys.stderr)  # noqa: T201

    def _times(self, record: logging.LogRecord, error: BaseException, over: bool) -> int:
        """How often this error, of this kernel and at this line, was told, this time included, until the kernel ended.

        A kernel that is started again fails perhaps thousands of times, and drawing a traceback takes its loop longer
        than starting it.
        """
        place, trace = None, error.__traceback__
        while trace is not None:
            place, trace = (trace.tb_frame.f_code.co_filename, trace.tb_lineno), trace.tb_next
        names = record.args if isinstance(record.args, tuple) else ()
        key = (record.msg, *map(str, (*names[:1], *names[-1:])), type(error), place)
        if len(self._told) > _KEYS:
            self._told.clear()
        self._told[key] += 1
        return self._told.pop(key) if over else self._told[key]


_LINES, _KEYS = 8, 1000


def _of_one_line(error: BaseException) -> str:
    return one_line(error_text(error))[:200]


def load(shell: InteractiveShell) -> None:
    """Show crashes of kernels and errors of the package in this shell."""
    if not any(isinstance(handler, CrashReport) for handler in log.handlers):
        log.addHandler(CrashReport(shell))
    if not shell.custom_exceptions:  # else they are shown as the user wants it
        shell.set_custom_exc(_OURS, show_up_to_the_cell)  # type: ignore[no-untyped-call]


def unload(shell: InteractiveShell) -> None:
    """Undo `load`."""
    for handler in [handler for handler in log.handlers if isinstance(handler, CrashReport)]:
        log.removeHandler(handler)
    if shell.custom_exceptions == _OURS:
        shell.set_custom_exc((), None)  # type: ignore[no-untyped-call]
