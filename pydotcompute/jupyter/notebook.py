"""The runtime of the notebook, and how synchronous code reaches it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from ..exceptions import KernelStateError
from ..runtime import RingKernelRuntime

NAME = "runtime"
"""The variable of the notebook that holds its runtime."""

_tasks: set[asyncio.Task[Any]] = set()  # the loop keeps only weak references to its tasks
_made: RingKernelRuntime | None = None  # the last one that was made here


def notebook_runtime() -> RingKernelRuntime:
    """The runtime that the magics work on: the variable `runtime` of the notebook.

    Where that is missing, closed or something else, the one that was made here last is put there, so that kernels that
    live on it stay within reach; where that is closed, a new one of the same loop mode.
    """
    global _made
    namespace = _namespace()
    runtime = namespace.get(NAME)
    if isinstance(runtime, RingKernelRuntime) and not runtime.closed:
        return runtime
    if _made is None or _made.closed:
        _made = RingKernelRuntime("thread" if _made is None else _made.loop_mode)
    if not isinstance(runtime, RingKernelRuntime | None):
        print(f"the variable {NAME!r} was {runtime!r}; now it is the runtime of the ring kernels")  # noqa: T201
    namespace[NAME] = _made
    return _made


def choose_loop(mode: Literal["thread", "current"]) -> RingKernelRuntime:
    """Make the notebook's runtime one of that loop mode.

    Raises:
        KernelStateError: kernels still run on the present one.
    """
    global _made
    runtime = notebook_runtime()
    if runtime.loop_mode != mode:
        running = [kernel.id for kernel in runtime.kernels.values() if not kernel.state.over]
        if running:
            names = ", ".join(map(repr, running))
            raise KernelStateError(f"stop {names} in a cell before this one: %ring stop --all")
        finish(runtime, runtime.close)
        runtime = _namespace()[NAME] = _made = RingKernelRuntime(mode)
    return runtime


def _namespace() -> dict[str, Any]:
    import IPython

    shell = IPython.get_ipython()  # type: ignore[attr-defined, no-untyped-call, unused-ignore]
    return shell.user_ns if shell is not None else {}


def at_once(runtime: RingKernelRuntime, method: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """The result of a coroutine that never waits, such as `launch` or `activate`."""
    if not runtime.waits_for_caller:
        return runtime.sync.call(method, *args)
    coroutine = method(*args)
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError(f"{method.__name__} waited")


def finish(
    runtime: RingKernelRuntime,
    method: Callable[..., Coroutine[Any, Any, Any]],
    *args: Any,
    then: Callable[[Any], None] = lambda result: None,
    below: Callable[[Any], None] = lambda result: None,
) -> Any:
    """The result of a coroutine that may wait; `then(result)` is called when it is there.

    On the runtime's own loop, where synchronous code must not wait, that is after the cell has ended: None is returned
    here, and `below(result)` shows the result below the cell.
    """
    if not runtime.waits_for_caller:
        result = runtime.sync.call(method, *args)
        then(result)
        return result

    async def later() -> None:
        result = await method(*args)
        then(result)
        below(result)

    task = asyncio.get_running_loop().create_task(later())
    _tasks.add(task)
    task.add_done_callback(_report)
    return None


def _report(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - below the cell that asked
