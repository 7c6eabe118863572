"""Exercises of the tutorial "Seeing what goes on"."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from ..messages import message
from ..runtime import RingKernel, RingKernelDefinition, RingKernelRuntime
from . import Wrong, exercise
from ._trial import launched

_CRATES = (7, 3, 12, 3, 18, 1, 9, 5)


@message
class _Ship:
    name: str
    crates: int


@exercise(
    "dashboards.1",
    hints=(
        "`kernel.queue()` says what is queued, in order; `kernel.move(index, to)` is what changes the order.",
        "Begin with the first place: which of the ships from there on has the fewest crates? Move it there. Go on.",
    ),
    solution="""
        def shortest_first(kernel):
            for place in range(kernel.queue_depth):
                crates = [queued.message.crates for queued in kernel.queue()]
                fewest = min(range(place, len(crates)), key=lambda i: crates[i])
                kernel.move(fewest, to=place)
    """,
    after="Ships then wait for a shorter time on average, and the largest one for the longest.",
)
async def shortest_first(runtime: RingKernelRuntime, shortest_first: Any) -> None:
    """Sorts the queue of a paused kernel by crates."""
    _check_function(shortest_first, "shortest_first(kernel)")

    async def harbour(ctx: Any) -> None:
        async for _ in ctx:
            pass

    for crates in ((4,), _CRATES, tuple(reversed(_CRATES)), ()):
        kernel = await launched(runtime, RingKernelDefinition(harbour), f"harbour of {len(runtime.kernels)}")
        await kernel.deactivate()
        await kernel.send_many([_Ship(f"ship {n}", of) for n, of in enumerate(crates)])
        await _result(shortest_first, kernel)
        if lost := len(crates) - kernel.queue_depth:
            went = "have been handled or discarded" if lost > 0 else "have come"
            raise Wrong(
                f"{len(crates)} ships were queued, and {abs(lost)} {went} meanwhile: only their order is to change."
            )
        if letters := kernel.statistics().dead_letters:
            raise Wrong(
                f"Ships were discarded, and others put in their place ({letters} dead letters): who asked hears of it."
            )
        if kernel.state.value != "DEACTIVATED":
            raise Wrong("The harbour is not paused any more: leave it paused.")
        found = tuple(queued.message.crates for queued in kernel.queue())
        if found == crates != tuple(sorted(crates)):
            raise Wrong(
                f"The order is as before, {_listed(found)} crates. (If you have sorted what `queue()` gives: that is a "
                f"copy, and moves no ship.)"
            )
        if found != tuple(sorted(crates)):
            raise Wrong(f"Queued were ships with {_listed(crates)} crates. Now their order is {_listed(found)}.")


@exercise(
    "dashboards.2",
    hints=(
        "A full mailbox is red in the dashboard: `queue_depth` is as large as `queue_size`. Several may be full.",
        "Whoever is full because he waits for another is not to blame: `runtime.edges()` says to whom he sends.",
        "Of those that are full, it is the one that sends to none of the others that are full.",
    ),
    solution="""
        def bottleneck(runtime):
            kernels = runtime.statistics().kernels
            full = [name for name, kernel in kernels.items() if kernel.queue_depth == kernel.queue_size]
            for name in full:
                if not any(source == name and target in full for source, target in runtime.edges()):
                    return name
            return None
    """,
    after="The topology shows the same: follow the red ones along the arrows to the last.",
)
async def bottleneck(runtime: RingKernelRuntime, bottleneck: Any) -> None:
    """Finds the kernel for which the others wait."""
    _check_function(bottleneck, "bottleneck(runtime)")
    sizes = {"office": 5, "sea": 9, "harbour": 3, "pilot": 7}
    chain = ["sea", "pilot", "harbour", "office"]

    def passes_on(target: str | None) -> Callable[[Any], Any]:
        async def body(ctx: Any) -> None:
            async for one in ctx:
                if target is not None:
                    await ctx.tell(target, one)

        return body

    following = dict(zip(chain, [*chain[1:], None], strict=True))
    for name, size in sizes.items():
        definition = RingKernelDefinition(passes_on(following[name]), kernel_id=name, queue_size=size)
        await launched(runtime, definition)
    await runtime.send_many("sea", range(30))
    await runtime.wait_idle(*chain, timeout=5)
    await _asked(bottleneck, runtime, None, "Nothing is queued anywhere")
    for slow in ("harbour", "office", "pilot"):
        await runtime.deactivate(slow)
        try:
            while True:
                await asyncio.wait_for(runtime.send("sea", 0), 0.1)
        except TimeoutError:
            pass
        full = [name for name in chain if runtime[name].queue_depth == sizes[name]]
        await _asked(bottleneck, runtime, slow, f"{_listed(full)} are full, and each sends to the next one")
        await runtime.reactivate(slow)
        await runtime.wait_idle(*chain, timeout=5)


def _check_function(answer: Any, form: str) -> None:
    """Raises `Wrong` if it is none."""
    if not callable(answer) or isinstance(answer, RingKernel | RingKernelDefinition):
        raise Wrong(f"A function is wanted, `def {form}:`, not {type(answer).__name__}.")


async def _result(answer: Callable[..., Any], *args: Any) -> Any:
    result = answer(*args)
    return await result if inspect.isawaitable(result) else result


async def _asked(bottleneck: Callable[..., Any], runtime: RingKernelRuntime, wanted: str | None, story: str) -> None:
    found = await _result(bottleneck, runtime)
    if found == wanted:
        return
    if isinstance(found, list | tuple | set):
        raise Wrong(f"One id is wanted, or None, not {found!r}.")
    if wanted is None:
        raise Wrong(f"{story}, so None is wanted, not {found!r}.")
    raise Wrong(f"{story}. For whom do all the others wait? It says {found!r}.")


def _listed(what: Any) -> str:
    return ", ".join(map(str, what))
