"""What judges do with ring kernels."""

from __future__ import annotations

import inspect
from typing import Any

from ..exceptions import KernelFailedError, KernelStateError, PyDotComputeError
from ..runtime import RingKernel, RingKernelDefinition, RingKernelRuntime
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
        raise Wrong(
            f"{answer.__name__} is a plain function: write `@ring_kernel` and `async def {answer.__name__}(ctx):`."
        )
    if callable(answer):
        raise Wrong(f"{getattr(answer, '__name__', 'it')} is a function: write `@ring_kernel` above it.")
    if isinstance(answer, RingKernel):
        raise Wrong("That is a ring kernel which runs already: give its definition, what stands below `@ring_kernel`.")
    raise Wrong(f"A ring kernel is wanted, what `@ring_kernel` makes of a function, not {type(answer).__name__}.")


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
        raise Wrong(f"Asked {message!r}, it failed: {_cause(error)}.") from error
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


def _cause(error: BaseException) -> str:
    return error_text(error.__cause__ if error.__cause__ is not None else error)
