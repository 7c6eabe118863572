"""What judges do with ring kernels."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import KernelFailedError, KernelStateError, PyDotComputeError
from ..messages import layout
from ..runtime import RingKernel, RingKernelDefinition, RingKernelRuntime, StepDefinition, ring_kernel
from ..runtime.dead_letters import error_text
from . import Wrong

TIMEOUT = 5.0
"""Seconds that an answer may take to a message."""


def some_kernel(answer: Any) -> RingKernelDefinition:
    """The answer, if it is what `@ring_kernel` makes.

    Raises:
        Wrong: it is something else.
    """
    if isinstance(answer, RingKernelDefinition):
        return answer
    if inspect.isfunction(answer) and not inspect.iscoroutinefunction(answer):
        name = answer.__name__ if answer.__name__.isidentifier() else "it"
        raise Wrong(f"{name} is a plain function: write `@ring_kernel` and `async def {name}(ctx):`.")
    if callable(answer):
        raise Wrong(f"{getattr(answer, '__name__', 'it')} is a function: write `@ring_kernel` above it.")
    if isinstance(answer, RingKernel):
        raise Wrong("That is a ring kernel which runs already: give its definition, what stands below `@ring_kernel`.")
    raise Wrong(f"A ring kernel is wanted, what `@ring_kernel` makes of a function, not {type(answer).__name__}.")


def some_step(answer: Any, *, replies: bool) -> StepDefinition:
    """The answer, if it is what `@ring_kernel` makes of a step, one that replies or one that does not.

    Raises:
        Wrong: it is something else.
    """
    if inspect.isfunction(answer) and not inspect.iscoroutinefunction(answer):
        raise Wrong(f"{answer.__name__} is a plain function: write `@ring_kernel` above it.")
    step = some_kernel(answer)
    if not isinstance(step, StepDefinition):
        raise Wrong(f"{step.kernel_id} is an async ring kernel: write a step, `def {step.kernel_id}(state, msg, out)`.")
    if replies and step.reply_type is None:
        raise Wrong("It cannot reply: `out` is annotated with None, not with the class of the replies.")
    if not replies and step.reply_type is not None:
        raise Wrong("It is to reply nothing: annotate `out` with None.")
    return step


async def tried(runtime: RingKernelRuntime, step: StepDefinition, **fields: Any) -> tuple[NDArray[np.void], Any]:
    """What a step replies to some messages, of which its queue holds all, and its state after them.

    It is run by Python before it is compiled: there an index out of bounds is an error, and not a write elsewhere.

    Args:
        fields: of the messages, each of shape (n,), or (n, ...) where the field is an array, or a number.

    Raises:
        Wrong: the messages have no such field, it fails, or does not come to an end.
    """
    dtype: np.dtype[np.void] = layout(step.message_type).dtype
    records = np.zeros(max(len(np.atleast_1d(values)) for values in fields.values()), dtype)
    for name, values in fields.items():
        if name not in (dtype.names or ()):
            raise Wrong(f"{step.message_type.__name__} has no field `{name}`: take the class that is given.")
        records[name] = values
    in_python = ring_kernel(
        f"{step.kernel_id}, in Python",
        backend="interpreted",
        input_type=step.message_type,
        state=step.state,
        queue_size=step.queue_size,
    )
    result = await _streamed(runtime, in_python(step.body), records)
    return result if step.backend_name == "interpreted" else await _streamed(runtime, step, records)


async def _streamed(
    runtime: RingKernelRuntime, definition: RingKernelDefinition, records: NDArray[np.void]
) -> tuple[NDArray[np.void], Any]:
    kernel = await launched(runtime, definition)
    await runtime.send_batch(kernel.id, records)
    try:
        await runtime.wait_idle(kernel.id, timeout=TIMEOUT)
    except TimeoutError:
        raise Wrong(f"It has not handled {len(records)} messages within {TIMEOUT:g} s.") from None
    if kernel.exception is not None:
        raise Wrong(f"It failed: {error_text(kernel.exception)}.")
    unread = kernel.statistics().replies_unread
    replies = await runtime.receive_batch(kernel.id, unread) if unread else np.zeros(0, records.dtype)
    return replies, await kernel.snapshot()


async def launched(runtime: RingKernelRuntime, answer: Any, kernel_id: str | None = None) -> RingKernel:
    """A ring kernel of the answer, active; by default under the id that the answer gives it."""
    kernel = await runtime.launch(some_kernel(answer), kernel_id=kernel_id)
    await kernel.activate()
    return kernel


async def reply(kernel: RingKernel, message: Any, timeout: float = TIMEOUT) -> Any:
    """What it answers.

    Raises:
        Wrong: it does not, or fails.
    """
    try:
        return await kernel.runtime.ask(kernel.id, message, timeout=timeout)
    except KernelFailedError as error:
        cause = _cause(error)
        more = (
            " Messages come with `async for ... in ctx:`." if "'KernelContext' object is not iterable" in cause else ""
        )
        raise Wrong(f"Asked {message!r}, it failed: {cause}.{more}") from error
    except TimeoutError:
        raise Wrong(
            f"Asked {message!r}, it does not answer within {timeout:g} s. Is `await ctx.send(...)` reached, and is its "
            f"`await` there?"
        ) from None
    except KernelStateError:
        raise Wrong(
            f"Asked {message!r}, it has ended already: its body has returned. One that takes every message has a loop, "
            f"`async for ... in ctx:`."
        ) from None
    except PyDotComputeError as error:
        raise Wrong(f"Asked {message!r}: {error}.") from error


@contextmanager
def unreported() -> Iterator[None]:
    """Meanwhile nothing that goes wrong on this thread's loop is logged: for ring kernels that fail on purpose."""
    log, here = logging.getLogger("pydotcompute"), get_ident()

    def is_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    log.addFilter(is_elsewhere)
    try:
        yield
    finally:
        log.removeFilter(is_elsewhere)


def _cause(error: BaseException) -> str:
    return error_text(error.__cause__ if error.__cause__ is not None else error)
